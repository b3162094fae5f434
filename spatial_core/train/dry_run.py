# SPDX-License-Identifier: Apache-2.0
"""What a run would be: a summary, then configuration, tables of parameters and shards, memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatial_core.io import places
from spatial_core.train import guards, workdir
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import AnyMesh, batch_sharding, path_name
from spatial_core.train.program import Program, compile_program
from spatial_core.train.task import DataStream

Row = tuple[str, str]


def dry_run(config: TrainConfig, directory: str | Path, experiment: str = "") -> str:
    """The report as text: a summary of a dozen lines, then the details.

    `directory`: where the run would write. Compiles the step; draws no data, allocates no arrays,
    writes no file.
    """
    program = compile_program(config)
    batch = batch_shapes(config, program.mesh)
    compiled = compile_step(program, batch)
    summary = [*plan(config, directory, experiment), *_costs(program, batch, compiled)]
    sections = {
        "resolved config": json.dumps(workdir.describe(config), indent=2),
        "parameters": "\n".join(_parameter_table(program)),
        "sharding": "\n".join(_sharding_table(program)),
        "batch": "\n".join(_batch_table(batch)),
        "memory on each device": "\n".join(_memory_table(program, batch, compiled)),
    }
    details = (f"== {title} ==\n{text}" for title, text in sections.items())
    return "\n\n".join([aligned_text(summary), *details])


def plan(config: TrainConfig, directory: str | Path, experiment: str = "") -> list[Row]:
    """What would be trained, on what, where and for how long, without compiling anything."""
    optimizer, size = config.optimizer, config.data.batch_size
    rate = f"{optimizer.peak_lr:g}"
    if optimizer.schedule != "constant":
        end = optimizer.decay_steps or config.steps
        rate += f" to {optimizer.end_lr:g} at step {end:,} ({optimizer.schedule})"
    saved = f"a checkpoint each {config.checkpoint_every:,}" if config.checkpoint_every else ""
    rows = [
        ("experiment", f"{experiment} ({config.task.name})" if experiment else config.task.name),
        ("workdir", f"{directory}: {workdir.outlook(places.place(directory), config)}"),
        ("steps", f"{config.steps:,}, {saved or 'a checkpoint at the end'}, {config.keep} kept"),
        ("examples", f"{config.steps * size:,} ({size:,} a step) from {_stream(config.data)}"),
        ("rate", f"{rate}, {optimizer.warmup_steps:,} steps of warm-up"),
        ("starts from", _start(config)),
    ]
    if config.validation is not None:
        count = config.validation_batches * config.validation.batch_size
        when = f"each {config.eval_every:,} steps" if config.eval_every else "at the end"
        best = f", the best by {config.best_metric} kept" if config.best_metric else ""
        rows.append(
            ("validation", f"{count:,} examples {when}{best}; {_stream(config.validation)}")
        )
    return rows


def _stream(data: DataStream) -> str:
    names = [f"{name} {getattr(data, name)!r}" for name in ("split", "seed") if hasattr(data, name)]
    folder = getattr(data, "tokens", None)
    if folder is not None:
        there = (Path(folder) / getattr(data, "split", "")).is_dir()
        names.append(f"of {folder}" + ("" if there else " (not there: export it first)"))
    return ", ".join([type(data).__name__, *names])


def _start(config: TrainConfig) -> str:
    source = config.init_from
    if source is None:
        return f"random parameters, seed {config.seed}"
    if callable(source):
        return f"the parameters of {getattr(source, '__name__', 'a function')}"
    return f"the parameters of {source}{'' if places.place(source).exists() else ' (which is not there)'}"


def compile_step(program: Program, batch: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """The step as the compiler makes it, for its memory and its operations."""
    return program.step.lower(program.abstract_state, program.abstract_frozen, batch).compile()


def _costs(program: Program, batch: dict[str, jax.ShapeDtypeStruct], compiled: Any) -> list[Row]:
    leaves = jax.tree.leaves(program.abstract_state["params"])
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    largest = max(batch, key=lambda name: math.prod(batch[name].shape))
    rows = [
        ("batch", f"{largest} {_times(batch[largest].shape)}, {_mebibytes(shard_bytes(batch))}"),
        ("parameters", f"{count:,} in {len(leaves)} arrays"),
    ]
    frozen = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.abstract_frozen))
    if frozen:
        rows.append(("frozen", f"{frozen:,} parameters more that are not trained"))
    analysis = compiled.memory_analysis()
    if analysis is not None:
        kept = _mebibytes(shard_bytes(program.abstract_state))
        peak = _mebibytes(_peak_bytes(analysis))
        rows.append(("memory", f"{peak} on each device while a step runs, {kept} of it state"))
    flops = _flops(compiled)
    if flops:
        rows.append(("compute", f"{flops / 1e9:,.2f} GFLOP a step on each device"))
    mesh = " x ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items())
    kinds = sorted({device.device_kind for device in jax.devices()})
    rows.append(("devices", f"{jax.device_count()} ({', '.join(kinds)}) as {mesh}"))
    return rows


def _parameter_table(program: Program) -> Iterator[str]:
    leaves = jax.tree_util.tree_leaves_with_path(program.abstract_state["params"])
    rows = [("path", "shape", "dtype", "count")]
    for path, leaf in leaves:
        shape = "x".join(str(size) for size in leaf.shape) or "scalar"
        rows.append((path_name(path), shape, str(leaf.dtype), f"{math.prod(leaf.shape):,}"))
    yield from _aligned(rows)
    total = sum(math.prod(leaf.shape) for _, leaf in leaves)
    yield f"total: {total:,} parameters in {len(leaves)} arrays"


def _sharding_table(program: Program) -> Iterator[str]:
    sizes = ", ".join(f"{axis}={size}" for axis, size in program.mesh.shape.items())
    yield f"mesh: {sizes}; batch leaves: axis 0 over {', '.join(program.mesh.axis_names)}"
    leaves = jax.tree_util.tree_leaves_with_path(program.abstract_state["params"])
    rows = [("path", "partition", "shard")]
    for path, leaf in leaves:
        spec = leaf.sharding.spec
        if any(axis is not None and program.mesh.shape[axis] > 1 for axis in spec):
            shard = "x".join(str(size) for size in leaf.sharding.shard_shape(leaf.shape))
            rows.append((path_name(path), str(tuple(spec)), shard))
    if len(rows) > 1:
        yield from _aligned(rows)
    yield f"{len(leaves) - len(rows) + 1} of {len(leaves)} parameter arrays are whole on every device"


def batch_shapes(config: TrainConfig, mesh: AnyMesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What a step reads: the task's leaves, with the shapes of the stream where it tells them."""
    guards.local_batch_size(config.data, jax.process_count(), mesh.size)
    sharding = batch_sharding(mesh)
    shapes = getattr(config.data, "shapes", {})
    return {
        name: jax.ShapeDtypeStruct(shapes.get(name, leaf.shape), leaf.dtype, sharding=sharding)
        for name, leaf in config.task.example_batch(config.data.batch_size).items()
    }


def _batch_table(batch: dict[str, jax.ShapeDtypeStruct]) -> Iterator[str]:
    rows = [("leaf", "global", "each device", "dtype")]
    for name, leaf in batch.items():
        part = leaf.sharding.shard_shape(leaf.shape)
        rows.append((name, _times(leaf.shape), _times(part), np.dtype(leaf.dtype).name))
    yield from _aligned(rows)


def _memory_table(
    program: Program, batch: dict[str, jax.ShapeDtypeStruct], compiled: Any
) -> Iterator[str]:
    state = program.abstract_state
    rows = [(name, _mebibytes(shard_bytes(state[name]))) for name in ("params", "opt_state")]
    if "ema" in state:
        rows.append(("ema", _mebibytes(shard_bytes(state["ema"]))))
    if program.abstract_frozen:
        rows.append(("frozen params", _mebibytes(shard_bytes(program.abstract_frozen))))
    rows.append(("batch", _mebibytes(shard_bytes(batch))))
    analysis = compiled.memory_analysis()
    if analysis is not None:
        rows.append(("working memory of the step", _mebibytes(analysis.temp_size_in_bytes)))
        rows.append(("all of it while a step runs", _mebibytes(_peak_bytes(analysis))))
    yield from _aligned(rows)
    if _flops(compiled):
        yield f"one step: {_flops(compiled) / 1e9:,.2f} GFLOP on each device, as the compiler counts"


def _peak_bytes(analysis: Any) -> int:
    """Arguments, results that do not overwrite them, and working memory."""
    held = int(analysis.argument_size_in_bytes + analysis.output_size_in_bytes)
    return held - int(analysis.alias_size_in_bytes) + int(analysis.temp_size_in_bytes)


def _flops(compiled: Any) -> float:
    return float((compiled.cost_analysis() or {}).get("flops", 0.0))


def shard_bytes(tree: Any) -> int:
    """Bytes of arrays, or shapes, on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def aligned_text(rows: Sequence[tuple[str, ...]]) -> str:
    """A line for each row, its cells under those of the others."""
    return "\n".join(_aligned(rows))

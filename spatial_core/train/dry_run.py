# SPDX-License-Identifier: Apache-2.0
"""What a run would be: its configuration, tables of parameters and shards, batch shapes, memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from spatial_core.train import guards, workdir
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import path_name
from spatial_core.train.program import Program, compile_program


def dry_run(config: TrainConfig) -> str:
    """The report as text. Compiles the step; draws no data, allocates no arrays, writes no file."""
    program = compile_program(config)
    sections = {
        "resolved config": json.dumps(workdir.describe(config), indent=2),
        "parameters": "\n".join(_parameter_table(program)),
        "sharding": "\n".join(_sharding_table(program)),
        "batch": "\n".join(_batch_table(config)),
        "memory on each device": "\n".join(_memory_table(config, program)),
    }
    return "\n\n".join(f"== {title} ==\n{text}" for title, text in sections.items())


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


def _batch_table(config: TrainConfig) -> Iterator[str]:
    rows = [("leaf", "global", "each device", "dtype")]
    devices = jax.device_count()
    guards.local_batch_size(config.data, jax.process_count(), devices)
    for name, leaf in config.task.example_batch(config.data.batch_size).items():
        shape, rest = leaf.shape, leaf.shape[1:]
        part = (shape[0] // devices, *rest)
        rows.append((name, _times(shape), _times(part), np.dtype(leaf.dtype).name))
    yield from _aligned(rows)


def _memory_table(config: TrainConfig, program: Program) -> Iterator[str]:
    state = program.abstract_state
    batch = config.task.example_batch(config.data.batch_size)
    shards = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=program.batch_sharding)
        for name, leaf in batch.items()
    }
    rows = [(name, _mebibytes(_shard_bytes(state[name]))) for name in ("params", "opt_state")]
    if "ema" in state:
        rows.append(("ema", _mebibytes(_shard_bytes(state["ema"]))))
    rows.append(("batch", _mebibytes(_shard_bytes(shards))))
    compiled = program.step.lower(state, shards).compile()
    analysis = compiled.memory_analysis()
    if analysis is not None:
        rows.append(("working memory of the step", _mebibytes(analysis.temp_size_in_bytes)))
        arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
        peak = arguments - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes
        rows.append(("all of it while a step runs", _mebibytes(peak)))
    yield from _aligned(rows)
    costs = compiled.cost_analysis()
    if costs and costs.get("flops", 0) > 0:
        yield f"one step: {costs['flops'] / 1e9:,.2f} GFLOP on each device, as the compiler counts"


def _shard_bytes(tree: Any) -> int:
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

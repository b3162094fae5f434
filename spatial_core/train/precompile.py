# SPDX-License-Identifier: Apache-2.0
"""Does a training step fit a machine that is not here? Compiled for it from shapes alone.

For TPUs the real compiler runs (package libtpu, no TPU needed) and its answer is exact. For a GPU
there is no compiler without one: what the step holds is exact there too, its working memory is that of
another compiler and an estimate. No weights are read, no data drawn, nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from spatial_core.errors import InputError
from spatial_core.train import targets
from spatial_core.train.config import TrainConfig
from spatial_core.train.dry_run import aligned_text, batch_shapes, shard_bytes
from spatial_core.train.largest_batch import Largest, find_largest
from spatial_core.train.operations import product_flops
from spatial_core.train.partition import MeshConfig
from spatial_core.train.program import compile_program
from spatial_core.train.roofline import Ceiling, exchange_rows
from spatial_core.train.targets import GIB, HERE, Target
from spatial_core.train.traffic import Traffic, traffic

Row = tuple[str, str]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """What a compiler says of a step, bytes on each device.

    results: outputs that do not overwrite an argument. flops, accessed: by the compiler's count, the
    body of a scanned layer once. traffic: what the program moves, loops as often as they run. refusal:
    the compiler's message if that needs too much memory, and then the rest is 0 but for what it names:
    bytes wanted and available (None if it names none).
    """

    arguments: int = 0
    results: int = 0
    overwritten: int = 0
    temporaries: int = 0
    code: int = 0
    flops: float = 0.0
    accessed: float = 0.0
    traffic: Traffic = field(default_factory=lambda: Traffic((), 0, 0))
    refusal: str | None = None
    wanted: int | None = None
    available: int | None = None

    @property
    def peak(self) -> int:
        """All of it while the step runs."""
        return self.arguments + self.results + self.temporaries + self.code


@dataclass(frozen=True)
class Precompiled:
    """A step of `rows` rows in `parts` parts on a target, compiled for `compiler`.

    held: bytes on each device of what the arguments are. products: floating-point operations of all
    matrix products of a step, over all devices. largest: the batch that fits, where this one does not.
    """

    target: Target
    compiler: str
    mesh: dict[str, int]
    rows: int
    parts: int
    batch: str
    counts: dict[str, int]
    held: dict[str, int]
    products: int
    compiled: Compiled
    largest: Largest | None = None

    @property
    def exact(self) -> bool:
        """Whether the target's own compiler has spoken."""
        return self.compiler == self.target.name

    @property
    def fits(self) -> bool:
        """Whether the step runs in the memory that JAX may use."""
        limit = self.target.usable or math.inf
        return self.compiled.refusal is None and self.compiled.peak <= limit

    @property
    def ceiling(self) -> Ceiling | None:
        """How fast a step can be, where the target's own compiler made it and its peaks are known."""
        if not self.exact or self.target.peaks is None or self.compiled.refusal is not None:
            return None
        each = self.products / self.target.devices
        return Ceiling(each, self.target.peaks, self.compiled.traffic)

    def text(self) -> str:
        """The report."""
        parts = (self._what(), self._memory(), self._exchanges(), self._speed(), self._answer())
        return "\n\n".join(aligned_text(rows) for rows in parts if rows)

    def _what(self) -> list[Row]:
        target = self.target
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        memory = f", {_gib(target.memory)} each" if target.memory else ""
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items() if count)
        each = self.rows // self.parts
        rows = f"{self.rows} rows"
        if self.parts > 1:
            rows += f", {each} at a time"
        return [
            ("target", f"{target.name}: {target.devices} device(s){memory}; mesh {mesh}"),
            ("compiler", self.compiler if self.exact else f"{self.compiler}, a stand-in"),
            ("step", f"{rows}: {self.batch}"),
            ("parameters", counts),
            ("products", f"{self.products / 1e12:,.2f} TFLOP a step, all devices together"),
        ]

    def _memory(self) -> list[Row]:
        done = self.compiled
        rows = [(f"  {kind}", _gib(size)) for kind, size in self.held.items()]
        held = sum(self.held.values())
        if done.refusal is not None:
            return [("held on each device", _gib(held)), *rows]
        note = "" if self.exact else f" (estimate, by {self.compiler})"
        return [
            ("arguments on each device", _gib(done.arguments)),
            *rows,
            ("results", f"{_gib(done.results)}, and {_gib(done.overwritten)} in place"),
            ("temporaries", _gib(done.temporaries) + note),
            ("code", _gib(done.code) + note),
            ("together", _gib(done.peak)),
            (
                "compiler's count",
                f"{done.flops / 1e12:,.3f} TFLOP, {_gib(done.accessed)} moved; the",
            ),
            ("", "body of a loop (layers, parts of the batch) counts once there"),
        ]

    def _exchanges(self) -> list[Row]:
        return [] if self.compiled.refusal else exchange_rows(self.compiled.traffic)

    def _speed(self) -> list[Row]:
        ceiling = self.ceiling
        return ceiling.rows() if ceiling else []

    def _answer(self) -> list[Row]:
        target, done = self.target, self.compiled
        largest = [("largest batch", self.largest.text())] if self.largest else []
        if done.refusal is not None:
            first, *more = done.refusal.splitlines()
            said = [("the compiler", first), *(("", line) for line in more)]
            return [*said, *largest, ("verdict", f"does not fit: {self.rows:,} rows")]
        if not target.usable:
            return [("verdict", "compiles")]
        share = f"{_gib(done.peak)} of {_gib(target.usable)}"
        if target.usable < target.memory:
            share += f" (JAX takes {target.usable / target.memory:.0%} of {_gib(target.memory)})"
        certain = "" if self.exact else ", by an estimate: see temporaries"
        return [
            *largest,
            ("verdict", f"{'fits' if self.fits else 'does not fit'}: {share}{certain}"),
        ]


def precompile(
    config: TrainConfig, target: str = HERE, effort: float = 0.0, tries: int = 4
) -> Precompiled:
    """Compile the training step of `config` for a target; see `targets.names`.

    effort: -1 to 1, how hard the TPU compiler works for speed; -1 answers in a third of the time, with a
    program that may hold a little more or less.
    tries: how many smaller batches to compile at most where this one does not fit.
    The mesh is the configured one if that has as many devices as the target, else all of them as
    `fsdp`. InputError for an unknown target, a missing compiler or a batch that does not divide.
    """
    machine = targets.find(target)
    found = _precompile(config, machine, effort)
    if found.fits or not tries:
        return found

    def need(rows: int) -> tuple[bool, float | None]:
        data = dataclasses.replace(config.data, batch_size=rows)  # type: ignore[type-var]
        less = _precompile(dataclasses.replace(config, data=data), machine, effort)
        return less.fits, _needs(less)

    devices = math.prod(found.mesh.values())
    # Rooms that share a response stay together in some streams.
    unit = math.lcm(config.microbatches * devices, getattr(config.data, "crops_per_rir", 1))
    fixed = sum(size for name, size in found.held.items() if name != "batch")
    # The compiler keeps a little of a chip's memory for itself.
    limit = found.compiled.available or machine.usable
    largest = find_largest(need, found.rows, _needs(found), fixed, limit, unit, tries)
    return dataclasses.replace(found, largest=largest)


def _needs(found: Precompiled) -> float | None:
    """Bytes on each device, by the program or by the message that refuses it."""
    return found.compiled.peak if found.compiled.refusal is None else found.compiled.wanted


def _precompile(config: TrainConfig, machine: Target, effort: float) -> Precompiled:
    devices, compiler = _compiler(machine)
    _check_parts(config, len(devices))
    program = compile_program(_on_mesh(config, len(devices)), devices)
    batch = batch_shapes(config, program.mesh)
    traced = program.step.trace(program.abstract_state, program.abstract_frozen, batch)
    state = program.abstract_state
    held = {
        "trained parameters": state["params"],
        "frozen parameters": program.abstract_frozen,
        "optimizer": {name: leaf for name, leaf in state.items() if name != "params"},
        "batch": batch,
    }
    largest = max(batch.values(), key=lambda leaf: math.prod(leaf.shape))
    return Precompiled(
        target=machine,
        compiler=compiler,
        mesh=dict(program.mesh.shape),
        rows=config.data.batch_size,
        parts=config.microbatches,
        batch=f"{len(batch)} arrays, the largest {'x'.join(map(str, largest.shape))}",
        counts={
            "trained": _count(state["params"]),
            "frozen": _count(program.abstract_frozen),
        },
        held={name: shard_bytes(tree) for name, tree in held.items() if shard_bytes(tree)},
        products=product_flops(traced.jaxpr),
        compiled=_compile(traced, effort, len(devices)),
    )


def _compiler(machine: Target) -> tuple[Sequence[jax.Device], str]:
    """Devices to compile for, and the name of what compiles."""
    if machine.topology is not None or machine.name == HERE:
        return targets.devices(machine), machine.name
    if targets.has_tpu_compiler():
        stand_in = targets.single_tpu()
        return targets.devices(stand_in), stand_in.name
    return jax.devices("cpu")[:1], "the CPU"


def _on_mesh(config: TrainConfig, count: int) -> TrainConfig:
    """The configuration with a mesh that has so many devices."""
    sizes = [config.mesh.data, config.mesh.fsdp]
    known = math.prod(size for size in sizes if size != -1)
    if known == count or (-1 in sizes and count % known == 0):
        return config
    mesh = MeshConfig(data=1, fsdp=count, fsdp_min_size=config.mesh.fsdp_min_size)
    return dataclasses.replace(config, mesh=mesh)


def _check_parts(config: TrainConfig, devices: int) -> None:
    size, parts = config.data.batch_size, config.microbatches
    if size % (parts * devices):
        raise InputError(
            f"a batch of {size} rows in {parts} parts does not divide over {devices} devices: each part "
            f"needs a multiple of {devices} rows; set TrainConfig.microbatches or the batch size"
        )


def _compile(traced: Any, effort: float, devices: int) -> Compiled:
    options = {"exec_time_optimization_effort": effort} if effort else None
    try:
        done = traced.lower().compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(str(error))
    memory, cost = done.memory_analysis(), done.cost_analysis() or {}
    return Compiled(
        arguments=int(memory.argument_size_in_bytes),
        results=int(memory.output_size_in_bytes - memory.alias_size_in_bytes),
        overwritten=int(memory.alias_size_in_bytes),
        temporaries=int(memory.temp_size_in_bytes),
        code=int(memory.generated_code_size_in_bytes),
        flops=float(cost.get("flops", 0.0)),
        accessed=float(cost.get("bytes accessed", 0.0)),
        traffic=traffic(done.as_text(), devices),
    )


def _refused(message: str) -> Compiled:
    """The message without its list of the largest arrays, which goes on for pages."""
    lines = message.split("Largest program allocations")[0].splitlines()
    kept = [line.strip() for line in lines if line.strip()][:8]
    return Compiled(
        refusal="\n".join(kept),
        wanted=_size(r"(?:Used|temporaries) \(?", message),
        available=_size(r"(?:Used \S+ of|available HBM) \(?", message),
    )


def _size(before: str, message: str) -> int | None:
    """Bytes of '15.75G' after a pattern."""
    found = re.search(before + r"([\d.]+)([KMGT])", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB"

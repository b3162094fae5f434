# SPDX-License-Identifier: Apache-2.0
"""Machines that a step can be compiled for without having them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from spatial_core.errors import InputError

HERE = "here"
GIB = 2**30
# Grids of chips by the number in a machine's name.
_TORUS = {8: (2, 2, 1), 16: (2, 2, 2), 32: (2, 2, 4), 64: (2, 4, 4), 128: (4, 4, 4)}
_PLANE = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8)}


# Published per chip: bf16 operations/s; bytes/s of its memory; bytes/s to all neighbours, both directions
# together; its links. cloud.google.com/tpu/docs/v5p (459 TFLOPs, 2765 GBps, 1200 GBps), .../v5e (197, 819,
# 400; 4 ports), .../v6e (918, 1638, 800; 4 ports). A v5p chip has six neighbours in its 3D torus.
_PEAKS = {
    "v5p": (459e12, 2765e9, 1200e9, 6),
    "v5e": (197e12, 819e9, 400e9, 4),
    "v6e": (918e12, 1638e9, 800e9, 4),
}


@dataclass(frozen=True)
class Peaks:
    """What a chip can do in a second at most, as published.

    operations: of bfloat16. memory: bytes from and to its memory. sent: bytes to its neighbours.
    """

    operations: float
    memory: float
    sent: float


@dataclass(frozen=True)
class Target:
    """A machine: `devices` chips with `memory` bytes each, of which JAX may use `usable`.

    topology: as the TPU compiler names it, with the chips of one host and the chip's configuration;
    None: there is no compiler for it here, and another one has to stand in.
    """

    name: str
    devices: int
    memory: int
    usable: int
    topology: str | None = None
    host: tuple[int, ...] = (1, 1, 1)
    chip: str = "default"
    peaks: Peaks | None = None


def _peaks(kind: str, grid: tuple[int, ...]) -> Peaks:
    """Of a chip in a grid: a side of 2 has one link, a longer one two (its inner chips, at least)."""
    operations, memory, both_ways, links = _PEAKS[kind]
    used = sum(min(size - 1, 2) for size in grid)
    return Peaks(operations, memory, both_ways / 2 * used / links)


def _tpus() -> dict[str, Target]:
    found = {}
    # v5p machines are named after their cores, two in a chip; the others after their chips.
    for kind, memory, grids, chip in (
        ("v5p", 95, _TORUS, "megacore"),
        ("v5e", 16, _PLANE, "default"),
        ("v6e", 32, _PLANE, "default"),
    ):
        for number, grid in grids.items():
            devices = number // 2 if kind == "v5p" else number
            host = (1, 1, 1) if devices == 1 else (2, 2, 1)
            name, shape = f"{kind}-{number}", "x".join(map(str, grid))
            topology, peaks = f"{kind}:{shape}", _peaks(kind, grid)
            found[name] = Target(
                name, devices, memory * GIB, memory * GIB, topology, host, chip, peaks
            )
    return found


def _gpus() -> dict[str, Target]:
    # Sizes as nvidia-smi shows them; JAX takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
    sizes = {"h100-80g": 81_559, "a100-80g": 81_920, "a100-40g": 40_960}
    return {
        name: Target(name, 1, mebibytes * 2**20, int(0.75 * mebibytes * 2**20))
        for name, mebibytes in sizes.items()
    }


def names() -> list[str]:
    """What `find` knows."""
    return [HERE, *_tpus(), *_gpus()]


def find(name: str) -> Target:
    """A target by its name; InputError lists them."""
    known = {**_tpus(), **_gpus()}
    if name == HERE:
        return Target(HERE, jax.device_count(), 0, 0)
    if name not in known:
        raise InputError(f"target {name!r} is unknown; choose among {', '.join(names())}")
    return known[name]


def has_tpu_compiler() -> bool:
    """Whether the package libtpu is installed; it compiles for TPUs on any machine."""
    return importlib.util.find_spec("libtpu") is not None


def devices(target: Target) -> Sequence[jax.Device]:
    """The target's devices, as descriptions that can be compiled for and hold no data.

    InputError without the TPU compiler.
    """
    if target.name == HERE:
        return jax.devices()
    if target.topology is None:
        raise InputError(f"there is no compiler here for {target.name}")
    if not has_tpu_compiler():
        raise InputError(
            f"{target.name} needs the TPU compiler: install spatial-audio-stack[tpu-aot] in an "
            "environment of its own (with it, jax looks for a TPU at each start)"
        )
    from jax.experimental import topologies

    # Else libtpu asks a metadata server, for minutes, which machine it is on; several may be loaded.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(variable, value)
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=target.topology,
        chip_config_name=target.chip,
        chips_per_host_bounds=target.host,
        num_slices=1,
    )
    return list(described.devices)


def single_tpu() -> Target:
    """One chip with the memory of a large GPU or more, to stand in for one."""
    return Target("one v5p chip", 1, 95 * GIB, 95 * GIB, "v5p:1x1x1", (1, 1, 1), "megacore")

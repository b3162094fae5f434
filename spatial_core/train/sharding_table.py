# SPDX-License-Identifier: Apache-2.0
"""What of a training lies where on so many devices, as text: from rules and shapes, nothing compiled."""

from __future__ import annotations

import re
from typing import Any

import jax

from spatial_core.train import partition
from spatial_core.train.config import TrainConfig
from spatial_core.train.dry_run import aligned_text, batch_shapes, shard_bytes
from spatial_core.train.program import placed_shapes

_HEAD = ("array", "type", "whole", "on each device")


def sharding_table(config: TrainConfig, devices: int) -> str:
    """Every array of parameters, optimizer and batch, its shape as a whole and on each device.

    Arrays whose paths differ in numbers only (layer_0, layer_1, ...) and that lie alike share a line.
    InputError for a mesh or a batch that does not divide over the devices.
    """
    mesh = partition.described_mesh(config.mesh, devices)
    state, frozen = placed_shapes(config, mesh)
    parts = {
        "trained parameters": state["params"],
        "frozen parameters": frozen,
        "optimizer": {name: tree for name, tree in state.items() if name != "params"},
        "batch": batch_shapes(config, mesh),
    }
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    sections = [f"{devices} devices as {sizes}"]
    sections += [_section(name, tree) for name, tree in parts.items() if jax.tree.leaves(tree)]
    return "\n\n".join(sections) + "\n"


def _section(name: str, tree: Any) -> str:
    alike: dict[tuple[str, ...], int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        row = (
            re.sub(r"\d+(?=/|$)", "*", partition.path_name(path)),
            str(leaf.dtype),
            _times(leaf.shape),
            _times(leaf.sharding.shard_shape(leaf.shape)),
        )
        alike[row] = alike.get(row, 0) + 1
    rows = [
        (
            f"{path} ({count})" if count > 1 else path,
            kind,
            whole,
            "whole" if each == whole else each,
        )
        for (path, kind, whole, each), count in alike.items()
    ]
    return f"{name}: {shard_bytes(tree):,} bytes on each device\n" + aligned_text([_HEAD, *rows])


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"

# SPDX-License-Identifier: Apache-2.0
"""Parameters by module: how many, of which type, trained or not."""

from __future__ import annotations

import math
import re
from typing import Any

import jax

from spatial_core.train.dry_run import aligned_text
from spatial_core.train.partition import path_name
from spatial_core.train.task import Params

HEADER = ("module", "parameters", "share", "arrays", "type", "state")
# More lines than this are for a file, not for a look.
_MOST = 24


def module_rows(trained: Params, frozen: Params) -> list[tuple[str, ...]]:
    """Rows under `HEADER`, as deep into the modules as a look can take, and their sum.

    trained, frozen: arrays or shapes. Numbered layers share a row.
    """
    leaves = _leaves(trained, "trained") + _leaves(frozen, "frozen")
    depth, groups = 1, _grouped(leaves, 1)
    while len(deeper := _grouped(leaves, depth + 1)) <= _MOST and deeper.keys() != groups.keys():
        depth, groups = depth + 1, deeper
    total = sum(size for *_, size in leaves)
    rows = [
        (name, f"{size:,}", f"{100 * size / total:.1f}%", f"{count:,}", kind, state)
        for (name, kind, state), (count, size) in groups.items()
    ]
    kinds = ", ".join(dict.fromkeys(kind for _, kind, _, _ in leaves))
    return [*rows, ("together", f"{total:,}", "100%", f"{len(leaves):,}", kinds, "")]


def parameter_text(trained: Params, frozen: Params) -> str:
    """Every array: path, shape, type, count, trained or frozen."""
    rows = [("path", "shape", "type", "count", "state")]
    for state, tree in (("trained", trained), ("frozen", frozen)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            shape = "x".join(map(str, leaf.shape)) or "scalar"
            size = f"{math.prod(leaf.shape):,}"
            rows.append((path_name(path), shape, str(leaf.dtype), size, state))
    return aligned_text(rows)


def _leaves(tree: Params, state: str) -> list[tuple[str, str, str, int]]:
    """(path with numbers as *, type, state, size) of each array."""
    return [
        (
            re.sub(r"(?<![a-zA-Z])\d+(?=/|$)", "*", path_name(path)),
            str(leaf.dtype),
            state,
            math.prod(leaf.shape),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _grouped(
    leaves: list[tuple[str, str, str, int]], depth: int
) -> dict[tuple[str, str, str], tuple[int, int]]:
    """(module, type, state) -> number of arrays and of parameters."""
    groups: dict[tuple[Any, ...], tuple[int, int]] = {}
    for path, kind, state, size in leaves:
        module = "/".join(path.split("/")[:depth])
        count, sum_ = groups.get((module, kind, state), (0, 0))
        groups[module, kind, state] = count + 1, sum_ + size
    return groups

# SPDX-License-Identifier: Apache-2.0
"""What happens when a loss is not finite: counting, and the bundle that explains the stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatial_core.errors import InputError
from spatial_core.train.checkpoint import tree_digest
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import path_name
from spatial_core.train.task import DataStream, Task


class NonFiniteError(RuntimeError):
    """More steps had a non-finite loss or gradient than the run allows."""


def check_batch(batch: dict[str, np.ndarray], task: Task, batch_size: int) -> dict[str, np.ndarray]:
    """The leaves that the task reads, with the types it expects; others are left out.

    `batch_size` is the size on this host. Axes after the first may differ from the task's example (a
    batch of fewer microphones costs one more compilation). Raises InputError naming the leaf that is
    missing or differs.
    """
    chosen = {}
    for name, spec in task.example_batch(batch_size).items():
        if name not in batch:
            raise InputError(f"{task.name} reads {name!r}, but a batch has only {sorted(batch)}")
        value = np.asarray(batch[name])
        fits = value.ndim == len(spec.shape) and value.shape[:1] == spec.shape[:1]
        if not fits or not np.can_cast(value.dtype, spec.dtype, "same_kind"):
            raise InputError(
                f"batch leaf {name!r} is {value.dtype}{list(value.shape)}, "
                f"{task.name} expects {np.dtype(spec.dtype)}{list(spec.shape)}"
            )
        chosen[name] = value.astype(spec.dtype, copy=False)
    return chosen


def local_batch_size(data: DataStream, hosts: int, devices: int) -> int:
    """Examples on one host; raises InputError when the global batch does not divide."""
    if data.batch_size < 1:
        raise InputError(f"batch_size is {data.batch_size}: give at least 1")
    if data.batch_size % devices or data.batch_size % hosts:
        raise InputError(
            f"batch_size {data.batch_size} does not divide over {devices} devices on {hosts} hosts: "
            f"set {type(data).__name__}.batch_size to a multiple of {math.lcm(devices, hosts)}"
        )
    return data.batch_size // hosts


def check_batches(config: TrainConfig, hosts: int, devices: int) -> None:
    """InputError, with the setting to change, for a batch that does not divide over the devices."""
    local_batch_size(config.data, hosts, devices)
    if config.data.batch_size // config.microbatches % devices:
        raise InputError(
            f"TrainConfig.microbatches={config.microbatches}: parts of "
            f"{config.data.batch_size // config.microbatches} examples do not divide over {devices} "
            "devices; change it or the batch size"
        )
    if config.validation is not None:
        try:
            local_batch_size(config.validation, hosts, devices)
        except InputError as error:
            raise InputError(f"TrainConfig.validation: {error}") from None


def write_debug_bundle(
    directory: Path, step: int, batch: dict[str, np.ndarray], metrics: dict[str, float], params: Any
) -> Path:
    """Writes what is needed to repeat a bad step; returns the folder.

    batch.npz holds the batch as it reached the step, params.npz the parameters by path (where this
    process holds all of them), report.json the step, the metrics, the digest of the parameters and
    which leaves were not finite already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _savez(directory / "batch.npz", batch)
    report: dict[str, Any] = {
        "step": step,
        "metrics": {name: str(value) for name, value in metrics.items()},
        "not_finite_in_batch": _not_finite(batch),
    }
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if all(leaf.is_fully_addressable for _, leaf in leaves):
        arrays = {path_name(path): np.asarray(leaf) for path, leaf in leaves}
        _savez(directory / "params.npz", arrays)
        report["params_sha256"] = tree_digest(params)
        report["not_finite_in_params"] = _not_finite(arrays)
    (directory / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return directory


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _not_finite(arrays: dict[str, np.ndarray]) -> list[str]:
    return [name for name, value in arrays.items() if not np.isfinite(value).all()]

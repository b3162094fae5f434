# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: which experiment it belongs to, and parameters taken from another one."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io.export import TENSOR_FILE, read_release
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.config import TrainConfig

# What a run is; the rest (logging, mesh, how long to keep checkpoints) may change between starts.
_IDENTITY = ("task", "data", "optimizer", "seed", "init_from")


def describe(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as JSON-ready data."""
    described: dict[str, Any] = resolved.describe(config)
    if config.optimizer.decay_steps is None and config.optimizer.schedule != "constant":
        # The schedule depends on the length of the run then, so a new length is a new experiment.
        described["optimizer"]["decay_steps"] = config.steps
    return described


def claim(directory: Path, config: TrainConfig) -> None:
    """Writes config.json and environment.json, or checks that the folder is of the same experiment.

    Raises InputError that lists what differs.
    """
    described = describe(config)
    path = directory / "config.json"
    if path.exists():
        saved = json.loads(path.read_text())
        old, new = ({key: each.get(key) for key in _IDENTITY} for each in (saved, described))
        different = list(resolved.differences(old, new))
        if different:
            raise InputError(
                f"{directory} holds a different experiment; use another --workdir, or delete it.\n  "
                + "\n  ".join(different)
            )
    if is_writer():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
        (directory / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions, devices and the command line, for the reader of a result."""
    devices = [device.device_kind for device in jax.devices()]
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "devices": {kind: devices.count(kind) for kind in sorted(set(devices))},
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def initial_params(source: str | Callable[[], Any]) -> Any:
    """Parameters of another run (its folder: the best, else the latest), of a released model (its
    folder), or what a function returns."""
    if callable(source):
        return source()
    path = Path(source)
    if (path / "checkpoints").is_dir():
        checkpoints = Checkpoints(path)
        params, _ = checkpoints.load_params("best" if checkpoints.best() else "latest")
        return params
    if (path / TENSOR_FILE).is_file():
        return read_release(path).params()
    raise InputError(
        f"init_from {source!r} is neither the folder of a run (with checkpoints/) nor of a released "
        f"model (with {TENSOR_FILE})"
    )


def is_writer() -> bool:
    """Whether this process writes files and talks to people."""
    return jax.process_index() == 0

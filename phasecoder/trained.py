# SPDX-License-Identifier: Apache-2.0
"""An encoder straight from the folder of a training run, without exporting it first."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from phasecoder.pretrained import Encoder
from phasecoder.task import PhaseCoderTask, config_from_json
from spatial_core.errors import InputError
from spatial_core.io import export
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.on_device import OnDeviceTask


def load_run(folder: str | Path) -> Encoder:
    """The encoder of a training run: its best checkpoint if one is marked, else its latest.

    Raises InputError: no checkpoint, a damaged one, or a run of another kind of model.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not the folder of a training run: it has no config.json")
    described = json.loads(path.read_text()).get("task", {})
    if described.get("class") == OnDeviceTask.__name__:
        described = described["task"]
    if described.get("class") != PhaseCoderTask.__name__:
        raise InputError(f"{folder} trained a {described.get('class')}, not a PhaseCoder encoder")
    model = {name: value for name, value in described["model"].items() if name != "class"}
    task = PhaseCoderTask(config_from_json(model))
    checkpoints = Checkpoints(folder)
    params, step = checkpoints.load_params("best" if checkpoints.best() else "latest")
    like = jax.eval_shape(task.init, jax.random.key(0))
    fitted = export.fill_tree(like, export.flatten_tree(params), str(checkpoints.directory))
    return Encoder(task, fitted, {"name": f"{folder.name}, step {step}", "model": model})

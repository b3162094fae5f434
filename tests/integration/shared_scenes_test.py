# SPDX-License-Identifier: Apache-2.0
"""Scenes scored by two processes give the report of one: descriptions, and what sounds where."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sciphi.seld_task import SeldTask
from sciphi.seldnet import SeldNetConfig
from spatial_core.train.checkpoint import Checkpoints
from tests.integration import toy_launch

COUNTS = {"train": 3, "validation": 1, "test": 5}
# Batches of two: process 0 has the first and the third, which is not full.
DESCRIBE = (
    "--gin_file=runs/eval_scenes.gin",
    "--gin.SceneEvalConfig.batch_size=2",
    "--gin.SceneEvalConfig.controls=False",
    "--gin.SceneEvalConfig.similarity='words'",
)
ENCODER = {"channels": 2, "width": 8, "heads": 2, "gru_layers": 1, "attention_layers": 1}
SELD = (
    "--gin_file=runs/eval_seld.gin",
    "--gin.SeldEvalConfig.batch_size=2",
    *(f"--gin.SeldNetConfig.{name}={value}" for name, value in ENCODER.items()),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A few of 5 s."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    settings = ("--gin_file=experiments/sciphi_scenes.gin", f"--gin.SceneSetConfig.counts={COUNTS}")
    made = toy_launch.start(folder, *settings, mode="export_scenes")
    assert made.wait(900) == 0, made.stdout.read()
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A run that has learned nothing, which is answer enough."""
    folder = tmp_path_factory.mktemp("encoder")
    task = SeldTask(SeldNetConfig(**ENCODER), seconds=5.0)
    state = {"params": task.init(jax.random.key(0)), "step": jnp.int32(1)}
    Checkpoints(folder, metadata=task.metadata).save(state)
    return folder


def _scored(folder: Path, mode: str, *settings: str) -> tuple[Path, Path]:
    """Folders of the reports of one process and of two."""
    one, two = folder / "one", folder / "two"
    alone = toy_launch.start(one, *settings, mode=mode)
    assert alone.wait(900) == 0, alone.stdout.read()
    runs = toy_launch.start_two(two, *settings, devices=1, mode=mode)
    assert [run.wait(900) for run in runs] == [0, 0], toy_launch.log(two, 0).read_text()
    assert "batches answered; process 0 reports" in toy_launch.log(two, 1).read_text()
    assert {path.name for path in two.rglob("*")} == {path.name for path in one.rglob("*")}
    return one, two


@pytest.mark.slow
def test_two_processes_describe_scenes_as_one(scenes, tmp_path):
    one, two = _scored(tmp_path, "eval_scenes", *DESCRIBE, f"--gin.SCENES={str(scenes)!r}")
    for name in ("report.json", "report.md", "answers.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert len((two / "answers.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_two_processes_hear_what_sounds_where_as_one(scenes, encoder, tmp_path):
    folders = (f"--gin.SCENES={str(scenes)!r}", f"--gin.MODEL={str(encoder)!r}")
    one, two = _scored(tmp_path, "eval_seld", *SELD, *folders)
    for name in ("report.json", "report.md"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert "| all | 5 |" in (two / "report.md").read_text()

# SPDX-License-Identifier: Apache-2.0
"""The published recipe for real, a few steps of it: learning, resuming, stage 1 handed to stage 2."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from launch import configurables
from launch.modes import ROOTS
from phasecoder.pretrained import load
from spatial_core.config import gin_setup
from spatial_core.errors import InputError
from spatial_core.train.checkpoint import Checkpoints, tree_digest
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train

_FEW = (
    "SceneStream.batch_size = 8",
    "TrainConfig.log_every = 1",
    "TrainConfig.validation_batches = 1",
)


def _config(name: str, *settings: str) -> TrainConfig:
    configurables.register_all()
    gin_setup.parse([f"experiments/{name}.gin"], [*_FEW, *settings], roots=ROOTS)
    return gin_setup.build("TrainConfig")


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The first batch of a stream, again and again."""

    stream: Any

    @property
    def batch_size(self) -> int:
        return self.stream.batch_size

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, np.ndarray]:
        return self.stream.batch(0, host, hosts)

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        batch = self.batch(0, host, hosts)
        while True:
            yield batch


def _losses(folder: Path) -> list[float]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phasecoder_paper_s", "plus_gpu"])
def test_eight_clips_are_learned_by_heart(name, tmp_path):
    """plus_gpu computes in bfloat16; a plain step size takes the place of a long warm-up."""
    config = _config(name, "TrainConfig.steps = 60", "OptimizerConfig.warmup_steps = 5")
    optimizer = dataclasses.replace(config.optimizer, peak_lr=1e-3, end_lr=1e-3, decay_steps=None)
    config = dataclasses.replace(
        config,
        data=Repeated(config.data),
        optimizer=optimizer,
        validation=None,
        best_metric=None,
        eval_every=0,
    )
    train(config, tmp_path)
    losses = _losses(tmp_path)
    assert len(losses) == 60 and np.all(np.isfinite(losses))
    # One-hot targets can be met exactly. Soft ones keep their own entropy, some 40% of this start.
    assert np.mean(losses[-5:]) < (0.55 if name == "plus_gpu" else 0.05) * losses[0]


@pytest.mark.slow
def test_stage_one_goes_on_and_stage_two_starts_from_its_best(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    often = ("TrainConfig.eval_every = 1", "TrainConfig.checkpoint_every = 1")
    train(_config("phasecoder_paper_s", *often, "TrainConfig.steps = 3"), first)
    resumed = train(_config("phasecoder_paper_s", *often, "TrainConfig.steps = 5"), first)
    assert resumed.step == 5 and len(_losses(first)) == 5
    whole = train(
        _config("phasecoder_paper_s", *often, "TrainConfig.steps = 5"), tmp_path / "whole"
    )
    assert tree_digest(resumed.params) == tree_digest(whole.params)

    stage = (f"STAGE1 = '{first}'", "TrainConfig.steps = 1")
    still = ("OptimizerConfig.peak_lr = 0.0", "OptimizerConfig.end_lr = 0.0")
    config = _config("phasecoder_paper_s_stage2", *stage, *still)
    assert config.data.scene.distractor
    best, _ = Checkpoints(first).load_params("best")
    assert tree_digest(train(config, tmp_path / "still").params) == tree_digest(best)

    trained = train(_config("phasecoder_paper_s_stage2", *stage), second)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), best, trained.params)
    # One step of AdamW at the first of 2,000 warm-up steps to 1e-5 moves nothing further.
    assert 0 < max(jax.tree.leaves(moved)) < 2e-8
    batch = config.validation.batch(0)
    assert np.all(np.isfinite(load(second).predict(batch)["azimuth"]))

    with pytest.raises(InputError, match="init_from does not fit this model"):
        train(_config("phasecoder_paper_m_stage2", *stage), tmp_path / "other")
    with pytest.raises(InputError, match="neither the folder of a run"):
        train(_config("phasecoder_paper_s_stage2", "STAGE1 = 'nowhere'"), tmp_path / "none")

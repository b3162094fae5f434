# SPDX-License-Identifier: Apache-2.0
"""SELD pre-training: labels, batches as a pure function of the step, a run that goes on, its scores."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

import sciphi.seld_task
from sciphi.features import mel_weights
from sciphi.records import Scene, SceneTruth, SourceTruth
from sciphi.running import is_statistic
from sciphi.seld_eval import SeldEvalConfig
from sciphi.seld_labels import active, class_of, seld_labels
from sciphi.seld_task import SeldStream, SeldTask
from sciphi.seldnet import SeldNetConfig
from spatial_core.errors import InputError
from spatial_core.eval.sharing import HandedOver, Share
from spatial_core.geometry.coords import to_cartesian
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.optim import OptimizerConfig
from spatial_core.train.partition import path_name

SMALL = SeldNetConfig(channels=2, width=8, heads=2, gru_layers=1, attention_layers=1)
SECONDS = 0.5


def source(kind, azimuth, elevation=0.0, onset=0.0, offset=SECONDS, category=None, distance=3.0):
    return SourceTruth(
        f"some {kind}",
        kind,
        category or kind,
        None,
        onset,
        offset,
        azimuth,
        elevation,
        distance,
        -30.0,
        20.0,
    )


class PlaneWaves:
    """Scenes in the free field: noise from one direction, in every third from two."""

    seconds = SECONDS

    def __init__(self, directory):
        self.directory = directory

    def __len__(self):
        return 10

    def truth(self, index):
        rng = np.random.default_rng(index)
        kinds = ("speech", "event", "event")[: 2 if index % 3 == 0 else 1]
        places = [(rng.uniform(-180, 180), rng.uniform(-60, 60)) for _ in kinds]
        sources = tuple(source(kind, *place) for kind, place in zip(kinds, places))
        return SceneTruth(100.0, 0.0, None, None, sources)

    def __getitem__(self, index):
        truth = self.truth(index)
        foa = np.zeros((4, int(24_000 * SECONDS)))
        for n, one in enumerate(truth.sources):
            x, y, z = to_cartesian(one.azimuth, one.elevation)
            wave = np.random.default_rng([index, n]).standard_normal(foa.shape[1])
            foa += 0.1 * np.outer([1, y, z, x], wave)
        return Scene(f"scene {index}", foa.astype(np.float32), truth)


@pytest.fixture(autouse=True)
def scenes(monkeypatch):
    monkeypatch.setattr(sciphi.seld_task, "SceneSet", PlaneWaves)


def stream(**changes):
    return SeldStream(**{"scenes": "scenes", "batch_size": 4, **changes})


def test_a_token_is_active_where_its_middle_is() -> None:
    found = active(source("event", 0, onset=0.14, offset=0.36), 5)
    assert found.tolist() == [False, True, True, True, False]


def test_labels_hold_directions_distances_and_counts() -> None:
    truth = SceneTruth(
        50.0,
        0.3,
        None,
        None,
        (
            source("speech", 90, onset=0.0, offset=0.3, distance=2.0),
            source("speech", 0, 30, onset=0.2, offset=0.5),
            source("event", 180, category="dog"),
        ),
    )
    target, count = seld_labels(truth, ("speech", "event"), 5)
    assert count.tolist() == [[1, 1], [1, 1], [2, 1], [1, 1], [1, 1]]
    np.testing.assert_allclose(target[0, 0, :, 0], [0, 1, 0, 2], atol=1e-6)
    np.testing.assert_allclose(target[2, 1, :, 0], [np.sqrt(0.75), 0, 0.5, 3], atol=1e-6)
    # Where the first has ended, the second takes the first place.
    np.testing.assert_allclose(target[3, 0, :, 0], [np.sqrt(0.75), 0, 0.5, 3], atol=1e-6)
    assert not target[3, 1].any() and target[0, 0, 0, 1] == pytest.approx(-1)


def test_a_fourth_source_of_a_class_is_left_out() -> None:
    truth = SceneTruth(50.0, 0.3, None, None, tuple(source("event", a) for a in (0, 90, 180, -90)))
    target, count = seld_labels(truth, ("event",), 2)
    assert (count == 3).all() and target[0, :, 1, 0] == pytest.approx([0, 1, 0], abs=1e-6)


def test_classes_are_categories_or_kinds_or_one_for_all() -> None:
    dog = source("event", 0, category="dog")
    assert class_of(dog, ("speech", "dog", "event")) == 1
    assert class_of(dog, ("speech", "event")) == 1
    assert class_of(dog, ("sound",)) == 0
    with pytest.raises(InputError, match="none of the classes speech, cat"):
        class_of(dog, ("speech", "cat"))


def test_a_batch_is_a_pure_function_of_the_step_and_hosts_share_it() -> None:
    whole = stream().batch(3)
    for name, value in SeldTask(SMALL, seconds=SECONDS).example_batch(4).items():
        assert (whole[name].shape, whole[name].dtype) == (value.shape, value.dtype), name
    again = stream()
    again.batch(0)
    shares = [again.batch(3, host, 2) for host in (0, 1)]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), value)
    assert not np.array_equal(whole["target"], stream(seed=1).batch(3)["target"])
    # Every scene is shown once in a pass.
    orders = [stream().order(epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10)) and orders[0] != orders[1]


def test_features_point_where_the_labels_say_in_every_way_of_turning() -> None:
    """The intensity of a plane wave is its direction times the filters' sums, 3/4 of them."""
    shown = stream(max_sources=1, batch_size=48)
    batch = shown.batch(0)
    assert (batch["count"].sum(-1) == 1).all()
    sums = 0.75 * mel_weights().sum(0)
    found = (batch["features"][:, 4:, 1:] / sums).mean((2, 3))[:, [2, 0, 1]]
    right = batch["target"][:, 0, 0, :3].sum(-1)
    # float16 features
    np.testing.assert_allclose(found, right, atol=2e-3)
    assert len(np.unique(np.sign(right).round(), axis=0)) == 8


def test_settings_that_cannot_be_are_refused() -> None:
    for change, words in (
        ({"split": "dev"}, "split 'dev'"),
        ({"classes": ()}, "classes"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(InputError, match=words):
            stream(**change)
    with pytest.raises(InputError, match="at most 0 sources"):
        stream(max_sources=0).batch(0)
    with pytest.raises(InputError, match="host 2 of 2"):
        stream().batch(0, 2, 2)
    with pytest.raises(InputError, match="seconds"):
        SeldTask(seconds=0.05)


def test_a_step_gives_gradients_to_all_weights_and_new_statistics() -> None:
    task = SeldTask(SMALL, seconds=SECONDS)
    params = jax.jit(task.init)(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True), static_argnums=3)
    (loss, metrics), gradient = step(params, stream().batch(0), jax.random.key(1), True)
    assert np.isfinite(loss) and 0 < metrics["direction_error"] < 180
    moved = metrics["statistics"]["encoder"]
    assert float(moved["input"]["count"]) == 1
    # Levels of noise at 0.1, in dB; a fresh standardizer holds zeros.
    assert moved["input"]["mean"][:64].max() < -5
    for path, value in jax.tree_util.tree_leaves_with_path(gradient):
        name = path_name(path)
        # The convolutions' biases make no difference before a batch normalisation.
        still = is_statistic(name) or (
            name.endswith("bias") and "block_" in name and "norm" not in name
        )
        assert still or np.any(value), name


@pytest.mark.slow
def test_a_run_moves_its_statistics_and_goes_on_where_it_stopped(tmp_path) -> None:
    config = TrainConfig(
        SeldTask(SMALL, seconds=SECONDS),
        stream(),
        steps=4,
        validation=stream(split="validation", swap=False, shuffle=False),
        validation_batches=2,
        optimizer=OptimizerConfig(peak_lr=1e-2, schedule="constant", ema_decay=0.5),
        checkpoint_every=2,
        log_every=2,
        keep=3,
    )
    straight = train(config, tmp_path / "straight")
    encoder = straight.state["params"]["encoder"]
    assert float(encoder["input"]["count"]) == 4
    assert np.abs(encoder["block_0"]["norm"]["mean"]).max() > 0
    assert np.isfinite(straight.metrics["validation/direction_error"])
    train(dataclasses.replace(config, steps=2), tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped")
    for a, b in zip(jax.tree.leaves(straight.state), jax.tree.leaves(resumed.state)):
        np.testing.assert_array_equal(a, b)

    scoring = SeldEvalConfig(
        model=str(tmp_path / "straight"),
        scenes="scenes",
        task=config.task,
        count=7,
        batch_size=4,
    )
    scored = scoring.run(tmp_path / "report", say=lambda line: None)
    with pytest.raises(HandedOver):
        scoring.run(tmp_path / "two", lambda line: None, Share(1, 2, tmp_path, "now"))
    scoring.run(tmp_path / "two", lambda line: None, Share(0, 2, tmp_path, "now"))
    for name in ("report.json", "report.md"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "report" / name).read_bytes()
    assert {name: row["clips"] for name, row in scored.seld.items()} == {"1": 4, "2": 3, "all": 7}
    # In the free field the intensity is the direction, to the rounding of float32.
    assert scored.alone["active intensity"]["mean"] < 0.1
    assert 40 < scored.alone["chance (another clip's truth)"]["mean"] < 140
    assert "| all | 7 |" in (tmp_path / "report" / "report.md").read_text()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["about"]["step"] == 4
    with pytest.raises(InputError, match="does not fit"):
        SeldEvalConfig(
            model=str(tmp_path / "straight"), scenes="scenes", task=SeldTask(seconds=SECONDS)
        ).run(tmp_path / "other", say=lambda line: None)

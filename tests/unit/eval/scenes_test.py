# SPDX-License-Identifier: Apache-2.0
"""Stretches of sound and pictures of a stream's own scenes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from spatial_core.data.pipeline import SceneStream
from spatial_core.data.stretch import scene_of, stretch_of
from spatial_core.eval.baselines import SteeredResponse
from spatial_core.eval.loop import evaluate
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.rooms import RoomConfig
from spatial_core.sim.scene import SceneConfig


@pytest.fixture(scope="module")
def stream():
    return SceneStream(
        scene=SceneConfig(
            min_mics=6,
            distractor=False,
            speech_dropout=0.0,
            min_source_distance=0.5,
            max_source_distance=1.5,
            sensor_noise_db=(40.0, 40.0),
            room=RoomConfig(),
            max_rt60=0.3,
        ),
        batch_size=4,
        crops_per_rir=2,
        split="test",
        threads=1,
    )


class WithPosterior:
    """SRP-PHAT with the azimuth's neighbourhood as a posterior; hears nothing in every third step."""

    def predict(self, batch):
        answer = SteeredResponse(directions=600).predict(batch)
        grid = np.arange(-180.0, 180.0, 10.0)
        near = np.exp(-0.5 * (azimuth_error(answer["azimuth"][:, None], grid) / 8) ** 2)
        heard = np.arange(len(near)) % 3 != 1
        return answer | {
            "azimuth_probs": near / near.sum(axis=1, keepdims=True),
            "azimuth_grid": grid,
            "speech_probability": heard.astype(np.float32),
        }


def test_the_scene_is_the_one_that_the_example_was_made_of(stream):
    batch = stream.batch(1)
    for row in range(4):
        scene = scene_of(stream, 4 + row)
        assert scene.labels()["azimuth"] == pytest.approx(batch["azimuth"][row], abs=1e-4)
        mics = batch["mic_positions"][row][batch["mic_mask"][row]]
        np.testing.assert_allclose(scene.mic_positions(), mics, atol=1e-6)


def test_a_stretch_sounds_from_where_its_labels_say(stream):
    stretch = stretch_of(stream, 5, 2.0)
    assert stretch.audio.shape == (stretch.scene.num_mics, 32_000)
    windows = stretch.windows()
    assert len(windows["audio"]) == 11  # (32000 - 4000) // 2560 + 1
    np.testing.assert_array_equal(windows["audio"][1], stretch.audio[:, 2560:6560])
    loud = np.sqrt((windows["audio"] ** 2).mean(axis=(1, 2)))
    loud = loud > 0.3 * loud.max()
    error = azimuth_error(SteeredResponse().predict(windows)["azimuth"], windows["azimuth"])
    assert np.median(error[loud]) < 6
    np.testing.assert_array_equal(stretch.audio, stretch_of(stream, 5, 2.0).audio)


def test_a_report_shows_rooms_and_posteriors(stream, tmp_path):
    report = evaluate(
        {"plain": SteeredResponse(directions=600), "posterior": WithPosterior()},
        stream,
        8,
        pictures=2,
        out=io.StringIO(),
    )
    assert [picture.example for picture in report.pictures] == [0, 2]  # two rooms
    assert set(report.pictures[0].estimates) == {"plain", "posterior"}
    assert set(report.pictures[0].posteriors) == {"posterior"}
    heard = np.isfinite(report.pictures[0].posteriors["posterior"].azimuth)
    assert heard[:3].tolist() == [True, False, True]
    report.save(tmp_path)
    for name in ("room_0.png", "room_2.png", "posterior_0_posterior.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 10_000

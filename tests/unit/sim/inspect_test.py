# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from spatial_core.errors import InputError
from spatial_core.sim.inspect import distributions, inspect_scenes
from spatial_core.sim.scene import SceneConfig


class Tones:
    """A source of speech and noise: white bursts."""

    speakers = ("one",)
    classes = ("burst",)

    def crop(self, rng: np.random.Generator, samples: int, active: int = 0) -> np.ndarray:
        return rng.standard_normal(samples).astype(np.float32)


def test_distributions_of_the_default_recipe() -> None:
    statistics = distributions(SceneConfig(), n=500, seed=3)
    rows = statistics.summary()
    assert rows["rt60"]["mean"] == pytest.approx(0.47, abs=0.05)
    assert rows["distance"]["min"] >= 0.1
    assert rows["num_mics"]["min"] == 3 and rows["num_mics"]["max"] == 8
    assert abs(rows["azimuth"]["mean"]) < 16  # uniform: standard deviation of the mean is 4.6
    assert -5 <= rows["snr"]["min"] and rows["snr"]["max"] <= 15
    assert rows["aperture"]["max"] <= 18
    assert 0.91 < statistics.speech_share < 0.99
    assert "rt60 (s)" in statistics.to_text()
    again = distributions(SceneConfig(), n=500, seed=3)
    assert again.summary() == rows


def test_inspect_writes_a_picture_numbers_and_clips(tmp_path: Path) -> None:
    said: list[str] = []
    config = SceneConfig(speech_dropout=0.0, max_mics=4)
    statistics = inspect_scenes(
        config, tmp_path / "new", n=40, clips=2, speech=Tones(), noise=Tones(), say=said.append
    )
    picture = imread(tmp_path / "new" / "scenes.png")
    assert min(picture.shape[:2]) > 500 and np.ptp(picture) > 0.5
    document = json.loads((tmp_path / "new" / "scenes.json").read_text())
    assert document["quantities"]["rt60"]["mean"] == statistics.summary()["rt60"]["mean"]
    assert "40 scenes" in said[0]
    for number in range(2):
        path = tmp_path / "new" / f"clip_{number:02d}.wav"
        audio, rate = soundfile.read(path)
        truth = json.loads(path.with_suffix(".json").read_text())
        assert rate == 16000 and audio.shape == (64000, len(truth["mic_positions"]))
        assert 0.001 < np.sqrt(np.mean(audio**2)) < 0.3 and np.abs(audio).max() <= 0.9
        assert truth["speech"] and -180 < truth["azimuth"] <= 180


def test_recipe_without_distractor_has_no_snr_panel(tmp_path: Path) -> None:
    statistics = inspect_scenes(
        SceneConfig(distractor=False, sensor_noise_db=None), tmp_path, n=5, clips=0, say=None
    )
    assert "snr" not in statistics.summary() and statistics.distractor_share == 0
    with pytest.raises(InputError, match="at least one scene"):
        inspect_scenes(SceneConfig(), tmp_path, n=0)

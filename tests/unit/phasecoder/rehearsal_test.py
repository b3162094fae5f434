# SPDX-License-Identifier: Apache-2.0
"""The made-up recording: sound comes when and from where its truth says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from phasecoder.rehearsal import record_scene
from spatial_core.audio.io import load_audio
from spatial_core.geometry.arrays import MicArray, preset
from spatial_core.geometry.coords import to_cartesian
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.scene import SceneConfig, sample_scene


class Noise:
    """A 'speaker' of white noise: easy to align."""

    speakers = ("noise",)

    def crop(self, rng, samples, active):
        return rng.standard_normal(samples).astype(np.float32)


@pytest.fixture(scope="module")
def rehearsal():
    config = SceneConfig(
        array=preset("nao_8"), distractor=False, speech_dropout=0, max_rt60=0.3, gain_db=(0, 0)
    )
    scene = sample_scene(np.random.default_rng(3), config)
    scene = dataclasses.replace(scene, sensor_noise_db=40.0)
    return record_scene(scene, FastSimulator(), Noise(), np.random.default_rng(0))


def test_speech_is_loud_where_it_talks_and_pauses_are_quiet(rehearsal):
    level = np.square(rehearsal.audio).mean(0)
    # The last 0.3 s of each pause: the reverberation of 0.3 s has fallen by 60 dB.
    quiet = np.zeros(len(level), bool)
    for end in np.flatnonzero(np.diff(rehearsal.talking.astype(int)) == 1):
        quiet[end - 4800 : end - 100] = True
    ratio = 10 * np.log10(level[rehearsal.talking].mean() / level[quiet].mean())
    assert 30 < ratio < 41


def test_first_arrivals_come_from_the_true_direction(rehearsal):
    simulator = FastSimulator()
    scene = rehearsal.scene
    rirs = simulator.simulate(scene.room, scene.source, scene.true_positions, scene.seed)
    away = np.linalg.norm(scene.true_positions - scene.source, axis=1)
    expected = away * 16000 / 343.0 + simulator.lead
    first = np.array([np.flatnonzero(np.abs(h) > 0.5 * np.abs(h).max())[0] for h in rirs])
    assert np.all(np.abs(first - expected) < 3)
    point = rehearsal.distance * to_cartesian(rehearsal.azimuth, rehearsal.elevation)
    from_array = np.linalg.norm(rehearsal.array.centred - point, axis=1)
    np.testing.assert_allclose(from_array, away, atol=1e-6)


def test_files_read_back_as_they_were_made(rehearsal, tmp_path):
    audio, array = rehearsal.write(tmp_path / "recording")
    np.testing.assert_allclose(load_audio(audio).samples, rehearsal.audio, atol=1e-4)
    assert MicArray.from_json(array) == rehearsal.array

# SPDX-License-Identifier: Apache-2.0
"""The shipped model on wav files of simulated rooms with held-out voices, through the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from phasecoder import cli
from phasecoder.api import localize
from phasecoder.pretrained import load
from phasecoder.rehearsal import Rehearsal, record_scene
from spatial_core.audio.io import resample, write_wav
from spatial_core.data.sources import speech_source
from spatial_core.geometry.arrays import preset
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rooms import RoomConfig
from spatial_core.sim.scene import SceneConfig, sample_scene

CONFIG = SceneConfig(
    distractor=False, speech_dropout=0.0, max_rt60=0.4, sensor_noise_db=(30.0, 30.0)
)


def _record(name: str, seed: int) -> Rehearsal:
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(CONFIG, array=preset(name), max_source_distance=2.5)
    scene = sample_scene(rng, config)
    return record_scene(scene, FastSimulator(), speech_source("embedded", "test"), rng, stretches=1)


@pytest.mark.parametrize(("name", "seed"), [("nao_8", 1), ("square_4", 2)])
def test_shipped_model_finds_the_talker_and_the_pauses(name, seed, tmp_path, capsys):
    rehearsal = _record(name, seed)
    # 44.1 kHz, as many recorders write.
    write_wav(tmp_path / "room.wav", resample(rehearsal.audio, 16000, 44100), 44100)
    rehearsal.array.to_json(tmp_path / "array.json")
    command = ["localize", str(tmp_path / "room.wav"), "--mics", str(tmp_path / "array.json")]
    assert cli.main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert azimuth_error(answer["overall"]["azimuth"], rehearsal.azimuth) < 8
    assert any("resampled from 44100 Hz" in note for note in answer["notes"])
    assert answer["elevation_signed"] is (name == "nao_8")
    talking = rehearsal.talking
    for window in answer["windows"]:
        start = round((window["time"] - 0.125) * 16000)
        inside = talking[start : start + 4000].mean()
        # The first pause is silent but for sensor noise; later ones still ring.
        if inside == 0 and start + 4000 < int(np.argmax(talking)):
            assert window["state"] != "speech"
    states = [w["state"] for w in answer["windows"]]
    assert states.count("speech") >= 6


def test_with_context_the_errors_of_a_talker_who_stays_put_fall():
    """20 held-out rooms with RT60 0.3 to 0.8 s and noise 0 to 20 dB down: the estimates' median."""
    config = dataclasses.replace(
        CONFIG,
        max_rt60=None,
        room=RoomConfig(min_rt60=0.3, max_rt60=0.8),
        sensor_noise_db=(0.0, 20.0),
    )
    encoder, simulator, speech = load(), FastSimulator(), speech_source("embedded", "test")
    errors: dict[float, list[np.ndarray]] = {0.0: [], 1.0: [], 2.0: []}
    for seed in range(20):
        rng = np.random.default_rng([11, seed])
        take = record_scene(sample_scene(rng, config), simulator, speech, rng, stretches=1)
        for context, found in errors.items():
            answer = localize(take.audio, take.array, 16000, encoder, context=context)
            found.append(azimuth_error(answer.azimuth[answer.speech], take.azimuth))
            # Correct arrays: no room and no noise may look like swapped channels.
            assert not any("do not fit" in note for note in answer.notes)
    alone, one, two = (np.concatenate(found) for found in errors.values())
    print([float(np.median(e)) for e in (alone, one, two)])
    # On 100 recordings the median falls from 13 to 7 degrees and the mean by a third.
    assert np.median(one) < 0.9 * np.median(alone) and np.median(two) < 0.8 * np.median(alone)
    assert two.mean() < 0.85 * alone.mean()

# SPDX-License-Identifier: Apache-2.0
"""The shipped model on wav files of simulated rooms with held-out voices, through the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from phasecoder import cli
from phasecoder.rehearsal import Rehearsal, record_scene
from spatial_core.audio.io import resample, write_wav
from spatial_core.data.sources import speech_source
from spatial_core.geometry.arrays import preset
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.fast import FastSimulator
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

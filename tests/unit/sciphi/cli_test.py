# SPDX-License-Identifier: Apache-2.0
"""The sciphi command: what it prints, writes and refuses, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sciphi import api, cli
from sciphi.convert import convert_file
from spatial_core.audio.ambisonics import (
    INTERNAL,
    AmbisonicFormat,
    convert,
    intensity_direction,
)
from spatial_core.errors import InputError
from tests.unit.sciphi.ear import Ear, capsules_from, noise_from

AMBIX = ["--order", "ACN", "--norm", "SN3D"]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_load", lambda model, weights: Ear(label="dog barking"))
    soundfile.write(tmp_path / "scene.wav", noise_from(45, 3, 3.0).T, 48000, subtype="PCM_24")
    return str(tmp_path / "scene.wav")


def test_describe_prints_the_scene_and_draws_it(scene, tmp_path, capsys):
    plot = str(tmp_path / "scene.png")
    assert cli.main(["describe", scene, *AMBIX, "--plot", plot]) == 0
    out = capsys.readouterr().out
    assert "Room of about 200 m³, RT60 0.3 s; no background sound" in out
    (row,) = [line for line in out.splitlines() if line.endswith("dog barking")]
    assert "horizontal front-left" in row and "3.0 s" in row and "45°" in row
    assert "Note: resampled from 48000 Hz" in out and "Convention: " in out
    assert (tmp_path / "scene.png").stat().st_size > 10_000


def test_describe_prints_json(scene, capsys):
    assert cli.main(["describe", scene, *AMBIX, "--json", "--hop", "1", "--seconds", "2.5"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["end_s"] == 2.5 and content["hop_s"] == 1
    assert content["timeline"][0]["zone"] == "horizontal front-left"


def test_every_window_is_shown_on_demand(scene, capsys):
    assert cli.main(["describe", scene, *AMBIX, "--every-window"]) == 0
    out = capsys.readouterr().out
    assert "From 0.0 to 2.0 s:" in out and "From 1.0 to 3.0 s:" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "order ACN with norm SN3D (--order ACN --norm SN3D: AmbiX"),
        (["--order", "ACN"], "give the norm of the Ambisonic channels"),
        (["--order", "ACN", "--norm", "loud"], "norm 'loud' is unknown"),
        ([*AMBIX, "--plot", "a.pdf"], "must end in .png"),
        ([*AMBIX, "--plot", "nowhere/a.png"], "does not exist"),
        ([*AMBIX, "--hop", "0"], "time between windows"),
        ([*AMBIX, "--start", "9"], "nothing is left"),
        ([*AMBIX, "--start", "2.9"], "0.10 s of"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(scene, words, message, capsys):
    assert cli.main(["describe", scene, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sciphi: error: ") and message in error and error.count("\n") == 1


def test_missing_files_are_said(capsys):
    assert cli.main(["describe", "none.wav", *AMBIX]) == 2
    assert "none.wav does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("becomes", "fmt"),
    [("FuMa", ("FuMa", "FuMa")), ("acn/n3d", ("ACN", "N3D")), ("ambix", ("ACN", "SN3D"))],
)
def test_convert_keeps_the_sound_field(tmp_path, becomes, fmt):
    audio = noise_from(30, 10, 0.5, fmt=AmbisonicFormat("FuMa", "FuMa"))
    soundfile.write(tmp_path / "a.wav", audio.T, 48000, subtype="FLOAT")
    words = ["convert", str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert cli.main([*words, "--from", "FuMa", "--to", becomes]) == 0
    written, rate = soundfile.read(tmp_path / "b.wav", dtype="float32")
    wanted = convert(noise_from(30, 10, 0.5), INTERNAL, AmbisonicFormat(*fmt))
    assert rate == 48000
    np.testing.assert_allclose(written.T, wanted, atol=1e-6)


def test_convert_there_and_back_is_the_same(tmp_path):
    audio = noise_from(30, 10, 0.3)
    soundfile.write(tmp_path / "a.wav", audio.T, 44100, subtype="FLOAT")
    convert_file(tmp_path / "a.wav", tmp_path / "b.flac", "AmbiX", "FuMa")
    done = convert_file(tmp_path / "b.flac", tmp_path / "c.wav", "FuMa", "AmbiX")
    again, _ = soundfile.read(tmp_path / "c.wav", dtype="float32")
    np.testing.assert_allclose(again.T, audio, atol=2**-22)  # 24 bits, once
    assert done.rate == 44100 and done.peak == pytest.approx(np.abs(audio).max(), abs=1e-6)


def test_capsules_become_b_format(tmp_path):
    capsules = capsules_from(60, 20, 6.0)
    soundfile.write(tmp_path / "a.wav", capsules.T, 24000, subtype="FLOAT")
    convert_file(tmp_path / "a.wav", tmp_path / "b.wav", "ambeo", "ACN/SN3D")
    b, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert b.shape == capsules.T.shape
    np.testing.assert_allclose(intensity_direction(b.T), (60, 20), atol=2)


@pytest.mark.parametrize(
    ("target", "was", "becomes", "message"),
    [
        ("b.mp3", "FuMa", "ACN/SN3D", "must end in .wav or .flac"),
        ("no/b.wav", "FuMa", "ACN/SN3D", "does not exist"),
        ("a.wav", "FuMa", "ACN/SN3D", "is the file itself"),
        ("b.wav", "B-format", "ACN/SN3D", "'B-format' is no Ambisonic format"),
        ("b.wav", "FuMa", "ambeo", "'ambeo' is no Ambisonic format"),
        ("b.flac", "FuMa", "ACN/N3D", "does not fit into FLAC"),
    ],
)
def test_conversions_that_cannot_be_are_refused(tmp_path, target, was, becomes, message):
    soundfile.write(tmp_path / "a.wav", noise_from(0, 0, 0.2, level=0.3).T, 48000, subtype="FLOAT")
    with pytest.raises(InputError, match=message):
        convert_file(tmp_path / "a.wav", tmp_path / target, was, becomes)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_help_teaches_the_formats(capsys):
    for words in (["--help"], ["describe", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        out = capsys.readouterr().out
        assert stop.value.code == 0 and "--order ACN --norm SN3D" in out and "--a-format" in out


def test_the_other_system_is_not_touched():
    code = (
        "import sys, sciphi.cli, sciphi.api, sciphi.plots, sciphi.convert\n"
        "assert not [m for m in sys.modules if m.startswith('phasecoder')]"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_mistake_is_said_before_jax_is_imported(tmp_path):
    soundfile.write(tmp_path / "scene.wav", noise_from(45, 3, 1.0).T, 48000, subtype="PCM_24")
    soundfile.write(tmp_path / "noise.wav", noise_from(45, 3, 0.1).T, 48000, subtype="PCM_24")
    soundfile.write(tmp_path / "zero.wav", np.zeros((48000, 4)), 48000)
    code = (
        "import sys; from sciphi import cli\n"
        "ambix = ['--order', 'ACN', '--norm', 'SN3D']\n"
        "for wav, more in (('scene', ['--order', 'left']), ('scene', [*ambix, '--hop', '0']),\n"
        "                  ('scene', [*ambix, '--model', 'nowhere']), ('noise', ambix),\n"
        "                  ('scene', [*ambix, '--weights', 'nowhere']), ('zero', ambix)):\n"
        f"    assert cli.main(['describe', f'{tmp_path}/{{wav}}.wav', *more]) == 2, (wav, more)\n"
        "assert cli.main(['model', 'card']) == 0\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"\n") == 6 and b"too short to be described" in done.stderr


def test_an_example_is_written_with_its_truth_and_nothing_is_overwritten(tmp_path, capsys):
    out = str(tmp_path / "scene.wav")
    assert cli.main(["example", out, "--seed", "1"]) == 0
    captured = capsys.readouterr()
    assert "--order ACN --norm SN3D" in captured.out and "2 sources:" in captured.out
    assert "sure" not in captured.out and captured.err == "simulating a scene ...\n"
    samples, rate = soundfile.read(out)
    assert samples.shape == (5 * 24000, 4) and rate == 24000
    for name in (out, str(tmp_path / "scene.flac"), str(tmp_path / "no" / "scene.wav")):
        assert cli.main(["example", name]) == 2

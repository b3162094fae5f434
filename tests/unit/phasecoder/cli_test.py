# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints, its exit codes, and one clear line instead of a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from phasecoder import cli, pretrained
from phasecoder.array_check import check_array
from phasecoder.plus import PlusConfig
from phasecoder.task import PhaseCoderTask
from spatial_core import waits
from spatial_core.audio.io import Audio, load_audio, write_wav
from spatial_core.geometry.arrays import PRESETS, MicArray, preset
from spatial_core.geometry.coords import azimuth_error, to_cartesian

RATE = 16000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained model: its directions mean nothing, all around them does."""
    config = PlusConfig(width=32, heads=2, head_width=16, hidden=32, blocks=1)
    params = jax.jit(PhaseCoderTask(config).init)(jax.random.key(0))
    path = tmp_path_factory.mktemp("model") / "tiny"
    return str(pretrained.save_pretrained(path, params, config, "# Tiny\n\nUntrained."))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Noise from azimuth 40 on the tetrahedron, then digital silence, as 24 kHz wav."""
    rng = np.random.default_rng(0)
    rate, samples = 24000, 24000
    spectrum = np.fft.rfft(rng.normal(size=samples))
    lead = preset("tetrahedron").centred @ to_cartesian(40.0, 10.0) / 343.0
    shift = np.exp(2j * np.pi * np.fft.rfftfreq(samples, 1 / rate) * lead[:, None])
    audio = 0.05 * np.fft.irfft(spectrum * shift, samples)
    path = tmp_path_factory.mktemp("audio") / "room.wav"
    write_wav(path, np.concatenate([audio, np.zeros_like(audio)], axis=1), rate)
    return str(path)


def _localize(recording, checkpoint, *more):
    return cli.main(["localize", recording, "--mics", "tetrahedron", "--model", checkpoint, *more])


def test_table_summary_notes_and_convention_are_printed(recording, checkpoint, capsys):
    assert _localize(recording, checkpoint) == 0
    out = capsys.readouterr().out
    assert "azimuth" in out.splitlines()[0] and "silence" in out
    assert "Overall: " in out and "Note: resampled from 24000 Hz to 16000 Hz." in out
    assert "Convention: azimuth in degrees counter-clockwise" in out


def test_json_is_all_that_is_printed(recording, checkpoint, capsys):
    assert _localize(recording, checkpoint, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "loading tiny ..." and "4 channels" in captured.err
    document = json.loads(captured.out)
    assert document["array"] == "tetrahedron" and document["model"] == "tiny"
    assert [w["state"] for w in document["windows"]][-2:] == ["silence", "silence"]


def test_plot_is_written(recording, checkpoint, tmp_path, capsys):
    plot = tmp_path / "out.png"
    assert _localize(recording, checkpoint, "--plot", str(plot)) == 0
    assert plot.read_bytes()[:4] == b"\x89PNG" and str(plot) in capsys.readouterr().out


def test_long_tables_are_shortened_unless_every_window_is_wanted(checkpoint, tmp_path, capsys):
    audio = 0.1 * np.random.default_rng(0).normal(size=(4, 6 * RATE))
    write_wav(tmp_path / "a.wav", audio, RATE)
    lengths = []
    for more in ([], ["--every-window"]):
        assert _localize(str(tmp_path / "a.wav"), checkpoint, *more) == 0
        lengths.append(capsys.readouterr().out.index("Overall"))
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localize", "{wav}", "--mics", "nao_8"], "has 4 channels, but array 'nao_8' has 8"),
        (["localize", "no.wav", "--mics", "nao_8"], "no.wav does not exist"),
        (["localize", "{wav}", "--mics", "nao9"], "neither an array preset"),
        (["localize", "{wav}", "--mics", "tetrahedron", "--plot", "x.txt"], "must end in .png"),
        (["localize", "{wav}", "--mics", "tetrahedron", "--plot", "no/x.png"], "make it first"),
        (["localize", "{wav}", "--mics", "tetrahedron", "--hop", "0"], "hop_seconds is 0.0"),
        (["localize", "{wav}", "--mics", "tetrahedron", "--context", "-2"], "context is -2.0"),
        (["array", "show", "{mm}"], "mm"),
        (["model", "card", "--model", "nowhere"], "neither a folder nor a shipped"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    arguments, message, recording, checkpoint, tmp_path, capsys
):
    (tmp_path / "mm.json").write_text("[[30, 0, 0], [0, 30, 0], [-30, 0, 0]]")
    filled = [a.format(wav=recording, mm=tmp_path / "mm.json") for a in arguments]
    if "--hop" in filled:
        filled += ["--model", checkpoint]
    assert cli.main(filled) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("phasecoder: error: ") and message in captured.err


def test_a_mistake_is_said_before_jax_is_imported(recording):
    code = (
        "import sys; from phasecoder import cli\n"
        f"for more in (['--mics', 'nao_8'], ['--mics', 'tetrahedron', '--model', 'nowhere']):\n"
        f"    assert cli.main(['localize', {recording!r}, *more]) == 2\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_compiled_programs_are_kept_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv(names[0], "given")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    waits.keep_programs()
    assert os.environ[names[0]] == "given" and not any(tmp_path.iterdir())
    for name in names:
        monkeypatch.delenv(name, raising=False)
    waits.keep_programs()
    assert os.environ[names[0]] == str(tmp_path / "spatial-audio-stack" / "compiled")
    for name in names:  # so that nothing of it is left when the patches are undone
        monkeypatch.setenv(name, "0")


def test_card_is_printed(checkpoint, capsys):
    assert cli.main(["model", "card", "--model", checkpoint]) == 0
    assert capsys.readouterr().out.startswith("# Tiny")


def test_presets_are_listed_with_size(capsys):
    assert cli.main(["array", "presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS) and "15.0 cm" in out


def test_array_show_numbers_channels_from_1_and_names_the_ambiguity(tmp_path, capsys):
    assert cli.main(["array", "show", "square_4", "--plot", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "      1      5.00      5.00      0.00" in out and "cannot be told apart" in out
    assert (tmp_path / "a.png").exists()


def test_array_check_passes_a_good_recording(recording, tmp_path, capsys):
    plot = tmp_path / "array.png"
    assert cli.main(["array", "check", "tetrahedron", recording, "--plot", str(plot)]) == 0
    found = re.search(r"came from azimuth (-?\d+)", capsys.readouterr().out)
    assert found is not None and abs(int(found[1]) - 40) <= 3 and plot.exists()


def test_array_check_fails_swapped_channels_with_exit_code_1(recording, tmp_path, capsys):
    positions = np.array([[0.05, 0, 0], [0, 0.04, 0.01], [-0.03, -0.02, 0.03], [0.01, -0.05, 0]])
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(rng.normal(size=2 * RATE))
    lead = positions @ to_cartesian(70.0, 0.0) / 343.0
    shift = np.exp(2j * np.pi * np.fft.rfftfreq(2 * RATE, 1 / RATE) * lead[:, None])
    write_wav(tmp_path / "a.wav", 0.05 * np.fft.irfft(spectrum * shift, 2 * RATE), RATE)
    MicArray(positions[[1, 0, 2, 3]], "swapped").to_json(tmp_path / "swapped.json")
    code = cli.main(
        ["array", "check", str(tmp_path / "swapped.json"), str(tmp_path / "a.wav"), "--json"]
    )
    document = json.loads(capsys.readouterr().out)
    assert code == 1 and not document["ok"]
    assert any("swapped" in finding["text"] for finding in document["findings"])


def test_array_check_works_without_a_recording(capsys):
    assert cli.main(["array", "check", "line_4"]) == 0
    assert "line" in capsys.readouterr().out


def test_help_needs_no_model_and_no_jax():
    code = (
        "import sys; from phasecoder import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert b"phasecoder localize room.wav" in done.stdout


def test_an_example_comes_from_where_it_says(tmp_path, capsys):
    """The direct sound's delays between microphones, by the array check, against the truth printed."""
    out = str(tmp_path / "room.wav")
    assert cli.main(["example", out, "--mics", "tetrahedron", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start, end, azimuth = (float(x) for x in re.findall(r"[-+]?\d+\.?\d*", lines[1])[:3])
    samples = load_audio(out).samples[:, int(start * RATE) : int(abs(end) * RATE)]
    found = check_array(preset("tetrahedron"), Audio(samples, RATE, RATE, "a"))
    # Early echoes pull the delays of two seconds by some degrees.
    assert azimuth_error(found.direction[0], azimuth) <= 10
    assert cli.main(["example", out, "--mics", "tetrahedron"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""The quickstart from the command line, small: every stage runs and its report can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "STEPS=3",
    "SceneStream.batch_size=8",
    "QuickstartConfig.examples=16",
    "QuickstartConfig.scenes=20",
    "PlusConfig.width=32",
    "PlusConfig.blocks=1",
)


def _run(workdir: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.main", "--run_mode=quickstart"]
    command += ["--gin_file=experiments/quickstart.gin", f"--workdir={workdir}"]
    command += [f"--gin.{setting}" for setting in (*SMALL, *settings)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_quickstart_for_one_device_writes_its_report_model_and_recording(tmp_path):
    done = _run(tmp_path / "run", "ARRAY=tetrahedron")
    assert done.returncode == 0, done.stderr
    for number in range(1, 6):
        assert f"[{number}/5]" in done.stdout
    assert "left in all" in done.stdout and "SRP-PHAT" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5 and "NormMUSIC" in page
    truth = json.loads((tmp_path / "run" / "recording" / "truth.json").read_text())
    assert -180 < truth["azimuth"] <= 180
    command = [sys.executable, "-m", "phasecoder.cli", "localize", "recording/recording.wav"]
    command += ["--mics", "recording/array.json", "--model", "model", "--json"]
    localized = subprocess.run(
        command,
        cwd=tmp_path / "run",
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert localized.returncode == 0, localized.stderr
    assert len(json.loads(localized.stdout)["windows"]) > 30


@pytest.mark.slow
def test_an_array_that_does_not_exist_is_one_line(tmp_path):
    done = _run(tmp_path / "run", "ARRAY=respeaker5")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "neither an array preset" in done.stderr

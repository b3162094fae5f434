# SPDX-License-Identifier: Apache-2.0
"""The command line: every shipped experiment resolves; mistakes are answered in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import configurables
from launch.modes import MODES, ROOTS
from spatial_core.config import gin_setup
from spatial_core.config.paths import config_files
from spatial_core.train.config import TrainConfig

ROOT = Path(__file__).parents[3]
EXPERIMENTS = [name for name in config_files() if name.startswith("experiments/")]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    configurables.register_all()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves(name):
    gin_setup.parse([name], roots=ROOTS)
    text = gin_setup.bound_config()
    if "TrainConfig.task" in text:
        config = gin_setup.build("TrainConfig")
        assert isinstance(config, TrainConfig) and config.steps > 0
    elif "BankConfig" in text:
        assert gin_setup.build("BankConfig").count > 0
    header = (ROOT / "gin" / name).read_text().split("\n\n")[0]
    assert "python -m launch.main" in header and f"--gin_file={name}" in header


def test_every_root_can_be_built():
    assert set(ROOTS) <= set(gin_setup.registered())
    assert all(mode.help and mode.roots for mode in MODES.values())


@pytest.mark.parametrize("extra", [name for name in config_files() if name.startswith("hardware/")])
def test_hardware_files_add_to_an_experiment(extra):
    gin_setup.parse(["experiments/plus.gin", extra], roots=ROOTS)
    gin_setup.build("TrainConfig")


@pytest.mark.parametrize(("signal", "code"), [(None, 0), ("SIGTERM", 75), ("SIGINT", 130)])
def test_a_stopped_run_exits_with_the_documented_code(tmp_path, monkeypatch, signal, code):
    result = SimpleNamespace(stopped_by=signal, step=3)
    monkeypatch.setattr("spatial_core.train.loop.train", lambda config, workdir: result)
    gin_setup.parse(["experiments/plus.gin"], roots=ROOTS)
    assert MODES["train"].run(tmp_path) == code


def _launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_help_teaches_with_examples():
    done = _launch("--help")
    assert "--run_mode=train --gin_file=experiments/quickstart.gin" in done.stdout
    assert "--dry_run" in done.stdout and "Exit codes" in done.stdout


def test_a_mistyped_setting_is_one_line_and_code_2():
    done = _launch("--gin_file=experiments/quickstart.gin", "--gin.TrainConfig.stepz=3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the command line: TrainConfig has no")
    assert "did you mean 'steps'" in done.stderr and "Traceback" not in done.stderr

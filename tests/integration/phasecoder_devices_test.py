# SPDX-License-Identifier: Apache-2.0
"""The real model on the real stream through the one command: eight devices, a kill, a resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "PlusConfig.width=32",
    "PlusConfig.heads=2",
    "PlusConfig.head_width=16",
    "PlusConfig.hidden=32",
    "PlusConfig.blocks=1",
    "PlusConfig.mask_width=16",
    "TrainConfig.steps=6",
    "TrainConfig.log_every=1",
    "TrainConfig.checkpoint_every=2",
    "TrainConfig.validation_batches=1",
    "TrainConfig.eval_every=0",
    "OptimizerConfig.warmup_steps=0",
    "SceneStream.batch_size=8",
)


def start(workdir: Path, *settings: str, devices: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "launch.main", "--run_mode=train"]
    command += ["--gin_file=experiments/quickstart.gin", f"--workdir={workdir}"]
    command += [f"--gin.{setting}" for setting in (*SETTINGS, *settings)]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> None:
    output = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, output[-2000:]


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def test_eight_devices_and_a_killed_run_give_the_losses_of_one(tmp_path):
    whole, split, killed = tmp_path / "whole", tmp_path / "split", tmp_path / "killed"
    finish(start(whole))
    reference = losses(whole)
    assert sorted(reference) == [1, 2, 3, 4, 5, 6]

    finish(
        start(
            split,
            "MeshConfig.data=4",
            "MeshConfig.fsdp=2",
            "TrainConfig.mesh=@MeshConfig()",
            devices=8,
        )
    )
    got = losses(split)
    # Sums over devices round in another order.
    np.testing.assert_allclose([got[s] for s in reference], list(reference.values()), rtol=1e-5)

    process = start(killed)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoints" / "00000002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(killed))
    assert losses(killed) == reference

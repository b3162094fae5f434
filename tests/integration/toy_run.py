# SPDX-License-Identifier: Apache-2.0
"""A small training run in a process of its own: python -m tests.integration.toy_run WORKDIR ..."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what it reported."""

    workdir: Path
    report: dict


def start(workdir: Path, *options: str, devices: int = 1, **popen: object) -> subprocess.Popen[str]:
    """Starts the run as a child process with that many virtual devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.integration.toy_run", str(workdir), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **popen
    )


def finish(process: subprocess.Popen[str]) -> dict:
    """Waits for the end of the run: {"digest", "step", "losses"} as it printed them."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    report: dict = json.loads(output.splitlines()[-1])
    return report


def metrics(workdir: Path) -> list[dict]:
    """The JSONL records without those that depend on the clock."""
    path = workdir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    clock = ("examples_per_second", "data_wait", "goodput/")
    return [{k: v for k, v in record.items() if not k.startswith(clock)} for record in records]


def main() -> None:
    from spatial_core.train.checkpoint import tree_digest
    from spatial_core.train.config import TrainConfig
    from spatial_core.train.loop import train
    from spatial_core.train.optim import OptimizerConfig
    from spatial_core.train.partition import MeshConfig
    from tests.unit.train.toy import ToyStream, ToyTask

    @dataclass(frozen=True)
    class SlowStream(ToyStream):
        pause: float = 0.0

        def iterate(
            self, start_step: int = 0, host: int = 0, hosts: int = 1
        ) -> Iterator[dict[str, np.ndarray]]:
            for batch in super().iterate(start_step, host, hosts):
                time.sleep(self.pause)
                yield batch

    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=int, default=-1)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    config = TrainConfig(
        task=ToyTask(),
        data=SlowStream(pause=options.pause),
        steps=options.steps,
        log_every=1,
        checkpoint_every=5,
        eval_every=10,
        validation=ToyStream(seed=7),
        validation_batches=2,
        mesh=MeshConfig(options.data, options.fsdp, fsdp_min_size=16),
        optimizer=OptimizerConfig(peak_lr=1e-2, ema_decay=0.9, decay_steps=40),
    )
    result = train(config, options.workdir)
    shards = {
        name: str(tuple(leaf.sharding.spec))
        for name, leaf in result.state["params"]["hidden"].items()
    }
    report = {
        "digest": tree_digest(result.state),
        "step": result.step,
        "shards": shards,
    }
    print(json.dumps({**report, "stopped_by": result.stopped_by}))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The command of the package with a task of a few hundred parameters: python -m tests.integration.toy_launch ...

Everything else (flags, settings, exit codes) is launch.main's own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from launch import configurables, main
from spatial_core.config import gin_setup
from tests.unit.train.toy import ToyStream, ToyTask

ROOT = Path(__file__).parents[2]
SETTINGS = """
TrainConfig.task = @ToyTask()
TrainConfig.data = @SlowStream()
TrainConfig.validation = @ToyStream()
TrainConfig.mesh = @MeshConfig()
TrainConfig.steps = 40
TrainConfig.log_every = 1
TrainConfig.checkpoint_every = 5
TrainConfig.eval_every = 10
TrainConfig.validation_batches = 2
MeshConfig.fsdp_min_size = 16
OptimizerConfig.peak_lr = 1e-2
OptimizerConfig.ema_decay = 0.9
OptimizerConfig.decay_steps = 40
ToyStream.seed = 7
"""


@dataclass(frozen=True)
class SlowStream(ToyStream):
    """Batches that take `pause` seconds; that of step `stuck` never comes on host `stuck_host`."""

    pause: float = 0.0
    stuck: int = -1
    stuck_host: int = 0

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(super().iterate(start_step, host, hosts), start_step):
            time.sleep(self.pause)
            while step == self.stuck and host == self.stuck_host:
                time.sleep(0.1)
            yield batch


def start(
    workdir: Path,
    *arguments: str,
    devices: int = 1,
    mode: str = "train",
    log: Path | None = None,
) -> subprocess.Popen[str]:
    """Starts the command on that many virtual devices; `arguments` are flags and overrides.

    Other modes than train bring their own settings.
    """
    workdir.parent.mkdir(parents=True, exist_ok=True)
    settings = workdir.parent / "toy.gin"
    settings.write_text(SETTINGS)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.integration.toy_launch", f"--run_mode={mode}"]
    command += [f"--gin_file={settings}"] if mode == "train" else []
    command += [f"--workdir={workdir}", *arguments]
    out = log.open("w") if log else subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
    )


def start_two(
    workdir: Path, *arguments: str, devices: int = 2, mode: str = "train"
) -> list[subprocess.Popen[str]]:
    """Starts two processes of one run, as `start_together` does."""
    return start_together((workdir, workdir), *arguments, devices=devices, mode=mode)


def start_together(
    workdirs: Sequence[Path],
    *arguments: str,
    only: Mapping[int, tuple[str, ...]] = MappingProxyType({}),
    devices: int = 1,
    mode: str = "train",
) -> list[subprocess.Popen[str]]:
    """Starts a process of one run for each folder; what they print is in `log` of each.

    only: what some processes are told besides the arguments of all.
    """
    shared = (f"--coordinator={free_address()}", f"--num_processes={len(workdirs)}", *arguments)
    return [
        start(
            workdir,
            *shared,
            *only.get(number, ()),
            f"--process_id={number}",
            devices=devices,
            mode=mode,
            log=log(workdir, number),
        )
        for number, workdir in enumerate(workdirs)
    ]


def free_address() -> str:
    """An address of this machine at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def log(workdir: Path, process: int) -> Path:
    """What a process of `start_together` prints: WORKDIR.NUMBER.log."""
    return workdir.with_name(f"{workdir.name}.{process}.log")


if __name__ == "__main__":
    configurables.register_all()
    gin_setup.register(ToyTask, ToyStream, SlowStream)
    main.main()

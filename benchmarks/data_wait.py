# SPDX-License-Identifier: Apache-2.0
"""Does training wait for its data? Short runs of an experiment, with each way to make examples.

    python benchmarks/data_wait.py [--gin_file=experiments/phasecoder_paper_s.gin] [--batch=16]

The loop itself says what share of the time between two records the step stood still for the next batch
(`data_wait` of metrics.jsonl). Printed is the second half of each run, after the compilation. Inside the
step, examples cost time of the step instead: compare examples per second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "numba (the default)": (),
    "JAX, beside the step": ("--gin.SceneStream.simulator=jax",),
    "JAX, inside the step": ("--gin_file=data/on_device.gin",),
}


def run(way: tuple[str, ...], options: argparse.Namespace) -> dict[str, float]:
    """The last record of a short training run."""
    steps = options.steps
    settings = {
        "TrainConfig.steps": steps,
        "TrainConfig.log_every": steps // 2,
        "TrainConfig.eval_every": 0,
        "TrainConfig.checkpoint_every": 0,
        "TrainConfig.validation": "None",
        "TrainConfig.best_metric": "None",
        "SceneStream.batch_size": options.batch,
    }
    if any("on_device" in part for part in way):
        settings["DeviceStream.batch_size"] = options.batch
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "launch.main",
            "--run_mode=train",
            f"--workdir={folder}/run",
        ]
        command += [f"--gin_file={options.gin_file}", *way]
        command += [f"--gin.{name}={value}" for name, value in settings.items()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
        records = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        last: dict[str, float] = json.loads(records[-1])
        return last


def environment() -> dict[str, str]:
    """That of this process, with the repository on the path."""
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def main() -> None:
    """Runs and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gin_file", default="experiments/phasecoder_paper_s.gin")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ways", type=int, nargs="*", default=list(range(len(WAYS))))
    options = parser.parse_args()
    print(f"{options.gin_file}, batch {options.batch}, {options.steps} steps\n")
    print("| examples made by | examples/s | waits for data | minutes |\n|---|---|---|---|")
    for name, way in [list(WAYS.items())[n] for n in options.ways]:
        begin = time.monotonic()
        record = run(way, options)
        spent = (time.monotonic() - begin) / 60
        rate, wait = record["examples_per_second"], 100 * record["data_wait"]
        print(f"| {name} | {rate:.1f} | {wait:.2f}% | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What a training on a CPU gains by keeping freed memory (spatial_core/train/heap.py).

    python benchmarks/heap.py [--gin_file=experiments/quickstart.gin] [--steps=60] [--rounds=3]

Short runs, by turns with and without, the order reversed in each round. Printed are medians over rounds of
the second half of a run, which no compilation is in, and their ratio with the smallest and largest of a
round; and the share of the system in the CPU time of whole runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# `launch.main` as it is, and with the one call taken out.
WAYS = {
    "kept": "from launch.main import main; main()",
    "given back": (
        "from spatial_core.train import heap; heap.keep_freed_memory = lambda: False; "
        "from launch.main import main; main()"
    ),
}


def run(program: str, options: argparse.Namespace) -> tuple[float, float]:
    """Examples per second of the second half of a short training; the system's share of its CPU time."""
    settings = {
        "TrainConfig.steps": options.steps,
        "TrainConfig.log_every": options.steps // 2,
        "TrainConfig.eval_every": 0,
        "TrainConfig.checkpoint_every": 0,
        "TrainConfig.validation": "None",
        "TrainConfig.best_metric": "None",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, "--run_mode=train", f"--workdir={folder}/run"]
        command += [f"--gin_file={options.gin_file}", *options.setting]
        command += [f"--gin.{name}={value}" for name, value in settings.items()]
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        records = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        rate = json.loads(records[-1])["examples_per_second"]
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return rate, system / (user + system)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", default="experiments/quickstart.gin")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("setting", nargs="*", help="more of launch.main's, after --")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(options.rounds):
        for way in list(WAYS)[:: 1 if turn % 2 == 0 else -1]:
            found[way].append(run(WAYS[way], options))
            print(f"{way}: {found[way][-1][0]:.1f} examples/s", file=sys.stderr, flush=True)
    for way, values in found.items():
        rate = statistics.median(rate for rate, _ in values)
        share = statistics.median(share for _, share in values)
        print(f"{way:12s} {rate:8.1f} examples/s   system's share of CPU time {share:.0%}")
    ratios = [kept[0] / back[0] for kept, back in zip(*found.values(), strict=True)]
    print(
        f"kept / given back: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()

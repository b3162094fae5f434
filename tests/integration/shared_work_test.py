# SPDX-License-Identifier: Apache-2.0
"""Work other than training over two processes: stopped in the middle, and without a folder in common."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration import toy_launch

# Enough that it is far from done when it is stopped.
EVALUATE = (
    "--gin_file=experiments/plus.gin",
    "--gin_file=runs/eval.gin",
    "--gin.SceneStream.batch_size=4",
    "--gin.EvalConfig.num_examples=20000",
    "--gin.EvalConfig.localizers={'ours': @SteeredResponse()}",
)
BANK = (
    "--gin_file=experiments/rir_bank.gin",
    "--gin.BankConfig.count=600",
    "--gin.BankConfig.shard_size=10",
)


def _say_until(log: Path, words: str, runs: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while words not in log.read_text():
        assert all(run.poll() is None for run in runs), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _codes(runs: list[subprocess.Popen[str]], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    return [run.wait(max(deadline - time.monotonic(), 0.1)) for run in runs]


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "name", "code"), [(0, "SIGTERM", 75), (1, "SIGINT", 130)])
def test_a_signal_to_one_stops_an_evaluation_of_both(tmp_path, stopped, name, code):
    workdir = tmp_path / "run"
    runs = toy_launch.start_two(workdir, *EVALUATE, devices=1, mode="eval")
    for process in (0, 1):
        _say_until(toy_launch.log(workdir, process), "evaluate ", runs)
    runs[stopped].send_signal(signal.Signals[name])
    # Far sooner than by the heartbeat (30 s), and with the same code.
    assert _codes(runs, 20) == [code, code]
    assert f"{name}: stopping" in toy_launch.log(workdir, stopped).read_text()
    other = toy_launch.log(workdir, 1 - stopped).read_text()
    assert f"host {stopped} was stopped by {name}: this one ends, too" in other
    assert _files(workdir) == set()


@pytest.mark.slow
def test_a_signal_to_one_of_three_stops_all_with_its_code(tmp_path):
    """Process 0, over which they hear of each other, waits until the last one has."""
    workdir = tmp_path / "run"
    runs = toy_launch.start_together([workdir] * 3, *EVALUATE, mode="eval")
    for process in range(3):
        _say_until(toy_launch.log(workdir, process), "evaluate ", runs)
    runs[2].send_signal(signal.SIGINT)
    assert _codes(runs, 20) == [130, 130, 130]


@pytest.mark.slow
def test_a_bank_of_both_is_stopped_and_finished_with_the_bytes_of_one(tmp_path):
    workdir = tmp_path / "bank"
    runs = toy_launch.start_two(workdir, *BANK, devices=1, mode="generate")
    deadline = time.monotonic() + 300
    while sum(name.endswith(".arrayrecord") for name in _files(workdir)) < 6:
        assert all(run.poll() is None for run in runs) and time.monotonic() < deadline
        time.sleep(0.05)
    runs[1].send_signal(signal.SIGTERM)
    assert _codes(runs, 20) == [75, 75]
    there = {name for name in _files(workdir) if name.endswith(".arrayrecord")}
    assert 6 <= len(there) < 60
    kept = {name: (workdir / name).stat().st_mtime_ns for name in there}
    again = toy_launch.start_two(workdir, *BANK, devices=1, mode="generate")
    assert _codes(again, 600) == [0, 0]
    # What was whole was not made again, and nothing is left of what was not.
    assert {name: (workdir / name).stat().st_mtime_ns for name in there} == kept
    alone = toy_launch.start(tmp_path / "one", *BANK, mode="generate")
    assert alone.wait(600) == 0, alone.stdout.read()
    assert _files(workdir) == _files(tmp_path / "one")
    for name in _files(workdir):
        assert (workdir / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


@pytest.mark.slow
def test_processes_without_a_folder_in_common_end_soon_and_say_so(tmp_path):
    """As on hosts that have a disk of their own under the same name."""
    workdirs = [tmp_path / f"host{process}" / "run" for process in (0, 1)]
    runs = toy_launch.start_together(workdirs, *EVALUATE, mode="eval")
    assert _codes(runs, 300) == [2, 2]
    for process, workdir in enumerate(workdirs):
        said = toy_launch.log(workdir, process).read_text()
        assert f"host 0, 1 of 2 does not see files of the others in {tmp_path}/host" in said
        assert "give all of them the same --workdir" in said
        assert _files(workdir) == set()


@pytest.mark.slow
def test_an_error_of_one_ends_an_evaluation_of_both_with_its_code(tmp_path):
    """Of process 0, which others reach their words through: it stays until they have read them."""
    workdir, nothing = tmp_path / "run", ("--gin.EvalConfig.num_examples=0",)
    runs = toy_launch.start_together((workdir, workdir), *EVALUATE, only={0: nothing}, mode="eval")
    assert _codes(runs, 600) == [2, 2]
    wrong, other = (toy_launch.log(workdir, process).read_text() for process in (0, 1))
    assert "evaluate at least one" in wrong and "this one ends, too" not in wrong
    assert "host 0 has ended with exit code 2 and says why: this one ends, too" in other


@pytest.mark.slow
def test_a_process_whose_others_never_start_ends_and_says_so():
    lines = (
        "from spatial_core.train import distributed",
        "distributed.JOIN_SECONDS = 3.0",
        f"distributed.initialize({toy_launch.free_address()!r}, 2, 0)",
    )
    alone = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300
    )
    assert alone.returncode == 76
    assert "process 0 of 2 at 127.0.0.1:" in alone.stderr
    assert "has waited 3 s for the other processes of the run" in alone.stderr

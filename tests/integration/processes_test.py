# SPDX-License-Identifier: Apache-2.0
"""One run over two processes of two devices each: stopped, killed, stuck, and against one process."""

from __future__ import annotations

import fcntl
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from spatial_core.train.checkpoint import Checkpoints, tree_digest
from tests.integration import toy_launch

SPLIT = ("--gin.MeshConfig.data=2", "--gin.MeshConfig.fsdp=2")
SLOW = (*SPLIT, "--gin.SlowStream.pause=0.2", "--heartbeat_seconds=20")


def _records(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _losses(workdir: Path) -> list[float]:
    return [record["loss"] for record in _records(workdir) if "loss" in record]


def _digest(workdir: Path) -> str:
    return tree_digest(Checkpoints(workdir).load_params(40)[0])


def _wait_for_step(workdir: Path, step: int, runs: list) -> None:
    deadline = time.monotonic() + 900
    while not any(record["step"] >= step for record in _records(workdir)):
        assert all(run.poll() is None for run in runs), toy_launch.log(workdir, 0).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _codes(runs: list, seconds: float = 900) -> list[int]:
    deadline = time.monotonic() + seconds
    return [run.wait(max(deadline - time.monotonic(), 0.1)) for run in runs]


def _history(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The run of two processes that was never stopped."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    assert _codes(toy_launch.start_two(workdir, *SPLIT)) == [0, 0]
    return workdir


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(together, tmp_path):
    one = toy_launch.start(tmp_path / "run", *SPLIT, devices=4)
    assert one.wait(900) == 0, one.stdout.read()
    assert len(_losses(together)) == 40
    np.testing.assert_allclose(_losses(together), _losses(tmp_path / "run"), rtol=0, atol=1e-5)
    validated = [
        [record["validation/loss"] for record in _records(folder) if "validation/loss" in record]
        for folder in (together, tmp_path / "run")
    ]
    assert len(validated[0]) == 4
    np.testing.assert_allclose(*validated, rtol=0, atol=1e-5)
    # Only one of the processes speaks and keeps the books.
    assert toy_launch.log(together, 0).read_text().count("validation: ") == 4
    assert "loss" not in toy_launch.log(together, 1).read_text()
    assert [event["event"] for event in _history(together)] == ["start", "end"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_to_one_stops_both_at_one_step_and_the_command_goes_on(
    together, tmp_path, name, code
):
    workdir = tmp_path / "run"
    runs = toy_launch.start_two(workdir, *SLOW)
    _wait_for_step(workdir, 7, runs)
    runs[1].send_signal(signal.Signals[name])
    assert _codes(runs) == [code, code]
    stopped = _history(workdir)[-1]
    assert stopped["reason"] == name and 7 <= stopped["step"] < 40
    assert Checkpoints(workdir).steps()[-1] == stopped["step"]
    assert _codes(toy_launch.start_two(workdir, *SLOW)) == [0, 0]
    assert _losses(workdir) == _losses(together) and _digest(workdir) == _digest(together)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_of_one_ends_the_other_and_the_command_goes_on(together, tmp_path, killed):
    workdir = tmp_path / "run"
    runs = toy_launch.start_two(workdir, *SLOW)
    _wait_for_step(workdir, 13, runs)
    saved = Checkpoints(workdir).steps()[-1]
    runs[killed].send_signal(signal.SIGKILL)
    # By its heartbeat: a watchdog of minutes is not waited for.
    (code,) = _codes([runs[1 - killed]], 300)
    # JAX aborts it (-6), or the operation between them failed first (76).
    assert code in (-signal.SIGABRT, 76)
    said = toy_launch.log(workdir, 1 - killed).read_text()
    assert "another task died" in said or "lost another host of the run" in said
    if killed == 1:
        assert "host 0 of 2 waits for" in said
    assert saved >= 10 and "end" not in _history(workdir)[-1]["event"]
    assert _codes(toy_launch.start_two(workdir, *SLOW)) == [0, 0]
    assert f"resuming from step {saved}" in toy_launch.log(workdir, 0).read_text()
    assert _losses(workdir) == _losses(together) and _digest(workdir) == _digest(together)


@pytest.mark.slow
def test_a_process_that_stands_still_is_named_and_both_end(tmp_path):
    workdir = tmp_path / "run"
    runs = toy_launch.start_two(
        workdir,
        *SPLIT,
        "--gin.SlowStream.stuck=12",
        "--gin.SlowStream.stuck_host=1",
        "--gin.TrainConfig.stall_seconds=15.0",
    )
    codes = _codes(runs)
    # Who ends first may take the other along.
    assert codes[1] == 76 and codes[0] in (76, -signal.SIGABRT)
    said = toy_launch.log(workdir, 1).read_text()
    assert "error: host 1 of 2 waits for the batch of step 13 since" in said
    assert "toy_launch.py" in said.split("error:")[0]  # the stack of the stream
    report = (workdir / "debug" / "stalled-host_1.txt").read_text()
    assert "host 1 of 2 waits for the batch of step 13" in report and "toy_launch.py" in report
    assert Checkpoints(workdir).steps()[-1] == 10


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(tmp_path):
    """Another run holds the folder: only process 0 asks for that, process 1 would wait for it."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        codes = _codes(toy_launch.start_two(workdir, *SPLIT))
    assert codes[0] == 2 and codes[1] in (76, -signal.SIGABRT)
    assert "another process is training in" in toy_launch.log(workdir, 0).read_text()


@pytest.mark.slow
def test_a_run_moves_from_eight_to_four_to_one_device(tmp_path):
    meshes = {8: ("data=2", "fsdp=4"), 4: ("data=1", "fsdp=4"), 1: ("data=1", "fsdp=1")}
    for devices, steps in ((8, 10), (4, 20), (1, 40)):
        mesh = [f"--gin.MeshConfig.{part}" for part in meshes[devices]]
        run = toy_launch.start(
            tmp_path / "run", *mesh, f"--gin.TrainConfig.steps={steps}", devices=devices
        )
        assert run.wait(900) == 0, run.stdout.read()
    whole = toy_launch.start(tmp_path / "whole" / "run")
    assert whole.wait(900) == 0, whole.stdout.read()
    assert len(_losses(tmp_path / "run")) == 40
    np.testing.assert_allclose(
        _losses(tmp_path / "run"), _losses(tmp_path / "whole" / "run"), rtol=0, atol=1e-5
    )


EXPORT = (
    "--gin_file=experiments/export_tokens.gin",
    "--gin.train/ConversationSource.count=3",
    "--gin.validation/ConversationSource.count=2",
    "--gin.test/ConversationSource.count=1",
    "--gin.ExportConfig.shard_size=1",
    "--gin.ConversationConfig.max_seconds=6.0",
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """Those of one process."""
    folder = tmp_path_factory.mktemp("tokens") / "one"
    alone = toy_launch.start(folder, *EXPORT, mode="export_tokens")
    assert alone.wait(900) == 0, alone.stdout.read()
    return folder


@pytest.mark.slow
def test_two_processes_export_the_tokens_of_one(tokens, tmp_path):
    one, two = tokens, tmp_path / "two"
    assert _codes(toy_launch.start_two(two, *EXPORT, mode="export_tokens")) == [0, 0]
    for path in sorted(one.rglob("*")):
        if path.is_file():
            assert (two / path.relative_to(one)).read_bytes() == path.read_bytes(), path
    assert {path.name for path in two.rglob("*")} == {path.name for path in one.rglob("*")}
    assert "host 1: " in toy_launch.log(two, 1).read_text()


EVALUATE = (
    "--gin_file=experiments/plus.gin",
    "--gin_file=runs/eval.gin",
    "--gin.SceneStream.batch_size=4",
    "--gin.EvalConfig.num_examples=10",
    "--gin.EvalConfig.pictures=1",
    "--gin.EvalConfig.localizers={'PhaseCoder': @load_encoder(), 'ours': @SteeredResponse()}",
    "--gin.EvalConfig.projection='pca'",
)


def _scores(report: Path) -> dict:
    """A report without what it says of its own speed."""
    document = json.loads((report / "report.json").read_text())
    for localizer in document["localizers"].values():
        assert localizer.pop("timing")["clips_per_second"] > 0
    return document


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tmp_path):
    """Ten clips in batches of four: process 0 has the first and the last two, process 1 the rest."""
    one, two = tmp_path / "one", tmp_path / "two"
    alone = toy_launch.start(one, *EVALUATE, mode="eval")
    assert alone.wait(900) == 0, alone.stdout.read()
    runs = toy_launch.start_two(two, *EVALUATE, devices=1, mode="eval")
    assert _codes(runs) == [0, 0], toy_launch.log(two, 0).read_text()
    assert _scores(two) == _scores(one)
    assert {path.name for path in two.rglob("*")} == {path.name for path in one.rglob("*")}
    with np.load(one / "predictions.npz") as right, np.load(two / "predictions.npz") as found:
        assert set(right) == set(found) and len(right["truth/azimuth"]) == 10
        for name in right:
            np.testing.assert_array_equal(found[name], right[name])
    assert "host 1: 1 batches answered" in toy_launch.log(two, 1).read_text()


@pytest.mark.slow
def test_two_processes_ask_a_bridge_what_one_asks(tokens, tmp_path):
    questions = (
        "--gin_file=runs/eval_bridge.gin",
        f"--gin.TOKENS={str(tokens)!r}",
        "--gin.QUESTIONS=(5, 0, 0, 0)",  # all that one clip can carry
        "--gin.BridgeEvalConfig.batch_size=2",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    alone = toy_launch.start(one, *questions, mode="eval_bridge")
    assert alone.wait(900) == 0, alone.stdout.read()
    runs = toy_launch.start_two(two, *questions, devices=1, mode="eval_bridge")
    assert _codes(runs) == [0, 0], toy_launch.log(two, 0).read_text()
    for name in ("report.json", "report.md", "answers.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes()


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused(tmp_path):
    runs = toy_launch.start_two(
        tmp_path / "run",
        "--gin_file=runs/release.gin",
        "--gin.RUN='runs/plus'",
        "--gin.ABOUT='a.md'",
        mode="release",
    )
    assert _codes(runs) == [2, 2]
    assert (
        "--run_mode=release works in one process" in toy_launch.log(tmp_path / "run", 1).read_text()
    )

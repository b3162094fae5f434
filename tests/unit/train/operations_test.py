# SPDX-License-Identifier: Apache-2.0
"""What a run tells of itself: how it ended, with what, where the time went, what a step did."""

from __future__ import annotations

import functools
import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from spatial_core.errors import InputError
from spatial_core.train import loop, provenance
from spatial_core.train.activity import KINDS, Activity
from spatial_core.train.guards import NonFiniteError
from spatial_core.train.loop import _Run, train
from spatial_core.train.watchdog import Watchdog
from tests.unit.train.loop_test import config, records
from tests.unit.train.toy import ToyStream


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_each_start_and_its_end_are_kept(tmp_path, capsys):
    train(config(), tmp_path)
    begin, end = history(tmp_path)
    assert begin["event"] == "start" and begin["command"]
    assert (end["reason"], end["first_step"], end["step"]) == ("done", 0, 12)
    assert sum(end["goodput"].values()) == pytest.approx(1, abs=1e-3)
    assert "compile" in capsys.readouterr().out.splitlines()[-1]
    shares = [{kind: record[f"goodput/{kind}"] for kind in KINDS} for record in records(tmp_path)]
    assert [sum(each.values()) for each in shares] == pytest.approx([1, 1, 1])

    with pytest.raises(InputError, match="different experiment"):
        train(config(seed=1), tmp_path)
    assert len(history(tmp_path)) == 2  # a command that is refused is no start
    train(config(), tmp_path)
    assert (history(tmp_path)[-1]["first_step"], history(tmp_path)[-1]["step"]) == (12, 12)


def test_an_error_is_the_reason_of_the_end(tmp_path):
    with pytest.raises(NonFiniteError):
        train(config(data=ToyStream(poisoned=(2, 3)), nonfinite_budget=1), tmp_path)
    end = history(tmp_path)[-1]
    assert end["reason"] == "NonFiniteError" and "nonfinite_budget 1" in end["message"]


def test_a_stream_that_never_comes_ends_the_run(tmp_path, monkeypatch):
    ended, codes = threading.Event(), []

    class Stuck(ToyStream):
        def iterate(self, start_step=0, host=0, hosts=1):
            for step, batch in enumerate(super().iterate(start_step, host, hosts)):
                if step == 5:
                    assert ended.wait(60)
                    raise RuntimeError("the process ended here")
                yield batch

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(loop, "Watchdog", functools.partial(Watchdog, end=end))
    with pytest.raises(RuntimeError, match="ended here"):
        train(config(data=Stuck(), stall_seconds=2.0), tmp_path)
    assert codes == [76]
    report = (tmp_path / "debug" / "stalled-host_0.txt").read_text()
    assert "host 0 of 1 waits for the batch of step 6" in report and "in iterate" in report
    assert [event.get("reason") for event in history(tmp_path)][1] == "stalled"


def test_a_window_of_steps_is_recorded_for_xprof(tmp_path, capsys):
    train(config(profile=(3, 2)), tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes()
    assert f"xprof --logdir {tmp_path / 'profile'}" in capsys.readouterr().out
    # One that resumes beyond the window records nothing.
    train(config(profile=(3, 2)), tmp_path)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"stall_seconds": -1.0}, "stall_seconds is -1.0"),
        ({"stall_seconds": 60.0, "compile_seconds": 30.0}, "compile_seconds is 30.0: at least"),
        ({"profile": (0, 5)}, "give the first step"),
        ({"profile": (3,)}, "give the first step"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, said):
    with pytest.raises(InputError, match=said):
        config(**setting)


def test_the_state_of_the_source_is_that_of_its_checkout(tmp_path, monkeypatch):
    """A checkout of one file, changed since its commit; a package that is none of its files."""

    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@e")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "package" / "__init__.py"
    package.parent.mkdir()
    package.write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    asked = provenance.git_state.__wrapped__
    monkeypatch.setattr(provenance.spatial_core, "__file__", str(package))
    commit = git("rev-parse", "HEAD")
    assert asked() == {"commit": commit, "changed": [], "diff_sha256": None}
    package.write_text("a = 2\n")
    changed = asked()
    assert changed["commit"] == commit and changed["changed"] == ["package/__init__.py"]
    assert len(changed["diff_sha256"]) == 64
    installed = tmp_path / "site" / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(provenance.spatial_core, "__file__", str(installed))
    assert asked() is None


class _Busy:
    """A result of a step that the device still works on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def block_until_ready(self) -> None:
        time.sleep(self.seconds)


@pytest.mark.parametrize(("busy", "drawn"), [(0.1, 0.3), (0.3, 0.1)])
def test_waiting_for_a_batch_counts_only_while_nothing_is_computed(busy, drawn):
    def batches():
        time.sleep(drawn)
        yield {}

    run = SimpleNamespace(activity=Activity(), watcher=ThreadPoolExecutor(1), start=0)
    began = time.monotonic()
    _Run._next(run, batches(), 5, _Busy(busy))
    waited = time.monotonic() - began
    run.watcher.shutdown()
    spent = run.activity.seconds()
    assert spent["compute"] + spent["data"] <= waited
    # Sleeping takes at least its time, whatever else the machine does.
    if busy < drawn:
        assert spent["compute"] >= 0.9 * busy and spent["data"] > 0
    else:
        assert spent["compute"] >= 0.9 * drawn and spent["data"] < 0.1 * waited

# SPDX-License-Identifier: Apache-2.0
"""What stands still is named, its stacks are kept, and the process ends; what takes its time goes on."""

from __future__ import annotations

import threading

import pytest

from spatial_core.train import watchdog
from spatial_core.train.activity import Activity
from spatial_core.train.watchdog import EXIT_STALLED, Watchdog


class Watched:
    """An activity with a watchdog whose end is noted here instead of ending the tests."""

    def __init__(self, seconds: float, first: float, hosts: int = 1) -> None:
        self.activity = Activity()
        self.reports: list[tuple[str, str]] = []
        self.codes: list[int] = []
        self.ended = threading.Event()
        self.dog = Watchdog(
            self.activity, seconds, first, hosts - 1, hosts, self._report, self._end
        )

    def _report(self, line: str, stacks: str) -> None:
        self.reports.append((line, stacks))

    def _end(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


def test_what_stands_still_is_named_with_its_stack(capfd):
    watched = Watched(0.2, 1000.0, hosts=2)
    with watched.dog, watched.activity.doing("data", "the batch of step 13"):
        assert watched.ended.wait(60)
    assert watched.codes == [EXIT_STALLED]
    ((line, stacks),) = watched.reports
    assert line.startswith("host 1 of 2 waits for the batch of step 13 since ")
    assert "TrainConfig.stall_seconds = 0.2" in line
    assert "test_what_stands_still_is_named_with_its_stack" in stacks
    said = capfd.readouterr().err
    assert f"error: {line}" in said and stacks in said


@pytest.mark.parametrize(("seconds", "patient"), [(0.1, True), (0.0, False)])
def test_a_compilation_may_take_longer_and_zero_watches_nothing(seconds, patient):
    watched = Watched(seconds, 1000.0)
    with watched.dog, watched.activity.doing("compile", "step 1", patient):
        assert not watched.ended.wait(0.5)
    assert watched.codes == []


def test_time_in_which_the_process_was_suspended_does_not_count(monkeypatch):
    """Each look finds the clock an hour further, as after the lid of a laptop was closed."""
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: next(hours))
    watched = Watched(900.0, 3600.0)
    watched.dog._tick = 0.01
    with watched.dog:
        assert not watched.ended.wait(0.3)


def test_a_report_that_cannot_be_written_does_not_keep_the_process(capfd):
    watched = Watched(0.1, 1000.0)

    def broken(line: str, stacks: str) -> None:
        raise OSError("no space")

    watched.dog._report = broken
    with watched.dog, watched.activity.doing("checkpoint", "the checkpoint of step 5"):
        assert watched.ended.wait(60)
    assert "the report could not be written: no space" in capfd.readouterr().err


def test_of_several_a_late_step_is_spoken_of_once(capfd, monkeypatch):
    monkeypatch.setattr(watchdog, "_LATE_SECONDS", 0.1)
    watched = Watched(1000.0, 1000.0, hosts=2)
    watched.dog._tick = 0.02
    with watched.dog:
        with watched.activity.doing("compile", "step 1, which is compiled", patient=True):
            assert not watched.ended.wait(0.3)
        watched.activity.step_done()
        with watched.activity.doing("compute", "the result of step 2"):
            assert not watched.ended.wait(0.3)  # it may be what a step takes
        watched.activity.step_done()
        with watched.activity.doing("evaluation", "the validation of step 2"):
            assert not watched.ended.wait(0.6)  # of which no step is the longer
        computed = watched.activity.seconds()["compute"]
        assert watched.activity.longest_step == pytest.approx(computed)
        watched.activity.longest_step = 0.05
        with watched.activity.doing("compute", "the result of step 3"):
            assert not watched.ended.wait(1.5)
    said = capfd.readouterr().err
    assert said.count(" waits for ") == 1
    assert "host 1 of 2 waits for the result of step 3 since" in said
    assert "ends within --heartbeat_seconds" in said

# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment and started again ends with the same bits."""

from __future__ import annotations

import signal
import time

from tests.integration import toy_run


def _wait_for_step(workdir, step, process):
    deadline = time.monotonic() + 240
    while not any(record["step"] >= step for record in toy_run.metrics(workdir)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_and_the_same_command_give_the_same_bits(tmp_path, whole_run):
    killed = toy_run.start(tmp_path, "--pause=0.05")
    _wait_for_step(tmp_path, 13, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert max(r["step"] for r in toy_run.metrics(tmp_path)) < 40

    resumed = toy_run.finish(toy_run.start(tmp_path, "--pause=0.05"))
    assert resumed["digest"] == whole_run.report["digest"]
    assert toy_run.metrics(tmp_path) == toy_run.metrics(whole_run.workdir)


def test_sigterm_saves_at_once_and_the_same_command_goes_on(tmp_path):
    process = toy_run.start(tmp_path, "--pause=0.05")
    _wait_for_step(tmp_path, 7, process)
    process.send_signal(signal.SIGTERM)
    stopped = toy_run.finish(process)
    assert stopped["stopped_by"] == "SIGTERM" and 7 <= stopped["step"] < 40
    again = toy_run.finish(toy_run.start(tmp_path, "--pause=0.05"))
    assert again["step"] == 40
    assert [r["step"] for r in toy_run.metrics(tmp_path) if "loss" in r] == list(range(1, 41))

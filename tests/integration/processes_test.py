# SPDX-License-Identifier: Apache-2.0
"""One run over two processes of two devices each, stopped and resumed, against one process."""

from __future__ import annotations

import signal
import socket
import time

import numpy as np
import pytest

from spatial_core.train.checkpoint import Checkpoints
from tests.integration import toy_run


def _run_together(workdir, *options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = (f"--coordinator={address}", "--processes=2", *options)
    runs = [
        toy_run.start(workdir, *shared, f"--process={process}", devices=2) for process in (0, 1)
    ]
    return [toy_run.finish(run) for run in runs]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path, whole_run):
    _run_together(tmp_path, "--fsdp=2", "--steps=20")
    reports = _run_together(tmp_path, "--fsdp=2")
    assert [report["step"] for report in reports] == [40, 40]
    losses, reference = (
        [record["loss"] for record in toy_run.metrics(folder) if "loss" in record]
        for folder in (tmp_path, whole_run.workdir)
    )
    np.testing.assert_allclose(losses, reference, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = (f"--coordinator={address}", "--processes=2", "--pause=0.2")
    runs = [toy_run.start(tmp_path, *shared, f"--process={process}") for process in (0, 1)]
    deadline = time.monotonic() + 240
    while len(toy_run.metrics(tmp_path)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    runs[1].send_signal(signal.SIGTERM)
    first, second = (toy_run.finish(run) for run in runs)
    assert first["stopped_by"] == second["stopped_by"] == "SIGTERM"
    assert first["step"] == second["step"] < 40
    assert first["step"] in Checkpoints(tmp_path).steps()

# SPDX-License-Identifier: Apache-2.0
"""One run over two processes of two devices each, stopped and resumed, against one process."""

from __future__ import annotations

import socket

import numpy as np
import pytest

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

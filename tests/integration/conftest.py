# SPDX-License-Identifier: Apache-2.0
"""The run that was never stopped, on one device: what the other runs are compared with."""

from __future__ import annotations

import pytest

from tests.integration import toy_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> toy_run.Run:
    workdir = tmp_path_factory.mktemp("whole")
    return toy_run.Run(workdir, toy_run.finish(toy_run.start(workdir)))

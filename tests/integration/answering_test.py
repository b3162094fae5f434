# SPDX-License-Identifier: Apache-2.0
"""Evaluations use all devices of their process: each answers its share of the rows, as one would all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def _answers(folder: Path, devices: int) -> dict[str, Any]:
    out = folder / f"{devices}.json"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.integration.answering_run", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["devices"] == devices
    return found


@pytest.mark.slow
def test_four_devices_answer_as_one(tmp_path):
    one, four = _answers(tmp_path, 1), _answers(tmp_path, 4)
    for name, right in one["encoder"]["answers"].items():
        # Sums in another order (float32); posteriors are in percent.
        found, near = four["encoder"]["answers"][name], 0.05 if name.endswith("probs") else 2e-4
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=near, err_msg=name)
    assert four["bridge"]["texts"] == one["bridge"]["texts"]
    for right, found in zip(one["bridge"]["chances"], four["bridge"]["chances"], strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4)
    # Each device held its quarter: nothing was answered four times.
    assert (one["encoder"]["held"], four["encoder"]["held"]) == (1.0, 0.25)
    for step in four["bridge"]["held"]:
        assert set(step) == {0.25}

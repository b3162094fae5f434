# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's text decoder split over four devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_four_devices_score_as_one_and_sum_no_activations() -> None:
    """Split parameters are to be fetched; sums over devices of activations would take longer."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    script = [sys.executable, "-m", "tests.integration.gemma3n_devices"]
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    # float32 in another order, logits of order 1.
    assert report["difference"] < 1e-4
    assert report["largest_sum"] < 64

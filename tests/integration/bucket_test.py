# SPDX-License-Identifier: Apache-2.0
"""A run whose folder is in a bucket: the same bits, files and refusals as one on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> tuple[Path, dict]:
    """The folder behind the buckets, after the run, and what the run reported."""
    root = tmp_path_factory.mktemp("buckets")
    (root / "a-bucket").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.bucket_run", str(root)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    report["said"] = done.stdout
    return root, report


def test_training_gives_the_same_bits_as_on_this_machine(bucket):
    _, report = bucket
    assert report["digests"]["bucket"] == report["digests"]["here"]
    assert report["steps"] == [4, 6]


def test_the_files_are_in_the_bucket_and_nowhere_else(bucket):
    root, _ = bucket
    run = root / "a-bucket" / "runs" / "toy"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "config.json").read_text())["steps"] == 6
    assert (run / "environment.json").is_file() and list((run / "tensorboard").glob("events.*"))
    assert not list(run.glob(".writable*")) and not (ROOT / "gs:").exists()


def test_a_damaged_checkpoint_is_set_aside_there_too(bucket):
    root, report = bucket
    names = {path.name for path in (root / "a-bucket" / "runs" / "toy" / "checkpoints").iterdir()}
    assert "00000006.damaged" in names and "checkpoint 6 is damaged" in report["said"]
    assert report["digests"]["repaired"] == report["digests"]["here"]


def test_another_experiment_and_a_bucket_that_is_not_there_are_refused(bucket):
    _, report = bucket
    assert "holds a different experiment" in report["refused"]["other experiment"]
    assert "cannot write to gs://no-bucket/runs/toy" in report["refused"]["no bucket"]
    assert "gcloud auth" in report["refused"]["no bucket"]

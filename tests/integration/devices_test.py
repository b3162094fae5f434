# SPDX-License-Identifier: Apache-2.0
"""The same run on one device and on eight, split over data and over parameters."""

from __future__ import annotations

import numpy as np

from tests.integration import toy_run


def _losses(workdir):
    return [record["loss"] for record in toy_run.metrics(workdir) if "loss" in record]


def test_eight_devices_give_the_losses_of_one(tmp_path, whole_run):
    reference = _losses(whole_run.workdir)
    assert len(reference) == 40
    report = toy_run.finish(toy_run.start(tmp_path, "--data=8", devices=8))
    np.testing.assert_allclose(_losses(tmp_path), reference, rtol=0, atol=1e-5)
    assert report["shards"] == {"kernel": "(None, 'fsdp')", "bias": "()"}


def test_split_parameters_give_the_same_and_move_to_one_device(tmp_path, whole_run):
    half = toy_run.start(tmp_path, "--steps=20", "--data=2", "--fsdp=4", devices=8)
    # The kernel by the rule of the task, the bias by the default rule.
    shards = {"kernel": "(None, 'fsdp')", "bias": "('fsdp',)"}
    assert toy_run.finish(half)["shards"] == shards
    reference = _losses(whole_run.workdir)
    np.testing.assert_allclose(_losses(tmp_path), reference[:20], rtol=0, atol=1e-5)
    toy_run.finish(toy_run.start(tmp_path))
    np.testing.assert_allclose(_losses(tmp_path), reference, rtol=0, atol=1e-5)

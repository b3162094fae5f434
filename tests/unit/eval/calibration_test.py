# SPDX-License-Identifier: Apache-2.0
"""Reliability, ECE and AUROC against definitions worked out by hand or by counting."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_core.eval.calibration import reliability


def test_expected_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25])
    correct = np.array([1, 1, 1, 0, 0, 1], bool)
    result = reliability(confidence, correct)
    # |0.95 - 0.75| over four clips and |0.25 - 0.5| over two.
    assert result.ece == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)
    assert result.count[9] == 4
    assert result.count[2] == 2
    assert result.accuracy[9] == pytest.approx(0.75)
    assert np.isnan(result.accuracy[5])


def test_a_true_confidence_is_calibrated():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=50_000)
    result = reliability(confidence, rng.uniform(size=50_000) < confidence)
    assert result.ece < 0.01
    assert result.brier == pytest.approx(1 / 6, abs=0.005)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(1)
    score = np.round(rng.uniform(size=60), 1)
    correct = rng.uniform(size=60) < score
    wins = [(a > b) + 0.5 * (a == b) for a in score[correct] for b in score[~correct]]
    assert reliability(score, correct).auroc == pytest.approx(np.mean(wins))


def test_confidence_one_falls_into_the_last_bin_and_nothing_into_nan():
    result = reliability(np.array([1.0, 0.0]), np.array([True, True]))
    assert result.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert np.isnan(result.auroc)
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(empty.ece)

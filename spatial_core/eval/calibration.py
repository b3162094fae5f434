# SPDX-License-Identifier: Apache-2.0
"""Is a stated confidence true? Reliability table, expected calibration error, ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """How often the stated confidence came true.

    confidence, accuracy, count: [bins] mean confidence, share of correct examples and number of
        examples in each of equally wide bins of confidence (nan, nan, 0 in an empty bin).
    ece: expected calibration error, the mean over examples of |confidence - accuracy| of their bin
        (Guo et al. 2017, eq. 3). nan without examples.
    brier: mean squared difference of confidence and outcome.
    auroc: probability that a correct example is more confident than a wrong one; 0.5 says nothing.
        nan unless there are both. Unlike the others it means something for a mere score, too.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    ece: float
    brier: float
    auroc: float


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Calibration of confidence [n] in [0, 1] against what came true, correct [n] bool."""
    confidence = np.asarray(confidence, np.float64)
    correct = np.asarray(correct, bool)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, correct, bins) / count
    filled = count > 0
    gap = np.abs(mean - accuracy)[filled]
    size = len(confidence)
    return Reliability(
        mean,
        accuracy,
        count,
        ece=float((gap * count[filled]).sum() / size) if size else np.nan,
        brier=float(np.mean((confidence - correct) ** 2)) if size else np.nan,
        auroc=_auroc(confidence, correct),
    )


def _auroc(score: np.ndarray, correct: np.ndarray) -> float:
    """Area under the ROC by the rank-sum formula; ties count half."""
    positive, negative = int(correct.sum()), int((~correct).sum())
    if not positive or not negative:
        return np.nan
    ranks = rankdata(score)
    wins = ranks[correct].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * negative))

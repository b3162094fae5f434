# SPDX-License-Identifier: Apache-2.0
"""Which source of an answer is meant by which of the truth: POS and POM, by exact assignment.

POS is one assignment for all metrics, the one of the largest sum of TupleScores. POM is the best
assignment for each metric by itself: what a metric would be if nothing but it mattered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sciphi.pairs import Pairs

Matching = tuple[tuple[int, int], ...]  # (source of the answer, source of the truth)
# Of TupleScores that are equal (most often 0), the pair with the better parts is taken. Small enough to
# decide nothing else: TupleScores that differ by less than this are equal.
_TIE = 1e-6


def match_pos(pairs: Pairs) -> Matching:
    """The assignment of the largest sum of TupleScores; as many pairs as the shorter side has."""
    if 0 in pairs.shape:
        return ()
    parts = [np.nan_to_num(pairs.values[key]) for key in ("label", "iou", "xyz")]
    closeness = 1 - np.nan_to_num(pairs.values["zone"], nan=180.0) / 180
    tie = (sum(parts) + closeness) / (len(parts) + 1)
    return assign(pairs.values["tuple"] + _TIE * tie)


def match_pom(pairs: Pairs, key: str, better: str) -> Matching:
    """The best assignment for one metric ("high" or "low" values are better).

    Only what has a value is matched, and as much of it as can be: pairs without words say nothing of WER.
    """
    if 0 in pairs.shape:
        return ()
    values = pairs.values[key]
    score = values if better == "high" else -values
    known = np.isfinite(score)
    if not known.any():
        return ()
    # A value that is not there is worse than all the others together, and never taken if avoidable.
    span = float(np.ptp(score[known])) + 1.0
    worst = float(score[known].min()) - span * (min(score.shape) + 1)
    return tuple(pair for pair in assign(np.where(known, score, worst)) if known[pair])


def assign(score: NDArray[np.float64]) -> Matching:
    """Pairs (row, column) with the largest sum of scores [p, t], each row and column at most once."""
    rows, columns = linear_sum_assignment(score, maximize=True)
    return tuple(zip(rows.tolist(), columns.tolist()))

# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of means and medians, resampled by room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
# Values held at once while medians are resampled: 32 MB of float64.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95% interval, and how many examples it is of; nan where there is none."""

    value: float
    low: float
    high: float
    count: int


NOTHING = Interval(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True)
class Resamples:
    """How often each cluster is drawn in each resample: counts [resamples, clusters].

    cluster [n] is the cluster of each example. Clips of one room share its luck: resampling clips
    would promise more than was measured, so the rooms are drawn (Davison & Hinkley 1997, sec. 3.8).
    """

    counts: NDArray[np.float64]
    cluster: NDArray[np.int64]


def draw(clusters: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Resamples:
    """Draws resamples of the clusters [n] (any integers) with replacement, for a seed."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    size = int(cluster.max()) + 1 if cluster.size else 0
    counts = np.zeros((resamples, size))
    if size:
        drawn = np.random.default_rng(seed).integers(size, size=(resamples, size))
        rows = np.arange(resamples)[:, None] * size
        flat = np.bincount((drawn + rows).ravel(), minlength=resamples * size)
        counts[:] = flat.reshape(resamples, size)
    return Resamples(counts, cluster.astype(np.int64))


def mean_interval(values: np.ndarray, resamples: Resamples) -> Interval:
    """Mean of values [n] with its interval; nan values are left out."""
    valid = np.isfinite(values)
    if not valid.any():
        return NOTHING
    size = resamples.counts.shape[1]
    cluster = resamples.cluster[valid]
    sums = resamples.counts @ np.bincount(cluster, values[valid], size)
    totals = resamples.counts @ np.bincount(cluster, minlength=size)
    with np.errstate(invalid="ignore"):
        means = sums / totals
    return _interval(float(values[valid].mean()), means, int(valid.sum()))


def median_interval(values: np.ndarray, resamples: Resamples) -> Interval:
    """Median of values [n] with its interval; nan values are left out."""
    valid = np.isfinite(values)
    if not valid.any():
        return NOTHING
    order = np.argsort(values[valid], kind="stable")
    ordered = values[valid][order]
    cluster = resamples.cluster[valid][order]
    medians = []
    rows = max(1, _CHUNK // len(ordered))
    for start in range(0, len(resamples.counts), rows):
        # A value drawn k times weighs k: its median is where half of the weight is passed.
        weight = np.cumsum(resamples.counts[start : start + rows][:, cluster], axis=1)
        total = weight[:, -1:]
        index = np.minimum((weight < total / 2).sum(axis=1), len(ordered) - 1)
        medians.append(np.where(total[:, 0] > 0, ordered[index], np.nan))
    return _interval(float(np.median(ordered)), np.concatenate(medians), int(valid.sum()))


def _interval(value: float, replicates: np.ndarray, count: int) -> Interval:
    """Percentile interval; resamples without any valid example (all nan) do not count."""
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return Interval(value, float(low), float(high), count)

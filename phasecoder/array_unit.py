# SPDX-License-Identifier: Apache-2.0
"""Whether a recording's delays contradict the size of the coordinates: wrong units.

Delays larger than distance / 343 m/s refute coordinates that are too small. Delays far smaller refute
too large ones only where no direction explains them: an array in space has some pair along every
direction; a flat one hears no delays from broadside, a line none from all around its middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phasecoder.array_fit import SPEED_OF_SOUND, ArrayFit, free_score, in_range_peak
from phasecoder.array_report import Finding
from spatial_core.audio.delays import Correlations
from spatial_core.geometry.arrays import MicArray

TEN = 10.0
LARGEST = 1.0  # metres; ten times the array is not tried beyond
WIDE = 0.5  # share of the longest distance of the pairs that are looked at
# Of the pairs' delays in a segment: some pair lies along the sound, a few peaks are chance.
QUANTILE = 0.8
SMALL_DELAYS = 0.2  # share of the largest possible delay; right coordinates have 0.35 in rooms
BEYOND = 1.15  # a share that right coordinates do not have
MOST_PAIRS = 0.7
GOOD_FIT = 0.85  # share of the fit that the pairs reach one by one
# Fit at a tenth of the size beside the given: up to 1.05 in rooms for right coordinates in space,
# 1.6 and more for coordinates ten times too large.
SUSPECT_GAIN, SURE_GAIN = 1.15, 1.3
SMALLER = (0.1, 0.03, 0.01)
HAND_HELD = 0.25  # metres; a flat array up to here may well hear its source broadside
TABLE_TOP = 0.4  # metres; a level array wider than this is hardly ever under a talker's mouth
LEVEL = np.cos(np.radians(30.0))  # of the normal's vertical part


def longest_lag(array: MicArray) -> float:
    """Seconds of lag that the check needs: the array's own, or ten times that if it is small."""
    reach = max(array.aperture, min(TEN * array.aperture, LARGEST))
    return 1.15 * reach / SPEED_OF_SOUND + 2e-4


def too_small(array: MicArray, correlations: Correlations) -> Finding | None:
    """An error when delays exceed what the coordinates allow and fit ones ten times as large."""
    if TEN * array.aperture > LARGEST:
        return None
    larger = MicArray(array.positions * TEN, array.name)
    lags = in_range_peak(larger, correlations)[1]
    shares = _shares(array, lags, correlations)
    # Two devices without a common clock put two pairs of three at most beyond their limits.
    if np.median(np.mean(shares > BEYOND, axis=1)) < MOST_PAIRS:
        return None
    ratio = float(np.median(np.quantile(shares, QUANTILE, axis=1)))
    fit = ArrayFit(larger.positions, correlations).evaluate().score
    if fit < GOOD_FIT * free_score(larger, correlations):
        return None  # not one array of any size: no common clock, for instance
    return Finding(
        "error",
        f"the delays are up to {ratio:.1f} times what the coordinates allow ("
        f"{100 * array.aperture:.1f} cm across), and fit coordinates ten times as large: wrong unit "
        "(too small)",
    )


def too_large(array: MicArray, correlations: Correlations) -> Finding | None:
    """A finding when delays are far smaller than the coordinates allow.

    An error when no likely direction explains it, else a warning.
    """
    shares = _shares(array, in_range_peak(array, correlations)[1], correlations)
    i, j = correlations.pairs.T
    distance = np.linalg.norm(array.positions[i] - array.positions[j], axis=-1)
    wide = distance >= WIDE * distance.max()
    # The middle of the segments' own: a talker who moves must not average out.
    ratio = float(np.median(np.quantile(shares[:, wide], QUANTILE, axis=1)))
    given = ArrayFit(array.positions, correlations).evaluate().score
    tried = [ArrayFit(array.positions * s, correlations).evaluate().score for s in SMALLER]
    gain = max(tried) / max(given, 1e-9)
    flat = array.shape != "volumetric"
    small = flat and ratio < SMALL_DELAYS and array.aperture > HAND_HELD
    if not small and gain < SUSPECT_GAIN:
        return None
    level = array.shape == "planar" and abs(array.axes[2][2]) > LEVEL
    refuted = gain >= SURE_GAIN or (small and level and array.aperture > TABLE_TOP)
    times = (
        f"{1 / ratio:.0f} times smaller than" if ratio > 0.002 else "next to nothing beside what"
    )
    where = "" if not flat else ", unless the sound came from broadside"
    if flat and level:
        where = ", unless the sound came from straight above or below"
    verb = "are" if refuted else "may be"
    return Finding(
        "error" if refuted else "warn",
        f"the delays are {times} the coordinates allow ({100 * array.aperture:.1f} cm across), as if "
        f"the array were about {100 * ratio * array.aperture:.1f} cm: the coordinates {verb} in the "
        f"wrong unit (too large){where}; channel order was not tested",
    )


def _shares(
    array: MicArray, lags: NDArray[np.float64], correlations: Correlations
) -> NDArray[np.float64]:
    """Delays [s, p] as shares of what the pairs' distances allow."""
    i, j = correlations.pairs.T
    distance = np.linalg.norm(array.positions[i] - array.positions[j], axis=-1)
    return np.abs(lags) * SPEED_OF_SOUND / distance

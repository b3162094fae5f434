# SPDX-License-Identifier: Apache-2.0
"""Several windows of one talker who stays put, heard together.

The posteriors of the windows are multiplied, which finds the peak that all of them support; their own
finely measured answers near that peak are averaged. Windows of one room share its reflections and
overlap in time, so n of them count as n to the power 0.4 independent ones: with that exponent, fitted
on 120 simulated recordings of the validation split (for the first shipped checkpoint, and kept), the
stated confidence is about the share of answers within 10 degrees.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError
from spatial_core.geometry.coords import azimuth_error, wrap_degrees

MAX_CONTEXT_SECONDS = 3600.0
INDEPENDENCE = 0.4
# Share of each posterior spread over all directions: one sure but wrong window must not veto.
DOUBT = 0.1
REACH = 20.0  # degrees about the peak: whose answers are averaged, and the smoothing of the peak
CONFIDENT_WITHIN = 10.0
USUAL_HOP = 0.16  # seconds; windows closer together than this add no evidence

Column = NDArray[np.float64]


class Windows(NamedTuple):
    """Windows with speech in the order of time, on one side of the array's ambiguity.

    times [n] seconds; azimuth, elevation (degrees), distance (m), confidence [n]; probs [n, grid]
    over grid [grid] azimuths in degrees.
    """

    times: Column
    azimuth: Column
    elevation: Column
    distance: Column
    confidence: Column
    probs: NDArray[Any]
    grid: Column


def check_context(seconds: float) -> float:
    """The context in seconds; raises InputError unless it lies within 0 and an hour."""
    if not 0 <= seconds <= MAX_CONTEXT_SECONDS:
        raise InputError(
            f"context is {seconds}: give the seconds that are heard together for a talker who stays "
            "put (2 is usual), or 0 for each window alone"
        )
    return float(seconds)


def posterior(
    azimuth: Column, probs: NDArray[Any] | None, grid: Column | None
) -> tuple[NDArray[Any], Column]:
    """The model's azimuth posterior, or the answers on a 10-degree grid for models without."""
    if probs is not None and grid is not None:
        return probs, grid
    grid = np.arange(-180.0, 180.0, 10.0)
    near = azimuth_error(np.nan_to_num(azimuth)[:, None], grid[None]) <= 5.0
    return near / np.maximum(near.sum(axis=1, keepdims=True), 1), grid


def in_context(windows: Windows, seconds: float, hop: float) -> Windows:
    """Each window answered from all that lie within `seconds` / 2 of it.

    hop: seconds from window to window.
    """
    reach = seconds / 2 + 1e-6
    first = np.searchsorted(windows.times, windows.times - reach, side="left")
    last = np.searchsorted(windows.times, windows.times + reach, side="right")
    return _combine(windows, windows.times, first, last, hop)


def whole(windows: Windows, hop: float) -> Windows:
    """One window answered from all of n >= 1 together."""
    middle = np.mean(windows.times, keepdims=True)
    return _combine(windows, middle, np.array([0]), np.array([len(windows.times)]), hop)


def _combine(
    windows: Windows,
    times: Column,
    first: NDArray[np.intp],
    last: NDArray[np.intp],
    hop: float,
) -> Windows:
    """One answer for each span first..last (exclusive) of windows, at `times`."""
    logs = np.log((1 - DOUBT) * windows.probs + DOUBT / len(windows.grid))
    heard = last - first
    independent = np.maximum(heard * min(1.0, hop / USUAL_HOP), 1.0) ** INDEPENDENCE
    evidence = _sums(logs, first, last) * (independent / heard)[:, None]
    probs = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    kernel = np.maximum(1 - azimuth_error(windows.grid[:, None], windows.grid[None]) / REACH, 0.0)
    # Only where some window hears it: the mirror image of a flat array is the answer of none.
    near = azimuth_error(windows.azimuth[:, None], windows.grid[None]) <= REACH
    supported = _sums(near.astype(np.float64), first, last) > 0.5
    peaks = windows.grid[np.argmax(np.where(supported, probs @ kernel, -1.0), axis=1)]
    answers = np.empty((len(times), 3))
    for i, peak in enumerate(peaks):
        answers[i] = _average(windows, slice(first[i], last[i]), peak)
    azimuth, elevation, distance = answers.T
    confidence = _mass_near(probs, windows.grid, azimuth)
    return Windows(times, azimuth, elevation, distance, confidence, probs, windows.grid)


def _sums(
    values: NDArray[np.float64], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Sums [s, k] of values [n, k] over each span."""
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    return total[last] - total[first]


def _average(windows: Windows, span: slice, peak: float) -> tuple[float, float, float]:
    """Azimuth, elevation and distance of the answers near the peak, the confident ones most."""
    azimuth = windows.azimuth[span]
    near = azimuth_error(azimuth, peak) <= REACH
    weight = near * (windows.confidence[span] ** 2 + 1e-6)
    turn = math.degrees(np.angle(np.sum(weight * np.exp(1j * np.radians(azimuth)))))
    elevation = float(np.average(windows.elevation[span], weights=weight))
    return turn, elevation, float(np.average(windows.distance[span], weights=weight))


def _mass_near(probs: NDArray[Any], grid: Column, azimuth: Column) -> Column:
    """Probability within 10 degrees of the azimuths [n], cells cut where they cross the limit."""
    cell = 360.0 / len(grid)
    away = azimuth_error(grid[None], wrap_degrees(azimuth)[:, None])
    share = np.clip((CONFIDENT_WITHIN + cell / 2 - away) / cell, 0.0, 1.0)
    return np.asarray(np.sum(probs * share, axis=1), np.float64)

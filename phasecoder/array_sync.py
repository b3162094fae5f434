# SPDX-License-Identifier: Apache-2.0
"""Whether the channels of a recording were sampled together: late, drifting and unrelated ones.

Sound needs at most distance / 343 m/s from one microphone to the other, so a steady larger delay
is in the recording and not in the room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phasecoder.array_fit import SPEED_OF_SOUND, in_range_peak, pair_limits
from spatial_core.audio.delays import Correlations
from spatial_core.geometry.arrays import MicArray

OUTWEIGHS = 1.5  # a delay outside the limit counts when its peak is this much the higher
SIGNIFICANT = 5.0  # peaks above the spread of the correlation
LINKED_SHARE = 0.5  # of the segments
BROKEN_SHARE = 0.4
STEADY = 1.5e-4  # seconds that a constant delay (or a drifting one about its line) may scatter
MIN_DRIFT = 2e-4  # seconds of change over the recording
MAX_DRIFT = 2e-3  # seconds each second; no two clocks differ by more
BEYOND = 5e-5  # seconds past the limit that a drifting delay must reach
MIN_POINTS = 4  # segments for a line
AGREEING_SHARE = 0.6  # of the channels in the group


@dataclass(frozen=True)
class LateChannel:
    """A channel outside the synchronous group: its mean delay and drift against that group.

    delay in seconds (positive: late); drift in seconds per second (0: constant). delay is None
    when no common sound was found.
    """

    channel: int
    delay: float | None
    drift: float


@dataclass(frozen=True)
class Synchrony:
    """Channels that were sampled together, the others, and what was measured for each pair.

    pair_lag [p] seconds, pair_strength [p] 0..1: medians over the segments, of the strongest
    correlation within the limit, or outside where that outweighs it.
    """

    together: list[int]
    late: list[LateChannel]
    pair_lag: NDArray[np.float64]
    pair_strength: NDArray[np.float64]
    pair_broken: NDArray[np.bool_]


def measure_synchrony(array: MicArray, correlations: Correlations) -> Synchrony:
    """Find the largest group of channels whose delays the array allows, and judge the rest."""
    peak, lag = in_range_peak(array, correlations)
    outside = np.abs(correlations.far_lag) > pair_limits(array, correlations)
    broken = (
        outside
        & (correlations.far_peak > OUTWEIGHS * peak)
        & (correlations.far_peak > SIGNIFICANT * correlations.noise)
    )
    linked = ~broken & (peak > SIGNIFICANT * correlations.noise)
    drifting = _drifting_pairs(array, correlations)
    pair_broken = (broken.mean(axis=0) >= BROKEN_SHARE) | drifting
    pair_linked = (linked.mean(axis=0) >= LINKED_SHARE) & ~pair_broken
    together = _largest_group(array.num_mics, correlations.pairs[pair_linked])
    late = []
    if len(together) > 1:
        use = (broken | drifting) & pair_broken
        for channel in sorted(set(range(array.num_mics)) - set(together)):
            late.append(_judge(channel, together, array, correlations, use))
    measured = np.where(pair_broken, correlations.far_lag, lag)
    strength = np.where(pair_broken, correlations.far_peak, peak)
    return Synchrony(
        together, late, np.median(measured, axis=0), np.median(strength, axis=0), pair_broken
    )


def _drifting_pairs(array: MicArray, correlations: Correlations) -> NDArray[np.bool_]:
    """Pairs [p] whose delay moves steadily and ends beyond the limit: two clocks.

    A walking talker also moves delays steadily, but never beyond the limit.
    """
    limits = pair_limits(array, correlations)
    clear = correlations.far_peak > SIGNIFICANT * correlations.noise
    drifting = np.zeros(len(limits), bool)
    for p, limit in enumerate(limits):
        times, lags = correlations.times[clear[:, p]], correlations.far_lag[clear[:, p], p]
        if len(times) < MIN_POINTS:
            continue
        slope, level = theil_sen(times, lags)
        ends = level + slope * times[[0, -1]]
        steady = np.median(np.abs(lags - level - slope * times)) <= STEADY
        moved = MIN_DRIFT <= abs(ends[1] - ends[0]) and abs(slope) <= MAX_DRIFT
        drifting[p] = steady and moved and np.abs(ends).max() > limit + BEYOND
    return drifting


def _largest_group(channels: int, links: NDArray[np.intp]) -> list[int]:
    """The largest set of connected channels, each linked to a third of the set at least.

    One chance link must not tie a foreign channel to the rest.
    """
    label = list(range(channels))
    for i, j in links:
        old, new = label[i], label[j]
        label = [new if k == old else k for k in label]
    groups = [[k for k in range(channels) if label[k] == value] for value in sorted(set(label))]
    group = max(groups, key=len)
    linked = np.zeros((channels, channels), bool)
    linked[links[:, 0], links[:, 1]] = linked[links[:, 1], links[:, 0]] = True
    while len(group) > 2:
        counts = linked[np.ix_(group, group)].sum(axis=1)
        if counts.min() >= (len(group) - 1) / 3:
            break
        group.pop(int(np.argmin(counts)))
    return group


def _judge(
    channel: int,
    together: list[int],
    array: MicArray,
    correlations: Correlations,
    use: NDArray[np.bool_],
) -> LateChannel:
    """Delay and drift of one channel against the group, from the segments `use` [s, p]."""
    delays, drifts = [], []
    for p, (i, j) in enumerate(correlations.pairs):
        if channel not in (i, j) or (i if j == channel else j) not in together:
            continue
        if not use[:, p].any():
            continue
        sign = 1.0 if i == channel else -1.0
        times, lags = correlations.times[use[:, p]], sign * correlations.far_lag[use[:, p], p]
        slope = theil_sen(times, lags)[0] if len(times) >= MIN_POINTS else 0.0
        if abs(slope) > MAX_DRIFT:
            continue
        delays.append(float(np.median(lags)))
        drifts.append(slope)
    # A shared delay shows in every pair of the channel; chance peaks scatter over the search range.
    scatter = 2 * array.aperture / SPEED_OF_SOUND + STEADY
    agree = np.abs(np.array(delays) - np.median(delays)) <= scatter if delays else np.zeros(0, bool)
    if agree.sum() < max(1, AGREEING_SHARE * len(together)):
        return LateChannel(channel, None, 0.0)
    drift = float(np.median(np.array(drifts)[agree]))
    if abs(drift) * float(np.ptp(correlations.times)) < MIN_DRIFT:
        drift = 0.0
    return LateChannel(channel, float(np.median(np.array(delays)[agree])), drift)


def theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and level of the line of median slope through [n] points (robust to outliers)."""
    i, j = np.triu_indices(len(x), 1)
    slope = float(np.median((y[j] - y[i]) / (x[j] - x[i]))) if len(i) else 0.0
    return slope, float(np.median(y - slope * x))

# SPDX-License-Identifier: Apache-2.0
"""How well a recording's delays fit an array's coordinates, and which change would fit better.

For a direction u (unit vector towards the sound) channel i at p_i hears it p_i . u / c seconds
before the centroid. The fit of a hypothesis (which channel sits where, with which polarity) is the
correlation of all pairs at the delays of its best direction, averaged over segments: a steered
response, whose maximum falls when the hypothesis is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatial_core.audio.delays import Correlations, peak_offset
from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.coords import to_spherical

SPEED_OF_SOUND = 343.0
MAX_LOOKUPS = 4_000_000  # correlation values read for one fit: segments x directions x pairs


@dataclass(frozen=True)
class Hypothesis:
    """Channel i sits at position order[i] of the array, with polarity signs[i]; and its fit."""

    order: tuple[int, ...]
    signs: tuple[int, ...]
    score: float
    segment_scores: NDArray[np.floating]
    direction: tuple[float, float]

    @property
    def is_given(self) -> bool:
        """Whether this is the array as it was given."""
        return self.order == tuple(range(len(self.order))) and min(self.signs) == 1

    @property
    def moved(self) -> list[int]:
        """Channels that sit at another position than given."""
        return [i for i, place in enumerate(self.order) if place != i]

    @property
    def inverted(self) -> list[int]:
        """Channels of the rarer polarity: one recording cannot tell which of two halves it is."""
        negative = [i for i, sign in enumerate(self.signs) if sign < 0]
        positive = [i for i, sign in enumerate(self.signs) if sign > 0]
        return negative if len(negative) <= len(positive) else positive


class ArrayFit:
    """Steered fits of one recording to one array and to changes of it."""

    def __init__(self, positions: NDArray[np.float64], correlations: Correlations) -> None:
        self.positions = positions - positions.mean(axis=0)
        self.correlations = correlations
        segments, pairs, lags = correlations.near.shape
        self._half = lags // 2
        self._step = correlations.lags[1] - correlations.lags[0]
        aperture = np.linalg.norm(positions[:, None] - positions[None], axis=-1).max()
        wanted = int(np.clip(1500 * (aperture / 0.18) ** 2, 800, 6000))
        affordable = max(300, MAX_LOOKUPS // (segments * pairs))
        self.directions = fibonacci_sphere(min(wanted, affordable))
        # Whole steps of the lag axis are fine enough: 1/64 ms at any sample rate.
        self._delays = -(self.directions @ self.positions.T) / SPEED_OF_SOUND / self._step

    def pair_response(self, pair: int | np.intp, order: tuple[int, ...]) -> NDArray[np.floating]:
        """Correlation [s, d] of one pair at the delays of every direction."""
        i, j = self.correlations.pairs[pair]
        lag = np.rint(self._delays[:, order[i]] - self._delays[:, order[j]]).astype(np.intp)
        index = np.clip(lag + self._half, 0, 2 * self._half)
        return self.correlations.near[:, pair, index]

    def evaluate(
        self, order: tuple[int, ...] | None = None, signs: tuple[int, ...] | None = None
    ) -> Hypothesis:
        """The fit of one hypothesis; by default of the array as given."""
        channels = len(self.positions)
        order = order or tuple(range(channels))
        signs = signs or (1,) * channels
        total = sum(
            signs[i] * signs[j] * self.pair_response(p, order)
            for p, (i, j) in enumerate(self.correlations.pairs)
        )
        return self._hypothesis(order, signs, np.asarray(total))

    def search(self, max_changes: int = 4, min_gain: float = 1.05) -> list[Hypothesis]:
        """The best hypothesis reached by swaps and inversions, first, and its equals.

        Each step swaps two channels or inverts one, whichever fits best, while that gains by
        `min_gain`. Greedy: it finds swaps, short cycles and inverted channels, not every
        permutation of a large array. Equals are the hypotheses of the last step within 2%: a
        symmetric array has several orders with the same delays.
        """
        found = [self.evaluate()]
        for _ in range(max_changes):
            candidates = sorted(self._changes(found[0]), key=lambda h: -h.score)
            best = candidates[0].score
            if best < min_gain * found[0].score or best <= 0:
                break
            found = [h for h in candidates if h.score >= 0.98 * best]
        return found

    def _changes(self, start: Hypothesis) -> list[Hypothesis]:
        """All hypotheses one swap or one inversion away."""
        pairs = self.correlations.pairs
        signs = np.array(start.signs)
        parts = np.stack(
            [
                signs[i] * signs[j] * self.pair_response(p, start.order)
                for p, (i, j) in enumerate(pairs)
            ]
        )
        total = parts.sum(axis=0)
        found = []
        for a in range(len(signs)):
            touched = np.flatnonzero((pairs == a).any(axis=1))
            flipped = tuple(int(s) for s in np.where(np.arange(len(signs)) == a, -signs, signs))
            response = total - 2 * parts[touched].sum(axis=0)
            found.append(self._hypothesis(start.order, flipped, response))
            for b in range(a + 1, len(signs)):
                swapped = list(start.order)
                swapped[a], swapped[b] = swapped[b], swapped[a]
                order = tuple(swapped)
                touched = np.flatnonzero(((pairs == a) | (pairs == b)).any(axis=1))
                response = total - parts[touched].sum(axis=0)
                for p in touched:
                    i, j = pairs[p]
                    response += signs[i] * signs[j] * self.pair_response(p, order)
                found.append(self._hypothesis(order, start.signs, response))
        return found

    def _hypothesis(
        self, order: tuple[int, ...], signs: tuple[int, ...], total: NDArray[np.floating]
    ) -> Hypothesis:
        """Summary of the summed pair correlations [s, d]."""
        total = total / len(self.correlations.pairs)
        scores = total.max(axis=1)
        strongest = self.directions[np.argmax(total.mean(axis=0))]
        azimuth, elevation, _ = to_spherical(strongest)
        return Hypothesis(
            order, signs, float(scores.mean()), scores, (float(azimuth), float(elevation))
        )


def fibonacci_sphere(count: int) -> NDArray[np.float64]:
    """`count` nearly evenly spread unit vectors [count, 3]."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * k
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def free_score(array: MicArray, correlations: Correlations) -> float:
    """Fit without geometry: every pair at its own best delay within its distance.

    The steered fit of correct coordinates comes close to it; that of wrong ones does not.
    """
    return float(np.mean(in_range_peak(array, correlations)[0]))


def pair_limits(array: MicArray, correlations: Correlations) -> NDArray[np.float64]:
    """Largest delay [p] in seconds that each pair's distance allows, with 10% and 30 us of slack."""
    i, j = correlations.pairs.T
    distance = np.linalg.norm(array.positions[i] - array.positions[j], axis=-1)
    return 1.1 * distance / SPEED_OF_SOUND + 3e-5


def in_range_peak(
    array: MicArray, correlations: Correlations
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strongest correlation [s, p] (either sign) within each pair's limit, and its lag (seconds).

    The lag is that of the parabola through the peak and its neighbours: finer than the lags' step.
    """
    lags = correlations.lags
    allowed = np.abs(lags) <= pair_limits(array, correlations)[:, None]
    size = np.abs(correlations.near)
    index = np.argmax(np.where(allowed, size, -1.0), axis=-1)
    inner = np.clip(index, 1, len(lags) - 2)
    below, peak, above = (
        np.take_along_axis(size, (inner + k)[..., None], axis=-1)[..., 0] for k in (-1, 0, 1)
    )
    offset = np.where(index == inner, peak_offset(below, peak, above), 0.0)
    found = np.take_along_axis(size, index[..., None], axis=-1)[..., 0]
    return found, lags[index] + offset * (lags[1] - lags[0])


def undetectable_swaps(array: MicArray, tolerance: float = 0.02) -> list[tuple[int, int]]:
    """Pairs of channels whose exchange leaves all distances the same: a mirrored or turned array.

    Any recording fits such an exchange as well as the right order. tolerance: share of the aperture.
    """
    positions = array.positions
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    found = []
    for a in range(array.num_mics):
        for b in range(a + 1, array.num_mics):
            order = np.arange(array.num_mics)
            order[[a, b]] = b, a
            difference = np.abs(distances[np.ix_(order, order)] - distances).max()
            if difference < tolerance * array.aperture:
                found.append((a, b))
    return found

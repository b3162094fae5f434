# SPDX-License-Identifier: Apache-2.0
"""SRP-PHAT over the whole sphere for batches of arbitrary arrays, fast and finer than its grid.

The steered response power with phase transform (DiBiase 2000) of a direction u is the mean over
pairs, frequencies and frames of Re[X_i conj(X_j) / |X_i X_j| exp(-2 pi i f u.(p_i - p_j) / c)]. Here
each pair's sum over frequencies is tabulated once as a function of the lag (the generalised cross
correlation with phase transform, Knapp & Carter 1976), far finer than a sample; a direction then
costs one look-up a pair. The best grid direction is refined by a shrinking search around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_spherical

SPEED_OF_SOUND = 343.0
# Table points per sample of lag. At 7 kHz the phase turns 20 degrees between two points.
OVERSAMPLING = 8


def fibonacci_sphere(count: int) -> NDArray[np.float32]:
    """`count` nearly equally spaced directions, unit vectors [count, 3] (golden-angle spiral)."""
    index = np.arange(count)
    z = 1.0 - (2.0 * index + 1.0) / count
    azimuth = index * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - z * z)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], -1).astype(np.float32)


def spectra(audio: np.ndarray, nfft: int) -> NDArray[np.complex64]:
    """Hann-windowed spectra [..., f, k] of audio [..., t] with hop nfft / 2, no padding.

    Raises InputError when the audio is shorter than one frame.
    """
    if audio.shape[-1] < nfft:
        raise InputError(
            f"{audio.shape[-1]} samples are less than one frame of {nfft}: use a smaller nfft"
        )
    frames = np.lib.stride_tricks.sliding_window_view(audio, nfft, axis=-1)[..., :: nfft // 2, :]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(nfft) / nfft)).astype(np.float32)
    return np.fft.rfft(frames * window, axis=-1).astype(np.complex64)


def band_bins(nfft: int, band: tuple[float, float]) -> slice:
    """Bins of the frequencies from low to high (Hz), the upper end excluded, as pyroomacoustics."""
    low, high = (round(f / SAMPLE_RATE * nfft) for f in band)
    if not 0 <= low < high <= nfft // 2 + 1:
        raise InputError(f"the band {band} Hz holds no bins of a {nfft}-point transform at 16 kHz")
    return slice(low, high)


def lag_tables(
    audio: np.ndarray, mic_mask: np.ndarray, max_lag: int, nfft: int, band: tuple[float, float]
) -> NDArray[np.float32]:
    """PHAT-weighted correlation of every pair as a function of the lag.

    Args:
        audio: float32 [b, m, t].
        mic_mask: bool [b, m]; pairs with a masked microphone get zeros.
        max_lag: largest lag in samples.
        nfft, band: transform length and frequencies (Hz).

    Returns:
        [b, m (m - 1) / 2, 2 max_lag OVERSAMPLING + 1] mean over frames and bins of
        cos(phase_i - phase_j - omega lag) for the pairs i < j in row order, lags ascending.
    """
    x = spectra(np.where(mic_mask[..., None], audio, 0), nfft)
    bins = band_bins(nfft, band)
    x = x[..., bins]
    x /= np.maximum(np.abs(x), 1e-12)
    first, second = np.triu_indices(x.shape[1], 1)
    per_bin = x.transpose(0, 3, 1, 2)
    # [b, k, m, m]: the mean over frames of every pair's cross spectrum in one product.
    cross = per_bin @ per_bin.conj().swapaxes(-1, -2) / x.shape[2]
    pairs = cross[:, :, first, second].transpose(0, 2, 1)
    steps = max_lag * OVERSAMPLING
    lags = np.arange(-steps, steps + 1) / OVERSAMPLING
    omega = 2 * np.pi * np.arange(bins.start, bins.stop) / nfft
    phase = omega[:, None] * lags
    kernel = np.concatenate([np.cos(phase), np.sin(phase)]).astype(np.float32) / len(omega)
    return np.asarray(np.concatenate([pairs.real, pairs.imag], -1) @ kernel, np.float32)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _scan(table, offsets, pairs, directions, power):  # type: ignore[no-untyped-def]
    """power [d] = sum over pairs of the table at the lag of each direction (linear)."""
    power[:] = 0.0
    middle = np.float32(table.shape[1] // 2)
    for index in range(len(pairs)):
        row = table[pairs[index]]
        x, y, z = offsets[index]
        for d in range(len(directions)):
            where = middle + x * directions[d, 0] + y * directions[d, 1] + z * directions[d, 2]
            below = int(where)
            share = where - np.float32(below)
            power[d] += row[below] + share * (row[below + 1] - row[below])


@numba.njit(nogil=True, cache=True, fastmath=True)
def _power_at(table, offsets, pairs, x, y, z):  # type: ignore[no-untyped-def]
    """The same sum for one direction with Catmull-Rom interpolation, smooth enough to climb."""
    total = 0.0
    middle = table.shape[1] // 2
    for index in range(len(pairs)):
        row = table[pairs[index]]
        where = middle + x * offsets[index, 0] + y * offsets[index, 1] + z * offsets[index, 2]
        below = int(where)
        s = where - below
        a, b, c, d = row[below - 1], row[below], row[below + 1], row[below + 2]
        total += b + 0.5 * s * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))
    return total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _refine(table, offsets, pairs, start, step, rounds):  # type: ignore[no-untyped-def]
    """Climbs from a direction [3]: tries the 24 neighbours of a 5 x 5 tangent grid, then closer."""
    best = start.copy()
    best_power = _power_at(table, offsets, pairs, best[0], best[1], best[2])
    for _ in range(rounds):
        centre = best.copy()
        # Two tangents: the horizontal axis least along the direction gives a stable first one.
        if abs(centre[2]) < 0.9:
            ex, ey, ez = -centre[1], centre[0], 0.0
        else:
            ex, ey, ez = 0.0, -centre[2], centre[1]
        length = math.sqrt(ex * ex + ey * ey + ez * ez)
        ex, ey, ez = ex / length, ey / length, ez / length
        fx = centre[1] * ez - centre[2] * ey
        fy = centre[2] * ex - centre[0] * ez
        fz = centre[0] * ey - centre[1] * ex
        for i in range(-2, 3):
            for j in range(-2, 3):
                x = centre[0] + step * (i * ex + j * fx)
                y = centre[1] + step * (i * ey + j * fy)
                z = centre[2] + step * (i * ez + j * fz)
                norm = math.sqrt(x * x + y * y + z * z)
                power = _power_at(table, offsets, pairs, x / norm, y / norm, z / norm)
                if power > best_power:
                    best_power = power
                    best[0], best[1], best[2] = x / norm, y / norm, z / norm
        step *= 0.35
    return best, best_power


@lru_cache(maxsize=4)
def _grid(count: int) -> NDArray[np.float32]:
    return fibonacci_sphere(count)


@dataclass(frozen=True)
class SteeredResponse:
    """SRP-PHAT with refinement: the classical baseline, for any array and number of microphones.

    directions: grid of the first search. nfft: length of the Hann frames (hop nfft / 2). band:
    frequencies used (Hz). The estimate is far-field: distance is nan. confidence is the mean
    coherence of the pairs at the peak, clipped to 0..1: it rises with certainty, but it is a score
    and not a probability. speech_probability is 1: the method does not know what speech is.
    """

    directions: int = 2562
    nfft: int = 1024
    band: tuple[float, float] = (300.0, 7000.0)

    def predict(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Prediction of each example of a batch, float32 [b] each; degrees."""
        estimate = np.empty((len(batch["audio"]), 3))
        coherence = np.empty(len(estimate))
        for row, (table, offsets, pairs) in enumerate(self._prepare(batch)):
            power = np.empty(self.directions, np.float32)
            _scan(table, offsets, pairs, _grid(self.directions), power)
            start = _grid(self.directions)[int(power.argmax())].astype(np.float64)
            # Half the grid's spacing: the 5 x 5 neighbours reach over the next grid points.
            step = 0.5 * math.sqrt(4 * math.pi / self.directions)
            estimate[row], total = _refine(table, offsets, pairs, start, step, 5)
            coherence[row] = total / len(pairs)
        azimuth, elevation, _ = to_spherical(estimate)
        size = len(azimuth)
        return {
            "azimuth": azimuth.astype(np.float32),
            "elevation": elevation.astype(np.float32),
            "distance": np.full(size, np.nan, np.float32),
            "speech_probability": np.ones(size, np.float32),
            "confidence": np.clip(coherence, 0.0, 1.0).astype(np.float32),
        }

    def power_map(
        self, batch: Mapping[str, np.ndarray], directions: np.ndarray
    ) -> NDArray[np.float32]:
        """Mean coherence of the pairs in each direction: [b, d] for unit vectors [d, 3]."""
        grid = np.ascontiguousarray(directions, np.float32)
        power = np.empty((len(batch["audio"]), len(grid)), np.float32)
        for row, (table, offsets, pairs) in enumerate(self._prepare(batch)):
            _scan(table, offsets, pairs, grid, power[row])
            power[row] /= len(pairs)
        return power

    def _prepare(
        self, batch: Mapping[str, np.ndarray]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
        """For each example: its lag table, and offset [p, 3] and row of each valid pair.

        The offsets are in table points: their product with a direction is a lag in the table.
        """
        mask = np.asarray(batch["mic_mask"], bool)
        if mask.sum(axis=1).min(initial=2) < 2:
            raise InputError("steering needs at least 2 microphones in every example")
        positions = np.where(mask[..., None], batch["mic_positions"], 0)
        first, second = np.triu_indices(mask.shape[1], 1)
        scale = SAMPLE_RATE / SPEED_OF_SOUND
        offsets = (positions[:, first] - positions[:, second]) * scale
        valid = mask[:, first] & mask[:, second]
        reach = np.linalg.norm(offsets, axis=-1)[valid].max(initial=0.0)
        # One sample more than the longest lag: the cubic looks two points beyond it.
        tables = lag_tables(batch["audio"], mask, math.ceil(reach) + 1, self.nfft, self.band)
        steps = np.ascontiguousarray(offsets * OVERSAMPLING, np.float32)
        return [
            (np.ascontiguousarray(table), step[rows], np.flatnonzero(rows))
            for table, step, rows in zip(tables, steps, valid)
        ]

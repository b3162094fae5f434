# SPDX-License-Identifier: Apache-2.0
"""Delays between channels of a recording: generalised cross-correlation with phase transform.

Knapp and Carter, "The generalized correlation method for estimation of time delay", IEEE Trans.
ASSP 24(4), 1976. A positive lag of the pair (i, j) means that the sound reaches j first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError

FRAME_SECONDS = 0.256
LAG_RATE = 64_000  # lags are sampled at least this finely, Hz
MAX_SEGMENTS = 24
MIN_SEGMENTS = 6
MAX_CORRELATIONS = 3000  # segments x pairs: many channels are compared in fewer segments
FRAMES_PER_SEGMENT = 8
BAND_HZ = (150.0, 5000.0)
ACTIVE_RANGE_DB = 25.0  # frames this far below the loudest are not used
FLOOR_MARGIN = 4.0  # a bin counts when its power is this many times its own quiet level


@dataclass(frozen=True)
class Correlations:
    """Correlations of every channel pair in segments of about a second of active sound.

    pairs [p, 2] zero-based channels; times [s] segment centres in seconds; near [s, p, l]
    correlation at the lags (seconds [l]) that the array allows, 1 for a perfect delay. far_lag
    [s, p] (seconds) and far_peak [s, p]: the strongest correlation at any lag up to 0.24 s, and
    noise [s, p]: the spread of the correlation over lags to 0.06 s, which a peak must exceed.
    """

    pairs: NDArray[np.intp]
    times: NDArray[np.float64]
    lags: NDArray[np.float64]
    near: NDArray[np.float32]
    far_lag: NDArray[np.float64]
    far_peak: NDArray[np.float64]
    noise: NDArray[np.float64]


def pair_correlations(
    samples: NDArray[np.floating], rate: int, max_lag: float
) -> Correlations | None:
    """GCC-PHAT of all pairs of [c, t] at `rate` Hz, with lags to `max_lag` seconds kept.

    Only frames with sound are used; None when there are none. Raises InputError when the recording
    is shorter than one frame (0.256 s).
    """
    size = round(FRAME_SECONDS * rate)
    if samples.shape[1] < size:
        raise InputError(
            f"the recording lasts {samples.shape[1] / rate:.2f} s; at least {FRAME_SECONDS} s are "
            "needed to compare channels"
        )
    starts = _active_starts(samples, size)
    if not len(starts):
        return None
    floor = _quiet_power(samples, size)
    channels = len(samples)
    pairs = np.array([(i, j) for i in range(channels) for j in range(i + 1, channels)])
    affordable = max(MIN_SEGMENTS, MAX_CORRELATIONS // len(pairs))
    groups = _segments(starts, min(MAX_SEGMENTS, affordable))
    oversampling = max(1, round(LAG_RATE / rate))
    length = 2 * size * oversampling
    near_half = int(np.ceil(max_lag * rate * oversampling)) + 1
    far_half = int(0.94 * size) * oversampling
    near = np.empty((len(groups), len(pairs), 2 * near_half + 1), np.float32)
    far_lag, far_peak, noise = (np.empty((len(groups), len(pairs))) for _ in range(3))
    for s, group in enumerate(groups):
        phases, weights = _phases(samples, group, size, rate, floor)
        for p, (i, j) in enumerate(pairs):
            cross = np.sum(phases[i] * np.conj(phases[j]), axis=0)
            total = max(float(np.sum(weights)), 1e-9)
            correlation = np.fft.irfft(cross, length) * (length / 2 / total)
            near[s, p] = np.take(correlation, np.arange(-near_half, near_half + 1), mode="wrap")
            wide = np.take(correlation, np.arange(-far_half, far_half + 1), mode="wrap")
            best = int(np.argmax(np.abs(wide)))
            far_lag[s, p] = (best - far_half) / (rate * oversampling)
            far_peak[s, p] = np.abs(wide[best])
            middle = np.take(correlation, np.arange(-far_half // 4, far_half // 4 + 1), mode="wrap")
            noise[s, p] = np.sqrt(np.mean(np.square(middle)))
    times = np.array([(group.mean() + size / 2) / rate for group in groups])
    lags = np.arange(-near_half, near_half + 1) / (rate * oversampling)
    return Correlations(pairs, times, lags, near, far_lag, far_peak, noise)


def _active_starts(samples: NDArray[np.floating], size: int) -> NDArray[np.intp]:
    """First samples of the half-overlapping frames that hold sound."""
    starts = np.arange(0, samples.shape[1] - size + 1, size // 2)
    energy = np.array([np.mean(np.square(samples[:, s : s + size])) for s in starts])
    if energy.max() <= 0:
        return starts[:0]
    return starts[energy > energy.max() * 10 ** (-ACTIVE_RANGE_DB / 10)]


def _segments(starts: NDArray[np.intp], limit: int) -> list[NDArray[np.intp]]:
    """Consecutive frames in groups of about a second, at most `limit` spread evenly."""
    count = max(1, len(starts) // FRAMES_PER_SEGMENT)
    groups = np.array_split(starts, count)
    keep = np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))
    return [groups[k] for k in keep]


def _quiet_power(samples: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Power [k] of each frequency bin in the quietest tenth of the recording, channels averaged."""
    starts = np.arange(0, samples.shape[1] - size + 1, size // 2)
    starts = starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), 200)).astype(int))]
    power = np.array([np.mean(np.abs(_spectra(samples, s, size)) ** 2, axis=0) for s in starts])
    return np.quantile(power, 0.1, axis=0)


def _spectra(samples: NDArray[np.floating], start: int, size: int) -> NDArray[np.complex128]:
    """Spectra [c, size + 1] of one Hann-windowed frame, padded to twice its length."""
    frame = samples[:, start : start + size].astype(np.float64)
    return np.fft.rfft(frame * np.hanning(size), 2 * size, axis=1)


def _phases(
    samples: NDArray[np.floating],
    starts: NDArray[np.intp],
    size: int,
    rate: int,
    floor: NDArray[np.float64],
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Unit phasors [c, f, k] of the frames and the weights [f, k] (0 or 1) of their bins.

    Bins outside the band of speech, and bins that do not rise above their own quiet level, are 0:
    their phases are noise. A steady sound never rises above it; then the whole band counts.
    """
    frequencies = np.fft.rfftfreq(2 * size, 1.0 / rate)
    band = (frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1])
    spectra = np.stack([_spectra(samples, s, size) for s in starts], axis=1)
    power = np.mean(np.abs(spectra) ** 2, axis=0)
    weights = band & (power > FLOOR_MARGIN * floor)
    if weights.sum() < 0.05 * band.sum() * len(starts):
        weights = np.broadcast_to(band, power.shape)
    magnitude = np.maximum(np.abs(spectra), 1e-12)
    return spectra / magnitude * weights, weights.astype(np.float64)

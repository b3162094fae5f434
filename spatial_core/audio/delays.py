# SPDX-License-Identifier: Apache-2.0
"""Delays between channels of a recording: generalised cross-correlation with phase transform.

Knapp and Carter, "The generalized correlation method for estimation of time delay", IEEE Trans.
ASSP 24(4), 1976. A positive lag of the pair (i, j) means that the sound reaches j first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from spatial_core.errors import InputError

FRAME_SECONDS = 0.256
# Points of every transform back to lags, at any sample rate: 1/64 ms apart, a sixteenth of the
# shortest period in the band, so that a parabola through three points finds a peak to a microsecond.
LAG_POINTS = 32_768
PAIRS_AT_ONCE = 128  # of large arrays, to bound memory
MAX_SEGMENTS = 24
MIN_SEGMENTS = 6
MAX_CORRELATIONS = 3000  # segments x pairs: many channels are compared in fewer segments
FRAMES_PER_SEGMENT = 8
BAND_HZ = (150.0, 5000.0)
ACTIVE_RANGE_DB = 25.0  # frames this far below the loudest are not used
FAR_SHARE = 0.94  # of the longest lag that one frame can tell
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
    floor = _quiet_power(samples, size, len(_frequencies(size, rate)))
    channels = len(samples)
    pairs = np.array([(i, j) for i in range(channels) for j in range(i + 1, channels)])
    affordable = max(MIN_SEGMENTS, MAX_CORRELATIONS // len(pairs))
    groups = _segments(starts, min(MAX_SEGMENTS, affordable))
    step = 2.0 * size / rate / LAG_POINTS
    near_half = int(np.ceil(max_lag / step)) + 1
    near = np.empty((len(groups), len(pairs), 2 * near_half + 1), np.float32)
    far_lag, far_peak, noise = (np.empty((len(groups), len(pairs))) for _ in range(3))
    for s, group in enumerate(groups):
        phases, weights = _phases(samples, group, size, rate, floor)
        total = max(float(np.sum(weights)), 1e-9)
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            part = slice(first, first + PAIRS_AT_ONCE)
            correlation = _correlation(phases, pairs[part], total)
            near[s, part] = _around_zero(correlation, near_half)
            far_lag[s, part], far_peak[s, part], noise[s, part] = _far(correlation, step)
    times = np.array([(float(group.mean()) + size / 2) / rate for group in groups])
    lags = step * np.arange(-near_half, near_half + 1, dtype=np.float64)
    return Correlations(pairs, times, lags, near, far_lag, far_peak, noise)


def peak_offset(
    below: NDArray[np.floating], peak: NDArray[np.floating], above: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Where the parabola through three equally spaced points has its top, in steps from the middle.

    Within half a step for a middle that is the highest of the three, 0 where the three are equal.
    """
    bend = np.asarray(2.0 * peak - below - above, np.float64)
    rise = np.asarray(above, np.float64) - below
    return np.clip(np.where(bend > 0, 0.5 * rise / np.where(bend > 0, bend, 1.0), 0.0), -0.5, 0.5)


def _correlation(
    phases: NDArray[np.complex64], pairs: NDArray[np.intp], total: float
) -> NDArray[np.float32]:
    """Correlations [p, LAG_POINTS] (lag 0 first) of unit phasors [c, f, k], 1 for a perfect delay."""
    cross = np.zeros((len(pairs), LAG_POINTS // 2 + 1), np.complex64)
    for row, (i, j) in zip(cross, pairs):
        row[: phases.shape[2]] = np.einsum("fk,fk->k", phases[i], np.conj(phases[j]))
    return scipy.fft.irfft(cross, LAG_POINTS, axis=1) * np.float32(LAG_POINTS / 2 / total)


def _around_zero(correlation: NDArray[np.float32], half: int) -> NDArray[np.float32]:
    """The lags [p, 2 half + 1] from -half to half."""
    return np.concatenate([correlation[:, -half:], correlation[:, : half + 1]], axis=1)


def _far(
    correlation: NDArray[np.float32], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """far_lag, far_peak and noise [p] of `Correlations`."""
    half = int(FAR_SHARE * LAG_POINTS / 2)
    wide = np.abs(_around_zero(correlation, half))
    best = np.argmax(wide[:, 1:-1], axis=1) + 1
    below, peak, above = (wide[np.arange(len(wide)), best + k] for k in (-1, 0, 1))
    middle = _around_zero(correlation, half // 4)
    noise = np.sqrt(np.mean(np.square(middle), axis=1))
    lag = step * (best - half + peak_offset(below, peak, above))
    return lag, peak.astype(np.float64), noise.astype(np.float64)


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


def _quiet_power(samples: NDArray[np.floating], size: int, bins: int) -> NDArray[np.float32]:
    """Power [k] of each frequency bin in the quietest tenth of the recording, channels averaged."""
    starts = np.arange(0, samples.shape[1] - size + 1, size // 2)
    starts = starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), 200)).astype(int))]
    power = np.array([_power(_spectra(samples, s, size, bins)) for s in starts])
    return np.quantile(power, 0.1, axis=0)


def _power(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Mean power of spectra over their first axis, the channels."""
    return np.mean(np.square(spectra.real) + np.square(spectra.imag), axis=0)


def _frequencies(size: int, rate: int) -> NDArray[np.floating]:
    """Frequencies [k] in Hz of the bins that are kept: those up to the end of the band."""
    frequencies = np.fft.rfftfreq(2 * size, 1.0 / rate)
    return frequencies[frequencies <= BAND_HZ[1]]


def _spectra(
    samples: NDArray[np.floating], start: int, size: int, bins: int
) -> NDArray[np.complex64]:
    """First `bins` of the spectra [c, k] of one Hann-windowed frame, padded to twice its length."""
    frame = samples[:, start : start + size] * np.hanning(size).astype(np.float32)
    return scipy.fft.rfft(frame.astype(np.float32, copy=False), 2 * size, axis=1)[:, :bins]


def _phases(
    samples: NDArray[np.floating],
    starts: NDArray[np.intp],
    size: int,
    rate: int,
    floor: NDArray[np.float32],
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Unit phasors [c, f, k] of the frames and the weights [f, k] (0 or 1) of their bins.

    Bins outside the band of speech, and bins that do not rise above their own quiet level, are 0:
    their phases are noise. A steady sound never rises above it; then the whole band counts.
    """
    band = _frequencies(size, rate) >= BAND_HZ[0]
    spectra = np.stack([_spectra(samples, s, size, len(band)) for s in starts], axis=1)
    power = _power(spectra)
    weights = band & (power > FLOOR_MARGIN * floor)
    if weights.sum() < 0.05 * band.sum() * len(starts):
        weights = np.broadcast_to(band, power.shape)
    magnitude = np.maximum(np.abs(spectra), 1e-12)
    phasors = (spectra / magnitude * weights).astype(np.complex64, copy=False)
    return phasors, weights.astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Whether a recording can be localised at all, and what is doubtful about its channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray

SILENT_DB = -110.0  # below the last bit of 16-bit audio
DEAD_BELOW_MEDIAN_DB = 60.0
LOW_LEVEL_DB = -70.0
FULL_SCALE = 0.99
CLIPPED_SHARE = 0.001
_EDGE = 320  # samples at either end that a resampler's filter may have shaped


def check_channels(
    samples: NDArray[np.floating], array: MicArray | None, path: str | Path = "the recording"
) -> list[str]:
    """Refuse a recording [c, t] that has no usable channels for `array`; returns warnings.

    Raises InputError for NaN or infinite samples, all-zero or constant audio, one channel (or only
    one that carries sound), and a channel count that differs from the array's. Warns of dead and
    identical channels, clipping and a very low level. Channel numbers count from 1.
    """
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise InputError(f"{path}: audio must be [channels, samples], got shape {samples.shape}")
    channels = samples.shape[0]
    if channels == 1:
        raise InputError(
            f"{path} has 1 channel: a direction needs at least 2 microphones recorded together; "
            "was the recording mixed down to mono?"
        )
    if array is not None:
        array.require_channels(channels, str(path))
    if not np.isfinite(samples).all():
        bad = np.flatnonzero(~np.isfinite(samples).all(axis=1))
        raise InputError(f"{path}: {name_channels(bad)} hold NaN or infinite samples")
    if not np.any(samples):
        raise InputError(f"{path}: every sample of all {channels} channels is zero")
    levels = alternating_level_db(samples)
    if levels.max() < SILENT_DB:
        raise InputError(
            f"{path}: all {channels} channels are constant (a DC offset without sound): is the "
            "right input recorded?"
        )
    dead = dead_channels(levels)
    if channels - len(dead) < 2:
        alive = np.setdiff1d(np.arange(channels), dead)
        raise InputError(
            f"{path}: only {name_channels(alive)} carries sound; a direction needs at least 2"
        )
    warnings = []
    if len(dead):
        warnings.append(f"dead: {name_channels(dead)}, silent while the others carry sound")
    for group in identical_channels(samples):
        warnings.append(f"identical: {name_channels(group)} are copies of one signal")
    clipped = np.mean(np.abs(samples) >= FULL_SCALE, axis=1)
    if clipped.max() > CLIPPED_SHARE:
        which = np.flatnonzero(clipped > CLIPPED_SHARE)
        warnings.append(
            f"clipped: {name_channels(which)}, with up to {100 * clipped.max():.1f}% of the samples "
            "at full scale; lower the recording gain"
        )
    if levels.max() < LOW_LEVEL_DB:
        warnings.append(
            f"very low level: the loudest channel has {levels.max():.0f} dB re full scale; raise "
            "the recording gain"
        )
    return warnings


def alternating_level_db(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """RMS level [c] in dB re full scale of [c, t] without the DC offset and the filter edges."""
    edge = _EDGE if samples.shape[1] > 4 * _EDGE else 0
    inner = samples[:, edge : samples.shape[1] - edge]
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(np.var(inner, axis=1, dtype=np.float64)), np.float64)


def dead_channels(levels: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the channels whose level (dB) is silence, alone or beside the others."""
    alive = levels[levels >= SILENT_DB]
    floor = np.median(alive) - DEAD_BELOW_MEDIAN_DB if alive.size else SILENT_DB
    return np.flatnonzero(levels < max(SILENT_DB, floor))


def identical_channels(samples: NDArray[np.floating], tolerance: float = 1e-6) -> list[list[int]]:
    """Groups of channels that are one signal, up to a gain; dead channels are left out.

    Two are one when the energy left after the best gain is below `tolerance` (-60 dB): two real
    microphones differ by their own noise.
    """
    alive = np.setdiff1d(np.arange(len(samples)), dead_channels(alternating_level_db(samples)))
    x = samples[alive].astype(np.float64)
    products = x @ x.T
    energy = np.diag(products)
    same = (1.0 - products**2 / np.outer(energy, energy) < tolerance) & (products > 0)
    groups = [np.flatnonzero(row) for row in same]
    return [alive[g].tolist() for i, g in enumerate(groups) if len(g) > 1 and g[0] == i]


def name_channels(indices: Sequence[int] | NDArray[np.intp]) -> str:
    """'channel 3' or 'channels 1, 2 and 5' for zero-based indices."""
    numbers = [str(int(k) + 1) for k in indices]
    if len(numbers) == 1:
        return f"channel {numbers[0]}"
    return f"channels {', '.join(numbers[:-1])} and {numbers[-1]}"

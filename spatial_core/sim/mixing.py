# SPDX-License-Identifier: Apache-2.0
"""Compiled loops of scene synthesis: levels, noise, the direct sound."""

from __future__ import annotations

import math

import numpy as np

from spatial_core.sim.kernels import compiled

# Partial sums of a row: independent of each other, they are added by vector instructions.
_LANES = 16
_STRETCH = 512


@compiled()
def sounding(rirs):  # type: ignore[no-untyped-def]
    """Samples up to the last that is not zero in any of these responses [m, n], at least 1."""
    longest = 1
    for m in range(rirs.shape[0]):
        row, bits = rirs[m], rirs[m].view(np.int32)
        end = row.shape[0]
        while end > longest:  # whole stretches of silence first: they are vector instructions
            start, loud = max(end - _STRETCH, longest), np.int32(0)
            for t in range(start, end):
                loud |= bits[t]
            if loud != 0:
                while end > start and row[end - 1] == 0:
                    end -= 1
                longest = max(longest, end)
                break
            end = start
    return longest


@compiled()
def _energy(row):  # type: ignore[no-untyped-def]
    """Sum of squares of float32 [t], in float64 at last."""
    sums = np.zeros(_LANES, np.float32)
    whole = row.shape[0] // _LANES
    for n in range(whole):
        for lane in range(_LANES):
            value = row[n * _LANES + lane]
            sums[lane] += value * value
    total = 0.0
    for lane in range(_LANES):
        total += sums[lane]
    for t in range(whole * _LANES, row.shape[0]):
        total += row[t] * row[t]
    return total


@compiled()
def power(x):  # type: ignore[no-untyped-def]
    """Mean square of float32 [m, t]."""
    total = 0.0
    for m in range(x.shape[0]):
        total += _energy(x[m])
    return total / (x.shape[0] * x.shape[1])


@compiled()
def mix(signal, other, other_gain, noise_rms, channel_gains, target_rms, seed, out):  # type: ignore[no-untyped-def]
    """out [m, t] = (signal + other_gain * other + white noise) * channel gains, at target_rms.

    Returns the factor that brought it to target_rms (0 for silence).
    The noise is the sum of four uniform 16-bit numbers: white, of unit variance before scaling,
    bounded at 3.5 standard deviations (excess kurtosis -0.3), several times cheaper than a normal
    deviate. It is a function of (seed, channel, sample) alone.
    """
    # Each of the four has variance (2**32 - 1) / 12; the mean of the sum is 2 * 65535.
    noise_scale = noise_rms * np.float32(math.sqrt(3.0 / (2.0**32 - 1)))
    low = np.uint64(0xFFFF)
    total = 0.0
    for m in range(out.shape[0]):
        row, first, second, gain = out[m], signal[m], other[m], channel_gains[m]
        start = np.uint64(m * out.shape[1] + 1)
        if noise_rms > 0:
            for t in range(out.shape[1]):
                z = seed + (start + np.uint64(t)) * np.uint64(0x9E3779B97F4A7C15)
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                halves = (z & low) + ((z >> np.uint64(16)) & low)
                halves += ((z >> np.uint64(32)) & low) + (z >> np.uint64(48))
                row[t] = noise_scale * (np.float32(np.int64(halves)) - np.float32(131070))
        else:
            row[:] = np.float32(0)
        for t in range(out.shape[1]):
            row[t] = (first[t] + other_gain * second[t] + row[t]) * gain
        total += _energy(row)
    rms = math.sqrt(total / (out.shape[0] * out.shape[1]))
    scale = np.float32(0)
    if rms > 0:
        scale = np.float32(target_rms / rms)
        for m in range(out.shape[0]):
            row = out[m]
            for t in range(out.shape[1]):
                row[t] *= scale
    return scale


@compiled()
def filter_last(dry, taps, scale, out):  # type: ignore[no-untyped-def]
    """out [t] = scale times the last samples of dry through a filter [n] with these taps.

    dry has at least n - 1 samples more than out.
    """
    length, end = out.shape[0], dry.shape[0]
    out[:] = np.float32(0)
    whole = taps.shape[0] // 4 * 4
    for n in range(0, whole, 4):  # four at a time: out is read and written less often
        a, b, c, d = scale * taps[n], scale * taps[n + 1], scale * taps[n + 2], scale * taps[n + 3]
        part = dry[end - n - 3 - length : end - n]
        for t in range(length):
            out[t] += a * part[t + 3] + b * part[t + 2] + c * part[t + 1] + d * part[t]
    for n in range(whole, taps.shape[0]):
        a, part = scale * taps[n], dry[end - n - length : end - n]
        for t in range(length):
            out[t] += a * part[t]

# SPDX-License-Identifier: Apache-2.0
"""Compiled loops of scene synthesis: products of spectra, levels, noise, the direct sound."""

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
def pack(rirs, length, block, out):  # type: ignore[no-untyped-def]
    """The first `length` samples of responses [m, n] in blocks, two microphones to a complex number.

    out [parts, pairs, 2 * size], complex numbers as pairs of float32; zero beyond the blocks.
    """
    silence = np.zeros(block, np.float32)
    for part in range(out.shape[0]):
        first, end = part * block, min((part + 1) * block, length)
        for pair in range(out.shape[1]):
            row, real, imaginary = out[part, pair], rirs[2 * pair, first:end], silence
            if 2 * pair + 1 < rirs.shape[0]:
                imaginary = rirs[2 * pair + 1, first:end]
            for t in range(end - first):
                row[2 * t] = real[t]
                row[2 * t + 1] = imaginary[t]
            row[2 * (end - first) :] = np.float32(0)


@compiled()
def deal(dry, block, heard, out):  # type: ignore[no-untyped-def]
    """What each block of a response makes heard at the end of dry: `heard` samples, later blocks earlier.

    out [parts, 4, size / 4] has each part's samples dealt out to four signals, zero beyond them and
    where dry has not begun.
    """
    for part in range(out.shape[0]):
        start = dry.shape[0] - part * block - heard
        for lane in range(4):
            row = out[part, lane]
            for t in range(row.shape[0]):
                place = 4 * t + lane
                inside = place < heard and start + place >= 0
                row[t] = dry[start + place] if inside else np.float32(0)


@compiled()
def join(quarters, turns, out):  # type: ignore[no-untyped-def]
    """Spectra of real signals from those of the four that each was dealt out to: a step of radix 4.

    complex64: quarters [parts, 4, size / 8 + 1], turns [3, size / 8 + 1] (exp(-2 pi i j k / size) for
    j = 1..3), out [parts, size]. The spectrum of a real signal is conjugate to itself backwards.
    """
    size, quarter = out.shape[1], out.shape[1] // 4
    aside = np.complex64(-1j)
    for part in range(out.shape[0]):
        whole = out[part]
        for k in range(turns.shape[1]):
            a, b = quarters[part, 0, k], quarters[part, 1, k] * turns[0, k]
            c, d = quarters[part, 2, k] * turns[1, k], quarters[part, 3, k] * turns[2, k]
            even, odd, rest, turned = a + c, b + d, a - c, (b - d) * aside
            terms = (even + odd, rest + turned, even - odd, rest - turned)
            for n in range(4):
                place = k + n * quarter
                whole[place] = terms[n]
                if place > 0:
                    whole[size - place] = np.conj(terms[n])


@compiled()
def multiply(responses, dry, out):  # type: ignore[no-untyped-def]
    """Sum over the parts of responses [parts, pairs, 2 * size] times dry [parts, 2 * size] into out [pairs, ..].

    Complex numbers are pairs of float32.
    """
    for pair in range(out.shape[0]):
        wet = out[pair]
        wet[:] = np.float32(0)
        for part in range(dry.shape[0]):
            ours, theirs = responses[part, pair], dry[part]
            for k in range(wet.shape[0] // 2):
                a, b, c, d = ours[2 * k], ours[2 * k + 1], theirs[2 * k], theirs[2 * k + 1]
                wet[2 * k] += a * c - b * d
                wet[2 * k + 1] += a * d + b * c


@compiled()
def unpack(wet, first, out):  # type: ignore[no-untyped-def]
    """The real and imaginary parts of wet [pairs, 2 * size] from sample `first` on as rows of out [m, t]."""
    for m in range(out.shape[0]):
        row, place = wet[m // 2], 2 * first + m % 2
        for t in range(out.shape[1]):
            out[m, t] = row[place + 2 * t]


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

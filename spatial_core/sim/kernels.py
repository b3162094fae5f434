# SPDX-License-Identifier: Apache-2.0
"""Compiled inner loops of the fast simulator (numba, without the GIL, one thread per call)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from spatial_core.sim.vectors import Writer, vector_step

FILTER_TAPS = 32
FILTER_LEAD = FILTER_TAPS // 2 - 1
FILTER_PHASES = 128
# Images that are added to the responses at once: their lists stay in the first-level cache.
BLOCK = 256
_KAISER_BETA = 6.5


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """numba.njit(nogil) with an on-disk cache where there is a place to write one.

    A division by zero is infinite, as in numpy: checks would keep loops from being vectorised.
    No fast math: with it a kernel just compiled and the same one read from the cache round
    differently, and a resumed run would see other data. It would be some 8% faster.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # "no locator available": package and user cache are both read-only
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


def band_filters(edges_hz: tuple[float, ...], rate: int) -> np.ndarray:
    """Fractional-delay filters split into bands, float32 [FILTER_PHASES + 1, bands, FILTER_TAPS].

    Row q delays by FILTER_LEAD + q / FILTER_PHASES samples. The band filters are differences of
    windowed sincs: their sum is the full-band Kaiser-windowed sinc, whatever the edges.
    """
    positions = np.arange(FILTER_TAPS) - FILTER_LEAD
    times = positions[None, :] - np.arange(FILTER_PHASES + 1)[:, None] / FILTER_PHASES
    inside = np.sqrt(np.maximum(1 - (times / (FILTER_TAPS / 2)) ** 2, 0))
    window = np.i0(_KAISER_BETA * inside) / np.i0(_KAISER_BETA)
    cut = np.array([0.0, *edges_hz, rate / 2])[:, None, None] / (rate / 2)
    lowpass = cut * np.sinc(cut * times)
    return np.ascontiguousarray((np.diff(lowpass, axis=0) * window).transpose(1, 0, 2), np.float32)


@compiled(inline="always")
def _random(state):  # type: ignore[no-untyped-def]
    """Next uniform float32 in (0, 1) of SplitMix64, whose state is the one-element uint64 array."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (np.float32(z >> np.uint64(40)) + np.float32(0.5)) * np.float32(2.0**-24)


@compiled()
def _axis_images(side, source, reflections, reach):  # type: ignore[no-untyped-def]
    """Coordinates [2 * count + 1] and amplitudes [.., 4] of the images -count..count of one axis; count.

    Image k lies in the k-th mirrored copy of the room; the amplitude reflection coefficients
    [2, 4] are those of the walls at 0 and at `side`. No image within `reach` is left out.
    """
    low, high, count = reflections[0], reflections[1], int(reach / side) + 2
    positions = np.empty(2 * count + 1, np.float32)
    amplitudes = np.empty((2 * count + 1, 4), np.float32)
    for n in range(2 * count + 1):
        k = n - count
        size = abs(k)
        positions[n] = k * side + (side - source if size % 2 == 1 else source)
        more, fewer = (size + 1) // 2, size // 2
        for band in range(4):
            if k > 0:
                amplitudes[n, band] = high[band] ** more * low[band] ** fewer
            else:
                amplitudes[n, band] = low[band] ** more * high[band] ** fewer
    return positions, amplitudes, count


@vector_step
def _add_arrival(
    writer: Writer, flat: Any, place: Any, filters: Any, row: Any, early: Any, late: Any
) -> None:
    """Adds a filter of one band, interpolated between row and the next one, to flat[place:]."""
    now, after = writer.spread(early, FILTER_TAPS), writer.spread(late, FILTER_TAPS)
    one = writer.times(now, writer.load(filters, row, FILTER_TAPS))
    other = writer.load(filters, writer.place(row, FILTER_TAPS), FILTER_TAPS)
    wave = writer.plus(writer.times(after, other), one)
    writer.store(writer.plus(writer.load(flat, place, FILTER_TAPS), wave), flat, place)


@vector_step
def _add_arrival_of_bands(
    writer: Writer, flat: Any, place: Any, filters: Any, row: Any, early: Any, late: Any,
    gains: Any, gain: Any,
) -> None:  # fmt: skip
    """The same with four bands, whose gains are at gains[gain:]."""
    wave = None
    for n in range(8):
        weight = writer.load(gains, writer.place(gain, n % 4), 1)
        weight = writer.times(writer.spread(early if n < 4 else late, 1), weight)
        taps = writer.load(filters, writer.place(row, n * FILTER_TAPS), FILTER_TAPS)
        part = writer.times(writer.pick(weight, [0] * FILTER_TAPS), taps)
        wave = part if wave is None else writer.plus(wave, part)
    writer.store(writer.plus(writer.load(flat, place, FILTER_TAPS), wave), flat, place)


@compiled()
def _sum_flat(count, starts, rows, early, late, filters, flat, base, taps):  # type: ignore[no-untyped-def]
    """Adds arrivals to the response of `taps` samples that begins at flat[base]; see `_add_omnidirectional`.

    starts and rows are int32: a start beyond the response, or before it, adds nothing.
    """
    for k in range(count):
        start = starts[k]
        if start >= 0 and start + FILTER_TAPS <= taps:
            _add_arrival(flat, base + start, filters, rows[k], early[k], late[k])


@compiled()
def _sum_bands(count, starts, rows, early, late, gains, filters, flat, base, taps):  # type: ignore[no-untyped-def]
    """The same with four bands of gains [BLOCK * 4], mixed into one pass."""
    for k in range(count):
        start = starts[k]
        if start >= 0 and start + FILTER_TAPS <= taps:
            place = base + start
            _add_arrival_of_bands(flat, place, filters, rows[k], early[k], late[k], gains, 4 * k)


@compiled()
def _add_omnidirectional(count, places, gains, mics, delays, scale, filters, flat, taps):  # type: ignore[no-untyped-def]
    """Adds the arrivals of the first `count` images at every microphone: gains, 1/distance, fractional delay.

    places [3, BLOCK]; gains [BLOCK, 4 bands], of which only the first counts where filters have one
    band; filters and flat (the RIRs, [m * taps]) are one-dimensional. One microphone after the other:
    distances and delays of all images are vector instructions then, and the response that is added to
    stays in the first-level cache.
    """
    single = filters.size == (FILTER_PHASES + 1) * FILTER_TAPS
    width = np.int32(FILTER_TAPS if single else 4 * FILTER_TAPS)
    phases, loudness = np.float32(FILTER_PHASES), np.ones(BLOCK, np.float32)
    starts, rows = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    early, late = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    xs, ys, zs, loud = places[0], places[1], places[2], gains.ravel()
    if single:
        loudness[:] = gains[:, 0]
    for m in range(mics.shape[0]):
        x, y, z, delay = mics[m, 0], mics[m, 1], mics[m, 2], delays[m]
        for k in range(count):
            dx, dy, dz = xs[k] - x, ys[k] - y, zs[k] - z
            distance = math.sqrt(dx * dx + dy * dy + dz * dz)
            time = distance * scale + delay
            starts[k] = np.int32(time)
            place = (time - np.float32(starts[k])) * phases
            row = np.int32(place)
            rows[k] = row * width
            late[k] = (place - np.float32(row)) * loudness[k] / distance
            early[k] = loudness[k] / distance - late[k]
        base = m * taps
        if single:
            _sum_flat(count, starts, rows, early, late, filters, flat, base, taps)
        else:
            _sum_bands(count, starts, rows, early, late, loud, filters, flat, base, taps)


@compiled()
def _add_ambisonic_image(x, y, z, gains, mics, scale, filters, flat, taps, wave):  # type: ignore[no-untyped-def]
    """The same for one microphone and four channels: all directions alike, and along the three axes.

    wave [taps of a filter] is scratch: the arrival, which all channels share but for its size.
    """
    dx, dy, dz = x - mics[0, 0], y - mics[0, 1], z - mics[0, 2]
    distance = math.sqrt(dx * dx + dy * dy + dz * dz)
    time = distance * scale
    start = np.uint64(time)
    if start + np.uint64(FILTER_TAPS) > taps:
        return
    place = (time - np.float32(start)) * np.float32(FILTER_PHASES)
    row = np.uint64(place)
    late = (place - np.float32(row)) / distance
    early = np.float32(1) / distance - late
    bands = gains.shape[0]
    rows = filters[row * np.uint64(bands * FILTER_TAPS) :]
    if bands == 1:
        for t in range(FILTER_TAPS):
            wave[t] = gains[0] * (early * rows[t] + late * rows[t + FILTER_TAPS])
    else:
        e0, e1, e2, e3 = early * gains[0], early * gains[1], early * gains[2], early * gains[3]
        l0, l1, l2, l3 = late * gains[0], late * gains[1], late * gains[2], late * gains[3]
        for t in range(FILTER_TAPS):
            wave[t] = (
                e0 * rows[t]
                + e1 * rows[t + FILTER_TAPS]
                + e2 * rows[t + 2 * FILTER_TAPS]
                + e3 * rows[t + 3 * FILTER_TAPS]
                + l0 * rows[t + 4 * FILTER_TAPS]
                + l1 * rows[t + 5 * FILTER_TAPS]
                + l2 * rows[t + 6 * FILTER_TAPS]
                + l3 * rows[t + 7 * FILTER_TAPS]
            )
    ux, uy, uz = dx / distance, dy / distance, dz / distance
    every, along_x, along_y, along_z = (
        flat[start:],
        flat[taps + start :],
        flat[np.uint64(2) * taps + start :],
        flat[np.uint64(3) * taps + start :],
    )
    for t in range(FILTER_TAPS):
        every[t] += wave[t]
        along_x[t] += ux * wave[t]
        along_y[t] += uy * wave[t]
        along_z[t] += uz * wave[t]


@compiled()
def _add_block(count, places, gains, mics, delays, scale, filters, flat, taps):  # type: ignore[no-untyped-def]
    """Adds the first `count` images by the one or the other of the above, see there."""
    if flat.size == mics.shape[0] * taps:
        _add_omnidirectional(count, places, gains, mics, delays, scale, filters, flat, taps)
        return
    wave = np.empty(FILTER_TAPS, np.float32)
    heard = gains[:, : filters.size // ((FILTER_PHASES + 1) * FILTER_TAPS)]
    for k in range(count):
        x, y, z = places[0, k], places[1, k], places[2, k]
        _add_ambisonic_image(x, y, z, heard[k], mics, scale, filters, flat, taps, wave)


@compiled()
def _mean_point(points):  # type: ignore[no-untyped-def]
    """Mean [3] of float32 points [m, 3]."""
    centre = np.zeros(3, np.float32)
    for m in range(points.shape[0]):
        for axis in range(3):
            centre[axis] += points[m, axis] / np.float32(points.shape[0])
    return centre


@compiled(inline="always")
def _energy(weights, amplitudes, n, squared_distance):  # type: ignore[no-untyped-def]
    """Energy of an image in its strongest band: row n of amplitudes [.., 4] times weights [4]."""
    strongest = np.float32(0)
    for band in range(4):
        strongest = max(strongest, weights[band] * amplitudes[n, band])
    return strongest * strongest / squared_distance


@compiled()
def add_images(
    sides, source, mics, delays, reflections, reach, order, threshold, scale, seed, filters, out
):  # type: ignore[no-untyped-def]
    """Sums the image sources of a shoebox into out [m, taps]; returns how many were used.

    sides, source [3] and mics [m, 3] in metres with the axis of the shortest side last, delays [m] of
    the microphones in samples, reflections [3 axes, 2, 4 bands] (amplitude), reach: greatest distance
    of an image from the mean microphone, order: most reflections of an image, scale: samples per
    metre, all float32; seed uint64. filters [phases, bands, taps] of one band only: for walls that
    reflect all bands alike. Of one microphone out may be [4, taps]: an omnidirectional channel and
    one along each axis (gain 1 where it points), without delays.

    An image whose energy E (squared amplitude over squared distance, strongest band) is below
    `threshold` is kept with probability p = E / threshold and its amplitude divided by sqrt(p):
    the expected energy stays. Along a row of images E only falls, so the next candidate is found
    by a geometric jump with the present p and accepted with the ratio of the true p to it; the
    images in between are never touched. threshold 0 keeps all.
    """
    state, centre = np.array([seed], np.uint64), _mean_point(mics)
    xs, ax, nx = _axis_images(sides[0], source[0], reflections[0], reach)
    ys, ay, ny = _axis_images(sides[1], source[1], reflections[1], reach)
    zs, az, nz = _axis_images(sides[2], source[2], reflections[2], reach)
    squares = (zs - centre[2]) ** 2
    weights, gains = np.empty(4, np.float32), np.empty((BLOCK, 4), np.float32)
    places, count = np.empty((3, BLOCK), np.float32), 0
    table, flat, taps = filters.ravel(), out.ravel(), np.uint64(out.shape[1])
    reach2, used = reach * reach, 0
    for i in range(xs.shape[0]):
        dx2 = (xs[i] - centre[0]) ** 2
        if dx2 > reach2:
            continue
        for j in range(ys.shape[0]):
            dxy2 = dx2 + (ys[j] - centre[1]) ** 2
            rest = order - abs(i - nx) - abs(j - ny)
            if dxy2 > reach2 or rest < 0:
                continue
            for band in range(4):
                weights[band] = ax[i, band] * ay[j, band]
            span = int(math.sqrt(reach2 - dxy2) / sides[2]) + 2
            for direction in range(2):  # up from the copy 0, then down from the copy -1
                step = 1 - 2 * direction
                n = nz - direction
                left = min(span, nz, rest) + 1 - direction
                while left > 0:
                    r2 = dxy2 + squares[n]
                    if r2 > reach2:
                        break
                    energy = _energy(weights, az, n, r2)
                    boost = np.float32(1)
                    if energy < threshold:
                        bound = energy / threshold
                        u = _random(state)
                        if u <= np.float32(1) - left * bound:
                            break  # certain: no candidate among those left
                        jump = math.log(u) / math.log1p(-bound)
                        if jump >= left:
                            break
                        n += step * int(jump)
                        left -= int(jump)
                        r2 = dxy2 + squares[n]
                        if r2 > reach2:
                            break
                        energy = _energy(weights, az, n, r2)
                        if _random(state) * bound >= energy / threshold:
                            n += step
                            left -= 1
                            continue
                        boost = math.sqrt(threshold / energy)
                    for band in range(4):
                        gains[count, band] = boost * weights[band] * az[n, band]
                    places[0, count], places[1, count], places[2, count] = xs[i], ys[j], zs[n]
                    count += 1
                    if count == BLOCK:
                        _add_block(count, places, gains, mics, delays, scale, table, flat, taps)
                        count = 0
                    used += 1
                    n += step
                    left -= 1
    _add_block(count, places, gains, mics, delays, scale, table, flat, taps)
    return used


@compiled()
def decay_time(weights, rates, target, start):  # type: ignore[no-untyped-def]
    """t where sum(weights * exp(-rates * t)) has fallen to `target`, in s; rates [n] in 1/s.

    Newton's method on the logarithm of the sum, which is convex: from the left, where `start` has
    to be, it never overshoots.
    """
    time = start
    for _ in range(30):
        left, slope = 0.0, 0.0
        for n in range(rates.shape[0]):
            term = weights[n] * math.exp(-rates[n] * time)
            left += term
            slope += rates[n] * term
        step = math.log(left / target) * left / slope
        time += step
        if step < 1e-3 * time:
            break
    return time


@compiled()
def remaining_energy(rir, pole):  # type: ignore[no-untyped-def]
    """Schroeder's backward integral float64 [taps] of one RIR without its slow part.

    The slow part is taken off by a first-order high-pass with the given pole (1: none): images only
    ever add up, and the sum of many is a step that no room has.
    """
    length = rir.shape[0]
    energy = np.empty(-(-length // 4) * 4)  # a filter of four samples a step: they wait for one
    pole2, pole3, pole4 = pole**2, pole**3, pole**4
    last, state = 0.0, 0.0
    for t in range(0, length - 3, 4):
        a, b = np.float64(rir[t]) - last, np.float64(rir[t + 1]) - rir[t]
        last = np.float64(rir[t + 3])
        c, d = np.float64(rir[t + 2]) - rir[t + 1], last - rir[t + 2]
        energy[t] = a + pole * state
        energy[t + 1] = b + pole * a + pole2 * state
        energy[t + 2] = c + pole * b + pole2 * a + pole3 * state
        state = (d + pole * c + pole2 * b + pole3 * a) + pole4 * state
        energy[t + 3] = state
    for t in range(length // 4 * 4, length):
        state = rir[t] - last + pole * state
        energy[t], last = state, rir[t]
    energy[length:] = 0.0
    total = 0.0
    for t in range(energy.shape[0] - 4, -1, -4):
        a, b, c, d = energy[t] ** 2, energy[t + 1] ** 2, energy[t + 2] ** 2, energy[t + 3] ** 2
        energy[t + 3], energy[t + 2] = total + d, total + (c + d)
        energy[t + 1] = total + (b + (c + d))
        total += (a + b) + (c + d)
        energy[t] = total
    return energy[:length]


@compiled()
def first_below(falling, level):  # type: ignore[no-untyped-def]
    """The first place in a falling curve [t] with less than `level`; t where there is none."""
    low, high = 0, falling.shape[0]
    while low < high:
        middle = (low + high) // 2
        if falling[middle] < level:
            high = middle
        else:
            low = middle + 1
    return low

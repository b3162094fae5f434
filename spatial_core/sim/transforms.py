# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms of eight complex signals side by side, in place.

Every operation is one on eight numbers, so a transform of eight signals costs about a third of what
eight transforms by scipy do. A row is one time or one frequency of all signals: eight real parts, then
eight imaginary parts. The forward transform decimates in frequency (Gentleman and Sande) and leaves
the frequencies in an order of its own, from which the inverse (Cooley and Tukey) starts: products of
spectra do not mind the order, and nothing is ever sorted. Length: 2^a 3^b.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatial_core.sim.kernels import compiled
from spatial_core.sim.vectors import LANES, ROW, Complex, Writer, vector_step

# Rows that stay in the first-level cache (16 KiB).
_NEAR = 256


@dataclass(frozen=True, eq=False)
class Plan:
    """Transforms of one length.

    stages [s, 3]: radix, rows that it parts, where its turns begin; turns: exp(-2 pi i j k / rows) for j = 1..radix - 1 of every k as pairs;
    order [rows]: the frequency that each row has.
    """

    stages: np.ndarray
    turns: np.ndarray
    order: np.ndarray


@functools.cache
def good_rows(least: int) -> int:
    """The shortest length from `least` on that transforms of real signals take: 2^a 3^b, of 32 rows or more."""
    twos = max(least, 32).bit_length()
    sizes = (2**a * 3**b for a in range(5, twos + 1) for b in range(twos))
    return min(size for size in sizes if size >= least)


@functools.lru_cache(maxsize=64)
def plan(rows: int) -> Plan:
    """The plan of transforms of this many rows."""
    stages, turns, order, left = [], [], np.zeros(1, np.int64), rows
    begin = 0
    while left > 1:
        radix = next((r for r in (4, 3, 2) if left % r == 0), 0)
        if radix == 0:
            raise ValueError(f"a transform of {rows} rows: choose a product of twos and threes")
        stages.append((radix, left, begin))
        steps = np.outer(np.arange(left // radix), np.arange(1, radix)) / left
        turns.append(np.exp(-2j * np.pi * steps).astype(np.complex64).ravel())
        begin += 2 * steps.size
        left //= radix
    for radix, _, _ in reversed(stages):
        order = np.concatenate([radix * order + j for j in range(radix)])
    joined = np.concatenate(turns).view(np.float32)
    return Plan(np.array(stages, np.int64), joined, order)


@functools.lru_cache(maxsize=64)
def fan(size: int) -> np.ndarray:
    """The turns of `real_rows` for signals of this many samples, a multiple of 64, float32.

    exp(-2 pi i q r / size) for q = 1..7 of every r < size / 8, eight r at once: real parts, imaginary parts.
    """
    steps = np.outer(np.arange(size // LANES), np.arange(1, LANES)) / size
    turns = np.exp(-2j * np.pi * steps).reshape(-1, LANES, LANES - 1).transpose(0, 2, 1)
    return np.stack([turns.real, turns.imag], axis=2).astype(np.float32).ravel()


def _fourth(writer: Writer, x: list[Complex], inverse: bool) -> list[Complex]:
    even, odd = writer.sum(x[0], x[2]), writer.sum(x[1], x[3])
    less, more = writer.turned(writer.difference(x[0], x[2]), writer.difference(x[1], x[3]))
    if inverse:
        less, more = more, less
    return [writer.sum(even, odd), less, writer.difference(even, odd), more]


def _third(writer: Writer, x: list[Complex], inverse: bool) -> list[Complex]:
    both, apart = writer.sum(x[1], x[2]), writer.difference(x[1], x[2])
    half, side = writer.constant(-0.5), writer.constant(math.sqrt(0.75))
    middle = writer.sum(x[0], (writer.times(half, both[0]), writer.times(half, both[1])))
    turned = writer.times(side, apart[0]), writer.times(side, apart[1])
    less, more = writer.turned(middle, turned)
    if inverse:
        less, more = more, less
    return [writer.sum(x[0], both), less, more]


def _second(writer: Writer, x: list[Complex], inverse: bool) -> list[Complex]:
    del inverse
    return [writer.sum(x[0], x[1]), writer.difference(x[0], x[1])]


_SMALL = {4: _fourth, 3: _third, 2: _second}


def _butterfly(radix: int, inverse: bool) -> Any:
    """A step of `radix` rows, `apart` from each other, in place."""

    def butterfly(writer: Writer, data: Any, first: Any, apart: Any, turns: Any, turn: Any) -> None:
        places = [writer.place(first, j, apart) for j in range(radix)]
        factors = [writer.complex_number(turns, turn, j) for j in range(radix - 1)]
        x = [writer.row(data, place) for place in places]
        if inverse:
            x[1:] = [writer.conjugate_product(*pair) for pair in zip(x[1:], factors)]
        y = _SMALL[radix](writer, x, inverse)
        if not inverse:
            y[1:] = [writer.product(*pair) for pair in zip(y[1:], factors)]
        for place, value in zip(places, y):
            writer.put_row(value, data, place)

    return vector_step(butterfly)


def _stage(inverse: bool) -> Callable[..., None]:
    """One stage of the transform of rows first..end - 1."""
    fourth, third, second = (_butterfly(radix, inverse) for radix in (4, 3, 2))

    @compiled()
    def stage(data, first, end, radix, rows, begin, turns):  # type: ignore[no-untyped-def]
        part = rows // radix
        for start in range(first * ROW, end * ROW, rows * ROW):
            if radix == 4:
                for k in range(part):
                    fourth(data, start + k * ROW, part * ROW, turns, begin + 6 * k)
            elif radix == 3:
                for k in range(part):
                    third(data, start + k * ROW, part * ROW, turns, begin + 4 * k)
            else:
                for k in range(part):
                    second(data, start + k * ROW, part * ROW, turns, begin + 2 * k)

    return stage


_forward_stage, _inverse_stage = _stage(inverse=False), _stage(inverse=True)


@compiled()
def forward(data, rows, stages, turns):  # type: ignore[no-untyped-def]
    """Spectra of data [rows * ROW] in place, rows in the plan's order."""
    far = 0
    while far < stages.shape[0] and stages[far, 1] > _NEAR:
        _forward_stage(data, 0, rows, stages[far, 0], stages[far, 1], stages[far, 2], turns)
        far += 1
    if far < stages.shape[0]:
        near = stages[far, 1]
        for first in range(0, rows, near):
            for s in range(far, stages.shape[0]):
                radix, size, begin = stages[s, 0], stages[s, 1], stages[s, 2]
                _forward_stage(data, first, first + near, radix, size, begin, turns)


@compiled()
def inverse(data, rows, stages, turns):  # type: ignore[no-untyped-def]
    """What has these spectra, times the number of rows; from the plan's order into that of time."""
    far = 0
    while far < stages.shape[0] and stages[far, 1] > _NEAR:
        far += 1
    if far < stages.shape[0]:
        near = stages[far, 1]
        for first in range(0, rows, near):
            for s in range(stages.shape[0] - 1, far - 1, -1):
                radix, size, begin = stages[s, 0], stages[s, 1], stages[s, 2]
                _inverse_stage(data, first, first + near, radix, size, begin, turns)
    for s in range(far - 1, -1, -1):
        _inverse_stage(data, 0, rows, stages[s, 0], stages[s, 1], stages[s, 2], turns)


@vector_step
def _eighth(writer: Writer, signal: Any, first: Any, apart: Any, fan: Any, turn: Any, data: Any, place: Any) -> None:  # fmt: skip
    """Eight times of eight parts of a real signal, as far `apart`: their spectra over the parts, turned."""
    x = [writer.load(signal, writer.place(first, j, apart)) for j in range(LANES)]
    (a, a_less), (b, b_less), (c, c_less), (d, d_less) = (
        (writer.plus(x[j], x[j + 4]), writer.minus(x[j], x[j + 4])) for j in (0, 1, 2, 3)
    )
    diagonal, zero = writer.constant(math.sqrt(0.5)), writer.constant(0.0)
    even, odd = writer.plus(a, c), writer.plus(b, d)
    across = writer.times(diagonal, writer.minus(b_less, d_less))
    along = writer.times(diagonal, writer.plus(b_less, d_less))
    up, down = writer.plus(c_less, along), writer.minus(c_less, along)
    sides = writer.minus(a, c), writer.minus(b, d)
    real = [
        writer.plus(even, odd), writer.plus(a_less, across), sides[0], writer.minus(a_less, across),
        writer.minus(even, odd),
    ]  # fmt: skip
    imaginary = [zero, writer.minus(zero, up), writer.minus(zero, sides[1]), down, zero]
    y = list(zip(real, imaginary))
    y += [(real[8 - q], writer.minus(zero, imaginary[8 - q])) for q in (5, 6, 7)]
    for q in range(1, LANES):
        y[q] = writer.product(y[q], writer.row(fan, writer.place(turn, q - 1, ROW)))
    for side in (0, 1):
        for n, column in enumerate(writer.transposed([value[side] for value in y])):
            writer.store(column, data, writer.place(place, ROW * n + LANES * side))


@compiled()
def real_rows(signal, fan, data):  # type: ignore[no-untyped-def]
    """Lays one real signal [size] out as rows data [size / 8 * ROW]: `forward` of them is its spectrum.

    Row r of that spectrum has in lane q the frequency 8 * order[r] + q. fan: `fan(size)`.
    """
    rows = signal.shape[0] // LANES
    for r in range(0, rows, LANES):
        _eighth(signal, r, rows, fan, r * (LANES - 1) * 2, data, r * ROW)

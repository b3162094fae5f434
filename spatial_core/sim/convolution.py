# SPDX-License-Identifier: Apache-2.0
"""Room responses convolved with dry signals, only the window that is needed."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from spatial_core.data.records import WINDOW
from spatial_core.sim import mixing, transforms
from spatial_core.sim.kernels import compiled
from spatial_core.sim.vectors import LANES, ROW, Complex, Writer, vector_step

# Rows that are read at once: a tile of them stays in the first-level cache.
_TILE = 64


class Convolver:
    """Overlap-save convolution of RIRs with dry signals, the last WINDOW samples only.

    Responses are cut into blocks no longer than the window, which keeps transforms short for the
    crops that share a response. Two microphones are one complex signal: a real signal times it leaves
    them its real and its imaginary part. Eight such signals, pairs of microphones by blocks, are
    transformed side by side (`transforms`). A transform of twice the rows is two of them, one of the
    even and one of the odd frequencies; its later half of samples is silent beforehand, which saves
    the step that would part the two. Buffers are reused: the page faults of fresh ones cost as much
    as the transforms. A result depends on the responses and the dry signal alone, bit for bit.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._responses = np.empty((0, 0, 0), np.float32)
        self._mics = self._pairs = self._block = 0

    def load(self, rirs: np.ndarray) -> None:
        """Transforms the RIRs [m, taps], as far as they sound, for the calls that follow."""
        rirs = np.ascontiguousarray(rirs, np.float32)
        length = mixing.sounding(rirs)
        self._mics, self._pairs = len(rirs), 2 if len(rirs) <= 4 else 4
        together = LANES // self._pairs
        groups = -(-len(rirs) // (2 * self._pairs))
        rounds = -(-length // (together * WINDOW))
        self._block = -(-length // (together * rounds))
        rows = transforms.good_rows(-(-(self._block - 1 + WINDOW) // 2))
        shape = (groups, rounds, 2 * rows * ROW)
        self._responses = self._buffer("responses", math.prod(shape)).reshape(shape)
        plan, circle = transforms.plan(rows), _circle(2 * rows)
        for group, ours in enumerate(self._responses):
            # Places without a microphone have the last one's response; nobody reads what it makes of them.
            mics = np.minimum(group * 2 * self._pairs + np.arange(2 * self._pairs), len(rirs) - 1)
            for turn, data in enumerate(ours):
                _pack(rirs, mics, length, self._block, turn * together, self._pairs, data)
                _part(data, min(self._block, rows), rows, circle)
                for half in (data[: rows * ROW], data[rows * ROW :]):
                    transforms.forward(half, rows, plan.stages, plan.turns)

    def __call__(self, dry: np.ndarray) -> np.ndarray:
        """Reverberant window [m, WINDOW] of dry [taps - 1 + WINDOW]; the next call overwrites it."""
        dry = np.ascontiguousarray(dry, np.float32)
        groups, rounds, _ = self._responses.shape
        rows, together = self._responses.shape[2] // (2 * ROW), LANES // self._pairs
        plan, short = transforms.plan(rows), transforms.plan(rows // 4)
        fan, circle = transforms.fan(2 * rows), _circle(2 * rows)
        heard = self._buffer("heard", 2 * rows)
        spectra = self._buffer("dry", rounds * together * rows // 4 * ROW)
        for part, data in enumerate(spectra.reshape(rounds * together, -1)):
            _hear(dry, part * self._block, self._block - 1 + WINDOW, heard)
            transforms.real_rows(heard, fan, data)
            transforms.forward(data, rows // 4, short.stages, short.turns)
        wet = self._buffer("wet", rows * ROW)
        window = self._buffer("window", self._mics * WINDOW).reshape(self._mics, WINDOW)
        for group in range(groups):
            _multiply[self._pairs](self._responses[group], spectra, rows, wet)
            transforms.inverse(wet, rows, plan.stages, plan.turns)
            # Circular wrap-around spoils the samples before the window.
            heard_by = window[group * 2 * self._pairs :][: 2 * self._pairs]
            _finish(wet, rows, self._block - 1, circle, heard_by)
        return window

    def _buffer(self, name: str, size: int) -> np.ndarray:
        """float32 [size], at the start of a cache line, as rows should be."""
        kept = self._buffers.get(name)
        if kept is None or kept.size < size:
            fresh = np.empty(size + ROW, np.float32)
            first = -(fresh.ctypes.data // fresh.itemsize) % ROW
            kept = self._buffers[name] = fresh[first:]
        return kept[:size]


@functools.lru_cache(maxsize=64)
def _circle(size: int) -> np.ndarray:
    """exp(-2 pi i n / size) for n = 0..size - 1 as pairs of float32."""
    turns = np.exp(-2j * np.pi * np.arange(size) / size)
    return turns.astype(np.complex64).view(np.float32)


@vector_step
def _lay_out(
    writer: Writer, signals: Any, starts: Any, side: Any, time: Any, data: Any, to: Any
) -> None:
    """Eight times of the signals that begin at starts[side:], as columns of eight rows."""
    places = [writer.whole(starts, writer.place(side, lane)) for lane in range(LANES)]
    signal = [writer.load(signals, writer.builder.add(place, time)) for place in places]
    for n, column in enumerate(writer.transposed(signal)):
        writer.store(column, data, writer.place(to, ROW * n))


@compiled()
def _pack(rirs, mics, length, block, first_part, pairs, data):  # type: ignore[no-untyped-def]
    """Blocks of some responses of rirs [m, n] as rows: lane `part * pairs + pair`, two microphones to a complex number.

    mics [2 * pairs]: which responses. The last parts' blocks are cut off at `length`.
    """
    signals, samples = rirs.ravel(), rirs.shape[1]
    starts, counts = np.empty(2 * LANES, np.int64), np.empty(2 * LANES, np.int64)
    for lane in range(LANES):
        begin = (first_part + lane // pairs) * block
        for side in range(2):
            starts[side * LANES + lane] = mics[2 * (lane % pairs) + side] * samples + begin
            counts[side * LANES + lane] = max(min(block, length - begin), 0)
    whole = counts.min() // LANES * LANES
    for time in range(0, whole, LANES):
        _lay_out(signals, starts, 0, time, data, time * ROW)
        _lay_out(signals, starts, LANES, time, data, time * ROW + LANES)
    for lane in range(2 * LANES):
        for time in range(whole, block):
            inside = time < counts[lane]
            data[time * ROW + lane] = signals[starts[lane] + time] if inside else np.float32(0)


@vector_step
def _turn_row(writer: Writer, data: Any, source: Any, target: Any, turns: Any, turn: Any) -> None:
    row = writer.product(writer.row(data, source), writer.complex_number(turns, turn))
    writer.put_row(row, data, target)


@compiled()
def _part(data, block, rows, circle):  # type: ignore[no-untyped-def]
    """What the even and the odd frequencies of `block` rows, silent from there to 2 * rows, are spectra of.

    data [2 * rows * ROW]: the first `rows` rows are those of the even ones, the others of the odd ones.
    """
    for t in range(block):
        _turn_row(data, t * ROW, (rows + t) * ROW, circle, 2 * t)
    data[block * ROW : rows * ROW] = np.float32(0)
    data[(rows + block) * ROW :] = np.float32(0)


@compiled()
def _hear(dry, late, count, out):  # type: ignore[no-untyped-def]
    """The `count` samples of dry up to `late` before its end, silence before it begins; zero beyond them.

    Divided by the length of out, which transforms there and back multiply by.
    """
    start, scale = dry.shape[0] - late - count, np.float32(1) / np.float32(out.shape[0])
    silent = min(max(-start, 0), count)
    out[:silent] = np.float32(0)
    for t in range(silent, count):
        out[t] = scale * dry[start + t]
    out[count:] = np.float32(0)


def _half(
    writer: Writer, pairs: int, response: Any, place: Any, dry: Any, where: Any, part: Any
) -> Complex:
    """The parts' responses times their dry spectra, summed: four numbers, one for each pair.

    dry at `where` is the frequency's real part of the first part; the next part is `part` further on.
    """
    heard = []
    for side in (0, 1):
        places = [writer.place(where, n, part) for n in range(LANES // pairs)]
        numbers = [writer.number(dry, writer.place(place, LANES * side)) for place in places]
        span = pairs
        while len(numbers) > 1:  # each part's number in the lanes of its pairs
            lanes = [n + (LANES if n & span else 0) for n in range(LANES)]
            numbers = [writer.pick(a, lanes, b) for a, b in zip(numbers[::2], numbers[1::2])]
            span *= 2
        heard.append(numbers[0])
    sums = []
    for value in writer.product(writer.row(response, place), (heard[0], heard[1])):
        value = writer.plus(writer.pick(value, [0, 1, 2, 3]), writer.pick(value, [4, 5, 6, 7]))
        if pairs == 2:
            value = writer.plus(writer.pick(value, [0, 1, 0, 1]), writer.pick(value, [2, 3, 2, 3]))
        sums.append(value)
    return sums[0], sums[1]


def _multiply_row(pairs: int, more: bool) -> Any:
    """A row of the wet spectrum: the pairs of an even frequency, then those of the odd one after it."""

    def multiply_row(
        writer: Writer,
        response: Any,
        even: Any,
        odd: Any,
        dry: Any,
        where: Any,
        part: Any,
        wet: Any,
    ) -> None:
        one = _half(writer, pairs, response, even, dry, where, part)
        other = _half(writer, pairs, response, odd, dry, writer.place(where, 1), part)
        row = tuple(writer.pick(a, list(range(LANES)), b) for a, b in zip(one, other))
        if more:
            row = writer.sum(writer.row(wet, even), row)
        writer.put_row(row, wet, even)

    return vector_step(multiply_row)


def _multiplication(pairs: int) -> Any:
    first_row, next_row = _multiply_row(pairs, more=False), _multiply_row(pairs, more=True)
    together = LANES // pairs

    @compiled()
    def multiply(responses, dry, rows, wet):  # type: ignore[no-untyped-def]
        """Sum over rounds of responses [rounds, 2 * rows * ROW] times their dry spectra into wet [rows * ROW].

        dry: for each part rows / 4 rows. Transforms of `rows` begin with a step of radix 4: their rows
        b * rows / 4 + r are the frequencies of which row r of the dry spectrum has lane 2 * b (even
        ones) or 2 * b + 1.
        """
        quarter = rows // 4
        part = quarter * ROW
        for n in range(responses.shape[0]):
            response, heard = responses[n], dry[n * together * part :]
            for b in range(4):
                for r in range(quarter):
                    even = (b * quarter + r) * ROW
                    odd, where = even + rows * ROW, r * ROW + 2 * b
                    if n == 0:
                        first_row(response, even, odd, heard, where, part, wet)
                    else:
                        next_row(response, even, odd, heard, where, part, wet)

    return multiply


_multiply = {pairs: _multiplication(pairs) for pairs in (2, 4)}


@vector_step
def _finish_row(
    writer: Writer, wet: Any, place: Any, turns: Any, turn: Any, out: Any, to: Any
) -> None:
    """The even frequencies' part and the odd ones', turned: real parts of four pairs, imaginary ones."""
    row = writer.row(wet, place)
    even = tuple(writer.pick(value, [0, 1, 2, 3]) for value in row)
    odd = tuple(writer.pick(value, [4, 5, 6, 7]) for value in row)
    factor = tuple(writer.pick(v, [0, 1, 2, 3]) for v in writer.complex_number(turns, turn))
    value = writer.sum(even, writer.conjugate_product(odd, factor))
    writer.store(writer.pick(value[0], list(range(LANES)), value[1]), out, to)


@vector_step
def _turn_tile(writer: Writer, rows: Any, source: Any, columns: Any, to: Any) -> None:
    """Eight rows of eight numbers as eight columns, _TILE apart."""
    vectors = [writer.load(rows, writer.place(source, n * LANES)) for n in range(LANES)]
    for n, column in enumerate(writer.transposed(vectors)):
        writer.store(column, columns, writer.place(to, n * _TILE))


@compiled()
def _finish(wet, rows, first, circle, out):  # type: ignore[no-untyped-def]
    """Samples from `first` on of the microphones out [m, t], at most eight of them."""
    tile, turned = np.empty(_TILE * LANES, np.float32), np.empty(_TILE * LANES, np.float32)
    for top in range(0, out.shape[1], _TILE):
        high = min(_TILE, out.shape[1] - top)
        for t in range(high):
            n = first + top + t
            _finish_row(wet, (n if n < rows else n - rows) * ROW, circle, 2 * n, tile, t * LANES)
        for t in range(0, _TILE, LANES):
            _turn_tile(tile, t * LANES, turned, t)
        for m in range(min(out.shape[0], LANES)):
            lane = (m % 2) * (LANES // 2) + m // 2
            out[m, top : top + high] = turned[lane * _TILE : lane * _TILE + high]

# SPDX-License-Identifier: Apache-2.0
"""Image sources of shoebox rooms in JAX: which, where, how loud, and how far to the sample's fraction.

Lengths are in samples (16 kHz, 343 m/s), whole and fractional part apart. A float32 has 24 bits: at
8,000 samples its steps are 5e-4 samples, and a coordinate made of some hundred room lengths is worse.
Here whole parts are exact integers. With d^2 = n^2 + e, where n is the nearest whole distance, e is
an exact integer plus small products of parts, and d - n = e / (n + d) is good to 1e-5 samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomSpec, band_absorption
from spatial_core.typing import Array, Float, Int

SAMPLES_PER_METRE = SAMPLE_RATE / SPEED_OF_SOUND
# Candidates looked at for each image kept: a box holds 1.9 times its sphere, and cells at the rim.
BOX = 4
# Reflections to -200 dB: a logarithm for walls that reflect nothing.
_LEAST_REFLECTION = 1e-10
DISPLACEMENT_STREAM, LATE_STREAM = 1, 2


class Samples(NamedTuple):
    """Lengths in samples: int32 whole + float32 part."""

    whole: Array
    part: Array

    def total(self) -> Array:
        """The sum as one float32."""
        return self.whole.astype(jnp.float32) + self.part


def to_samples(metres: np.ndarray) -> Samples:
    """Whole and part of float64 metres; the part within half a sample of 0."""
    exact = np.asarray(metres, np.float64) * SAMPLES_PER_METRE
    whole: Any = np.rint(exact)
    return Samples(whole.astype(np.int32), (exact - whole).astype(np.float32))


class Geometry(NamedTuple):
    """b rooms as arrays, positions in samples in the room's frame. `vmap` takes the first axis.

    mask is 1 for microphones there are; centre is their mean. log_reflection: of amplitudes, by axis,
    wall (at 0, at the side) and band. reach: arrivals farther from the centre are left out; within
    radius <= reach all images are in the box of cells low..low + span - 1. key: of the room's seed.
    patterns, emission: first-order directivity (see receivers.py) of microphones and source. delays: samples
    by which microphones answer late.
    """

    sides: Samples  # [b, 3]
    source: Samples  # [b, 3]
    mics: Samples  # [b, m, 3]
    mask: Float[Array, "b m"]
    centre: Float[Array, "b 3"]
    log_reflection: Float[Array, "b 3 2 4"]
    reach: Float[Array, "b"]
    radius: Float[Array, "b"]
    low: Int[Array, "b 3"]
    span: Int[Array, "b 3"]
    key: Array  # uint32 [b, 2]
    patterns: Float[Array, "b m 4"]
    emission: Float[Array, "b 4"]
    delays: Float[Array, "b m"]


class Arrivals(NamedTuple):
    """Where sound seems to come from: images, or what stands for many of them in the late field.

    gains are amplitudes at 1 m. parity is -1 along the axes where the image is mirrored.
    """

    position: Samples  # [3, i]
    gains: Float[Array, "i 4"]
    parity: Float[Array, "3 i"]


@dataclass(frozen=True)
class Extent:
    """How far images are summed: to `taps` samples, to decay_db below the start, or to max_order."""

    taps: int
    decay_db: float
    max_order: int | None

    def reach(self, room: RoomSpec, distance: float) -> float:
        """Farthest image in metres, seen from the array's centre `distance` metres off the source."""
        seconds = self.taps / SAMPLE_RATE
        if math.isfinite(self.decay_db) and self.max_order is None:
            seconds = min(seconds, room.decay().time_at(-self.decay_db))
        # The direct sound is wanted even where the reverberation is over before it arrives.
        return max(seconds * SPEED_OF_SOUND, distance + 0.1)

    def images(self, room: RoomSpec, reach: float) -> int:
        """How many images that is, or some more."""
        sides = np.asarray(room.dimensions)
        box = float(np.prod(2 * reach / sides + 2))
        # Where the image is inside, so is at least half of its copy of the room, as a rule.
        shell = reach + 0.5 * float(np.linalg.norm(sides))
        count = min(box, 4 / 3 * math.pi * shell**3 / room.volume)
        if self.max_order is not None:
            # The octahedron of these orders fills a sixth of its box only.
            count = min(count, (2 * self.max_order + 1) ** 3 / BOX)
        return math.ceil(count)


def pack(
    rooms: Sequence[RoomSpec],
    sources: np.ndarray,
    mics: np.ndarray,
    mask: np.ndarray,
    seeds: Sequence[int] | np.ndarray,
    *,
    reach: np.ndarray,
    capacity: int,
    max_order: int | None = None,
    patterns: np.ndarray | None = None,
    emission: np.ndarray | None = None,
    late: np.ndarray | None = None,
) -> Geometry:
    """Geometry on the host from metres: sources [b, 3], mics [b, m, 3], mask [b, m], reach [b].

    capacity: most images of a room. patterns [b, m, 4], emission [b, 4]: omnidirectional if None.
    late [b, m]: delays of the microphones in samples, none if None.
    """
    sides = np.array([room.dimensions for room in rooms], np.float64)
    weight = np.asarray(mask, np.float64)
    centre = np.einsum("bm,bmc->bc", weight, mics) / weight.sum(axis=1, keepdims=True)
    radius = np.minimum(
        reach, (1.15 * 3 * capacity * sides.prod(axis=1) / (4 * math.pi)) ** (1 / 3)
    )
    if max_order is not None:
        radius = np.asarray(reach, np.float64)
    while True:
        low = np.floor((centre - radius[:, None]) / sides)
        high = np.floor((centre + radius[:, None]) / sides)
        if max_order is not None:
            low, high = np.maximum(low, -max_order), np.minimum(high, max_order)
        large = (high - low + 1).prod(axis=1) > BOX * capacity
        if not large.any():
            break
        radius = np.where(large, 0.97 * radius, radius)
    absorption = np.stack([band_absorption(room.absorption) for room in rooms])
    reflection = np.sqrt(np.maximum(1 - absorption, _LEAST_REFLECTION**2))
    numbers = np.array([int(seed) % 2**64 for seed in seeds], np.uint64)
    omni = np.array([1, 0, 0, 0], np.float32)
    arrays: dict[str, Any] = dict(
        sides=to_samples(sides),
        source=to_samples(sources),
        mics=to_samples(mics),
        mask=weight.astype(np.float32),
        centre=(centre * SAMPLES_PER_METRE).astype(np.float32),
        log_reflection=np.log(reflection).reshape(-1, 3, 2, 4).astype(np.float32),
        reach=(np.asarray(reach) * SAMPLES_PER_METRE).astype(np.float32),
        radius=(radius * SAMPLES_PER_METRE).astype(np.float32),
        low=low.astype(np.int32),
        span=(high - low + 1).astype(np.int32),
        key=np.stack([numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)], axis=1).astype(
            np.uint32
        ),
        patterns=np.broadcast_to(omni, (*weight.shape, 4)) if patterns is None else patterns,
        emission=np.broadcast_to(omni, (len(weight), 4)) if emission is None else emission,
        delays=(np.zeros(weight.shape) if late is None else late).astype(np.float32),
    )
    return Geometry(**arrays)


def room_key(room: Geometry, stream: int) -> Array:
    """Random key of one room for one purpose."""
    return jax.random.fold_in(jax.random.wrap_key_data(room.key), stream)


def image_sources(
    room: Geometry,
    capacity: int,
    *,
    max_order: int | None = None,
    displacement: float = 0.0,
    air: Sequence[float] | None = None,
) -> tuple[Arrivals, Float[Array, ""]]:
    """The `capacity` nearest images of one room (or all, if fewer) and the radius that holds them.

    Image k of an axis lies in the k-th mirrored copy of the room. displacement: images other than the
    source itself are moved by up to so many samples along each axis, at random: a perfect shoebox's
    regular lattice is heard as a chirp, the sweeping echo (De Sena et al., IEEE/ACM TASLP 23, 2015),
    and a real room's is not regular. air: energy absorption of the four bands in 1/m.
    Unused places have no gain.
    """
    numbers = jnp.arange(BOX * capacity)
    cells = _cells(numbers, room)
    squares = sum(
        jnp.square(_position(cell, room, axis).total() - room.centre[axis])
        for axis, cell in enumerate(cells)
    )
    there = numbers < room.span.prod()
    if max_order is not None:
        there &= sum(jnp.abs(cell) for cell in cells) <= max_order
    squares = jnp.where(there, squares, jnp.inf)
    radius = _largest_radius(squares, room.radius, capacity)
    inside = squares <= radius**2
    rank = jnp.where(inside, jnp.cumsum(inside) - 1, capacity)
    chosen = jnp.full(capacity, BOX * capacity).at[rank].set(numbers, mode="drop")
    there = chosen < BOX * capacity
    cells = [jnp.where(there, cell, 0) for cell in _cells(chosen, room)]
    axes = [_position(cell, room, axis) for axis, cell in enumerate(cells)]
    if displacement > 0:
        reflected = sum(jnp.abs(cell) for cell in cells) > 0
        shifts = jnp.where(reflected, displacement * _uniform_of_cells(room, cells), 0)
        axes = [_normalised(x.whole, x.part + shift) for x, shift in zip(axes, shifts)]
    levels = log_gains(cells, room.log_reflection)
    if air is not None:
        squares = sum(jnp.square(x.total() - room.centre[axis]) for axis, x in enumerate(axes))
        metres = jnp.sqrt(squares) / SAMPLES_PER_METRE
        levels -= 0.5 * metres[:, None] * jnp.asarray(air, jnp.float32)
    gains = jnp.where(there[:, None], jnp.exp(levels), 0)
    position = Samples(jnp.stack([x.whole for x in axes]), jnp.stack([x.part for x in axes]))
    return Arrivals(position, gains, jnp.stack([1.0 - 2.0 * (cell & 1) for cell in cells])), radius


def _cells(numbers: Int[Array, "n"], room: Geometry) -> list[Int[Array, "n"]]:
    """The copies of the room in the box by axis, z fastest."""
    _, y, z = room.span
    x, rest = _divided(numbers, y * z)
    return [cell + room.low[axis] for axis, cell in enumerate((x, *_divided(rest, z)))]


def _divided(
    numbers: Int[Array, "n"], by: Int[Array, ""]
) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """Quotient and remainder of numbers below 2**24; integer division is several times slower."""
    guess = jnp.floor((numbers.astype(jnp.float32) + 0.5) / by.astype(jnp.float32))
    quotient = guess.astype(jnp.int32)
    rest = numbers - quotient * by
    # The division of an accelerator may be off by a few units of the last place.
    fix = (rest >= by).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    return quotient + fix, rest - fix * by


def _position(cell: Int[Array, "n"], room: Geometry, axis: int) -> Samples:
    """Coordinates along one axis of the images in these copies of the room."""
    odd = cell & 1
    sign = 1 - 2 * odd
    sides, source = room.sides, room.source
    return _normalised(
        (cell + odd) * sides.whole[axis] + sign * source.whole[axis],
        (cell + odd) * sides.part[axis] + sign * source.part[axis],
    )


def _normalised(whole: Int[Array, "..."], part: Float[Array, "..."]) -> Samples:
    """The same sum with the part within half a sample of 0."""
    carry = jnp.round(part)
    return Samples(whole + carry.astype(jnp.int32), part - carry)


def _largest_radius(
    squares: Float[Array, "n"], limit: Float[Array, ""], capacity: int
) -> Float[Array, ""]:
    """The largest radius up to `limit` with at most `capacity` images inside, in steps of limit / 128.

    So coarse that it stays the same along a moving source's way, and the late field with it.
    """

    def halve(_: int, span: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = span
        middle = (low + high) / 2
        fits = jnp.sum(squares <= middle**2) <= capacity
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    fits = jnp.sum(squares <= limit**2) <= capacity
    # Half the radius holds an eighth of the box, which has BOX * capacity places.
    low, _ = jax.lax.fori_loop(0, 6, halve, (limit / 2, limit))
    return jnp.where(fits, limit, low)


def log_gains(
    cells: Sequence[Int[Array, "n"]], log_reflection: Float[Array, "3 2 4"]
) -> Float[Array, "n 4"]:
    """Logarithm of the product of all reflections on the way; the walls of an axis alternate."""
    total = jnp.zeros((len(cells[0]), 4), jnp.float32)
    for cell, walls in zip(cells, log_reflection):
        size = jnp.abs(cell)
        more, fewer = (size + 1) // 2, size // 2
        at_zero = jnp.where(cell > 0, fewer, more).astype(jnp.float32)
        total += at_zero[:, None] * walls[0] + (size - at_zero)[:, None] * walls[1]
    return total


def _uniform_of_cells(room: Geometry, cells: Sequence[Int[Array, "n"]]) -> Float[Array, "3 n"]:
    """Uniform numbers in -1..1 that belong to the copy of the room, wherever it is in the list."""
    key = room_key(room, DISPLACEMENT_STREAM)
    x, y, z = (cell.astype(jnp.uint32) & 0x3FF for cell in cells)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(x << 20 | y << 10 | z)
    return jax.vmap(lambda k: jax.random.uniform(k, (3,), minval=-1.0))(keys).T


def delays(
    position: Samples, mics: Samples
) -> tuple[Int[Array, "m i"], Float[Array, "m i"], Float[Array, "m i"], Float[Array, "3 m i"]]:
    """Distances from positions [3, i] to mics [m, 3]: whole samples, fraction (0..1), sum, vectors.

    The vectors point from the microphone to the arrival's origin, float32 samples.
    """
    whole = position.whole[:, None] - mics.whole.T[..., None]
    part = position.part[:, None] - mics.part.T[..., None]
    vector = whole.astype(jnp.float32)
    # Whole squares may overflow, but their difference is small, and integers wrap around.
    square = jnp.sum(whole * whole, axis=0)
    nearest = jnp.round(jnp.sqrt(jnp.sum(vector * vector, axis=0)))
    root = nearest.astype(jnp.int32)
    rest = (square - root * root).astype(jnp.float32) + jnp.sum(part * (2 * vector + part), axis=0)
    distance = jnp.sqrt(jnp.maximum(nearest * nearest + rest, 1e-12))
    beyond = rest / (nearest + distance)
    below = jnp.floor(beyond)
    return root + below.astype(jnp.int32), beyond - below, distance, vector + part

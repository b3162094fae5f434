# SPDX-License-Identifier: Apache-2.0
"""The room simulator in JAX: static shapes, one program for a batch of rooms, on any platform."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.sim import fractional
from spatial_core.sim.air import Air
from spatial_core.sim.fractional import DelayFilter
from spatial_core.sim.images import (
    SAMPLES_PER_METRE,
    Arrivals,
    Extent,
    Geometry,
    Samples,
    delays,
    image_sources,
    pack,
)
from spatial_core.sim.late import late_arrivals
from spatial_core.sim.rir import check_inputs
from spatial_core.sim.rooms import BAND_EDGES_HZ, RoomSpec
from spatial_core.typing import Array, Float

LEAST_IMAGES = 512
# Arrivals worked on at a time: what they need stays in a processor's cache.
_CHUNK = 512


@dataclass(frozen=True)
class Plan:
    """What a compiled program is made for; see JaxSimulator.

    directional: any but omni patterns. delayed: any microphone that answers late.
    """

    taps: int
    images: int
    late_images: int
    delay: DelayFilter
    max_order: int | None
    displacement: float
    air: tuple[float, ...] | None
    directional: bool
    delayed: bool
    form: str | None


def responses(rooms: Geometry, plan: Plan) -> Float[Array, "b m taps"]:
    """RIRs of rooms; a pure function to call inside jit. Channels outside the mask are zero."""
    one = functools.partial(_response, plan=plan)
    # A CPU is twice as fast room by room, whose arrays fit its cache.
    if jax.default_backend() == "cpu":
        return jax.lax.map(one, rooms)
    return jax.vmap(one)(rooms)


def _response(room: Geometry, plan: Plan) -> Float[Array, "m taps"]:
    """One room: its images, its late field, summed chunk by chunk."""
    arrivals, radius = image_sources(
        room,
        plan.images,
        max_order=plan.max_order,
        displacement=plan.displacement * SAMPLES_PER_METRE,
        air=plan.air,
    )
    if plan.late_images:
        late = late_arrivals(room, radius, plan.late_images, plan.air)
        arrivals = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b], axis=0 if a.shape[-1] == 4 else 1), arrivals, late
        )
    chunks = _chunks(arrivals)
    table = fractional.polynomials(plan.delay, BAND_EDGES_HZ, SAMPLE_RATE)
    mics = room.mics.whole.shape[0]
    # Windows that begin before the end are added whole, and the rest is cut off.
    empty = jnp.zeros((mics, plan.taps + plan.delay.taps), jnp.float32)

    def add(total: Float[Array, "m n"], some: Arrivals) -> tuple[Float[Array, "m n"], None]:
        start, fraction, distance, vector = delays(some.position, room.mics)
        if plan.delayed:
            beyond = fraction + room.delays[:, None]
            start, fraction = start + beyond.astype(jnp.int32), beyond - jnp.floor(beyond)
        amplitude = SAMPLES_PER_METRE / distance
        if plan.directional:
            amplitude *= _directivity(room, vector / distance, some.parity)
        rows = fractional.windows(fraction, amplitude, some.gains, table)
        return fractional.add_windows(total, start, rows, plan.form), None

    total, _ = jax.lax.scan(add, empty, chunks)
    return total[:, : plan.taps] * room.mask[:, None]


def _chunks(arrivals: Arrivals) -> Arrivals:
    """The arrivals in equal parts along a new first axis, filled up with silent ones."""
    count = arrivals.gains.shape[0]
    parts = -(-count // _CHUNK)
    fill = parts * _CHUNK - count

    def cut(x: Array) -> Array:  # [3, i] -> [parts, 3, chunk]
        padded = jnp.pad(x, ((0, 0), (0, fill)))
        return jnp.moveaxis(padded.reshape(x.shape[0], parts, _CHUNK), 1, 0)

    gains = jnp.pad(arrivals.gains, ((0, fill), (0, 0))).reshape(parts, _CHUNK, 4)
    position = Samples(*(cut(x) for x in arrivals.position))
    return Arrivals(position, gains, cut(arrivals.parity))


def _directivity(
    room: Geometry, toward: Float[Array, "3 m i"], parity: Float[Array, "3 i"]
) -> Float[Array, "m i"]:
    """Gain of microphones for sound from `toward` (unit vectors), times that of the source.

    An image radiates the mirror image of the source's pattern.
    """
    heard = room.patterns[:, 0, None] + sum(
        room.patterns[:, n, None] * toward[axis] for n, axis in ((1, 1), (2, 2), (3, 0))
    )
    leaving = -toward * parity[:, None]
    sent = room.emission[0] + sum(
        room.emission[n] * leaving[axis] for n, axis in ((1, 1), (2, 2), (3, 0))
    )
    return heard * sent


def _check_patterns(
    patterns: np.ndarray | None, emission: np.ndarray | None, mics: tuple[int, ...]
) -> None:
    for name, given, shape in (
        ("patterns", patterns, (*mics, 4)),
        ("emission", emission, (mics[0], 4)),
    ):
        if given is not None and given.shape != shape:
            raise InputError(f"{name} have shape {given.shape}: give four numbers each, {shape}")


def _block(rooms: int) -> int:
    """Rooms of one program run. A CPU takes one after the other, always by the same program."""
    return 1 if jax.default_backend() == "cpu" else min(64, 1 << (rooms - 1).bit_length())


_responses = jax.jit(responses, static_argnames="plan")


@dataclass(frozen=True)
class JaxSimulator:
    """Image-source simulator for shoebox rooms as a JAX program (float32, 16 kHz).

    taps: length of each RIR; an arrival d seconds after emission peaks at d * 16000 + lead.
    max_images: so many of the nearest images are summed one by one, at most. late_images: arrivals of
    the statistical model that stands for all others (late.py); 0 for none. decay_db: as in
    FastSimulator. max_order: most reflections of an image, instead of decay_db; no late field then.
    displacement: random shift of images in metres (0.08 in pyroomacoustics' randomised method).
    air: absorption by air. delay: the fractional-delay filter. rooms_at_once: of one program run
    (None: 1 on a CPU, up to 64 elsewhere). form: how windows are added up, "scatter", "matmul" or None for
    what suits the platform.

    A room's RIRs depend on its own seed and not on what else is in the batch: bit for bit on a CPU, to
    float32 rounding where the sum's order is the hardware's choice. Safe in several threads.
    """

    taps: int = 8000
    max_images: int = 4096
    late_images: int = 1024
    decay_db: float = 50.0
    max_order: int | None = None
    displacement: float = 0.0
    air: Air | None = None
    delay: DelayFilter = field(default_factory=DelayFilter)
    rooms_at_once: int | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        # Squared distances are 32-bit integers of samples.
        if not 128 <= self.taps <= 32768:
            raise InputError(f"taps={self.taps}: choose 128 to 32768 samples at 16 kHz")
        if not LEAST_IMAGES <= self.max_images <= 1 << 20:
            raise InputError(f"max_images={self.max_images}: choose {LEAST_IMAGES} to {1 << 20}")
        if self.late_images < 0 or self.displacement < 0:
            raise InputError(
                f"late_images={self.late_images}, displacement={self.displacement}: need 0 or more"
            )
        if self.form not in (None, "scatter", "matmul"):
            raise InputError(f"form={self.form!r}: choose 'scatter', 'matmul' or None")
        if self.max_order is not None and not 0 <= self.max_order <= 500:
            raise InputError(f"max_order={self.max_order}: choose 0 to 500 reflections")

    @property
    def lead(self) -> int:
        """Samples by which all arrivals are late: half of the fractional-delay filter."""
        return self.delay.lead

    def simulate(
        self,
        room: RoomSpec,
        source: np.ndarray,
        mics: np.ndarray,
        seed: int,
        *,
        patterns: np.ndarray | None = None,
        emission: np.ndarray | None = None,
    ) -> np.ndarray:
        """RIRs float32 [m, taps] from source [3] to mics [m, 3], metres, in the room's frame.

        patterns [m, 4], emission [4]: directivity of microphones and source, see receivers.py.
        """
        mics = np.asarray(mics, np.float64)
        return self.simulate_batch(
            [room],
            np.asarray(source)[None],
            mics[None],
            np.ones((1, len(mics)), bool),
            [seed],
            patterns=None if patterns is None else np.asarray(patterns)[None],
            emission=None if emission is None else np.asarray(emission)[None],
        )[0]

    def simulate_batch(
        self,
        rooms: Sequence[RoomSpec],
        sources: np.ndarray,
        mics: np.ndarray,
        mask: np.ndarray,
        seeds: Sequence[int] | np.ndarray,
        *,
        patterns: np.ndarray | None = None,
        emission: np.ndarray | None = None,
        delays: np.ndarray | None = None,
    ) -> np.ndarray:
        """RIRs float32 [b, m, taps]; sources [b, 3], mics [b, m, 3], mask [b, m], seeds [b].

        patterns [b, m, 4] and emission [b, 4] as in `simulate`. delays [b, m]: samples by which microphones
        are late. Channels outside the mask are zero.
        Raises InputError when a source or a microphone is not inside its room, when they are closer
        than 1 mm, or when max_order asks for more than max_images.
        """
        sources, mics = np.asarray(sources, np.float64), np.asarray(mics, np.float64)
        mask = np.asarray(mask, bool)
        check_inputs(rooms, sources, mics, mask, seeds, delays)
        _check_patterns(patterns, emission, mics.shape[:2])
        out = np.zeros((len(rooms), mics.shape[1], self.taps), np.float32)
        pending = []
        kind = {
            "directional": patterns is not None or emission is not None,
            "delayed": delays is not None,
        }
        for plan, members, reach in self._groups(rooms, sources, mics, mask, **kind):
            block = self.rooms_at_once or _block(len(members))
            for first in range(0, len(members), block):
                rows = members[first : first + block]
                # A full block whatever there is: one program, so a room always rounds alike.
                full = np.resize(rows, block)
                geometry = pack(
                    [rooms[r] for r in full],
                    sources[full],
                    mics[full],
                    mask[full],
                    [int(seeds[r]) for r in full],
                    reach=reach[full],
                    capacity=plan.images,
                    max_order=self.max_order,
                    patterns=None if patterns is None else patterns[full],
                    emission=None if emission is None else emission[full],
                    late=None if delays is None else np.asarray(delays)[full],
                )
                # As arguments of the program the arrays travel ten times faster than by device_put.
                with jax.transfer_guard_host_to_device("allow"):
                    pending.append((rows, _responses(geometry, plan=plan)))
        for rows, rirs in pending:
            out[rows] = jax.device_get(rirs)[: len(rows)]
        return out

    def pack_together(
        self,
        rooms: Sequence[RoomSpec],
        sources: np.ndarray,
        mics: np.ndarray,
        mask: np.ndarray,
        seeds: Sequence[int] | np.ndarray,
        *,
        patterns: np.ndarray | None = None,
        emission: np.ndarray | None = None,
        delays: np.ndarray | None = None,
        capacity: int | None = None,
    ) -> tuple[Geometry, Plan]:
        """All rooms for one program, to call `responses` in a jit of your own; as `simulate_batch`.

        capacity: most images, for a program that is the same for all rooms (None: as many as these
        rooms need, up to max_images, and a late field only where that leaves any out).
        """
        check_inputs(rooms, sources, mics, mask, seeds, delays)
        _check_patterns(patterns, emission, mics.shape[:2])
        reach = self.reach(rooms, sources, mics, mask)
        late = self.max_order is None
        if capacity is None:
            sizes, capped = self._sizes(rooms, reach)
            capacity, late = int(sizes.max()), bool(capped.any())
        geometry = pack(
            rooms, sources, mics, mask, seeds,
            reach=reach, capacity=capacity, max_order=self.max_order,
            patterns=patterns, emission=emission, late=delays,
        )  # fmt: skip
        plan = self.plan(
            capacity,
            late,
            directional=patterns is not None or emission is not None,
            delayed=delays is not None,
        )
        return geometry, plan

    def plan(
        self, images: int, late: bool, *, directional: bool = False, delayed: bool = False
    ) -> Plan:
        """The program for rooms of up to `images` images, with or without a late field."""
        return Plan(
            taps=self.taps,
            images=images,
            late_images=self.late_images if late else 0,
            delay=self.delay,
            max_order=self.max_order,
            displacement=self.displacement,
            air=None if self.air is None else self.air.band_absorption(),
            directional=directional,
            delayed=delayed,
            form=self.form,
        )

    def reach(
        self, rooms: Sequence[RoomSpec], sources: np.ndarray, mics: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Farthest image of each room in metres from the array's centre, float64 [b]."""
        extent = Extent(self.taps, self.decay_db, self.max_order)
        weight = np.asarray(mask, np.float64)
        centre = np.einsum("bm,bmc->bc", weight, mics) / weight.sum(axis=1, keepdims=True)
        apart = np.linalg.norm(centre - sources, axis=1)
        return np.array([extent.reach(room, float(d)) for room, d in zip(rooms, apart)])

    def _groups(
        self,
        rooms: Sequence[RoomSpec],
        sources: np.ndarray,
        mics: np.ndarray,
        mask: np.ndarray,
        **kind: bool,
    ) -> Iterator[tuple[Plan, np.ndarray, np.ndarray]]:
        """Rooms by the bucket of their number of images: powers of two up to max_images."""
        reach = self.reach(rooms, sources, mics, mask)
        buckets, capped = self._sizes(rooms, reach)
        for size, late in sorted(set(zip(buckets.tolist(), capped.tolist()))):
            members = np.flatnonzero((buckets == size) & (capped == late))
            yield self.plan(size, late, **kind), members, reach

    def _sizes(self, rooms: Sequence[RoomSpec], reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bucket of each room's number of images, and whether that leaves images to the late field."""
        extent = Extent(self.taps, self.decay_db, self.max_order)
        needed = np.array([extent.images(room, r) for room, r in zip(rooms, reach)])
        if self.max_order is not None and needed.max(initial=0) > self.max_images:
            raise InputError(
                f"max_order={self.max_order} needs max_images of {needed.max()}, not "
                f"{self.max_images}: raise max_images or lower max_order"
            )
        buckets = np.maximum(LEAST_IMAGES, 2 ** np.ceil(np.log2(np.maximum(needed, 1))).astype(int))
        return np.minimum(buckets, self.max_images), needed > self.max_images

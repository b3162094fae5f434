# SPDX-License-Identifier: Apache-2.0
"""The fast room simulator: image sources summed by compiled code, the late field thinned."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numba
import numpy as np

from spatial_core.config.resolved import UNSAID
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.sim import kernels
from spatial_core.sim.rir import check_inputs
from spatial_core.sim.rooms import BAND_EDGES_HZ, SPEED_OF_SOUND, RoomSpec, band_absorption


@functools.cache
def filters(bands: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Fractional delays of one band or of four, see `kernels.band_filters`."""
    return kernels.band_filters(BAND_EDGES_HZ if bands > 1 else (), rate)


@dataclass(frozen=True)
class FastSimulator:
    """Image-source simulator for shoebox rooms (float32, 16 kHz, omnidirectional, no air absorption).

    taps: length of each RIR; an arrival d seconds after emission peaks at d * 16000 + lead.
    images: "roulette" thins the late field at random without changing its expected energy,
    "full" keeps every image. thinning: images weaker than this share of the diffuse field's energy
    are thinned. decay_db: images are summed until the predicted remaining energy has fallen by this
    much, or until the taps end. max_order: most reflections of an image, instead of decay_db. threads: rooms simulated at once (None: numba.get_num_threads()).

    The result depends on each room's own seed only, not on threads or on what else is in the batch.
    Safe to call from several threads.
    """

    taps: int = 8000
    images: str = "roulette"
    thinning: float = 1e-4
    decay_db: float = 50.0
    threads: int | None = None
    max_order: int | None = field(default=None, metadata=UNSAID)

    def __post_init__(self) -> None:
        if self.images not in ("roulette", "full"):
            raise InputError(f"images={self.images!r}: choose 'roulette' or 'full'")
        if not 128 <= self.taps <= 1 << 20:
            raise InputError(f"taps={self.taps}: choose 128 to {1 << 20} samples at 16 kHz")
        if self.max_order is not None and not 0 <= self.max_order <= 500:
            raise InputError(f"max_order={self.max_order}: choose 0 to 500 reflections")
        if not 0 < self.thinning < 1:
            raise InputError(f"thinning={self.thinning}: choose a share between 0 and 1")

    @property
    def lead(self) -> int:
        """Samples by which all arrivals are late: half of the fractional-delay filter."""
        return kernels.FILTER_LEAD

    def simulate(
        self, room: RoomSpec, source: np.ndarray, mics: np.ndarray, seed: int
    ) -> np.ndarray:
        """RIRs float32 [m, taps] from source [3] to mics [m, 3], metres, in the room's frame."""
        mics = np.asarray(mics)
        mask = np.ones((1, len(mics)), bool)
        return self.simulate_batch([room], np.asarray(source)[None], mics[None], mask, [seed])[0]

    def simulate_batch(
        self,
        rooms: Sequence[RoomSpec],
        sources: np.ndarray,
        mics: np.ndarray,
        mask: np.ndarray,
        seeds: Sequence[int] | np.ndarray,
        *,
        delays: np.ndarray | None = None,
    ) -> np.ndarray:
        """RIRs float32 [b, m, taps]; sources [b, 3], mics [b, m, 3], mask [b, m], seeds [b].

        Channels outside the mask are zero. delays [b, m]: samples by which microphones are late. Raises InputError when a source or a microphone is not
        inside its room, or when they are closer than 1 mm.
        """
        sources, mics = np.asarray(sources, np.float64), np.asarray(mics, np.float64)
        mask = np.asarray(mask, bool)
        check_inputs(rooms, sources, mics, mask, seeds, delays)
        late = np.zeros(mask.shape) if delays is None else np.asarray(delays)
        out = np.zeros((len(rooms), mics.shape[1], self.taps), np.float32)

        def work(b: int) -> None:
            valid = np.flatnonzero(mask[b])
            rirs = out[b] if len(valid) == out.shape[1] else out[b, : len(valid)]
            self._one(rooms[b], sources[b], mics[b, valid], late[b, valid], int(seeds[b]), rirs)
            if valid[-1] != len(valid) - 1:  # holes in the mask: spread the rows out
                rows = rirs.copy()
                out[b] = 0
                out[b, valid] = rows

        threads = min(self.threads or numba.get_num_threads(), len(rooms))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(len(rooms))))
        else:
            for b in range(len(rooms)):
                work(b)
        return out

    def _one(
        self,
        room: RoomSpec,
        source: np.ndarray,
        mics: np.ndarray,
        delays: np.ndarray,
        seed: int,
        out: np.ndarray,
    ) -> int:
        """Simulates into out [m, taps]; returns the number of images used."""
        order, reflections = axes_and_reflections(room)
        seconds = self.taps / SAMPLE_RATE
        if math.isfinite(self.decay_db) and self.max_order is None:
            seconds = min(seconds, room.decay().time_at(-self.decay_db))
        # The direct sound is wanted even where the reverberation is over before it arrives.
        nearest = float(np.linalg.norm(mics.mean(axis=0) - source))
        reach = max(seconds * SPEED_OF_SOUND, nearest + 0.1)
        arguments = (
            np.asarray(room.dimensions, np.float32)[order],
            source.astype(np.float32)[order],
            np.ascontiguousarray(mics.astype(np.float32)[:, order]),
            delays.astype(np.float32),
            np.ascontiguousarray(reflections, np.float32),
            np.float32(reach),
            np.int64(2**31 if self.max_order is None else self.max_order),
            np.float32(0.0 if self.images == "full" else self.thinning * diffuse_energy(room)),
            np.float32(SAMPLE_RATE / SPEED_OF_SOUND),
            np.uint64(seed % 2**64),
            filters(4 if np.ptp(reflections, axis=2).any() else 1),
            out,
        )
        return int(kernels.add_images(*arguments))


def axes_and_reflections(room: RoomSpec) -> tuple[np.ndarray, np.ndarray]:
    """The axes [3], longest side first, and the amplitudes [3, 2, 4] that their walls reflect."""
    order = np.argsort(room.dimensions)[::-1]
    return order, np.sqrt(1 - band_absorption(room.absorption)).reshape(3, 2, 4)[order]


def diffuse_energy(room: RoomSpec) -> float:
    """Energy of the diffuse field, 16 pi (1 - a) / (S a), where the direct sound has 1 / distance^2.

    The absorption a is the mean of the walls over the four bands.
    """
    areas = room.wall_areas
    absorbing = float(areas @ band_absorption(room.absorption).mean(axis=1))
    share = min(max(absorbing / areas.sum(), 1e-3), 0.99)
    return 16 * math.pi * (1 - share) / (share * areas.sum())

# SPDX-License-Identifier: Apache-2.0
"""Room responses to a first-order Ambisonic microphone, from many places of one room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError
from spatial_core.sim import kernels
from spatial_core.sim.fast import axes_and_reflections, diffuse_energy, filters
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomSpec


@dataclass(frozen=True)
class AmbisonicSimulator:
    """The image sources of `FastSimulator`, heard by four coincident channels (float32).

    Channels are ACN (W, Y, Z, X) in SN3D along the room's axes. Every arrival is a plane wave from
    its image: no nearness effect. rate: samples a second. max_seconds: longest response. decay_db:
    images are summed until the predicted remaining energy has fallen by this much. thinning: as in
    `FastSimulator`, 0 keeps all images.
    """

    rate: int = 24_000
    max_seconds: float = 2.5
    decay_db: float = 50.0
    thinning: float = 1e-4

    def __post_init__(self) -> None:
        if not 8000 <= self.rate <= 192_000:
            raise InputError(f"rate={self.rate}: choose 8,000 to 192,000 samples a second")
        if not (0.01 <= self.max_seconds <= 20 and 10 <= self.decay_db <= 120):
            raise InputError(
                f"max_seconds={self.max_seconds}, decay_db={self.decay_db}: choose 0.01 to 20 s and "
                "10 to 120 dB"
            )
        if not 0 <= self.thinning < 1:
            raise InputError(f"thinning={self.thinning}: choose a share from 0 to below 1")

    @property
    def lead(self) -> int:
        """Samples by which all arrivals are late: half of the fractional-delay filter."""
        return kernels.FILTER_LEAD

    def taps(self, room: RoomSpec, farthest: float) -> int:
        """Length of the responses of a room to sources within `farthest` metres."""
        seconds = min(self.max_seconds, room.decay().time_at(-self.decay_db))
        # The direct sound is wanted even where the reverberation is over before it arrives.
        return int(max(seconds, farthest / SPEED_OF_SOUND) * self.rate) + 2 * kernels.FILTER_TAPS

    def simulate(
        self,
        room: RoomSpec,
        sources: NDArray[np.float64],
        receiver: NDArray[np.float64],
        seeds: Sequence[int],
    ) -> NDArray[np.float32]:
        """Responses [n, 4, taps] from sources [n, 3] to the receiver [3], metres in the room's frame.

        The response of a source depends on its own place and seed, not on the others', but for its
        length. Raises InputError for places outside the room or closer than 1 mm.
        """
        sources, receiver = np.asarray(sources, np.float64), np.asarray(receiver, np.float64)
        if sources.ndim != 2 or len(seeds) != len(sources):
            raise InputError(f"{len(seeds)} seeds for sources of shape {list(sources.shape)}")
        room.require_inside(sources, "a source")
        room.require_inside(receiver, "the microphone")
        distance = np.linalg.norm(sources - receiver, axis=1)
        if np.min(distance) < 1e-3:
            raise InputError("a source is less than 1 mm from the microphone")
        order, reflections = axes_and_reflections(room)
        taps = self.taps(room, float(distance.max()))
        channels = [0, *(1 + int(np.flatnonzero(order == axis)[0]) for axis in (1, 2, 0))]
        out = np.empty((len(sources), 4, taps), np.float32)
        for n, (source, seed) in enumerate(zip(sources, seeds)):
            heard = np.zeros((4, taps), np.float32)
            kernels.add_images(
                np.asarray(room.dimensions, np.float32)[order],
                source.astype(np.float32)[order],
                np.ascontiguousarray(receiver.astype(np.float32)[None, order]),
                np.zeros(1, np.float32),
                np.ascontiguousarray(reflections, np.float32),
                np.float32(taps / self.rate * SPEED_OF_SOUND),
                np.int64(2**31),
                np.float32(self.thinning * diffuse_energy(room)),
                np.float32(self.rate / SPEED_OF_SOUND),
                np.uint64(seed % 2**64),
                filters(4 if np.ptp(reflections, axis=2).any() else 1, self.rate),
                heard,
            )
            out[n] = heard[channels]
        return out

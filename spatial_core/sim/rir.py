# SPDX-License-Identifier: Apache-2.0
"""Room impulse responses: the interface, the pyroomacoustics reference, a slow exact sum."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomSpec

# pyroomacoustics keeps its constants and random state per process.
_PYROOM = threading.Lock()
# Samples by which a microphone may answer late.
MAX_DELAY = 16


class RirSimulator(Protocol):
    """Simulates impulse responses at 16 kHz; positions in metres in the room's frame."""

    @property
    def taps(self) -> int:
        """Length of each response in samples."""

    @property
    def lead(self) -> int:
        """An arrival after d seconds peaks at sample d * 16000 + lead."""

    def simulate(
        self, room: RoomSpec, source: np.ndarray, mics: np.ndarray, seed: int
    ) -> np.ndarray:
        """float32 [m, taps] from source [3] to mics [m, 3]."""

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
        """float32 [b, m, taps]; sources [b, 3], mics [b, m, 3], mask [b, m]: zero outside it.

        delays [b, m]: samples by which a microphone answers late, any fraction of one.
        """


def check_inputs(
    rooms: Sequence[RoomSpec],
    sources: np.ndarray,
    mics: np.ndarray,
    mask: np.ndarray,
    seeds: Sequence[int] | np.ndarray,
    delays: np.ndarray | None = None,
) -> None:
    """What every simulator asks of its inputs: InputError for counts that differ, a mask [b, m] (bool)
    without a microphone, positions outside their room or coinciding, and delays that are none."""
    if not len(rooms) == len(sources) == len(mics) == len(mask) == len(seeds):
        raise InputError(
            f"{len(rooms)} rooms, {len(sources)} sources, {len(mics)} arrays, {len(mask)} masks "
            f"and {len(seeds)} seeds: give the same number of each"
        )
    if not np.all(np.any(mask, axis=1)):
        raise InputError("no microphone to simulate: the mask of a room is empty")
    if delays is not None:
        late = np.asarray(delays)
        if late.shape != mask.shape or not np.all((late >= 0) & (late <= MAX_DELAY)):
            raise InputError(
                f"delays of shape {late.shape} from {np.min(late, initial=0):g} to "
                f"{np.max(late, initial=0):g} samples: give one of 0 to {MAX_DELAY} for each "
                f"microphone, {mask.shape}"
            )
    # All at once, which is cheap; one by one only to say which is at fault.
    sides = np.reshape([room.dimensions for room in rooms], (-1, 3))
    sources, mics, mask = np.asarray(sources), np.asarray(mics), np.asarray(mask)
    fine = np.all((sources > 0) & (sources < sides), axis=1)
    fine &= np.all(np.all((mics > 0) & (mics < sides[:, None]), axis=2) | ~mask, axis=1)
    squares = np.square(mics - sources[:, None]).sum(axis=2)
    fine &= np.all((squares > 2e-6) | ~mask, axis=1)
    for row in np.flatnonzero(~fine).tolist():
        room, source, points = rooms[row], sources[row], mics[row, mask[row]]
        room.require_inside(source, "the source")
        room.require_inside(points, "a microphone")
        if np.min(np.linalg.norm(points - source, axis=1)) < 1e-3:
            raise InputError(
                f"the source at {np.asarray(source).tolist()} m is less than 1 mm from a microphone"
            )


@dataclass(frozen=True)
class PyroomSimulator:
    """pyroomacoustics' image-source model with octave-band walls: the reference, ten times slower.

    max_order: most reflections of an image. An order too low for the room cuts its reverberation
    (one room of 1.13 s came out as 0.58 s at order 17). high_pass: its 10 Hz filter of the RIRs.
    randomized: its randomised image method, positions displaced by up to 8 cm.
    """

    taps: int = 8000
    max_order: int = 17
    high_pass: bool = False
    randomized: bool = False

    @property
    def lead(self) -> int:
        """Half of its 81-tap fractional-delay filter."""
        return 40

    def simulate(
        self, room: RoomSpec, source: np.ndarray, mics: np.ndarray, seed: int
    ) -> np.ndarray:
        """float32 [m, taps], cut or padded to taps."""
        import pyroomacoustics as pra

        room.require_inside(source, "the source")
        room.require_inside(mics, "a microphone")
        names = ("west", "east", "south", "north", "floor", "ceiling")
        flat = np.ptp(room.absorption) == 0 or not any(isinstance(m, str) for m in room.materials)
        materials = {
            name: pra.Material(
                float(row[0])
                if flat
                else {"coeffs": row.tolist(), "center_freqs": [125 * 2**k for k in range(7)]}
            )
            for name, row in zip(names, room.absorption)
        }
        with _PYROOM:
            pra.random.seed(numpy=seed % 2**32, libroom=seed % 2**32)
            settings: dict[str, Any] = {
                "rir_hpf_enable": self.high_pass,
                "c": SPEED_OF_SOUND,
                "frac_delay_length": 2 * self.lead + 1,
            }
            before = {name: pra.constants.get(name) for name in settings}
            try:
                for name, value in settings.items():
                    pra.constants.set(name, value)
                box = pra.ShoeBox(
                    room.dimensions,
                    fs=SAMPLE_RATE,
                    materials=materials,
                    max_order=self.max_order,
                    use_rand_ism=self.randomized,
                )
                box.set_sound_speed(SPEED_OF_SOUND)
                box.add_source(np.asarray(source, float))
                box.add_microphone_array(np.asarray(mics, float).T)
                box.compute_rir()
            finally:
                for name, value in before.items():
                    pra.constants.set(name, value)
        out = np.zeros((len(mics), self.taps), np.float32)
        for m, responses in enumerate(box.rir):
            rir = responses[0][: self.taps]
            out[m, : len(rir)] = rir
        return out

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
        """float32 [b, m, taps], one room after the other."""
        out = np.zeros((len(rooms), np.shape(mics)[1], self.taps), np.float32)
        for b, room in enumerate(rooms):
            valid = np.flatnonzero(mask[b])
            out[b, valid] = self.simulate(room, sources[b], mics[b][valid], int(seeds[b]))
        return out if delays is None else _delayed(out, np.asarray(delays))


def _delayed(rirs: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """RIRs [b, m, taps] later by these samples [b, m]: sincs of 81 taps, as long as pyroomacoustics'."""
    places = np.arange(-40, 41)
    out = np.zeros_like(rirs)
    for b, m in np.argwhere(rirs.any(axis=-1)):
        times = places - delays[b, m]
        inside = np.sqrt(np.maximum(1 - (times / 40.5) ** 2, 0))
        kernel = np.sinc(times) * np.i0(8.0 * inside) / np.i0(8.0)
        whole = np.convolve(rirs[b, m].astype(np.float64), kernel)
        out[b, m] = whole[40 : 40 + rirs.shape[-1]]
    return out


def images_reference(
    room: RoomSpec,
    source: np.ndarray,
    mic: np.ndarray,
    taps: int,
    lead: float,
    max_order: int | None = None,
) -> np.ndarray:
    """Slow exact float64 RIR [taps] to one mic [3], for tests; walls with one absorption each.

    The image sum of Allen and Berkley (JASA 65, 1979) evaluated in the frequency domain: every
    image is a pure delay, band-limited to the sampling rate. Raises InputError for walls whose
    absorption depends on frequency. Images arriving after the last tap are left out.
    """
    absorption = room.absorption
    if np.any(np.ptp(absorption, axis=1) > 0):
        raise InputError("images_reference needs walls with one absorption for all frequencies")
    beta = np.sqrt(1 - absorption[:, 0]).reshape(3, 2)
    horizon = (taps - lead) / SAMPLE_RATE * SPEED_OF_SOUND
    axes = []
    for axis in range(3):
        side, count = room.dimensions[axis], math.ceil(horizon / room.dimensions[axis]) + 1
        images = []
        for copy, mirrored in itertools.product(range(-count, count + 1), (0, 1)):
            # Allen and Berkley's (q, n): the image at (1 - 2 q) s + 2 n L met the wall at 0
            # |n - q| times and the wall at L |n| times.
            position = (1 - 2 * mirrored) * float(source[axis]) + 2 * copy * side
            gain = beta[axis, 0] ** abs(copy - mirrored) * beta[axis, 1] ** abs(copy)
            images.append((position - float(mic[axis]), gain, abs(copy - mirrored) + abs(copy)))
        axes.append(np.array(images))
    size = 2 * taps
    radians = 2 * np.pi * np.arange(size // 2 + 1) / size
    spectrum = np.zeros(size // 2 + 1, complex)
    for dx, gain_x, order_x in axes[0]:
        square = dx**2 + axes[1][:, 0, None] ** 2 + axes[2][None, :, 0] ** 2
        orders = order_x + axes[1][:, 2, None] + axes[2][None, :, 2]
        near = square < horizon**2
        if max_order is not None:
            near &= orders <= max_order
        distance = np.sqrt(square[near])
        gain = (gain_x * axes[1][:, 1, None] * axes[2][None, :, 1])[near] / distance
        delay = distance / SPEED_OF_SOUND * SAMPLE_RATE + lead
        for start in range(0, len(delay), 512):
            part = slice(start, start + 512)
            spectrum += np.exp(-1j * np.outer(radians, delay[part])) @ gain[part]
    return np.fft.irfft(spectrum, size)[:taps]

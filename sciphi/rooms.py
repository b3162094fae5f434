# SPDX-License-Identifier: Apache-2.0
"""Rooms of scenes: a microphone, 64 places spread over directions, and the responses between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from sciphi.records import FOA_RATE, MAX_C50
from spatial_core.audio import ambisonics, levels
from spatial_core.data.seeds import generator
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian, to_spherical
from spatial_core.sim.ambisonic import AmbisonicSimulator
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomConfig, RoomSpec, sample_room

MEASURED_HZ = 100.0
"""Reverberation and clarity are measured above it."""


def _paper_rooms() -> RoomConfig:
    return RoomConfig(
        min_dimensions=(4.0, 4.0, 3.0),
        max_dimensions=(25.0, 25.0, 6.0),
        min_rt60=0.15,
        max_rt60=1.4,
        rt60_scale=np.inf,
    )


@dataclass(frozen=True)
class FoaRoomConfig:
    """What rooms are drawn from.

    rooms: sides, materials and reverberation times; 4 x 4 x 3 to 25 x 25 x 6 m as in Sci-Phi (arXiv
    2510.05542). positions: places of sources a room, spread over the sphere. mic_margin,
    source_margin: metres from the walls. min_distance: metres from the microphone; places lie between
    it and the wall. simulator: of the responses. Raises InputError where places would not fit.
    """

    rooms: RoomConfig = field(default_factory=_paper_rooms)
    positions: int = 64
    mic_margin: float = 1.0
    source_margin: float = 0.3
    min_distance: float = 0.5
    simulator: AmbisonicSimulator = field(
        default_factory=lambda: AmbisonicSimulator(rate=FOA_RATE, thinning=3e-5)
    )

    def __post_init__(self) -> None:
        if not 1 <= self.positions <= 1024:
            raise InputError(f"positions={self.positions}: choose 1 to 1024 places a room")
        if not 0 < self.source_margin + self.min_distance <= self.mic_margin:
            raise InputError(
                f"mic_margin={self.mic_margin} m is less than source_margin={self.source_margin} and "
                f"min_distance={self.min_distance} together: between microphone and wall there would "
                "be no place for a source"
            )
        if 2 * self.mic_margin >= min(self.rooms.min_dimensions):
            raise InputError(
                f"mic_margin={self.mic_margin} m leaves no place for a microphone in the smallest "
                f"room, {self.rooms.min_dimensions} m"
            )
        if self.simulator.rate != FOA_RATE:
            raise InputError(
                f"the simulator's rate is {self.simulator.rate}: scenes need {FOA_RATE}"
            )


@dataclass(frozen=True, eq=False)
class FoaRoom:
    """A room, its microphone, and n places with their responses.

    receiver [3] metres and yaw degrees: where the microphone stands in the room and how far its
    front is turned. azimuth, elevation, distance [n]: of the places, in the microphone's own frame.
    rirs float32 [n, 4, taps] ACN/SN3D in that frame, an arrival after d seconds at d * 24000.
    rt60: seconds, mean over the places of what is measured on W above 100 Hz. c50 [n]: dB, of the same.
    """

    spec: RoomSpec
    receiver: NDArray[np.float64]
    yaw: float
    azimuth: NDArray[np.float64]
    elevation: NDArray[np.float64]
    distance: NDArray[np.float64]
    rirs: NDArray[np.float32]
    rt60: float
    c50: NDArray[np.float64]


def make_room(config: FoaRoomConfig, seed: int, split: str, index: int) -> FoaRoom:
    """Room `index` of a seed and a split: a pure function of its arguments."""
    rng = generator(seed, split, "room", index)
    spec = sample_room(rng, config.rooms)
    sides = np.array(spec.dimensions)
    receiver = rng.uniform(config.mic_margin, sides - config.mic_margin)
    yaw = float(rng.uniform(-180, 180))
    unit = spread_directions(rng, config.positions)
    farthest = _until_wall(unit, receiver, sides, config.source_margin)
    # As many places in each part of a cone's cross-section: evenly drawn, most would be near.
    share = np.sqrt(rng.uniform(size=config.positions))
    distance = config.min_distance + (farthest - config.min_distance) * share
    places = receiver + unit * distance[:, None]
    seeds = [int(each) for each in rng.integers(0, 2**63, config.positions)]
    rirs = config.simulator.simulate(spec, places, receiver, seeds)[..., config.simulator.lead :]
    # The room turns the other way in the frame of a microphone that turns.
    rirs = ambisonics.rotate(rirs, yaw=-yaw)
    azimuth, elevation, _ = to_spherical(unit @ ambisonics.rotation(-yaw).T)
    # Images only ever add up: at the lowest frequencies they are more than a room has.
    above = scipy.signal.butter(2, MEASURED_HZ, "high", fs=FOA_RATE, output="sos")
    heard = scipy.signal.sosfilt(above, rirs[:, 0].astype(np.float64))
    direct = np.rint(distance / SPEED_OF_SOUND * FOA_RATE)
    c50 = np.minimum(levels.c50(heard, FOA_RATE, direct), MAX_C50)
    rt60 = float(np.mean(levels.measure_rt60(heard, FOA_RATE)))
    return FoaRoom(spec, receiver, yaw, azimuth, elevation, distance, rirs, rt60, c50)


def spread_directions(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Unit vectors [count, 3] spread evenly over the sphere: a Fibonacci lattice turned at random."""
    steps = np.arange(count) + 0.5
    elevation = np.degrees(np.arcsin(1 - 2 * steps / count))
    azimuth = np.degrees(np.pi * (1 + 5**0.5)) * steps
    lattice = to_cartesian(azimuth, elevation)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return lattice @ turn.T


def _until_wall(
    unit: NDArray[np.float64],
    origin: NDArray[np.float64],
    sides: NDArray[np.float64],
    margin: float,
) -> NDArray[np.float64]:
    """Metres [n] along unit [n, 3] from the origin until `margin` metres before a wall."""
    room = np.where(unit > 0, sides - margin - origin, origin - margin)
    with np.errstate(divide="ignore"):
        return np.min(room / np.abs(unit), axis=1)

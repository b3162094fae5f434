# SPDX-License-Identifier: Apache-2.0
"""Rooms of scenes: places, frames, and what is measured on their responses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.signal

from sciphi.records import FOA_RATE
from sciphi.rooms import FoaRoom, FoaRoomConfig, make_room, spread_directions
from spatial_core.audio import ambisonics, levels
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, to_cartesian
from spatial_core.sim.rooms import RoomConfig

CONFIG = FoaRoomConfig()


@pytest.fixture(scope="module")
def rooms() -> list[FoaRoom]:
    return [make_room(CONFIG, 0, "train", index) for index in range(3)]


def test_places_lie_in_the_room_at_their_distance_and_direction(rooms: list[FoaRoom]) -> None:
    for room in rooms:
        sides = np.array(room.spec.dimensions)
        assert np.all((sides >= [4, 4, 3]) & (sides <= [25, 25, 6]))
        unit = to_cartesian(room.azimuth, room.elevation) @ ambisonics.rotation(room.yaw).T
        places = room.receiver + unit * room.distance[:, None]
        assert np.all((places >= 0.3 - 1e-9) & (places <= sides - 0.3 + 1e-9))
        assert room.distance.min() >= 0.5
        assert room.rirs.shape[:2] == (64, 4)


def test_the_first_sound_comes_from_where_the_place_is(rooms: list[FoaRoom]) -> None:
    """In rooms, the first millisecond: a reflection may come that soon, so not for every place."""
    for room in rooms:
        error = []
        for n, rir in enumerate(room.rirs):
            direct = round(room.distance[n] / 343 * FOA_RATE)
            heard = rir[:, max(direct - 16, 0) : direct + 17]
            found = ambisonics.intensity_direction(heard)
            error.append(great_circle(*found, room.azimuth[n], room.elevation[n]))
        assert np.median(error) < 2
        assert np.percentile(error, 80) < 10


def test_what_is_measured_agrees_with_the_walls_and_the_responses(rooms: list[FoaRoom]) -> None:
    for room in rooms:
        # Measured where sound decays in two slopes: up to twice what the mean slope gives.
        assert 0.5 < room.rt60 / room.spec.decay().rt60() < 2.2
        # Clarity falls with distance.
        assert np.corrcoef(np.log(room.distance), room.c50)[0, 1] < -0.5
        n = int(np.argmin(room.distance))
        above = scipy.signal.butter(2, 100, "high", fs=FOA_RATE, output="sos")
        heard = scipy.signal.sosfilt(above, room.rirs[n, 0])
        # The nearest place, whose direct sound is the strongest
        assert room.c50[n] == pytest.approx(levels.c50(heard, FOA_RATE), abs=0.3)


def test_a_room_is_a_pure_function_of_its_address(rooms: list[FoaRoom]) -> None:
    again = make_room(CONFIG, 0, "train", 2)
    np.testing.assert_array_equal(again.rirs, rooms[2].rirs)
    assert again.spec == rooms[2].spec and again.rt60 == rooms[2].rt60
    for seed, split, index in ((1, "train", 2), (0, "test", 3), (0, "train", 4)):
        assert make_room(CONFIG, seed, split, index).spec != rooms[2].spec


def test_directions_are_spread_over_the_sphere() -> None:
    """64 evenly packed points are some 26 degrees apart; random ones come as near as 3."""
    unit = spread_directions(np.random.default_rng(0), 64)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    cosine = unit @ unit.T - 2 * np.eye(64)
    assert np.degrees(np.arccos(cosine.max())) > 18
    assert np.linalg.norm(unit.mean(axis=0)) < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": 0}, "positions=0"),
        ({"mic_margin": 0.6}, "no place for a source"),
        ({"mic_margin": 1.5}, "no place for a microphone"),
        ({"rooms": RoomConfig(min_dimensions=(4.0, 4.0, 2.0))}, "no place for a microphone"),
        ({"simulator": dataclasses.replace(CONFIG.simulator, rate=16_000)}, "24000"),
    ],
)
def test_impossible_rooms_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FoaRoomConfig(**change)

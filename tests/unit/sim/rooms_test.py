# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.sim.rooms import (
    MATERIALS,
    RoomConfig,
    RoomSpec,
    band_absorption,
    sample_room,
)

OFFICE = RoomSpec(
    (6.0, 4.5, 2.7),
    ("brickwork", "glass_window", "plasterboard", "wood_16mm", "carpet_thin", "gypsum_board"),
)


def test_materials_are_those_of_pyroomacoustics() -> None:
    from pyroomacoustics.parameters import materials_data

    known = {
        name: entry["coeffs"]
        for group in materials_data["absorption"].values()
        for name, entry in group.items()
    }
    keys = {
        "smooth_brickwork": "smooth_brickwork_10mm_pointing",
        "ceiling_fibre": "ceiling_fibre_absorber",
        "mineral_wool": "mineral_wool_50mm_40kgm3",
    }
    assert len(MATERIALS) == 13
    for name, values in MATERIALS.items():
        theirs = known[keys.get(name, name)]
        padded = list(theirs) + [theirs[-1]] * (7 - len(theirs))
        np.testing.assert_allclose(values, padded)


def test_bands_average_their_octaves() -> None:
    octaves = OFFICE.absorption
    bands = band_absorption(octaves)
    np.testing.assert_allclose(bands[:, 0], octaves[:, :3] @ [0.25, 0.25, 0.5])
    np.testing.assert_allclose(bands[:, 1:3], octaves[:, 3:5])
    np.testing.assert_allclose(bands[:, 3], octaves[:, 5:].mean(axis=1))


def test_eyring_time_is_that_of_pyroomacoustics() -> None:
    from pyroomacoustics.acoustics import rt60_eyring

    room = RoomSpec((6.0, 4.5, 2.7), (0.2,) * 6)
    theirs = rt60_eyring(room.wall_areas.sum(), room.volume, 0.2, 0.0, 343.0)
    assert room.eyring_rt60() == pytest.approx(theirs, rel=1e-6)


def test_equal_cubic_walls_decay_between_eyring_and_twice_eyring() -> None:
    # A cube with equal walls is the most diffuse shoebox; even there images along the diagonals
    # meet more walls than those along the axes, so it rings a little longer than Eyring says.
    room = RoomSpec((4.0, 4.0, 4.0), (0.3,) * 6)
    assert 1.0 < room.decay().rt60() / room.eyring_rt60() < 1.5


def test_decay_time_solves_the_sum_of_exponentials() -> None:
    decay = OFFICE.decay()
    for level in (-5.0, -25.0, -60.0):
        reached = 10 * math.log10(decay.remaining(decay.time_at(level)))
        assert reached == pytest.approx(level, abs=0.02)
    assert decay.remaining(0.0) == pytest.approx(1.0)


def test_sampled_rooms_have_the_published_reverberation() -> None:
    rng = np.random.default_rng(1)
    rooms = [sample_room(rng) for _ in range(800)]
    times = np.array([room.decay().rt60() for room in rooms])
    sides = np.array([room.dimensions for room in rooms])
    assert times.mean() == pytest.approx(0.47, abs=0.05)
    assert 0.08 <= times.min() and times.max() <= 1.42
    assert np.all(sides <= [10.5, 10.5, 5.0]) and np.all(sides >= [2.5, 2.5, 2.2])
    assert {m for room in rooms for m in room.materials} == set(MATERIALS)


def test_lower_limit_of_reverberation_is_kept() -> None:
    rng = np.random.default_rng(2)
    times = [sample_room(rng, RoomConfig(max_rt60=0.3)).decay().rt60() for _ in range(50)]
    assert max(times) <= 0.3


@pytest.mark.parametrize(
    ("dimensions", "materials", "what"),
    [
        ((4.0, 5.0, -2.0), (0.3,) * 6, "three sides"),
        ((4.0, float("nan"), 2.0), (0.3,) * 6, "three sides"),
        ((4000.0, 5000.0, 2500.0), (0.3,) * 6, "three sides"),
        ((4.0, 5.0, 2.5), (0.3,) * 5, "six walls"),
        ((4.0, 5.0, 2.5), ("velvet",) + (0.3,) * 5, "unknown material 'velvet'"),
        ((4.0, 5.0, 2.5), (1.3,) + (0.3,) * 5, "not within 0..1"),
    ],
)
def test_impossible_rooms_are_refused(dimensions, materials, what) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=what):
        RoomSpec(dimensions, materials)


def test_unreachable_limits_are_refused() -> None:
    with pytest.raises(InputError, match="no RT60"):
        sample_room(np.random.default_rng(0), RoomConfig(min_rt60=1.3, materials=("mineral_wool",)))
    with pytest.raises(InputError, match="unknown material"):
        RoomConfig(materials=("velvet",))
    with pytest.raises(InputError, match="need low < high"):
        RoomConfig(min_rt60=0.5, max_rt60=0.4)

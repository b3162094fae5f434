# SPDX-License-Identifier: Apache-2.0
"""Ambisonic room responses against the plain sum over image sources, and by their direction."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.signal
from numpy.typing import NDArray

from spatial_core.audio import ambisonics
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, to_cartesian
from spatial_core.sim.ambisonic import AmbisonicSimulator
from spatial_core.sim.rooms import RoomSpec

ROOM = RoomSpec((4.0, 6.0, 3.0), (0.5, 0.6, 0.4, 0.5, 0.7, 0.6))
EAR = np.array([1.7, 2.9, 1.3])
SOURCE = np.array([3.1, 1.2, 1.9])


def image_sum(
    room: RoomSpec, source: NDArray, ear: NDArray, hertz: NDArray, metres: float
) -> NDArray:
    """Response [4, k] of all images within `metres`: Allen and Berkley's sum, float64, with the
    directions of ACN/SN3D."""
    beta = np.sqrt(1 - room.absorption[:, 0]).reshape(3, 2)
    sides = np.array(room.dimensions)
    reach = [range(-int(metres / side) - 2, int(metres / side) + 3) for side in sides]
    response = np.zeros((4, len(hertz)), complex)
    for copy in product(*reach):
        for mirrored in product((0, 1), repeat=3):
            n, q = np.array(copy), np.array(mirrored)
            place = (1 - 2 * q) * source + 2 * n * sides - ear
            distance = np.linalg.norm(place)
            if distance < metres:
                gain = np.prod(beta[:, 0] ** np.abs(n - q) * beta[:, 1] ** np.abs(n)) / distance
                x, y, z = place / distance
                wave = gain * np.exp(-2j * np.pi * hertz * distance / 343.0)
                response += np.array([1, y, z, x])[:, None] * wave
    return response


def test_a_room_is_the_sum_of_its_images() -> None:
    """Every image of 80 ms, in every channel, below 6 kHz (the delay filters end above)."""
    simulator = AmbisonicSimulator(max_seconds=0.08, decay_db=120, thinning=0)
    rirs = simulator.simulate(ROOM, SOURCE[None], EAR, [0])
    taps = rirs.shape[-1]
    hertz = np.linspace(200, 6000, 40)
    times = (np.arange(taps) - simulator.lead) / simulator.rate
    found = rirs[0] @ np.exp(-2j * np.pi * np.outer(times, hertz))
    metres = taps / simulator.rate * 343.0
    expected = image_sum(ROOM, SOURCE, EAR, hertz, metres - 64 / 24_000 * 343.0 / 2)
    # Images in the last milliseconds are cut differently; filters ripple by 3e-4.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_the_direct_sound_has_its_direction_level_and_time_in_the_free_field() -> None:
    free = RoomSpec((20.0, 20.0, 20.0), (1.0,) * 6)
    rng = np.random.default_rng(0)
    azimuth = rng.uniform(-180, 180, 24)
    elevation = np.degrees(np.arcsin(rng.uniform(-1, 1, 24)))
    centre = np.array([10.0, 10.0, 10.0])
    places = centre + 3.0 * to_cartesian(azimuth, elevation)
    simulator = AmbisonicSimulator()
    rirs = simulator.simulate(free, places, centre, range(24))
    found = ambisonics.intensity_direction(rirs)
    assert great_circle(*found, azimuth, elevation).max() < 0.1
    np.testing.assert_allclose(rirs[:, 0].sum(axis=-1), 1 / 3, rtol=1e-3)
    peak = np.abs(rirs[:, 0]).argmax(axis=-1)
    np.testing.assert_allclose(peak, 3.0 / 343 * 24_000 + simulator.lead, atol=1)


def test_mirroring_a_room_mirrors_what_is_heard() -> None:
    """Another check of the axes, which the simulator orders by the room's sides."""
    simulator = AmbisonicSimulator(max_seconds=0.1, thinning=0)
    mirror = np.array([1.0, -1.0, 1.0])
    sides = np.array(ROOM.dimensions)
    names = list(ROOM.materials)
    swapped = RoomSpec(ROOM.dimensions, (*names[:2], names[3], names[2], *names[4:]))

    def across(place: NDArray) -> NDArray:
        return np.array([0, sides[1], 0]) + mirror * place

    here = simulator.simulate(ROOM, SOURCE[None], EAR, [3])[0]
    there = simulator.simulate(swapped, across(SOURCE)[None], across(EAR), [3])[0]
    scale = np.abs(here).max()
    np.testing.assert_allclose(there * [[1], [-1], [1], [1]], here, atol=1e-3 * scale)


def test_thinning_keeps_the_energy_and_the_reverberation() -> None:
    room = RoomSpec((8.0, 6.0, 3.5), (0.25,) * 6)
    places = np.random.default_rng(1).uniform(0.5, [7.5, 5.5, 3.0], (32, 3))
    ear = np.array([3.3, 2.8, 1.5])
    whole, thin = (
        AmbisonicSimulator(thinning=thinning).simulate(room, places, ear, range(32))
        for thinning in (0.0, 1e-4)
    )
    # Images only ever add up: at the lowest frequencies all of them are louder than chance.
    above = scipy.signal.butter(4, 500, "high", fs=24_000, output="sos")
    late = [scipy.signal.sosfilt(above, each)[:, :, 2400:] for each in (whole, thin)]
    energy = [np.square(each).sum(axis=(0, 2)) for each in late]
    # 0.5 dB: 32 responses of some thousand late arrivals each
    np.testing.assert_allclose(10 * np.log10(energy[0] / energy[1]), 0, atol=0.5)


def test_sources_do_not_depend_on_each_other() -> None:
    places = np.array([SOURCE, SOURCE + 0.4])
    simulator = AmbisonicSimulator(max_seconds=0.2)
    both = simulator.simulate(ROOM, places, EAR, [7, 8])
    alone = simulator.simulate(ROOM, places[1:], EAR, [8])
    common = min(both.shape[-1], alone.shape[-1]) - 100
    np.testing.assert_array_equal(both[1, :, :common], alone[0, :, :common])


def test_impossible_places_are_refused() -> None:
    simulator = AmbisonicSimulator()
    with pytest.raises(InputError, match="a source"):
        simulator.simulate(ROOM, np.array([[9.0, 1, 1]]), EAR, [0])
    with pytest.raises(InputError, match="the microphone"):
        simulator.simulate(ROOM, SOURCE[None], np.array([1.0, 1, 5]), [0])
    with pytest.raises(InputError, match="1 mm"):
        simulator.simulate(ROOM, EAR[None], EAR, [0])
    with pytest.raises(InputError, match="seeds"):
        simulator.simulate(ROOM, SOURCE[None], EAR, [0, 1])
    for wrong in ({"rate": 10}, {"max_seconds": 0}, {"thinning": 1.0}):
        with pytest.raises(InputError, match="choose"):
            AmbisonicSimulator(**wrong)

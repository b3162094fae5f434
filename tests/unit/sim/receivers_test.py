# SPDX-License-Identifier: Apache-2.0
"""Directivity, air and displaced images of the JAX simulator, by physics."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, to_cartesian, to_spherical
from spatial_core.sim import receivers
from spatial_core.sim.air import Air
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.rooms import RoomSpec

FREE = RoomSpec((20.0, 20.0, 20.0), (1.0,) * 6)
CENTRE = np.array([10.0, 10.0, 10.0])
SIMULATOR = JaxSimulator(taps=512, late_images=0)
EAR = np.array([3.1, 2.2, 1.4])
SOURCE = np.array([1.2, 1.5, 1.1])


def directions(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


def amplitude(rir: np.ndarray) -> np.ndarray:
    """Signed level of the arrivals in [..., t]: the filters have unit gain at 0 Hz."""
    return rir.sum(axis=-1)


@pytest.mark.parametrize("omni_share", [1.0, 0.5, 0.25, 0.0])
def test_cardioid_family_has_its_gain_at_every_angle(omni_share: float) -> None:
    looking = to_cartesian(35.0, 20.0)
    pattern = receivers.cardioid(looking, omni_share)[None]
    for azimuth, elevation in zip(*directions(8)):
        source = CENTRE + 2.0 * to_cartesian(azimuth, elevation)
        rir = SIMULATOR.simulate(FREE, source, CENTRE[None], 0, patterns=pattern)
        cosine = np.cos(np.radians(great_circle(azimuth, elevation, 35.0, 20.0)))
        # 3e-4: the ripple of the delay filter at 0 Hz.
        assert 2.0 * amplitude(rir)[0] == pytest.approx(
            omni_share + (1 - omni_share) * cosine, abs=3e-4
        )


def test_ambisonic_channels_are_acn_sn3d_and_point_to_the_source() -> None:
    positions, patterns = receivers.ambisonic(CENTRE)
    for azimuth, elevation in zip(*directions(12, seed=1)):
        source = CENTRE + 2.5 * to_cartesian(azimuth, elevation)
        rirs = SIMULATOR.simulate(FREE, source, positions, 0, patterns=patterns)
        w, y, z, x = 2.5 * amplitude(rirs)
        a, e = np.radians(azimuth), np.radians(elevation)
        expected = (1.0, np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e))
        np.testing.assert_allclose((w, y, z, x), expected, atol=3e-4)
        # Active intensity: the mean of pressure times particle velocity.
        intensity = np.array([np.sum(rirs[0] * rirs[n]) for n in (3, 1, 2)])
        found = to_spherical(intensity)[:2]
        assert great_circle(*found, azimuth, elevation) < 0.1


def test_intensity_of_a_room_points_to_the_source_at_first() -> None:
    room = RoomSpec((5.0, 4.0, 2.8), (0.3,) * 6)
    positions, patterns = receivers.ambisonic(EAR)
    rirs = SIMULATOR.simulate(room, SOURCE, positions, 0, patterns=patterns)
    delay = np.linalg.norm(SOURCE - EAR) / 343 * 16000
    direct = rirs[:, : int(delay) + 2 * SIMULATOR.lead]
    found = to_spherical(np.array([np.sum(direct[0] * direct[n]) for n in (3, 1, 2)]))
    assert great_circle(*found[:2], *to_spherical(SOURCE - EAR)[:2]) < 2


def first_order_sum(pattern: np.ndarray, facing: np.ndarray, share: float) -> float:
    """Sum of signed amplitudes of the images up to order one, each with both directivities."""
    room, reflection = np.array([5.0, 4.0, 2.8]), np.sqrt(0.7)
    total = 0.0
    for cell in product((-1, 0, 1), repeat=3):
        if np.abs(cell).sum() > 1:
            continue
        image, mirrored = SOURCE.copy(), facing.copy()
        for axis, k in enumerate(cell):
            if k:
                image[axis] = -SOURCE[axis] if k < 0 else 2 * room[axis] - SOURCE[axis]
                mirrored[axis] *= -1
        path = EAR - image
        distance = np.linalg.norm(path)
        heard = pattern[0] + pattern[[3, 1, 2]] @ (-path / distance)
        sent = share + (1 - share) * (mirrored @ path) / distance
        total += reflection ** np.abs(cell).sum() * heard * sent / distance
    return total


def test_images_radiate_the_mirrored_pattern_of_the_source() -> None:
    room = RoomSpec((5.0, 4.0, 2.8), (0.3,) * 6)
    simulator = replace(SIMULATOR, taps=1024, max_order=1)
    rng = np.random.default_rng(2)
    for share in (0.5, 0.0):
        facing = to_cartesian(*(rng.uniform(-80, 80, 2)))
        pattern = receivers.cardioid(rng.standard_normal(3), 0.4)
        rir = simulator.simulate(
            room, SOURCE, EAR[None], 0,
            patterns=pattern[None], emission=receivers.cardioid(facing, share),
        )  # fmt: skip
        expected = first_order_sum(pattern.astype(float), facing, share)
        assert amplitude(rir)[0] == pytest.approx(expected, abs=1e-3)


def test_a_source_that_faces_away_sounds_less_direct_and_as_late() -> None:
    room = RoomSpec((5.0, 4.0, 2.8), (0.2,) * 6)
    simulator = JaxSimulator(taps=4000, max_images=1024, late_images=512)
    toward = EAR - SOURCE
    rirs = [
        simulator.simulate(room, SOURCE, EAR[None], 0, emission=receivers.cardioid(way))[0]
        for way in (toward, -toward)
    ]
    start = int(np.linalg.norm(toward) / 343 * 16000)
    direct = [np.sum(rir[start : start + 30] ** 2) for rir in rirs]
    assert direct[1] < 1e-6 * direct[0]
    late = [np.sum(np.diff(rir[1600:]) ** 2) for rir in rirs]
    assert abs(10 * np.log10(late[0] / late[1])) < 1.5
    # A cardioid radiates a third of an omni's power at the same level ahead.
    omni = np.sum(np.diff(simulator.simulate(room, SOURCE, EAR[None], 0)[0][1600:]) ** 2)
    assert 10 * np.log10(np.mean(late) / omni) == pytest.approx(10 * np.log10(1 / 3), abs=1.5)


def test_omni_patterns_change_nothing() -> None:
    room = RoomSpec((5.0, 4.0, 2.8), (0.3,) * 6)
    mics = EAR + np.array([[0, 0, 0], [0.05, 0, 0]])
    plain = SIMULATOR.simulate(room, SOURCE, mics, 0)
    same = SIMULATOR.simulate(room, SOURCE, mics, 0, patterns=receivers.omni(2))
    np.testing.assert_allclose(same, plain, atol=1e-6)


def test_impossible_receivers_are_refused() -> None:
    with pytest.raises(InputError, match="omni_share"):
        receivers.cardioid(np.ones(3), 1.5)
    with pytest.raises(InputError, match="orientation"):
        receivers.cardioid(np.zeros(3))
    with pytest.raises(InputError, match="one point"):
        receivers.ambisonic(np.zeros((2, 3)))
    with pytest.raises(InputError, match="humidity"):
        Air(humidity=0)
    with pytest.raises(InputError, match="patterns"):
        SIMULATOR.simulate(FREE, CENTRE + 1, CENTRE[None], 0, patterns=np.ones((2, 4)))
    with pytest.raises(InputError, match="emission"):
        SIMULATOR.simulate(FREE, CENTRE + 1, CENTRE[None], 0, emission=np.ones(3))


def test_air_absorbs_as_the_standard_says() -> None:
    # ISO 9613-1:1993, table 1 (dB/km at 20 degrees, 50 and 20%), exact midband frequencies.
    frequency = 1000 * 10 ** (0.3 * np.arange(-3, 4))
    for humidity, decibels in (
        (50, (0.445, 1.32, 2.73, 4.66, 9.86, 29.4, 104)),
        (20, (0.712, 1.39, 2.60, 6.53, 21.5, 74.1, 215)),
    ):
        absorption = Air(20, humidity).absorption(frequency)
        np.testing.assert_allclose(absorption * 1e4 / np.log(10), decibels, rtol=0.01)


def test_air_dulls_the_far_field() -> None:
    room = RoomSpec((60.0, 12.0, 9.0), (1.0,) * 6)
    source, mic = np.array([4.0, 6.0, 4.0]), np.array([54.0, 6.0, 4.0])
    rirs = [
        JaxSimulator(taps=4000, late_images=0, air=air).simulate(room, source, mic[None], 0)[0]
        for air in (None, Air())
    ]
    frequency = np.fft.rfftfreq(4000, 1 / 16000)
    ratio = np.abs(np.fft.rfft(rirs[1])) / np.maximum(np.abs(np.fft.rfft(rirs[0])), 1e-9)
    bands = Air().band_absorption()
    for band, (low, high) in enumerate(((100, 300), (950, 1150), (1950, 2150), (4000, 7000))):
        got = ratio[(frequency >= low) & (frequency < high)].mean()
        # The bands' filters of 32 taps part them no more sharply than that.
        assert got == pytest.approx(np.exp(-0.5 * 50 * bands[band]), rel=0.02)
    assert bands[3] > 5 * bands[0]


def test_displacement_moves_reflections_and_not_the_source() -> None:
    room = RoomSpec((5.0, 4.0, 2.8), (0.3,) * 6)
    plain = replace(SIMULATOR, taps=2000)
    moved = replace(plain, displacement=0.08)
    a, b = (s.simulate(room, SOURCE, EAR[None], 3)[0] for s in (plain, moved))
    start = int(np.linalg.norm(SOURCE - EAR) / 343 * 16000)
    np.testing.assert_allclose(b[: start + 16], a[: start + 16], atol=1e-5)
    assert np.sum((a - b)[start + 40 :] ** 2) > 0.5 * np.sum(a[start + 40 :] ** 2)
    # An image keeps its shift when the source moves and when another number of images is summed.
    other = replace(moved, max_images=2048).simulate(room, SOURCE, EAR[None], 3)[0]
    np.testing.assert_allclose(other[:600], b[:600], atol=1e-5)
    assert not np.allclose(moved.simulate(room, SOURCE, EAR[None], 4)[0], b, atol=1e-3)

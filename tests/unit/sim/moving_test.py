# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.signal import fftconvolve

from spatial_core.errors import InputError
from spatial_core.sim import receivers
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.jax_moving import pack_motion, render_motion
from spatial_core.sim.moving import Trajectory, render_moving
from spatial_core.sim.rooms import RoomSpec

ROOM = RoomSpec((5.0, 4.0, 2.8), (0.3,) * 6)
HALL = RoomSpec((40.0, 20.0, 10.0), (1.0,) * 6)
MICS = np.array([[3.0, 2.0, 1.2], [3.1, 2.05, 1.25]])


def test_a_source_at_rest_is_the_convolution_with_its_response() -> None:
    simulator = JaxSimulator(taps=1500, max_images=512, late_images=128)
    dry = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    place = np.array([1.2, 1.1, 1.5])
    rirs = simulator.simulate(ROOM, place, MICS, 5)
    expected = fftconvolve(dry[None].astype(float), rirs.astype(float), axes=1)
    for trajectory, block in (
        (Trajectory(np.zeros(1), place[None]), None),
        (Trajectory(np.array([0.0, 1.0]), np.tile(place, (2, 1))), 100),
    ):
        heard = render_moving(simulator, ROOM, trajectory, MICS, dry, 5, block=block)
        assert heard.shape == expected.shape
        assert np.abs(heard - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("speed", [-6.0, 2.0, 9.0])
def test_moving_source_has_the_delay_level_and_doppler_shift_of_its_path(speed: float) -> None:
    simulator = JaxSimulator(taps=2000, late_images=0)
    seconds, tone = 0.5, 1500.0
    start = np.array([12.0, 10.0, 5.0])
    ends = np.stack([start, start + seconds * np.array([speed, 0, 0])])
    mics = np.array([[2.0, 10.0, 5.0], [2.1, 10.5, 5.2]])
    dry = np.sin(2 * np.pi * tone * np.arange(int(seconds * 16000)) / 16000)
    trajectory = Trajectory(np.array([0.0, seconds]), ends)
    heard = render_moving(simulator, HALL, trajectory, mics, dry, 0)
    times = (np.arange(2000, 7000) - simulator.lead) / 16000
    for mic, channel in zip(mics, heard):
        left = times.copy()  # when the sound that arrives at `times` left the source
        for _ in range(50):
            distance = np.linalg.norm(trajectory.at(left) - mic, axis=1)
            left = times - distance / 343
        # Wave crests that leave at even times arrive closer together or farther apart.
        radial = (trajectory.at(left) - mic)[:, 0] / distance * speed
        exact = np.sin(2 * np.pi * tone * left) / distance / (1 + radial / 343)
        error = np.sum((channel[2000:7000] - exact) ** 2) / np.sum(exact**2)
        assert 10 * np.log10(error) < -40
        spectrum = np.abs(np.fft.rfft(channel[2000:7000] * np.hanning(5000), 1 << 18))
        found = np.argmax(spectrum) * 16000 / (1 << 18)
        assert found == pytest.approx(np.mean(tone / (1 + radial / 343)), abs=0.6)


def test_random_reflections_stay_while_the_source_moves() -> None:
    simulator = JaxSimulator(taps=3000, max_images=512, late_images=256, displacement=0.08)
    places = np.array([[1.2, 1.1, 1.5], [1.203, 1.1, 1.5]])
    here, there = (simulator.simulate(ROOM, place, MICS, 1) for place in places)
    other = simulator.simulate(ROOM, places[0], MICS, 2)
    for part in (slice(200, 800), slice(1500, 3000)):
        # 3 mm are a seventh of a sample.
        like = np.corrcoef(here[0, part], there[0, part])[0, 1]
        assert like > 0.95 > np.corrcoef(here[0, part], other[0, part])[0, 1] + 0.2


def test_impossible_motion_is_refused() -> None:
    simulator = JaxSimulator(taps=500)
    for times, positions in (([0, 0], np.ones((2, 3))), ([0, 1], np.ones((3, 3)))):
        with pytest.raises(InputError, match="trajectory"):
            Trajectory(np.array(times), positions)
    away = Trajectory(np.array([0.0, 1.0]), np.array([[1.0, 1, 1], [9.0, 1, 1]]))
    with pytest.raises(InputError, match="not inside"):
        render_moving(simulator, ROOM, away, MICS, np.ones(16000), 0, block=4000)
    rest = Trajectory(np.zeros(1), np.ones((1, 3)))
    with pytest.raises(InputError, match="one finite channel"):
        render_moving(simulator, ROOM, rest, MICS, np.ones((2, 100)), 0)
    with pytest.raises(InputError, match="block"):
        render_moving(simulator, ROOM, rest, MICS, np.ones(100), 0, block=0)


def test_the_device_renders_what_the_host_does() -> None:
    simulator = JaxSimulator(taps=1000, max_images=512, late_images=64)
    walk = Trajectory(np.array([0.0, 0.05]), np.array([[1.2, 1.1, 1.5], [1.5, 1.3, 1.5]]))
    dry = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    positions, ambisonic = receivers.ambisonic(MICS[0])
    talker = receivers.cardioid(np.array([1.0, 0.5, 0.0]))
    render = jax.jit(render_motion, static_argnames="plan")
    for mics, directed, chunk in (
        (MICS, {}, 1),
        (positions, {"patterns": ambisonic, "emission": talker}, 4),
    ):
        expected = render_moving(simulator, ROOM, walk, mics, dry, 3, block=64, **directed)
        places, plan = pack_motion(
            simulator, ROOM, walk, mics, len(dry), 3, block=64, chunk=chunk, **directed
        )
        heard = render(places, dry, plan)
        assert heard.shape == expected.shape == (len(mics), 800 + 1000 - 1)
        assert np.abs(heard - expected).max() < 1e-5 * np.abs(expected).max()


def test_moving_source_through_directive_receivers_is_the_exact_wave() -> None:
    """In the free field, against the delayed wave with each pattern's gain, in float64."""
    simulator = JaxSimulator(taps=2000, max_images=512, late_images=0)
    seconds, tone, speed = 0.4, 1500.0, 6.0
    start = np.array([12.0, 10.0, 5.0])
    way = Trajectory(
        np.array([0.0, seconds]), np.stack([start, start + seconds * np.array([0, speed, 1.0])])
    )
    samples = int(seconds * 16000)
    dry = np.sin(2 * np.pi * tone * np.arange(samples) / 16000).astype(np.float32)
    middle = np.array([9.0, 10.5, 4.5])
    positions, ambisonic = receivers.ambisonic(middle)
    cardioid = receivers.cardioid(np.array([0.3, 1.0, 0.1]))
    mics, patterns = np.vstack([positions, middle]), np.vstack([ambisonic, cardioid])
    places, plan = pack_motion(simulator, HALL, way, mics, samples, 0, chunk=8, patterns=patterns)
    heard = np.asarray(jax.jit(render_motion, static_argnames="plan")(places, dry, plan))
    part = slice(1500, 5500)
    times = (np.arange(part.start, part.stop) - simulator.lead) / 16000
    left = times.copy()  # when the sound that arrives at `times` left the source
    for _ in range(50):
        vector = way.at(left) - middle
        distance = np.linalg.norm(vector, axis=1)
        left = times - distance / 343
    toward = vector / distance[:, None]
    radial = toward @ np.array([0, speed, 1.0])
    wave = np.sin(2 * np.pi * tone * left) / distance / (1 + radial / 343)
    for channel, pattern in zip(heard, patterns.astype(float)):
        exact = wave * (pattern[0] + toward @ pattern[[3, 1, 2]])
        error = np.sum((channel[part] - exact) ** 2) / np.sum(wave**2)
        assert 10 * np.log10(error) < -40


def test_impossible_renderings_are_refused() -> None:
    rest = Trajectory(np.zeros(1), np.ones((1, 3)))
    cardioid = receivers.cardioid(np.ones((2, 3)))
    with pytest.raises(InputError, match="FastSimulator is omnidirectional"):
        render_moving(FastSimulator(), ROOM, rest, MICS, np.ones(100), 0, patterns=cardioid)
    simulator = JaxSimulator(taps=500)
    with pytest.raises(InputError, match="samples=0"):
        pack_motion(simulator, ROOM, rest, MICS, 0, 0)
    with pytest.raises(InputError, match="patterns"):
        pack_motion(simulator, ROOM, rest, MICS, 100, 0, patterns=cardioid[:1])
    places, plan = pack_motion(simulator, ROOM, rest, MICS, 100, 0)
    with pytest.raises(InputError, match=r"for \[100\]"):
        render_motion(places, np.ones(99, np.float32), plan)

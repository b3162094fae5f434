# SPDX-License-Identifier: Apache-2.0
"""Steering by physics, and what the plus encoder promises about geometry."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasecoder import steering
from phasecoder.plus import PlusConfig
from phasecoder.task import PhaseCoderTask
from spatial_core.audio.stft import stft
from tests.unit.programs import quick

SMALL = PlusConfig(width=32, heads=2, head_width=16, hidden=32, blocks=2)
ELEVATIONS = SMALL.elevations


@functools.cache
def small_model():
    task = PhaseCoderTask(SMALL)
    return jax.jit(task.apply), task.init(jax.random.key(1))


def random_array(rng, microphones: int, radius: float = 0.08) -> np.ndarray:
    places = rng.normal(size=(microphones, 3))
    places *= radius / np.linalg.norm(places, axis=1, keepdims=True)
    return places - places.mean(axis=0)


def plane_wave(rng, positions, azimuth, elevation, samples: int = 4000, noise=0.0) -> np.ndarray:
    """Noise from a far direction, delayed exactly in the frequency domain."""
    az, el = np.radians(azimuth), np.radians(elevation)
    toward = np.array([np.cos(az) * np.cos(el), np.sin(az) * np.cos(el), np.sin(el)])
    length = 8192
    spectrum = np.fft.rfft(rng.normal(size=length))
    lead = positions @ toward / 343.0
    phase = np.exp(2j * np.pi * np.fft.rfftfreq(length, 1 / 16000) * lead[:, None])
    audio = np.fft.irfft(spectrum * phase)[:, 2000 : 2000 + samples]
    return (audio + noise * rng.normal(size=audio.shape)).astype(np.float32)


def as_batch(audio, positions) -> dict[str, np.ndarray]:
    return {
        "audio": np.asarray(audio, np.float32)[None],
        "mic_positions": np.asarray(positions, np.float32)[None],
        "mic_mask": np.ones((1, len(positions)), bool),
    }


def padded_to_16(batch) -> dict[str, np.ndarray]:
    """With microphones that are not there, so that one program serves all counts."""
    more = 16 - batch["mic_mask"].shape[1]
    return {
        "audio": np.pad(batch["audio"], ((0, 0), (0, more), (0, 0)), constant_values=0.2),
        "mic_positions": np.pad(batch["mic_positions"], ((0, 0), (0, more), (0, 0))),
        "mic_mask": np.pad(batch["mic_mask"], ((0, 0), (0, more))),
    }


@quick
def coherence_of(batch):
    phasor = steering.unit_phasors(stft(batch["audio"]), batch["mic_mask"])
    directions = jnp.asarray(steering.grid_directions(ELEVATIONS))
    return steering.steered_coherence(
        phasor, batch["mic_positions"], batch["mic_mask"], directions
    )[0]


def coherence(batch) -> np.ndarray:
    return np.asarray(coherence_of(padded_to_16(batch)))


@pytest.mark.parametrize("microphones", [2, 4, 8, 16])
def test_plane_wave_is_coherent_exactly_toward_its_source(microphones: int):
    rng = np.random.default_rng(microphones)
    positions = random_array(rng, microphones)
    found = coherence(as_batch(plane_wave(rng, positions, 40.0, 25.0), positions)).mean((1, 2))
    grid = found.reshape(steering.AZIMUTHS, len(ELEVATIONS))
    truth = grid[22, ELEVATIONS.index(25.0)]  # -180 + 22 * 10 = 40
    # 16 ms frames against delays below 0.5 ms: the framing costs a few percent of coherence.
    assert truth > 0.95
    assert truth >= found.max() - 0.01
    if microphones >= 4:
        assert np.unravel_index(grid.argmax(), grid.shape) == (22, ELEVATIONS.index(25.0))


def test_coherence_equals_a_direct_sum_over_pairs():
    rng = np.random.default_rng(0)
    positions = random_array(rng, 3)
    batch = as_batch(rng.normal(size=(3, 4000)), positions)
    x = np.asarray(stft(batch["audio"]))[0].astype(np.complex128)
    unit = x / np.abs(x)
    direction, band, segment = 100, 6, 3
    toward = steering.grid_directions(ELEVATIONS)[direction]
    total = []
    for k in steering.BAND_BINS[band]:
        for f in range(4 * segment, 4 * segment + 4):
            for i in range(3):
                for j in range(i + 1, 3):
                    delay = (positions[i] - positions[j]) @ toward / 343.0
                    steer = np.exp(-2j * np.pi * k * 62.5 * delay)
                    total.append((unit[i, f, k] * np.conj(unit[j, f, k]) * steer).real)
    assert coherence(batch)[direction, band, segment] == pytest.approx(np.mean(total), abs=1e-4)


def test_turn_polynomials_are_good_to_1e_6():
    turns = np.linspace(-30, 30, 40001).astype(np.float32)
    cosine, sine = jax.jit(steering.cos_sin_turns)(turns)
    exact = 2 * np.pi * turns.astype(np.float64)
    np.testing.assert_allclose(cosine, np.cos(exact), atol=2e-6)
    np.testing.assert_allclose(sine, np.sin(exact), atol=2e-6)


def test_permuting_microphones_with_their_channels_changes_nothing():
    rng = np.random.default_rng(2)
    positions = random_array(rng, 6)
    audio = plane_wave(rng, positions, -70.0, 10.0, noise=0.5)
    apply, params = small_model()
    order = rng.permutation(6)
    one = apply(params, as_batch(audio, positions))
    two = apply(params, as_batch(audio[order], positions[order]))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)


def test_same_answer_alone_or_padded_to_16():
    rng = np.random.default_rng(3)
    positions = random_array(rng, 4)
    batch = as_batch(plane_wave(rng, positions, 20.0, 0.0, noise=0.3), positions)
    apply, params = small_model()
    one, two = apply(params, batch), apply(params, padded_to_16(batch))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)


@pytest.mark.parametrize("steps", [1, 9, 20])
def test_turning_array_and_source_by_ring_steps_turns_the_posterior(steps: int):
    """Exact by construction, untrained weights included; other angles are measured in docs."""
    rng = np.random.default_rng(4)
    positions = random_array(rng, 5)
    audio = plane_wave(rng, positions, 33.0, -20.0, noise=0.3)
    angle = np.radians(10.0 * steps)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    apply, params = small_model()
    one = np.asarray(apply(params, as_batch(audio, positions))["sphere_logits"])[0]
    two = np.asarray(apply(params, as_batch(audio, positions @ turn.T))["sphere_logits"])[0]
    turned = np.roll(one[:-1].reshape(72, 17), 2 * steps, axis=0)
    np.testing.assert_allclose(two[:-1].reshape(72, 17), turned, atol=2e-3)


def test_recording_gain_changes_nothing_and_silence_is_finite():
    rng = np.random.default_rng(5)
    positions = random_array(rng, 4)
    audio = plane_wave(rng, positions, 100.0, 0.0, noise=0.1)
    apply, params = small_model()
    one = apply(params, as_batch(audio, positions))
    two = apply(params, as_batch(audio * 1e-3, positions))
    np.testing.assert_allclose(one["sphere_logits"], two["sphere_logits"], atol=1e-2)
    silent = apply(params, as_batch(np.zeros_like(audio), positions))
    assert all(np.all(np.isfinite(v)) for v in silent.values())


def test_gradients_are_finite_for_collinear_and_centred_microphones():
    rng = np.random.default_rng(6)
    positions = np.array([[-0.05, 0, 0], [0, 0, 0], [0.05, 0, 0]])
    batch = as_batch(plane_wave(rng, positions, 10.0, 0.0), positions)
    batch |= {
        "direct": batch["audio"][:, 0],
        "azimuth": np.array([10.0], np.float32),
        "elevation": np.array([90.0], np.float32),
        "distance": np.array([1.0], np.float32),
        "speech": np.array([True]),
    }
    task, (_, params) = PhaseCoderTask(SMALL), small_model()
    loss = quick(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0), True)[0]))
    grads = loss(params)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))

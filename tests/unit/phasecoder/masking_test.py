# SPDX-License-Identifier: Apache-2.0
"""The mask of direct sound: its target, its spatial cue, and that it can be learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from phasecoder import masking, steering
from spatial_core.audio.stft import stft
from spatial_core.nn.functional import Functional


def test_share_is_one_for_direct_sound_alone_and_falls_with_what_is_added():
    rng = np.random.default_rng(0)
    direct = rng.normal(size=(1, 4000)).astype(np.float32)
    other = rng.normal(size=(1, 4000)).astype(np.float32)
    alone = masking.direct_share(direct[:, None], direct)
    equal = masking.direct_share((direct + other)[:, None], direct)
    # The target's floor shows in the last frame, which holds almost nothing.
    np.testing.assert_allclose(alone, 1.0, atol=1e-4)
    # Two independent noises of one level: the share's distribution is symmetric about a half.
    assert abs(float(equal.mean()) - 0.5) < 0.02
    assert not masking.direct_share(other[:, None], np.zeros_like(direct)).any()


def test_cells_of_one_plane_wave_agree_and_noise_between_channels_does_not():
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(5, 3)) * 0.04
    lead = positions @ np.array([0.6, 0.8, 0.0]) / 343.0
    spectrum = np.fft.rfft(rng.normal(size=8192))
    phase = np.exp(2j * np.pi * np.fft.rfftfreq(8192, 1 / 16000) * lead[:, None])
    wave = np.fft.irfft(spectrum * phase)[None, :, 2000:6000].astype(np.float32)
    noise = rng.normal(size=(1, 5, 4000)).astype(np.float32)
    mask = np.ones((1, 5), bool)

    def mean_agreement(audio: np.ndarray) -> float:
        return float(masking.agreement(steering.unit_phasors(stft(audio), mask), mask).mean())

    # Framing costs the wave a few percent; independent phasors' mean over 33 frames has energy 1/33,
    # twice that with frames that overlap by half.
    assert mean_agreement(wave) > 0.9
    assert mean_agreement(noise) < 0.1


def test_local_coherence_averages_to_the_steered_coherence():
    rng = np.random.default_rng(2)
    audio = rng.normal(size=(2, 4, 4000)).astype(np.float32)
    positions = (rng.normal(size=(2, 4, 3)) * 0.05).astype(np.float32)
    mask = np.ones((2, 4), bool)
    phasor = steering.unit_phasors(stft(audio), mask)
    direction = np.array([[40.0, 20.0], [-100.0, -30.0]], np.float32)
    azimuth, elevation = np.radians(direction.T)
    unit = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        axis=-1,
    )[:, None]
    cells = steering.local_coherence(phasor, positions, mask, direction).mean(axis=(1, 3))
    whole = steering.steered_coherence(phasor, positions, mask, unit, segments=False)[:, 0, :, 0]
    # Phasors of very weak bins are shorter than 1, which one of the two forms counts: 1e-3 is that.
    np.testing.assert_allclose(cells, whole, atol=1e-3)


def test_a_mask_learns_which_frames_are_direct():
    """Speech-like bursts against weaker diffuse noise: a hundred steps beat the best constant."""
    rng = np.random.default_rng(3)
    mask = np.ones((16, 3), bool)

    def batch():
        burst = np.repeat(rng.uniform(size=(16, 10)) < 0.5, 400, axis=1)
        direct = rng.normal(size=(16, 4000)) * burst
        audio = direct[:, None] + 0.3 * rng.normal(size=(16, 3, 4000))
        return audio.astype(np.float32), direct.astype(np.float32)

    functional = Functional(lambda rngs: masking.DirectMask(32, 1, dtype=jnp.float32, rngs=rngs))
    params = functional.init(jax.random.key(0))
    optimizer = optax.adam(3e-3)

    def loss(params, audio, direct):
        spectrum = stft(audio)
        mono = jnp.mean(jnp.real(spectrum * jnp.conj(spectrum)), axis=1)
        logits = functional.bind(params)(mono, steering.unit_phasors(spectrum, mask), mask)
        target = masking.direct_share(audio, direct)
        floor = optax.sigmoid_binary_cross_entropy(
            jnp.log(target.mean() / (1 - target.mean())), target
        )
        return optax.sigmoid_binary_cross_entropy(logits, target).mean(), floor.mean()

    @jax.jit
    def step(params, state, audio, direct):
        (value, constant), grads = jax.value_and_grad(loss, has_aux=True)(params, audio, direct)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value, constant

    state = optimizer.init(params)
    for _ in range(100):
        params, state, value, constant = step(params, state, *batch())
    assert float(value) < 0.8 * float(constant)


def test_the_true_mask_finds_the_talker_beside_a_louder_noise():
    """Bursts from 40 degrees, 3 dB weaker than steady noise from -100: only the mask tells."""
    rng = np.random.default_rng(4)
    positions = rng.normal(size=(6, 3)) * 0.05
    positions -= positions.mean(axis=0)

    def wave(azimuth: float, envelope: np.ndarray) -> np.ndarray:
        toward = np.array([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth)), 0.0])
        spectrum = np.fft.rfft(rng.normal(size=8192) * envelope)
        lead = np.exp(
            2j * np.pi * np.fft.rfftfreq(8192, 1 / 16000) * (positions @ toward / 343.0)[:, None]
        )
        return np.fft.irfft(spectrum * lead)[:, 2000:6000]

    bursts = np.zeros(8192)
    bursts[2000:6000] = np.repeat([0.0, 1.0, 0.0, 0.0, 1.0], 800)
    talker, noise = wave(40.0, bursts), wave(-100.0, np.ones(8192))
    talker *= 10 ** (-3 / 20) * noise.std() / talker.std()
    audio = (talker + noise).astype(np.float32)[None]
    mask = np.ones((1, 6), bool)
    share = masking.direct_share(audio, talker[:1].astype(np.float32))
    coherence = steering.steered_coherence(
        steering.unit_phasors(stft(audio), mask),
        positions[None].astype(np.float32),
        mask,
        jnp.asarray(steering.grid_directions((0.0,))),
        (share**2)[:, None],
        segments=False,
    ).mean(axis=2)[0]
    plain, masked = steering.ring_azimuths()[np.asarray(coherence.argmax(axis=0))]
    assert (plain, masked) == (-100.0, 40.0)

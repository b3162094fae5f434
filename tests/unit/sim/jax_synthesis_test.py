# SPDX-License-Identifier: Apache-2.0
"""Synthesis on the device against full convolution and against the numpy synthesis."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import fftconvolve

from spatial_core.audio.stft import stft
from spatial_core.data.records import WINDOW
from spatial_core.errors import InputError
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.jax_synthesis import (
    convolve_window,
    mix,
    pack_levels,
    pack_scenes,
    sensor_noise,
    synthesize,
    synthesize_with_direct,
)
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes, vary_scene
from spatial_core.sim.synthesis import TARGET_RMS, synthesize_batch

SIMULATOR = JaxSimulator(taps=2500, max_images=512, late_images=256)
SAMPLES = SIMULATOR.taps - 1 + WINDOW
CROPS = 2
MICS = 6
_synthesize = jax.jit(synthesize, static_argnames="plan")
_full_scale = 32768.0


def scenes(config: SceneConfig, rooms: int = 3) -> tuple[list[SceneSpec], list[SceneSpec]]:
    """Scenes, and two variants of each."""
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng, config) for _ in range(rooms)]
    return drawn, [vary_scene(rng, spec, config) for spec in drawn for _ in range(CROPS)]


def crops(rooms: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Dry int16 speech and noise [rooms, CROPS, SAMPLES]."""
    rng = np.random.default_rng(1)
    shape = (2, rooms, CROPS, SAMPLES)
    speech, noise = (3000 * rng.standard_normal(shape)).astype(np.int16)
    return speech, noise


def numba_noise(specs: list[SceneSpec]) -> np.ndarray:
    """The noise that the numpy synthesis adds, before scaling: SplitMix64 of (seed, channel, sample)."""
    out = np.zeros((len(specs), MICS, WINDOW))
    with np.errstate(over="ignore"):
        for row, spec in enumerate(specs):
            count = np.arange(1, spec.num_mics * WINDOW + 1, dtype=np.uint64)
            z = np.uint64(spec.seed) + count * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            words = [(z >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)]
            total = sum(word.astype(np.float64) for word in words) - 131070
            scaled = total * math.sqrt(3 / (2.0**32 - 1))
            out[row, : spec.num_mics] = scaled.reshape(spec.num_mics, WINDOW)
    return out.astype(np.float32)


def test_window_equals_the_full_convolution() -> None:
    rng = np.random.default_rng(2)
    rirs = rng.standard_normal((2, 3, 700)).astype(np.float32)
    dry = rng.standard_normal((2, 2, 699 + WINDOW)).astype(np.float32)
    wet = jax.jit(convolve_window)(rirs, dry)
    assert wet.shape == (2, 2, 3, WINDOW)
    for r, k, m in np.ndindex(2, 2, 3):
        full = fftconvolve(dry[r, k].astype(float), rirs[r, m].astype(float))
        expected = full[699 : 699 + WINDOW]
        assert np.abs(wet[r, k, m] - expected).max() < 3e-6 * np.abs(expected).max()
    with pytest.raises(InputError, match="need 4699"):
        convolve_window(rirs, dry[..., 1:])


@pytest.mark.parametrize("gain_mismatch_db", [0.0, 2.0])
def test_same_responses_and_noise_give_the_same_audio_as_numpy(gain_mismatch_db: float) -> None:
    config = SceneConfig(
        max_mics=MICS, speech_dropout=0.3, distractor_dropout=0.3, gain_mismatch_db=gain_mismatch_db
    )
    drawn, specs = scenes(config, rooms=6)
    assert len({(spec.speech, spec.distractor) for spec in specs}) == 4
    speech, noise = crops(6)
    rirs, noise_rirs = simulate_scenes(SIMULATOR, drawn, MICS)
    dry = [x.reshape(-1, SAMPLES).astype(np.float32) / _full_scale for x in (speech, noise)]
    expected = synthesize_batch(
        specs, rirs, dry[0], dry[1], noise_rirs=noise_rirs, rir_index=np.repeat(np.arange(6), CROPS)
    )["audio"]
    wet, other = (
        convolve_window(r, d.reshape(6, CROPS, -1)).reshape(len(specs), MICS, WINDOW)
        for r, d in ((rirs, dry[0]), (noise_rirs, dry[1]))
    )
    audio = mix(wet, other, pack_levels(specs, MICS), numba_noise(specs))
    assert np.abs(audio - expected).max() < 5e-6 * np.abs(expected).max()


def test_one_program_from_int16_to_features_equals_the_parts() -> None:
    config = SceneConfig(max_mics=MICS, sensor_noise_db=None, speech_dropout=0.0)
    drawn, specs = scenes(config)
    speech, noise = crops()
    rooms, noise_rooms, plan = pack_scenes(SIMULATOR, drawn, MICS)
    levels = pack_levels(specs, MICS)
    features = jax.jit(lambda *a: stft(synthesize(*a, plan)))(
        rooms, noise_rooms, levels, speech, noise
    )
    assert features.shape == (len(specs), MICS, 33, 129)
    rirs, noise_rirs = simulate_scenes(SIMULATOR, drawn, MICS)
    expected = synthesize_batch(
        specs,
        rirs,
        speech.reshape(-1, SAMPLES) / _full_scale,
        noise.reshape(-1, SAMPLES) / _full_scale,
        noise_rirs=noise_rirs,
        rir_index=np.repeat(np.arange(3), CROPS),
    )["audio"]
    exact = stft(jnp.asarray(expected))
    assert np.abs(features - exact).max() < 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize("mismatch", [False, True])
def test_audio_and_direct_sound_are_those_of_the_numpy_synthesis(mismatch: bool) -> None:
    config = SceneConfig(max_mics=MICS, sensor_noise_db=None, speech_dropout=0.3)
    if mismatch:
        config = replace(config, gain_mismatch_db=1.0, phase_mismatch_deg=2.0)
    drawn, specs = scenes(config, rooms=6)
    assert 0 < sum(spec.speech for spec in specs) < len(specs)
    speech, noise = crops(6)
    speech[0, 0] = 0
    rooms, noise_rooms, plan = pack_scenes(SIMULATOR, drawn, MICS)
    assert plan.delayed == mismatch
    program = jax.jit(synthesize_with_direct, static_argnames="plan")
    audio, direct = program(rooms, noise_rooms, pack_levels(specs, MICS), speech, noise, plan)
    rirs, noise_rirs = simulate_scenes(SIMULATOR, drawn, MICS)
    expected = synthesize_batch(
        specs,
        rirs,
        speech.reshape(-1, SAMPLES) / _full_scale,
        noise.reshape(-1, SAMPLES) / _full_scale,
        noise_rirs=noise_rirs,
        rir_index=np.repeat(np.arange(6), CROPS),
    )
    for got, name in ((audio, "audio"), (direct, "direct")):
        wanted = expected[name]
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() < 5e-6 * np.abs(wanted).max()
    heard = np.array([spec.speech for spec in specs])
    heard[0] = False
    np.testing.assert_array_equal(np.asarray(direct).any(axis=1), heard)


def test_levels_are_those_of_the_scene() -> None:
    config = SceneConfig(max_mics=MICS, sensor_noise_db=(20.0, 20.0), distractor=False)
    drawn, specs = scenes(replace(config, speech_dropout=0.0))
    speech, _ = crops()
    rooms, noise_rooms, plan = pack_scenes(SIMULATOR, drawn, MICS)
    assert noise_rooms is None
    levels = pack_levels(specs, MICS)
    noisy = np.asarray(_synthesize(rooms, None, levels, speech, None, plan), np.float64)
    quiet = levels._replace(sensor_noise_db=np.full(len(specs), np.inf, np.float32))
    clean = np.asarray(_synthesize(rooms, None, quiet, speech, None, plan), np.float64)
    for row, spec in enumerate(specs):
        a, b = noisy[row, : spec.num_mics], clean[row, : spec.num_mics]
        rms = np.sqrt(np.mean(a**2))
        assert 20 * np.log10(rms / TARGET_RMS) == pytest.approx(spec.gain_db, abs=1e-3)
        rest = a - b * np.sum(a * b) / np.sum(b * b)
        # 4,000 samples of noise: its level is known to 0.1 dB.
        assert 10 * np.log10(np.mean(a**2) / np.mean(rest**2)) == pytest.approx(20, abs=0.3)
        assert np.abs(np.corrcoef(rest)[np.triu_indices(len(rest), 1)]).max() < 0.08
        assert not noisy[row, spec.num_mics :].any()


def test_silent_speech_gives_zeros_and_dropped_speech_gives_noise() -> None:
    drawn, specs = scenes(SceneConfig(max_mics=MICS, distractor=False, speech_dropout=0.0))
    specs[1] = replace(specs[1], speech=False)
    speech, _ = crops()
    speech[0, 0] = 0
    rooms, _, plan = pack_scenes(SIMULATOR, drawn, MICS)
    audio = np.asarray(_synthesize(rooms, None, pack_levels(specs, MICS), speech, None, plan))
    assert not audio[0].any() and audio[1, : specs[1].num_mics].any()
    assert np.isfinite(audio).all()


def test_noise_belongs_to_the_scene_and_not_to_the_batch() -> None:
    _, specs = scenes(SceneConfig(max_mics=MICS))
    whole = sensor_noise(pack_levels(specs, MICS), 100)
    part = sensor_noise(pack_levels(specs[2:4], MICS), 100)
    np.testing.assert_array_equal(whole[2:4], part)
    assert float(jnp.std(whole)) == pytest.approx(1, abs=0.03)


def test_too_many_microphones_are_refused() -> None:
    drawn, _ = scenes(SceneConfig(min_mics=8, max_mics=8))
    with pytest.raises(InputError, match="8 microphones"):
        pack_scenes(SIMULATOR, drawn, MICS)

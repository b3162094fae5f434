# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.signal import fftconvolve

from spatial_core.audio.levels import measure_rt60
from spatial_core.data.records import WINDOW, check_batch, find_bad_examples
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian
from spatial_core.sim import mixing
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import PyroomSimulator
from spatial_core.sim.rooms import RoomConfig, RoomSpec
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes, vary_scene
from spatial_core.sim.synthesis import TARGET_RMS, measured_rt60, synthesize_batch

TAPS = 2500
CLEAN = {"sensor_noise_db": None, "speech_dropout": 0.0, "distractor_dropout": 0.0}


class Example:
    """Scenes, RIRs and dry signals for `synthesize_batch`."""

    def __init__(self, config: SceneConfig, count: int, crops: int = 1, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        drawn = [sample_scene(rng, config) for _ in range(count)]
        self.rirs, self.noise_rirs = simulate_scenes(FastSimulator(taps=TAPS), drawn, 8)
        self.index = np.repeat(np.arange(count), crops)
        self.specs = [vary_scene(rng, drawn[r], config) for r in self.index]
        shape = (len(self.specs), TAPS - 1 + WINDOW)
        self.speech = rng.standard_normal(shape).astype(np.float32)
        self.noise = rng.standard_normal(shape).astype(np.float32)

    def batch(self, rows: Any = slice(None), **changes: Any) -> dict[str, np.ndarray]:
        index = np.arange(len(self.specs))[rows]
        arguments: dict[str, Any] = {
            "noise_rirs": self.noise_rirs,
            "rir_index": self.index[index],
            "example_ids": index,
        }
        noise = self.noise[index] if self.noise_rirs is not None else None
        specs = [self.specs[i] for i in index]
        return synthesize_batch(specs, self.rirs, self.speech[index], noise, **arguments | changes)


def full_convolution(dry: np.ndarray, rirs: np.ndarray) -> np.ndarray:
    """The last WINDOW samples before the dry signal ends, float64."""
    wet = fftconvolve(dry.astype(np.float64)[None], rirs.astype(np.float64), axes=1)
    return wet[:, len(dry) - WINDOW : len(dry)]


def test_window_equals_the_full_convolution() -> None:
    example = Example(SceneConfig(distractor=False, **CLEAN), 3, crops=2)
    batch = example.batch()
    check_batch(batch, num_mics=8)
    for i, spec in enumerate(example.specs):
        rirs = example.rirs[example.index[i], : spec.num_mics]
        expected = full_convolution(example.speech[i], rirs)
        expected *= TARGET_RMS * 10 ** (spec.gain_db / 20) / np.sqrt(np.mean(expected**2))
        audio = batch["audio"][i, : spec.num_mics]
        assert np.max(np.abs(audio - expected)) < 2e-6 * np.abs(expected).max() + 1e-7
        assert not batch["audio"][i, spec.num_mics :].any()


def test_snr_is_exact_over_the_window() -> None:
    example = Example(SceneConfig(**CLEAN), 4)
    batch = example.batch()
    for i, spec in enumerate(example.specs):
        audio = batch["audio"][i, : spec.num_mics].astype(np.float64)
        speech = full_convolution(example.speech[i], example.rirs[i, : spec.num_mics])
        noise = full_convolution(example.noise[i], example.noise_rirs[i, : spec.num_mics])
        # The mixture is a * speech + b * noise: least squares finds both, and nothing is left.
        basis = np.stack([speech.ravel(), noise.ravel()], axis=1)
        (a, b), *_ = np.linalg.lstsq(basis, audio.ravel(), rcond=None)
        assert np.abs(basis @ (a, b) - audio.ravel()).max() < 1e-5 * np.abs(audio).max()
        snr = 10 * np.log10(np.mean((a * speech) ** 2) / np.mean((b * noise) ** 2))
        assert snr == pytest.approx(spec.snr_db, abs=1e-3)
        assert batch["snr_db"][i] == pytest.approx(spec.snr_db, abs=1e-5)
        rms = np.sqrt(np.mean(audio**2))
        assert 20 * np.log10(rms / TARGET_RMS) == pytest.approx(spec.gain_db, abs=1e-3)


def test_delays_in_the_audio_point_where_the_labels_say() -> None:
    room = RoomConfig(materials=("ceiling_fibre",), max_rt60=0.3, rt60_scale=np.inf)
    example = Example(SceneConfig(distractor=False, room=room, **CLEAN), 6)
    batch = example.batch()
    for i, spec in enumerate(example.specs):
        audio = batch["audio"][i, : spec.num_mics].astype(np.float64)
        mics = batch["mic_positions"][i, : spec.num_mics].astype(np.float64)
        label = (batch[name][i] for name in ("azimuth", "elevation", "distance"))
        paths = np.linalg.norm(to_cartesian(*label) - mics, axis=1)
        expected = (paths - paths[0]) / 343.0 * 16000
        for m in range(1, spec.num_mics):
            middle = audio[0, 100:-100]
            lags = np.arange(-30, 31)
            match = [audio[m, 100 + lag : 100 + lag + len(middle)] @ middle for lag in lags]
            assert abs(lags[int(np.argmax(match))] - expected[m]) < 1.0


def test_sensor_noise_has_its_level_and_is_white_and_independent() -> None:
    config = SceneConfig(distractor=False, **CLEAN | {"sensor_noise_db": (20.0, 20.0)})
    example = Example(config, 1)
    noisy = example.batch()["audio"][0, : example.specs[0].num_mics].astype(np.float64)
    speech = full_convolution(example.speech[0], example.rirs[0, : len(noisy)])
    scale = np.sum(speech * noisy) / np.sum(speech**2)
    rest = noisy - scale * speech
    snr = 10 * np.log10(np.mean((scale * speech) ** 2) / np.mean(rest**2))
    assert snr == pytest.approx(20, abs=0.15)
    whitened = rest / rest.std(axis=1, keepdims=True)
    correlation = np.corrcoef(whitened)[np.triu_indices(len(rest), 1)]
    assert np.abs(correlation).max() < 0.08  # standard deviation 1 / sqrt(4000) = 0.016
    lagged = [np.mean(whitened[:, lag:] * whitened[:, :-lag]) for lag in range(1, 9)]
    assert np.abs(lagged).max() < 0.04


def test_noise_kernel_has_unit_variance() -> None:
    silent = np.zeros((4, 50_000), np.float32)
    out = np.empty_like(silent)
    gains, one, zero = np.ones(4, np.float32), np.float32(1), np.float32(0)
    mixing.mix(silent, silent, zero, one, gains, one, np.uint64(5), out)
    # mix scales to a target RMS of 1, so compare the shape: a sum of four uniforms.
    assert np.mean(out) == pytest.approx(0, abs=0.01)
    assert np.mean(out**4) / np.mean(out**2) ** 2 == pytest.approx(3 - 0.3, abs=0.05)
    assert np.abs(out).max() < 3.47


def dropout_example(distractor: bool) -> tuple[Example, SceneSpec]:
    config = SceneConfig(distractor=distractor, speech_dropout=1.0, distractor_dropout=0.0)
    example = Example(config, 1)
    return example, example.specs[0]


def test_dropped_speech_leaves_the_distractor() -> None:
    example, spec = dropout_example(distractor=True)
    batch = example.batch()
    check_batch(batch)
    audio = batch["audio"][0, : spec.num_mics].astype(np.float64)
    noise = full_convolution(example.noise[0], example.noise_rirs[0, : spec.num_mics])
    correlation = np.sum(audio * noise) / np.sqrt(np.sum(audio**2) * np.sum(noise**2))
    assert correlation > 0.99
    assert not batch["speech"][0] and batch["distance"][0] == 0 and batch["snr_db"][0] == -np.inf


def test_dropped_speech_without_distractor_is_sensor_noise() -> None:
    example, spec = dropout_example(distractor=False)
    batch = example.batch()
    audio = batch["audio"][0, : spec.num_mics]
    assert np.abs(np.corrcoef(audio)[np.triu_indices(len(audio), 1)]).max() < 0.08
    assert batch["snr_db"][0] == np.inf and not batch["speech"][0]


def test_example_is_the_same_in_any_batch_and_with_any_threads() -> None:
    example = Example(SceneConfig(), 4, crops=2)
    whole = example.batch(threads=1)
    for other, rows in (
        (example.batch(threads=2), slice(None)),
        (example.batch(slice(3, 6)), slice(3, 6)),
        (example.batch([6, 1, 3]), [6, 1, 3]),
    ):
        for name, value in other.items():
            np.testing.assert_array_equal(value, whole[name][rows], err_msg=name)


def test_silent_speech_is_visible_to_the_data_stream() -> None:
    example = Example(SceneConfig(distractor=False, speech_dropout=0.0), 2)
    example.speech[1] = 0
    assert list(find_bad_examples(example.batch())) == [1]


def test_channel_gains_are_applied() -> None:
    example = Example(SceneConfig(distractor=False, **CLEAN), 1)
    plain = example.batch()["audio"][0]
    spec = example.specs[0]
    gains = np.linspace(-2, 2, spec.num_mics)
    example.specs = [replace(spec, channel_gains_db=gains)]
    ratio = np.std(example.batch()["audio"][0, : spec.num_mics], axis=1) / np.std(
        plain[: spec.num_mics], axis=1
    )
    np.testing.assert_allclose(20 * np.log10(ratio / ratio[0]), gains - gains[0], atol=1e-3)


def test_measured_reverberation_of_an_exponential_decay() -> None:
    rng = np.random.default_rng(0)
    room = RoomSpec((5.0, 4.0, 3.0), (0.3,) * 6)
    rir = rng.standard_normal(16000) * 10 ** (-3 * np.arange(16000) / 16000 / 0.4)
    assert measured_rt60(rir.astype(np.float32), room) == pytest.approx(0.4, rel=0.08)
    assert measured_rt60(np.zeros(100, np.float32), room) == 0.0


def test_short_rirs_do_not_shorten_the_measured_reverberation() -> None:
    rng = np.random.default_rng(11)
    config = SceneConfig(distractor=False, max_mics=3, room=RoomConfig(min_rt60=0.6, max_rt60=1.2))
    specs = [sample_scene(rng, config) for _ in range(20)]
    short, _ = simulate_scenes(FastSimulator(taps=8000), specs, 3)
    long, _ = simulate_scenes(FastSimulator(taps=32000, decay_db=70), specs, 3)
    cut = np.array([measured_rt60(rir[0], spec.room) for rir, spec in zip(short, specs)])
    whole = np.array([measured_rt60(rir[0], spec.room) for rir, spec in zip(long, specs)])
    naive = measure_rt60(short[:, 0], 16000)
    assert abs(np.mean(cut / whole) - 1) < 0.08
    assert abs(np.mean(cut / whole) - 1) < abs(np.mean(naive / whole) - 1)


def test_wrong_shapes_are_refused() -> None:
    example = Example(SceneConfig(**CLEAN), 2)
    with pytest.raises(InputError, match="speech has shape"):
        synthesize_batch(example.specs, example.rirs, example.speech[:, 1:])
    with pytest.raises(InputError, match="both noise and noise_rirs"):
        synthesize_batch(example.specs, example.rirs, example.speech)
    with pytest.raises(InputError, match="rir_index"):
        example.batch(rir_index=np.array([0, 2]))
    with pytest.raises(InputError, match="more microphones"):
        synthesize_batch(example.specs, example.rirs[:, :2], example.speech)
    with pytest.raises(InputError, match="differ in shape"):
        example.batch(noise_rirs=example.noise_rirs[:1])


def test_direct_is_the_speech_by_the_first_milliseconds_of_the_response() -> None:
    example = Example(SceneConfig(gain_mismatch_db=2.0, **CLEAN), 4)
    batch = example.batch()
    for i, spec in enumerate(example.specs):
        rirs = example.rirs[i, : spec.num_mics]
        # Scale and channel gain, recovered from the first channel: speech and noise as it has them.
        speech = full_convolution(example.speech[i], rirs)[0]
        noise = full_convolution(example.noise[i], example.noise_rirs[i, : spec.num_mics])[0]
        scale = np.linalg.lstsq(
            np.stack([speech, noise], axis=1), batch["audio"][i, 0].astype(np.float64), rcond=None
        )[0][0]
        distance = np.linalg.norm(spec.true_positions[0] - spec.source)
        first = int(distance * 16000 / 343.0)
        early = np.zeros_like(rirs[:1])
        early[:, first : first + 64] = rirs[:1, first : first + 64]
        expected = scale * full_convolution(example.speech[i], early)[0]
        assert np.max(np.abs(batch["direct"][i] - expected)) < 1e-4 * np.abs(expected).max()


def test_no_speech_has_no_direct_sound() -> None:
    example = Example(SceneConfig(**{**CLEAN, "speech_dropout": 1.0}), 2)
    assert not example.batch()["direct"].any()


def test_direct_is_all_there_is_where_nothing_is_reflected() -> None:
    """With an independent simulator of another delay filter, and images of order 0 only."""
    rng = np.random.default_rng(5)
    config = SceneConfig(distractor=False, **CLEAN)
    scenes = [sample_scene(rng, config) for _ in range(4)]
    rirs, _ = simulate_scenes(PyroomSimulator(taps=TAPS, max_order=0), scenes, 8)
    speech = rng.standard_normal((4, TAPS - 1 + WINDOW)).astype(np.float32)
    batch = synthesize_batch(scenes, rirs, speech)
    whole = batch["audio"][:, 0]
    missing = np.mean((whole - batch["direct"]) ** 2, axis=1) / np.mean(whole**2, axis=1)
    # The ends of its 81-tap sinc, which are outside of the cut, hold some -45 dB.
    assert np.all(10 * np.log10(missing) < -35.0)

# SPDX-License-Identifier: Apache-2.0
"""SELD features: as librosa computes them, pointing to the source, the same in jax."""

from __future__ import annotations

import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from sciphi.features import mel_weights, seld_features
from spatial_core.errors import InputError


def noise(seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    foa = rng.standard_normal((4, int(24_000 * seconds)))
    # Coloured and with a silent second half, so that the floor of 80 dB is met.
    foa = np.cumsum(foa, axis=1)
    foa = 0.1 * foa / np.abs(foa).max()
    foa[:, foa.shape[1] // 2 :] *= 1e-6
    return foa.astype(np.float32)


def librosa_features(foa):
    """The definition, by librosa's transform, filters and decibels, in float64."""
    frames = foa.shape[1] // 480
    audio = foa.astype(np.float64) + 1e-8
    spectra = np.stack(
        [
            librosa.stft(
                x, n_fft=1024, hop_length=480, win_length=960, window="hann", pad_mode="constant"
            ).T[:frames]
            for x in audio
        ]
    )
    filters = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=64, dtype=np.float64).T
    levels = [librosa.power_to_db(np.abs(s) ** 2 @ filters) for s in spectra]
    w, rest = spectra[0], spectra[1:]
    energy = 1e-8 + np.abs(w) ** 2 + (np.abs(rest) ** 2).sum(0) / 3
    intensity = [(np.real(np.conj(w) * other) / energy) @ filters for other in rest]
    return np.stack([*levels, *intensity])


def test_filters_are_librosas() -> None:
    expected = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=64).T
    # float32 of both.
    np.testing.assert_allclose(mel_weights(), expected, atol=1e-8)


@pytest.mark.parametrize("seconds", [1.0, 0.333])
def test_features_are_those_of_librosa(seconds) -> None:
    foa = noise(seconds)
    found = seld_features(foa)
    expected = librosa_features(foa)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert found.shape == (7, foa.shape[1] // 480, 64)
    # float32 of a level 80 dB below the loudest; the intensities are sums of float32 ratios.
    np.testing.assert_allclose(found[:4], expected[:4], atol=2e-2)
    np.testing.assert_allclose(found[4:], expected[4:], atol=2e-5)
    assert found[:4].min() == pytest.approx(found[:4].max((1, 2)).min() - 80, abs=10)


def test_jax_computes_the_same_for_a_batch() -> None:
    foa = np.stack([noise(0.5, 1), noise(0.5, 2)])
    found = seld_features(jnp.asarray(foa))
    assert found.shape == (2, 7, 25, 64)
    each = np.stack([seld_features(clip) for clip in foa])
    np.testing.assert_allclose(found[:, :4], each[:, :4], atol=2e-2)
    np.testing.assert_allclose(found[:, 4:], each[:, 4:], atol=2e-5)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, -0.48, 0.64)])
def test_intensity_of_a_plane_wave_points_to_its_source(direction) -> None:
    """For a plane wave in SN3D the energies of Y, Z, X add up to W's, so the norm is 3 / 4 a filter."""
    x, y, z = direction
    wave = np.random.default_rng(0).standard_normal(24_000)
    foa = (0.1 * np.array([[1], [y], [z], [x]]) * wave).astype(np.float32)
    intensity = seld_features(foa)[4:, 1:]
    expected = np.array([y, z, x])[:, None, None] * 0.75 * mel_weights().sum(0)
    np.testing.assert_allclose(intensity, np.broadcast_to(expected, intensity.shape), atol=1e-6)


def test_silence_is_finite_and_has_no_direction() -> None:
    found = seld_features(np.zeros((4, 4800), np.float32))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:4], -100, atol=1e-3)
    # The epsilon of the samples, heard in the lowest filter, is all there is.
    assert np.abs(found[4:]).max() < 1e-3


@pytest.mark.parametrize("shape", [(3, 4800), (4, 479), (4800,)])
def test_other_audio_is_refused(shape) -> None:
    with pytest.raises(InputError, match="Ambisonic audio"):
        seld_features(np.zeros(shape, np.float32))

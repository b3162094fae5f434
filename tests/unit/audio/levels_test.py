# SPDX-License-Identifier: Apache-2.0
"""Levels and room measures against closed forms of exponential decays, scipy and pyroomacoustics."""

from __future__ import annotations

import numpy as np
import pytest
from pyroomacoustics.experimental import measure_rt60 as pyroom_rt60
from scipy.integrate import cumulative_trapezoid

from spatial_core.audio import levels
from spatial_core.audio.levels import c50, drr, edc, gain_for_snr, measure_rt60, rms_db
from spatial_core.errors import InputError

RATE = 16_000


def decay(rt60: float, seconds: float = 2.0) -> np.ndarray:
    """Energy falls by 60 dB in rt60 seconds."""
    return 10.0 ** (-3.0 * np.arange(int(seconds * RATE)) / RATE / rt60)


def test_rms_of_known_signals() -> None:
    t = np.arange(RATE) / RATE
    x = np.stack([np.ones(RATE), 0.1 * np.sin(2 * np.pi * 100 * t), np.zeros(RATE)])
    np.testing.assert_allclose(rms_db(x)[:2], [0.0, -20.0 - 10 * np.log10(2)], atol=1e-9)
    assert rms_db(x)[2] == -np.inf


@pytest.mark.parametrize("snr", [-5.0, 0.0, 15.0])
def test_gain_gives_the_asked_snr(snr: float) -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((3, 1000)), 7 * rng.standard_normal((3, 1000))
    scaled = noise * gain_for_snr(signal, noise, snr)
    assert 10 * np.log10(np.var(signal) / np.var(scaled)) == pytest.approx(snr, abs=0.05)


def test_gain_of_silence_is_refused() -> None:
    with pytest.raises(InputError, match="noise is silent"):
        gain_for_snr(np.ones(4), np.zeros(4), 0.0)
    with pytest.raises(InputError, match="signal is silent"):
        gain_for_snr(np.zeros(4), np.ones(4), 0.0)


def test_decay_curve_of_an_exponential_is_a_line() -> None:
    curve = edc(decay(0.5))
    t = np.arange(len(curve)) / RATE
    np.testing.assert_allclose(curve[:8000], -60 * t[:8000] / 0.5, atol=1e-3)


def test_decay_curve_is_the_integral_of_what_remains() -> None:
    rir = decay(0.3) * np.random.default_rng(0).standard_normal(2 * RATE)
    integral = cumulative_trapezoid((rir**2)[::-1], dx=1.0, initial=0.0)[::-1]
    expected = 10 * np.log10(integral[:4000] / integral[0])
    np.testing.assert_allclose(edc(rir)[:4000], expected, atol=0.2)


@pytest.mark.parametrize("rt60", [0.08, 0.3, 0.6, 1.42])
def test_rt60_of_an_exponential(rt60: float) -> None:
    assert measure_rt60(decay(rt60), RATE) == pytest.approx(rt60, rel=1e-3)
    delayed = np.concatenate([np.zeros(500), decay(rt60)])
    assert measure_rt60(delayed, RATE) == pytest.approx(rt60, rel=1e-3)


@pytest.mark.parametrize("seconds", [0.25, 0.35, 0.5])
def test_rt60_of_a_response_cut_off_early(seconds: float) -> None:
    """The curve of a cut response bends down at its end; the fit must stay above that."""
    assert measure_rt60(decay(0.6, seconds), RATE) == pytest.approx(0.6, rel=0.05)


def test_rt60_of_noise_agrees_with_pyroomacoustics() -> None:
    rng = np.random.default_rng(1)
    rirs = decay(0.4, 1.0) * rng.standard_normal((6, RATE))
    expected = [pyroom_rt60(rir, fs=RATE, decay_db=30) for rir in rirs]
    np.testing.assert_allclose(measure_rt60(rirs, RATE), expected, rtol=0.03)


def test_rt60_without_a_tail() -> None:
    impulse = np.zeros(1000)
    impulse[40] = 1.0
    assert measure_rt60(impulse, RATE) == 0.0
    assert np.isnan(measure_rt60(np.zeros(1000), RATE))


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.0])
def test_c50_of_an_exponential(rt60: float) -> None:
    expected = 10 * np.log10(10 ** (6 * 0.05 / rt60) - 1)
    assert c50(decay(rt60, 4.0), RATE) == pytest.approx(expected, abs=0.01)


def test_drr_of_a_known_mixture() -> None:
    rir = np.zeros((2, 8000))
    rir[:, 100] = 1.0
    rir[0, 2000:2100] = 0.1  # energy 1: 0 dB
    assert drr(rir, RATE)[0] == pytest.approx(0.0, abs=1e-9)
    assert drr(rir, RATE)[1] == np.inf


def test_a_weighting_is_the_published_table() -> None:
    """IEC 61672-1:2013, table 3: rounded there to 0.1 dB, at the exact frequencies 1000 * 10**(n / 10)."""
    table = {
        -15: -39.4,
        -12: -26.2,
        -9: -16.1,
        -6: -8.6,
        -3: -3.2,
        0: 0.0,
        3: 1.2,
        6: 1.0,
        9: -1.1,
        12: -6.6,
    }
    for band, expected in table.items():
        assert levels.a_weighting_db(1000 * 10 ** (band / 10)) == pytest.approx(expected, abs=0.06)


def test_a_weighted_levels_of_tones() -> None:
    time = np.arange(24_000) / 24_000
    for hertz, expected in ((1000.0, 0.0), (100.0, -19.1), (8000.0, -1.1)):
        tone = np.sqrt(2) * 0.1 * np.sin(2 * np.pi * hertz * time)
        assert levels.a_weighted_db(tone, 24_000) == pytest.approx(-20 + expected, abs=0.1)
    assert levels.a_weighted_db(np.zeros((2, 100)), 24_000).tolist() == [-np.inf, -np.inf]


def test_a_level_that_weighs_nothing_is_the_rms() -> None:
    """White noise: the mean of the weights, by another way than the spectrum of the signal."""
    noise = np.random.default_rng(0).standard_normal(50_000)
    hertz = np.linspace(0, 12_000, 100_001)
    mean = np.mean(10 ** (levels.a_weighting_db(hertz) / 10))
    # 0.1 dB: 50,000 samples
    assert levels.a_weighted_db(noise, 24_000) == pytest.approx(10 * np.log10(mean), abs=0.1)


def test_c50_counts_from_a_known_direct_sound() -> None:
    rir = np.zeros(4000)
    rir[100], rir[1000], rir[3000] = 0.5, 1.0, 0.5  # at 16 kHz: 56 ms after the direct sound
    assert levels.c50(rir, 16_000, 100) == pytest.approx(10 * np.log10(0.25 / 1.25))
    assert levels.c50(rir, 16_000) == pytest.approx(10 * np.log10(1.25 / 0.25))

# SPDX-License-Identifier: Apache-2.0
"""Delays between channels against exact ones, at every sample rate."""

from __future__ import annotations

import numpy as np
import pytest

from phasecoder.array_fit import in_range_peak
from spatial_core.audio.delays import Correlations, pair_correlations, peak_offset
from spatial_core.geometry.arrays import MicArray, preset
from spatial_core.geometry.coords import to_cartesian


def plane_wave(delays: np.ndarray, rate: int, seconds: float = 4.0) -> np.ndarray:
    """Noise up to 7 kHz, delayed by each of `delays` [m] seconds exactly, with noise 30 dB down."""
    rng = np.random.default_rng(0)
    count = round(seconds * rate)
    frequency = np.fft.rfftfreq(count, 1 / rate)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * np.clip((7500 - frequency) / 500, 0, 1)
    wave = np.fft.irfft(spectrum * np.exp(-2j * np.pi * frequency * delays[:, None]), count)
    return (wave + 0.03 * wave.std() * rng.standard_normal(wave.shape)).astype(np.float32)


def measure(array: MicArray, delays: np.ndarray, rate: int) -> tuple[Correlations, np.ndarray]:
    found = pair_correlations(plane_wave(delays, rate), rate, 1e-3)
    assert found is not None
    return found, delays[found.pairs[:, 0]] - delays[found.pairs[:, 1]]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("azimuth", [7.0, -123.0])
def test_fractional_delays_are_measured_to_a_microsecond_at_every_rate(rate, azimuth):
    """A sample at 48 kHz is 21 microseconds; 1 microsecond is a third of a millimetre."""
    array = preset("nao_8")
    delays = -(array.centred @ to_cartesian(azimuth, 20.0)) / 343.0
    found, truth = measure(array, delays, rate)
    lag = np.median(in_range_peak(array, found)[1], axis=0)
    assert np.abs(lag - truth).max() < 1e-6
    assert np.abs(np.median(found.far_lag, axis=0) - truth).max() < 1e-6
    # Lags are sampled alike at every rate, so what is made of them cannot depend on it.
    assert found.lags[1] - found.lags[0] == pytest.approx(1 / 64_000, rel=1e-3)


def test_delays_far_beyond_the_array_are_as_fine():
    """Between devices without a common clock; frames of 0.256 s still overlap by half."""
    delays = np.array([0.0, 0.0501234, -0.0603456, 0.0701987])
    for rate in (16_000, 44_100):
        found, truth = measure(preset("square_4"), delays, rate)
        assert np.abs(np.median(found.far_lag, axis=0) - truth).max() < 3e-6


def test_a_perfect_delay_correlates_fully():
    found, _ = measure(preset("square_4"), 1e-4 * np.arange(4.0), 48_000)
    assert np.all(found.far_peak > 0.85) and np.all(found.far_peak < 1.01)
    assert np.all(found.noise < 0.05)


def test_the_top_of_a_parabola_is_found():
    x = np.array([-1.0, 0.0, 1.0])
    for top in (-0.5, -0.2, 0.0, 0.37):
        values = 3.0 - 2.0 * (x - top) ** 2
        assert peak_offset(*values) == pytest.approx(top)
    assert peak_offset(np.array([1.0]), np.array([1.0]), np.array([1.0])) == 0.0

# SPDX-License-Identifier: Apache-2.0
"""Windows by blocks and pairs of microphones against full convolutions in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from spatial_core.data.records import WINDOW
from spatial_core.sim import mixing
from spatial_core.sim.convolution import Convolver


def responses(mics: int, taps: int, sounding: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rirs = rng.standard_normal((mics, taps)) * np.exp(-np.arange(taps) / 1500)
    rirs[:, sounding:] = 0
    return rirs.astype(np.float32)


def speech(taps: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(taps - 1 + WINDOW).astype(np.float32)


# One to six blocks in one to three rounds, blocks that fill their taps and such that do not, odd numbers of
# microphones and more than a group of eight.
@pytest.mark.parametrize(
    ("mics", "taps", "sounding"),
    [
        (8, 8000, 8000),
        (5, 8000, 3900),
        (3, 2500, 2500),
        (8, 8000, 4001),
        (7, 9000, 8999),
        (1, 200, 180),
        (4, 20_000, 19_000),
        (2, 300, 0),
        (11, 24_000, 20_000),
        (17, 300, 300),
    ],
)
def test_windows_equal_those_of_the_full_convolution(mics, taps, sounding):
    rirs, dry = responses(mics, taps, sounding), speech(taps)
    convolver = Convolver()
    convolver.load(rirs)
    expected = fftconvolve(dry[None].astype(float), rirs.astype(float), axes=1)
    expected = expected[:, len(dry) - WINDOW : len(dry)]
    # Float32 transforms of 8,000 samples: some 3e-7 of the peak.
    assert np.abs(convolver(dry) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_results_do_not_depend_on_what_came_before():
    rirs, dry = responses(5, 8000, 7000), speech(8000)
    convolver = Convolver()
    convolver.load(rirs)
    fresh = convolver(dry).copy()
    convolver.load(responses(8, 8000, 3000, seed=3))
    convolver(speech(8000, seed=4))
    convolver.load(rirs)
    np.testing.assert_array_equal(convolver(dry), fresh)


def test_silence_at_the_end_is_found():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rirs = np.zeros((rng.integers(1, 9), rng.integers(1, 3000)), np.float32)
        for row in rirs:
            end = rng.integers(0, len(row) + 1)
            row[:end] = rng.standard_normal(end) * (rng.uniform(size=end) < 0.3)
        loud = np.flatnonzero(rirs.any(axis=0))
        assert mixing.sounding(rirs) == (loud[-1] + 1 if len(loud) else 1)


def test_last_samples_of_a_filter():
    rng = np.random.default_rng(0)
    for taps in (64, 63, 1):
        dry, kernel = rng.standard_normal(WINDOW + taps - 1), rng.standard_normal(taps)
        out = np.empty(WINDOW, np.float32)
        mixing.filter_last(dry.astype("f4"), kernel.astype("f4"), np.float32(2), out)
        expected = 2 * np.convolve(dry, kernel, "valid")
        assert np.abs(out - expected).max() < 2e-6 * np.abs(expected).max()  # float32

# SPDX-License-Identifier: Apache-2.0
"""The transform equals SciPy's, frame for frame."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from spatial_core.audio import stft as module


@pytest.mark.parametrize("samples", [4000, 4096, 1000, 16000])
def test_equals_scipy(samples: int):
    x = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32)
    _, _, expected = scipy.signal.stft(x.astype(np.float64), nperseg=module.FRAME_LENGTH)
    got = np.asarray(module.stft(x))
    assert got.shape == (2, module.num_frames(samples), module.NUM_BINS)
    np.testing.assert_allclose(got, expected.swapaxes(1, 2), atol=2e-6)  # float32 FFT rounding


def test_quarter_second_has_33_frames():
    assert module.num_frames(module.WINDOW) == 33


def test_unit_phase_keeps_phase_and_survives_silence():
    x = np.array([3 + 4j, -2j, 0], np.complex64)
    got = np.asarray(module.unit_phase(x))
    np.testing.assert_allclose(got, [0.6 + 0.8j, -1j, 0], atol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Transforms of eight signals side by side against numpy's in float64."""

import numpy as np
import pytest

from spatial_core.sim import transforms

# Rounding of float32 through a dozen steps stays below ten of its units.
_ROUNDING = 1e-6


def _complex(data: np.ndarray) -> np.ndarray:
    rows = data.reshape(-1, 2, 8).astype(np.float64)
    return rows[:, 0] + 1j * rows[:, 1]


@pytest.mark.parametrize("rows", [2, 3, 4, 12, 32, 96, 243, 288, 1024, 2592, 3456, 4096])
def test_forward_is_numpys_transform_and_inverse_takes_it_back(rows: int) -> None:
    rng = np.random.default_rng(rows)
    given = rng.standard_normal(rows * 16).astype(np.float32)
    plan, data = transforms.plan(rows), given.copy()

    transforms.forward(data, rows, plan.stages, plan.turns)
    expected = np.fft.fft(_complex(given), axis=0)[plan.order]
    assert np.abs(_complex(data) - expected).max() < _ROUNDING * np.abs(expected).max()

    transforms.inverse(data, rows, plan.stages, plan.turns)
    np.testing.assert_allclose(data / rows, given, atol=_ROUNDING * np.abs(given).max())


@pytest.mark.parametrize("size", [64, 192, 1536, 8192])
def test_a_real_signals_spectrum_has_its_frequencies_where_documented(size: int) -> None:
    signal = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    rows, data = size // 8, np.empty(2 * size, np.float32)
    plan = transforms.plan(rows)

    transforms.real_rows(signal, transforms.fan(size), data)
    transforms.forward(data, rows, plan.stages, plan.turns)
    expected = np.fft.fft(signal.astype(np.float64))[8 * plan.order[:, None] + np.arange(8)]
    assert np.abs(_complex(data) - expected).max() < _ROUNDING * np.abs(expected).max()


def test_lengths_are_the_next_products_of_twos_and_threes() -> None:
    assert [transforms.good_rows(n) for n in (1, 32, 33, 2049, 3000, 3457, 4096, 4097)] == [
        32, 32, 64, 2304, 3072, 4096, 4096, 4608,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="5 rows"):
        transforms.plan(5)

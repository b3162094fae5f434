# SPDX-License-Identifier: Apache-2.0
"""Class grids: the published counts and steps, nearest classes, wrap-around, no speech."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH, DISTANCE, ELEVATION, ClassGrid
from spatial_core.geometry.coords import azimuth_error

GRIDS = [AZIMUTH, ELEVATION, DISTANCE]


def test_class_counts_and_steps_of_the_paper() -> None:
    assert [grid.num_classes for grid in GRIDS] == [38, 18, 13]
    assert AZIMUTH.step == 10.0
    assert ELEVATION.step == 11.25
    np.testing.assert_allclose(
        np.round(DISTANCE.centres * 10), [1, 6, 12, 17, 22, 28, 33, 39, 44, 49, 55, 60]
    )
    assert -78.75 in ELEVATION.centres
    assert 33.75 in ELEVATION.centres


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_every_class_decodes_and_encodes_back(grid: ClassGrid) -> None:
    index = np.arange(grid.points)
    back = grid.encode(grid.decode(index))
    if grid.circular:
        index = np.where(index == 0, grid.points - 1, index)
    np.testing.assert_array_equal(back, index)
    assert back.dtype == np.int32


@given(st.floats(-1000, 1000), st.sampled_from(GRIDS))
def test_encode_is_the_nearest_centre(value: float, grid: ClassGrid) -> None:
    index = grid.encode(value)
    if grid.circular:
        distances = azimuth_error(grid.centres, value)
    else:
        distances = np.abs(grid.centres - value)
    assert distances[index] <= distances.min() + 1e-9


@given(st.floats(-720, 720))
def test_azimuth_decodes_within_half_a_step_across_the_wrap(value: float) -> None:
    assert azimuth_error(AZIMUTH.decode(AZIMUTH.encode(value)), value) <= AZIMUTH.step / 2 + 1e-9


def test_both_ends_of_the_circle_are_one_direction() -> None:
    np.testing.assert_array_equal(AZIMUTH.decode([0, 36]), [180.0, 180.0])


def test_no_speech_is_the_last_class_and_decodes_to_nan() -> None:
    index = AZIMUTH.encode([10.0, np.nan], [True, False])
    np.testing.assert_array_equal(index, [19, AZIMUTH.none_index])
    assert np.isnan(AZIMUTH.decode(index)[1])


def test_values_beyond_the_ends_take_the_end_class() -> None:
    np.testing.assert_array_equal(DISTANCE.encode([0.0, 99.0]), [0, 11])


def test_bad_labels_and_grids_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        ELEVATION.encode(np.nan)
    with pytest.raises(InputError, match=r"0\.\.12"):
        DISTANCE.decode(13)
    with pytest.raises(InputError, match="at least 2 points"):
        ClassGrid("x", 0.0, 1.0, 1)
    with pytest.raises(InputError, match="-180 to 180"):
        ClassGrid("x", 0.0, 360.0, 5, circular=True)

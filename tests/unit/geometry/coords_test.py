# SPDX-License-Identifier: Apache-2.0
"""Coordinates: properties that hold for every angle, and scipy as the independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spatial_core.geometry.coords import (
    azimuth_error,
    great_circle,
    rotate_z,
    to_cartesian,
    to_spherical,
    wrap_degrees,
)

ANGLE = st.floats(-1e5, 1e5)
AZIMUTH = st.floats(-179.999, 180.0)
ELEVATION = st.floats(-89.9, 89.9)
DISTANCE = st.floats(0.01, 100.0)


@given(ANGLE)
def test_wrapping_keeps_the_direction_and_the_range(angle: float) -> None:
    wrapped = wrap_degrees(angle)
    assert -180.0 < wrapped <= 180.0
    turns = (angle - wrapped) / 360.0
    assert abs(turns - round(turns)) < 1e-9


@pytest.mark.parametrize(
    ("angle", "expected"), [(180, 180), (-180, 180), (540, 180), (360, 0), (-1e-18, 0), (181, -179)]
)
def test_wrapping_at_the_edges(angle: float, expected: float) -> None:
    assert wrap_degrees(angle) == pytest.approx(expected, abs=1e-12)


def test_wrapping_a_hair_below_minus_180_stays_inside_the_range() -> None:
    assert np.all(wrap_degrees(np.nextafter([-180.0, 180.0], [-181.0, 181.0])) > -180.0)


@given(AZIMUTH, ELEVATION, DISTANCE)
def test_spherical_and_cartesian_are_inverse(az: float, el: float, distance: float) -> None:
    azimuth, elevation, back = to_spherical(to_cartesian(az, el, distance))
    assert azimuth_error(azimuth, az) < 1e-6
    assert elevation == pytest.approx(el, abs=1e-6)
    assert back == pytest.approx(distance, rel=1e-12)


def test_axes_of_the_frame() -> None:
    """+x is azimuth 0, +y is 90 (counter-clockwise from above), +z is elevation 90."""
    azimuth, elevation, _ = to_spherical([[1, 0, 0], [0, 2, 0], [-1, -0.0, 0], [0, -1, 0]])
    np.testing.assert_allclose(azimuth, [0, 90, 180, -90])
    np.testing.assert_allclose(elevation, 0)
    assert to_spherical([0, 0, 3.0]) == (0.0, 90.0, 3.0)
    assert to_spherical([0.0, 0.0, 0.0]) == (0.0, 0.0, 0.0)


@given(AZIMUTH, ELEVATION, AZIMUTH, ELEVATION)
def test_great_circle_is_the_angle_of_the_rotation_between(
    az_a: float, el_a: float, az_b: float, el_b: float
) -> None:
    a, b = (
        Rotation.from_euler("ZY", [az, -el], degrees=True).apply([1, 0, 0])
        for az, el in ((az_a, el_a), (az_b, el_b))
    )
    # The chord is accurate for small angles, where the arc cosine of the dot product is not.
    expected = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b) / 2, 0, 1)))
    assert great_circle(az_a, el_a, az_b, el_b) == pytest.approx(expected, abs=1e-5)


@given(ANGLE, ANGLE)
def test_azimuth_error_goes_the_short_way_round(a: float, b: float) -> None:
    error = azimuth_error(a, b)
    assert 0 <= error <= 180
    assert error == pytest.approx(azimuth_error(b, a), abs=1e-6)


def test_azimuth_error_wraps() -> None:
    np.testing.assert_allclose(azimuth_error([179, -170, 0], [-179, 170, 180]), [2, 20, 180])


@given(AZIMUTH, ELEVATION, DISTANCE, ANGLE)
def test_rotation_about_z_adds_to_the_azimuth(
    az: float, el: float, distance: float, turn: float
) -> None:
    xyz = to_cartesian(az, el, distance)
    rotated = rotate_z(xyz, turn)
    azimuth, elevation, _ = to_spherical(rotated)
    assert azimuth_error(azimuth, az + turn) < 1e-6
    assert elevation == pytest.approx(el, abs=1e-6)
    expected = Rotation.from_euler("z", turn, degrees=True).apply(xyz)
    np.testing.assert_allclose(rotated, expected, atol=1e-8)


def test_shapes_broadcast_and_wrong_ones_are_refused() -> None:
    assert to_cartesian(np.zeros((5, 1)), np.zeros(4), 2.0).shape == (5, 4, 3)
    assert rotate_z(np.zeros((5, 3)), np.zeros(5)).shape == (5, 3)
    with pytest.raises(ValueError, match="last axis of 3"):
        to_spherical(np.zeros((3, 2)))

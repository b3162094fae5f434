# SPDX-License-Identifier: Apache-2.0
"""Zones have the published names and borders, and their centres are where the names say."""

from __future__ import annotations

import numpy as np
import pytest

from sciphi.zones import ZONES_15, ZONES_26, ZoneGrid, centre_of, coarse, read_zone, zone_error
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle


def test_there_are_26_zones_of_the_published_names() -> None:
    levels = ("horizontal", "upper", "lower")
    sectors = "front front-left left back-left back back-right right front-right".split()
    names = {f"{level} {sector}" for level in levels for sector in sectors} | {"above", "below"}
    assert set(ZONES_26.names) == names and len(ZONES_26.names) == 26
    assert len(ZONES_15.names) == 24 * 11 + 2


@pytest.mark.parametrize(
    ("azimuth", "elevation", "zone"),
    [
        (0, 0, "horizontal front"),
        (90, 0, "horizontal left"),  # Ambisonic: +y is left
        (-90, 0, "horizontal right"),
        (180, 0, "horizontal back"),
        (-179.9, 0, "horizontal back"),
        (22.4, 0, "horizontal front"),
        (22.5, 0, "horizontal front-left"),
        (-22.5, 0, "horizontal front"),
        (-22.6, 0, "horizontal front-right"),
        (-157.6, 0, "horizontal back"),
        (0, 22.5, "horizontal front"),
        (0, 22.6, "upper front"),
        (135, -67.5, "lower back-left"),
        (135, -67.6, "below"),
        (-30, 67.6, "above"),
        (10, 90, "above"),
    ],
)
def test_borders(azimuth, elevation, zone) -> None:
    assert ZONES_26.zone_of(azimuth, elevation) == zone


@pytest.mark.parametrize("grid", [ZONES_26, ZONES_15])
def test_a_direction_is_at_most_half_a_diagonal_from_its_zone(grid) -> None:
    for zone in grid.names:
        assert grid.zone_of(*grid.centre(zone)) == zone
        assert grid.read(zone) == zone and read_zone(zone.upper()) == zone
    rng = np.random.default_rng(0)
    azimuths = rng.uniform(-180, 180, 2000)
    elevations = np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    for azimuth, elevation in zip(azimuths, elevations):
        centre = grid.centre(grid.zone_of(azimuth, elevation))
        # A corner is at most half a step away on either axis: sqrt(2) halves on the sphere.
        assert great_circle(azimuth, elevation, *centre) <= grid.step / np.sqrt(2)


def test_zones_of_15_degrees_lie_within_the_26() -> None:
    for zone in ZONES_15.names:
        azimuth, elevation = centre_of(zone)
        assert coarse(zone) == ZONES_26.zone_of(azimuth, elevation)
        assert abs(abs(elevation) - 22.5) > 7 and abs(abs(elevation) - 67.5) > 7


def test_zone_error_is_the_angle_between_centres() -> None:
    assert zone_error("horizontal front", "horizontal front-left") == pytest.approx(45)
    # cos = cos 45 cos 45 cos 45 + sin 45 sin 45
    expected = np.degrees(np.arccos(np.sqrt(0.125) + 0.5))
    assert zone_error("upper front", "upper front-left") == pytest.approx(expected)
    assert zone_error("above", "below") == pytest.approx(180)
    assert zone_error("horizontal left", "azimuth 75 elevation 0") == pytest.approx(15)


def test_what_is_no_direction_and_no_zone_is_refused() -> None:
    with pytest.raises(InputError, match="-90 <= elevation <= 90"):
        ZONES_26.zone_of(0, 91)
    with pytest.raises(InputError, match="none of the 26 zones"):
        ZONES_26.centre("north")
    with pytest.raises(InputError, match="take 45 or 15"):
        ZoneGrid(30)
    assert read_zone("front") is None  # at which height?

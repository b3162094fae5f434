# SPDX-License-Identifier: Apache-2.0
"""Turning and mirroring a sound field by its channels: what is heard and what is true stay together."""

from __future__ import annotations

import numpy as np
import pytest

from sciphi.records import SceneTruth, SourceTruth
from sciphi.swap import SWAPS, Swap
from spatial_core.geometry.coords import great_circle


def _source(azimuth: float, elevation: float) -> SourceTruth:
    return SourceTruth("a bell", "event", "bell", None, 0, 1, azimuth, elevation, 2, -30, 10)


def _plane_wave(azimuth: float, elevation: float) -> np.ndarray:
    """W, Y, Z, X in SN3D of white noise from a direction, by the definition of the harmonics."""
    a, e = np.radians([azimuth, elevation])
    gains = [1, np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]
    sound = np.random.default_rng(0).standard_normal(2400)
    return np.outer(gains, sound)


@pytest.mark.parametrize("swap", SWAPS)
def test_the_intensity_of_a_swapped_wave_points_where_the_swapped_truth_says(swap: Swap) -> None:
    truth = SceneTruth(100.0, 0.3, None, None, (_source(70.0, 25.0),))
    foa = swap.channels(_plane_wave(70.0, 25.0))
    y, z, x = (foa[1:] * foa[0]).sum(axis=1)
    moved = swap.truth(truth).sources[0]
    azimuth = np.degrees(np.arctan2(y, x))
    elevation = np.degrees(np.arctan2(z, np.hypot(x, y)))
    assert great_circle(azimuth, elevation, moved.azimuth, moved.elevation) < 1e-3  # float64


def test_there_are_sixteen_and_all_differ() -> None:
    truth = SceneTruth(100.0, 0.3, None, None, (_source(70.0, 25.0),))
    places = {(round(s.azimuth), round(s.elevation)) for w in SWAPS for s in w.truth(truth).sources}
    assert len(places) == len(SWAPS) == 16
    same = SWAPS[0].truth(truth).sources[0]
    assert (same.azimuth, same.elevation) == pytest.approx((70.0, 25.0))


def test_features_follow_the_channels() -> None:
    """Level maps go with their channel, whatever its sign; intensities take the sign along."""
    foa = _plane_wave(70.0, 25.0)
    power = (foa**2).sum(axis=1)
    intensity = (foa[1:] * foa[0]).sum(axis=1)
    maps = np.concatenate([power, intensity])[:, None, None]
    for swap in SWAPS:
        moved = swap.channels(foa)
        expected = [*(moved**2).sum(axis=1), *(moved[1:] * moved[0]).sum(axis=1)]
        assert swap.features(maps)[:, 0, 0] == pytest.approx(expected)

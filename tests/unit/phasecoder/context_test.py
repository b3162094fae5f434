# SPDX-License-Identifier: Apache-2.0
"""Windows heard together: the shared peak wins, overlap adds no evidence, nobody is made up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phasecoder.context import REACH, Windows, check_context, in_context, posterior, whole
from spatial_core.errors import InputError
from spatial_core.geometry.coords import azimuth_error

GRID = np.arange(-177.5, 180.0, 5.0)


def bumps(*peaks: tuple[float, float], width: float = 12.0) -> np.ndarray:
    """A posterior [72] with normal peaks (azimuth, weight) on a small floor."""
    parts = [w * np.exp(-0.5 * (azimuth_error(GRID, a) / width) ** 2) for a, w in peaks]
    total = sum(parts) + 1e-3
    return total / total.sum()


def windows(posteriors: list[np.ndarray], azimuth: list[float], hop: float = 0.16) -> Windows:
    count = len(azimuth)
    return Windows(
        0.125 + hop * np.arange(count),
        np.array(azimuth, float),
        np.full(count, 10.0),
        np.full(count, 2.0),
        np.full(count, 0.5),
        np.stack(posteriors),
        GRID,
    )


def test_the_direction_that_all_windows_support_wins_over_their_own_stronger_ones():
    """Each window prefers an echo of its own; only 40 degrees is in all of them."""
    echoes = [-100.0, 130.0, -30.0, 170.0]
    heard = windows(
        [*(bumps((40, 0.4), (echo, 0.6)) for echo in echoes), bumps((42, 1.0))], [*echoes, 42.0]
    )
    together = whole(heard, 0.16)
    assert azimuth_error(together.azimuth[0], 42.0) < 1  # the answer that was measured there
    assert together.confidence[0] > 0.5
    nearby = in_context(heard, 2.0, 0.16)
    assert np.all(azimuth_error(nearby.azimuth, 42.0) < 1)


def test_agreeing_windows_are_surer_than_one_but_not_as_if_they_were_independent():
    one = bumps((0, 1.0))
    alone = whole(windows([one], [0.0]), 0.16).confidence[0]
    together = whole(windows([one] * 12, [0.0] * 12), 0.16).confidence[0]
    independent = one**12 / np.sum(one**12)
    inside = azimuth_error(GRID, 0.0) <= 10.0
    assert alone < together < independent[inside].sum() - 0.05


def test_a_finer_hop_adds_no_evidence():
    """The same second cut into four times as many windows holds the same sound."""
    coarse = whole(windows([bumps((0, 1.0))] * 6, [0.0] * 6), 0.16)
    fine = whole(windows([bumps((0, 1.0))] * 24, [0.0] * 24, hop=0.04), 0.04)
    assert fine.confidence[0] == pytest.approx(coarse.confidence[0], rel=1e-6)


def test_one_sure_but_wrong_window_does_not_veto_the_others():
    wrong = np.where(azimuth_error(GRID, -120.0) < 6, 1.0, 1e-12)
    heard = windows([*[bumps((60, 1.0))] * 5, wrong / wrong.sum()], [*[60.0] * 5, -120.0])
    assert azimuth_error(whole(heard, 0.16).azimuth[0], 60.0) < 1e-6


def test_only_windows_within_half_the_context_count():
    azimuth = [20.0] * 10 + [-110.0] * 10
    heard = windows([bumps((a, 1.0)) for a in azimuth], azimuth)
    nearby = in_context(heard, 1.0, 0.16)
    assert np.all(azimuth_error(nearby.azimuth[:9], 20.0) < 1e-6)
    assert np.all(azimuth_error(nearby.azimuth[11:], -110.0) < 1e-6)


def test_a_direction_that_no_window_answered_is_not_invented():
    """A flat array's posterior has a mirror peak; windows were put on one side before."""
    probs = [bumps((50, 0.5), (-50, 0.5 + 0.01 * k)) for k in range(4)]
    nearby = in_context(windows(probs, [49.0, 50.0, 51.0, 52.0]), 2.0, 0.16)
    assert np.all(azimuth_error(nearby.azimuth, 50.0) <= REACH)


def test_answers_without_a_posterior_can_be_combined_too():
    azimuth = np.array([178.0, -178.0, 10.0, 180.0])
    probs, grid = posterior(azimuth, None, None)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)
    heard = windows([GRID] * 4, list(azimuth))._replace(probs=probs, grid=grid)
    assert azimuth_error(whole(heard, 0.16).azimuth[0], 180.0) < 1e-6


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e6])
def test_an_impossible_context_is_refused(seconds):
    with pytest.raises(InputError, match="context is"):
        check_context(seconds)

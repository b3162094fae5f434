# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals against scipy and against known sampling errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spatial_core.eval.bootstrap import draw, mean_interval, median_interval


def test_mean_and_interval_agree_with_scipy():
    values = np.random.default_rng(0).exponential(10, 400)
    ours = mean_interval(values, draw(np.arange(400), seed=1, resamples=4000))
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.1)
    assert ours.high == pytest.approx(theirs.high, abs=0.1)


def test_median_and_interval_agree_with_scipy():
    values = np.random.default_rng(3).normal(5, 2, 301)
    ours = median_interval(values, draw(np.arange(301), seed=1, resamples=3000))
    theirs = stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=3000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == np.median(values)
    assert ours.low == pytest.approx(theirs.low, abs=0.06)
    assert ours.high == pytest.approx(theirs.high, abs=0.06)


def test_clips_of_one_room_count_as_one_draw():
    # Four identical clips a room hold no more information than one.
    rooms = np.random.default_rng(4).normal(size=200)
    single = mean_interval(rooms, draw(np.arange(200), 0))
    copied = mean_interval(np.repeat(rooms, 4), draw(np.repeat(np.arange(200), 4), 0))
    assert copied.low == pytest.approx(single.low)
    assert copied.high == pytest.approx(single.high)
    naive = mean_interval(np.repeat(rooms, 4), draw(np.arange(800), 0))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_nan_values_are_left_out():
    values = np.array([1.0, np.nan, 3.0, np.nan, 5.0])
    resamples = draw(np.arange(5), 0)
    assert mean_interval(values, resamples).count == 3
    assert mean_interval(values, resamples).value == 3.0
    assert median_interval(values, resamples).value == 3.0
    nothing = mean_interval(np.full(5, np.nan), resamples)
    assert nothing.count == 0
    assert np.isnan(nothing.value)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(5).normal(size=50)
    one, two = (median_interval(values, draw(np.arange(50), 7)) for _ in range(2))
    assert one == two
    assert one != median_interval(values, draw(np.arange(50), 8))


def test_medians_are_the_same_in_small_chunks(monkeypatch):
    values = np.random.default_rng(6).normal(size=101)
    resamples = draw(np.arange(101), 0, resamples=200)
    whole = median_interval(values, resamples)
    monkeypatch.setattr("spatial_core.eval.bootstrap._CHUNK", 700)
    assert median_interval(values, resamples) == whole

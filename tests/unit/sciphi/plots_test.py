# SPDX-License-Identifier: Apache-2.0
"""The picture: sources on their bearings, labels and markers that do not cover each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from sciphi import plots
from sciphi.result import DescribedWindow, SceneResult
from sciphi.schema import Background, SceneDescription, Source
from sciphi.timeline import merge, whole
from sciphi.zones import ZONES_15, ZONES_26


def result(*windows, name="a/scene.wav"):
    told = [DescribedWindow(s, e, d, "", (), -30.0) for s, e, d in windows]
    timeline = merge(windows)
    found = [d for _, _, d in windows if d is not None]
    return SceneResult(
        windows=tuple(told),
        timeline=tuple(timeline),
        description=whole(found, timeline),
        notes=(),
        problems=(),
        source=name,
        format="ACN/SN3D",
        source_rate=48000,
        model_name="ear",
        start_seconds=told[0].start,
        end_seconds=told[-1].end,
        window_seconds=10.0,
        hop_seconds=10.0,
    )


def scene(*sources):
    return SceneDescription(300, 0.4, Background("rain", -47), sources)


def crowd(zones):
    return scene(
        *(Source(f"sound {i}", i / 2, i / 2 + 2, z, 1 + i / 3, -30, 3) for i, z in enumerate(zones))
    )


@pytest.mark.parametrize(
    "windows",
    [
        [(0.0, 10.0, scene(Source("dog", 1.0, 4.2, "upper left", 2.0, -30, 3)))],
        [
            (
                0.0,
                10.0,
                scene(
                    Source(
                        r"$\frac{$ _x^ with transcript '你好'", None, None, None, None, None, None
                    )
                ),
            )
        ],
        [(0.0, 10.0, scene())],
        [(0.0, 10.0, None)],
        [(5.0, 15.0, crowd(ZONES_26.names)), (15.0, 18.0, None), (18, 28, crowd(["above"]))],
        [(0.0, 10.0, crowd(ZONES_15.names[:30:3]))],
        [(0.0, 10.0, scene(Source("far", 0, 1, "below", 900.0, -30, 3)))],
    ],
)
def test_anything_that_can_be_said_can_be_drawn(tmp_path, windows):
    path = result(*windows).plot(tmp_path / "deep" / "p.png")
    image = imread(path)[..., :3]
    assert (image.min(axis=-1) < 0.95).mean() > 0.005


def test_words_that_the_font_cannot_write_are_left_out():
    assert plots._drawable("Grüße, 你好") == "Grüße, ??"


def test_the_front_is_up_and_left_is_left():
    np.testing.assert_allclose(plots._place(0, 2), [0, 2], atol=1e-12)
    np.testing.assert_allclose(plots._place(90, 2), [-2, 0], atol=1e-12)
    np.testing.assert_allclose(plots._place(-90, 2), [2, 0], atol=1e-12)


def test_a_source_stands_on_its_bearing_at_its_distance_along_the_floor():
    items = merge([(0.0, 10.0, crowd(["upper back-left"]))])
    mark = plots._mark(1, items[0], 3.0)
    np.testing.assert_allclose(mark.place, [-0.5, -0.5], atol=1e-9)  # 1 m at 45 degrees up
    assert mark.shape == "^" and mark.known


@pytest.mark.parametrize(
    "zones", [["horizontal left"] * 5, ["above"] * 4 + ["below"], ["above"] * 12]
)
def test_markers_of_one_place_do_not_cover_each_other(zones):
    sources = [Source(f"s{i}", 0, 1, zone, 2.0, -30, 3) for i, zone in enumerate(zones)]
    items = merge([(0.0, 10.0, scene(*sources))])
    marks = plots._marks(items, 3.0)
    apart = [np.linalg.norm(a.place - b.place) for a, b in itertools.combinations(marks, 2)]
    assert min(apart) >= 0.099 * 3.0
    for mark in marks:
        if zones[0] == "horizontal left":
            assert abs(mark.bearing - 90) <= 22.5


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("place", [0.9, 0.0, -0.9])
def test_labels_are_spread_without_overlap_within_the_picture(count, place):
    heights = [0.2 + 0.05 * (i % 2) for i in range(count)]
    centres = plots.spread([place] * count, heights, 1.0)
    edges = [(c + h / 2, c - h / 2) for c, h in zip(centres, heights)]
    assert edges[0][0] <= 1 + 1e-9 and edges[-1][1] >= -1 - 1e-9
    assert all(upper[1] >= lower[0] - 1e-9 for upper, lower in itertools.pairwise(edges))


def test_rings_hold_every_source():
    for most in (0.3, 1.9, 2.0, 4.7, 12.0, 35.0, 900.0):
        step, outer = plots._rings([most, None])
        assert outer >= 1.08 * most and 2 <= round(outer / step) <= 6

# SPDX-License-Identifier: Apache-2.0
"""SELD scores of clips that can be worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sciphi.records import SceneTruth, SourceTruth
from sciphi.seld_labels import seld_labels
from sciphi.seld_metrics import (
    Heard,
    SeldCounter,
    angle_between,
    clip_direction,
    heard_in_answer,
    heard_in_target,
)
from spatial_core.errors import InputError


def at(frame, name, azimuth, metres=2.0, elevation=0.0):
    a, e = np.radians([azimuth, elevation])
    vector = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return Heard(frame, name, 0.8 * vector, metres)


def test_a_clip_worked_by_hand() -> None:
    """Class 0: frame 0 two sources at 0 and 90 degrees, 2 and 4 m; answered at 80 (5 m) and 30 (2 m),
    so paired at 10 and 30 degrees: one TP, one misplaced. Frame 1 a source is missed. Frame 2 an extra
    one is answered. F20 = 1 / (2 + 0.5 (1 + 1)) = 1/3. DOA 20 degrees; distance (1 + 0) / 2 = 0.5 m,
    relative (1/4 + 0) / 2 = 1/8; recall 2/3.
    Class 1: frame 0 right within 5 degrees but at 7 m instead of 2: relative 2.5, misplaced. F20 = 0,
    DOA 5 degrees, distance 5 m, relative 2.5, recall 1.
    Class 2 never sounds and is never answered.
    """
    counter = SeldCounter(3)
    counter.add(
        answered=[at(0, 0, 80, 5), at(0, 0, 30, 2), at(2, 0, 0), at(0, 1, 5, 7)],
        right=[at(0, 0, 0, 2), at(0, 0, 90, 4), at(1, 0, 0), at(0, 1, 0, 2)],
    )
    macro = counter.scores()
    assert macro.f20 == pytest.approx((1 / 3 + 0) / 2)
    assert macro.doa_error == pytest.approx((20 + 5) / 2)
    assert macro.distance_error == pytest.approx((0.5 + 5) / 2)
    assert macro.relative_distance_error == pytest.approx((1 / 8 + 2.5) / 2)
    assert macro.recall == pytest.approx((2 / 3 + 1) / 2)
    micro = counter.scores("micro")
    assert micro.f20 == pytest.approx(1 / (3 + 0.5 * 2))
    assert micro.doa_error == pytest.approx(45 / 3)


def test_pairs_have_the_smallest_total_angle() -> None:
    """Nearest first would pair 40 with 45 (5) and leave 0 with 90 (90): 95; the best is 45 + 40."""
    counter = SeldCounter(1)
    counter.add([at(0, 0, 40), at(0, 0, 0)], [at(0, 0, 45), at(0, 0, 80)])
    assert counter.scores().doa_error == pytest.approx((45 + 40) / 2)


def test_twenty_degrees_are_within_and_classes_are_not_mixed() -> None:
    counter = SeldCounter(2, doa_threshold=20.0 + 1e-6)
    counter.add([at(0, 0, 20)], [at(0, 0, 0)])
    assert counter.scores().f20 == 1
    other = SeldCounter(2)
    other.add([at(0, 1, 0)], [at(0, 0, 0)])
    scores = other.scores()
    assert scores.f20 == 0 and math.isnan(scores.doa_error)


def test_perfect_answers_score_perfectly() -> None:
    truth = SceneTruth(
        100.0, 0.4, None, None, (source("speech", 0, 0.5, 30), source("event", 0.2, 0.6, -100))
    )
    target, count = seld_labels(truth, ("speech", "event"), 10)
    answer = np.where(count[:, None, None] > 0, target[:, :1], 0).repeat(3, axis=1)
    found, right = heard_in_answer(answer), heard_in_target(target, count)
    assert len(found) == len(right) == 9
    counter = SeldCounter(2)
    counter.add(found, right)
    scores = counter.scores()
    assert (scores.f20, scores.recall) == (1, 1)
    # float32 unit vectors near an angle of zero
    assert scores.doa_error < 0.1 and scores.distance_error < 1e-6


def source(kind, onset, offset, azimuth, elevation=0.0, category=None):
    return SourceTruth(
        "a sound", kind, category or kind, None, onset, offset, azimuth, elevation, 3.0, -30.0, 10.0
    )


def test_tracks_that_agree_are_one_source() -> None:
    """0 and 10 degrees are unified, 60 stays; a track of length 0.4 is silent."""
    answer = np.zeros((1, 3, 4, 2))
    for track, azimuth in enumerate((0, 10, 60)):
        a = np.radians(azimuth)
        answer[0, track, :, 0] = [0.9 * np.cos(a), 0.9 * np.sin(a), 0, 1 + track]
    answer[0, 0, :, 1] = [0.4, 0, 0, 1]
    found = heard_in_answer(answer)
    assert [(h.frame, h.name) for h in found] == [(0, 0), (0, 0)]
    angles = sorted(np.degrees(np.arctan2(h.vector[1], h.vector[0])) for h in found)
    assert angles == pytest.approx([5, 60])
    assert sorted(h.metres for h in found) == [1.5, 3]


def test_angles_and_the_direction_of_a_clip() -> None:
    assert angle_between(np.array([1.0, 0, 0]), np.array([[0, 2, 0], [-3, 0, 0]])).tolist() == [
        90,
        180,
    ]
    assert angle_between(np.zeros(3), np.array([1.0, 0, 0])) == 90
    answer = np.zeros((4, 3, 4, 2))
    answer[:, 1, 2, 1] = 0.3
    answer[:, :, 3] = 9.0  # distances have no say
    np.testing.assert_allclose(clip_direction(answer), [0, 0, 1.2])


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="class 2 of 2"):
        SeldCounter(2).add([at(0, 2, 0)], [])
    with pytest.raises(InputError, match="macro or micro"):
        SeldCounter(2).scores("mean")

# SPDX-License-Identifier: Apache-2.0
"""What is true of talkers: symmetries of the scene, an independent reference in x, y, z, margins."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.qa import geometry, truth
from llm_bridge.qa.book import KINDS
from llm_bridge.qa.geometry import NO, UNSURE, YES, Margins, Scenes
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian, to_spherical, wrap_degrees

patient = settings(deadline=None, max_examples=60)
MARGINS = Margins()
OPPOSITE = {"left": "right", "right": "left", "front": "back", "back": "front"}
VALUES = {"azimuth": 50.0, "distance": 2.5, "angle": 60.0}


def talker(
    azimuth: float, elevation: float, distance: float, start: float = 0.0
) -> SimpleNamespace:
    return SimpleNamespace(
        start=start,
        end=start + 1.0,
        azimuth=azimuth,
        elevation=elevation,
        distance=distance,
        transcript=f"words from {azimuth:.0f}",
    )


def scene_of(*talkers: SimpleNamespace) -> Scenes:
    return Scenes.of([talkers])


# Odd tenths keep the truth off the margins, where rounding would decide.
azimuths = st.integers(-179, 179).map(lambda value: value + 0.37)
elevations = st.integers(-80, 80).map(lambda value: value + 0.23)
distances = st.integers(1, 80).map(lambda value: value / 10 + 0.013)
talkers = st.lists(st.builds(talker, azimuths, elevations, distances), max_size=2)


def turned(people: list[SimpleNamespace], by: float) -> Scenes:
    return scene_of(
        *(talker(float(wrap_degrees(p.azimuth + by)), p.elevation, p.distance) for p in people)
    )


def mirrored(people: list[SimpleNamespace]) -> Scenes:
    """Left for right."""
    return scene_of(
        *(talker(float(wrap_degrees(180 - p.azimuth)), p.elevation, p.distance) for p in people)
    )


def both_answers(scenes: Scenes, kind: str) -> int:
    """yes_no of Task 2, target of Task 4."""
    decide = truth.yes_no if kind in KINDS[2] else truth.target
    return int(decide(scenes, kind, VALUES, MARGINS)[0])


@patient
@given(talkers)
def test_half_a_turn_swaps_left_with_right_and_front_with_back(people: list) -> None:
    scenes, half = scene_of(*people), turned(people, 180.0)
    for side, other in OPPOSITE.items():
        before = geometry.on_side(scenes, side, MARGINS)
        np.testing.assert_array_equal(before, geometry.on_side(half, other, MARGINS))
        for stem in ("single_azimuth", "area"):
            assert both_answers(scenes, f"{stem}_{side}") == both_answers(half, f"{stem}_{other}")
    assert both_answers(scenes, "comparison_left") == both_answers(half, "comparison_right")


@patient
@given(talkers)
def test_a_mirror_swaps_left_with_right_alone(people: list) -> None:
    scenes, mirror = scene_of(*people), mirrored(people)
    for kind in ("single_azimuth_left", "area_left", "comparison_left"):
        assert both_answers(scenes, kind) == both_answers(mirror, kind.replace("left", "right"))
    for kind in (*KINDS[2], "distance", "area_front", "area_back", "comparison_closer"):
        if not kind.endswith(("left", "right")):
            assert both_answers(scenes, kind) == both_answers(mirror, kind)


@patient
@given(talkers, st.integers(-180, 180))
def test_a_turn_changes_neither_distances_nor_the_angle_between(people: list, by: int) -> None:
    scenes, other = scene_of(*people), turned(people, float(by))
    for kind in (*KINDS[2], "distance", "comparison_closer", "comparison_further"):
        if "azimuth_" not in kind or "multi" in kind:
            assert both_answers(scenes, kind) == both_answers(other, kind)


@patient
@given(talkers)
def test_a_quarter_turn_to_the_left_brings_right_to_the_front(people: list) -> None:
    quarter = turned(people, 90.0)
    for now, then in (("right", "front"), ("front", "left"), ("left", "back"), ("back", "right")):
        np.testing.assert_array_equal(
            geometry.on_side(scene_of(*people), now, MARGINS),
            geometry.on_side(quarter, then, MARGINS),
        )


@patient
@given(
    st.builds(talker, azimuths, elevations, distances),
    st.builds(talker, azimuths, elevations, distances),
)
def test_whoever_is_heard_first_swaps_first_and_second(one: object, other: object) -> None:
    scenes, swapped = scene_of(one, other), scene_of(other, one)
    names = {truth.FIRST: truth.SECOND, truth.SECOND: truth.FIRST}
    for kind in KINDS[4]:
        found = both_answers(scenes, kind)
        assert both_answers(swapped, kind) == names.get(found, found)
    closer = both_answers(scenes, "multi_distance_closer")
    assert both_answers(swapped, "multi_distance_closer") == -closer
    assert both_answers(swapped, "multi_distance_further") == closer


@patient
@given(talkers)
def test_opposites_exclude_each_other(people: list) -> None:
    scenes = scene_of(*people)
    for one, other in (
        ("single_azimuth_left", "single_azimuth_right"),
        ("single_azimuth_front", "single_azimuth_back"),
        ("single_distance_closer", "single_distance_further"),
        ("multi_distance_closer", "multi_distance_further"),
        ("multi_azimuth_within", "multi_azimuth_outside"),
    ):
        answers = both_answers(scenes, one), both_answers(scenes, other)
        present = len(people) == truth.talkers_needed(one)
        assert answers in (
            [(YES, NO), (NO, YES), (UNSURE, UNSURE)] if present else [(NO, NO), (UNSURE, UNSURE)]
        )
        if not people:
            assert answers == (NO, NO)


@patient
@given(talkers)
def test_against_positions_in_metres(people: list) -> None:
    """Sides and comparisons from x, y, z alone: halves of space, lengths, angles of the vectors' shadows."""
    xyz = [to_cartesian(p.azimuth, p.elevation, p.distance) for p in people]
    scenes = scene_of(*people)
    for side, axis, sign in (("left", 0, -1), ("right", 0, 1), ("front", 1, 1), ("back", 1, -1)):
        sure = geometry.on_side(scenes, side, MARGINS)[0]
        for slot, position in enumerate(xyz):
            ratio = sign * position[axis] / np.linalg.norm(position)
            if abs(ratio) > 0.175:  # the sine of 10 degrees is 0.1736
                assert sure[slot] == np.sign(ratio)
            if abs(ratio) < 0.173:
                assert sure[slot] == UNSURE
    if len(people) < 2:
        return
    near = [np.linalg.norm(position) for position in xyz]
    if abs(near[0] - near[1]) > 0.51:
        assert both_answers(scenes, "comparison_closer") == int(np.argmin(near))
        assert both_answers(scenes, "comparison_further") == int(np.argmax(near))
    shadows = [position[:2] / np.linalg.norm(position[:2]) for position in xyz]
    between = np.degrees(np.arccos(np.clip(np.dot(*shadows), -1, 1)))
    if abs(between - 60) > 10.1 and max(abs(p.elevation) for p in people) < 70:
        assert (both_answers(scenes, "multi_azimuth_within") == YES) == (between < 60)


def test_named_places() -> None:
    """0 is right, 90 front, 180 left, 270 behind."""
    compass = Scenes.of([[talker(azimuth, 0.0, 2.0)] for azimuth in (0.0, 90.0, 180.0, -90.0)])
    for number, side in enumerate(("right", "front", "left", "back")):
        assert geometry.on_side(compass, side, MARGINS)[number, 0] == YES
        assert geometry.on_side(compass, OPPOSITE[side], MARGINS)[number, 0] == NO
        assert geometry.on_side(compass, side, MARGINS)[number - 1, 0] == UNSURE
    overhead = scene_of(talker(0.0, 85.0, 2.0))
    assert all(geometry.on_side(overhead, side, MARGINS)[0, 0] == UNSURE for side in OPPOSITE)


def test_the_angle_between_goes_the_short_way_round() -> None:
    scenes = scene_of(talker(-170.0, 0.0, 1.0), talker(170.0, 0.0, 1.0))
    assert geometry.apart(scenes)[0] == pytest.approx(20.0)
    assert geometry.within(scenes, 40.0, MARGINS)[0] == YES
    assert geometry.outside(scenes, 40.0, MARGINS)[0] == NO
    assert geometry.within(scenes, 25.0, MARGINS)[0] == UNSURE
    steep = scene_of(talker(-170.0, 80.0, 1.0), talker(170.0, 0.0, 1.0))
    assert geometry.within(steep, 90.0, MARGINS)[0] == UNSURE


def test_no_question_is_asked_across_a_margin() -> None:
    for metres, verdict in ((2.4, UNSURE), (2.6, UNSURE), (1.9, YES), (3.1, NO)):
        person = scene_of(talker(45.0, 0.0, metres))
        assert truth.yes_no(person, "single_distance_closer", VALUES, MARGINS)[0] == verdict
    none = replace(MARGINS, **{name: 0.0 for name in ("side", "separation", "lateral", "distance")})
    assert (
        truth.yes_no(scene_of(talker(45.0, 0.0, 2.4)), "single_distance_closer", VALUES, none)[0]
        == YES
    )
    assert (
        truth.yes_no(scene_of(talker(45.0, 0.0, 2.5)), "single_distance_closer", VALUES, none)[0]
        == UNSURE
    )


@pytest.mark.parametrize(
    ("azimuth", "distance", "who"),
    [
        (52.0, 2.6, truth.FIRST),
        (52.0, 3.0, truth.UNCLEAR),  # half a metre off: neither here nor elsewhere
        (52.0, 3.6, truth.NOBODY),
        (65.0, 2.5, truth.UNCLEAR),
        (85.0, 2.5, truth.NOBODY),
        (85.0, 3.0, truth.NOBODY),
    ],
)
def test_a_place_is_met_or_clearly_missed(azimuth: float, distance: float, who: int) -> None:
    scenes = scene_of(talker(azimuth, 0.0, distance), talker(-120.0, 0.0, 1.0))
    assert truth.target(scenes, "place", VALUES, MARGINS)[0] == who


def test_two_who_fit_are_unclear_and_so_is_one_without_words() -> None:
    both_left = scene_of(talker(150.0, 0.0, 1.0), talker(-150.0, 0.0, 3.0))
    assert truth.target(both_left, "area_left", {}, MARGINS)[0] == truth.UNCLEAR
    assert truth.target(both_left, "area_right", {}, MARGINS)[0] == truth.NOBODY
    assert truth.target(both_left, "comparison_closer", {}, MARGINS)[0] == truth.FIRST
    mute = talker(150.0, 0.0, 1.0)
    mute.transcript = " "
    assert truth.target(scene_of(mute), "area_left", {}, MARGINS)[0] == truth.UNCLEAR
    assert truth.target(scene_of(mute), "comparison_closer", {}, MARGINS)[0] == truth.NOBODY


def test_beyond_the_list_counts_as_its_last_distance() -> None:
    far = scene_of(talker(50.0, 0.0, 9.0))
    assert truth.place_values(far, 0, {"distance"})["distance"][0] == 6.0
    assert truth.target(far, "distance", {"distance": 6.0}, MARGINS)[0] == truth.FIRST


@patient
@given(st.lists(talkers, min_size=1, max_size=6))
def test_many_clips_at_once_answer_as_one_by_one(clips: list) -> None:
    scenes = Scenes.of(clips)
    for kind in KINDS[2]:
        each = [int(truth.yes_no(Scenes.of([clip]), kind, VALUES, MARGINS)[0]) for clip in clips]
        assert truth.yes_no(scenes, kind, VALUES, MARGINS).tolist() == each
    for kind in KINDS[4]:
        each = [int(truth.target(Scenes.of([clip]), kind, VALUES, MARGINS)[0]) for clip in clips]
        assert truth.target(scenes, kind, VALUES, MARGINS).tolist() == each


def test_the_frame_is_the_librarys() -> None:
    azimuth, elevation, distance = to_spherical([-1.0, 0.2, 0.1])
    left = scene_of(talker(float(azimuth), float(elevation), float(distance)))
    assert geometry.on_side(left, "left", MARGINS)[0, 0] == YES


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ([talker(0, 0, 1)] * 3, "clip 0: questions are about 2 talkers at most, got 3"),
        ([talker(0, 0, 1, start=2.0), talker(0, 0, 1)], "in the order they are heard"),
        ([talker(float("nan"), 0, 1)], "must be finite"),
        ([talker(0, 0, -1)], "distance 0 or more"),
        ([talker(0, 91, 1)], "elevation in"),
    ],
)
def test_impossible_talkers_are_refused(clip: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scenes.of([clip])


def test_impossible_margins_are_refused() -> None:
    with pytest.raises(InputError, match="margin side must be 0 or more, got -1"):
        Margins(side=-1.0)
    with pytest.raises(InputError, match="'there' margins"):
        Margins(there_distance=0.1)

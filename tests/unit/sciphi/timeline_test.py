# SPDX-License-Identifier: Apache-2.0
"""Windows become one timeline: a sound that goes on is told once, others stay apart."""

from __future__ import annotations

import pytest

from sciphi.schema import Background, SceneDescription, Source
from sciphi.timeline import join_words, merge, whole


def sound(label, onset, offset, zone="horizontal front", loudness=-30, distance=2.0, c50=10):
    return Source(label, onset, offset, zone, distance, loudness, c50)


def window(start, *sources, length=10.0, volume=100, rt60=0.4, background=None):
    return start, start + length, SceneDescription(volume, rt60, background, sources)


def told(items):
    return [(i.source.label, i.source.onset, i.source.offset, i.source.zone) for i in items]


def test_a_sound_across_the_border_of_two_windows_is_one():
    merged = merge([window(0, sound("dog", 7, 10)), window(10, sound("dog", 0.5, 3))])
    assert told(merged) == [("dog", 7, 13, "horizontal front")]
    assert merged[0].windows == (0, 1)
    assert [(s.start, s.end) for s in merged[0].stays] == [(7, 10), (10.5, 13)]


def test_a_sound_in_the_overlap_of_two_windows_is_one():
    merged = merge([window(0, sound("dog", 6, 8)), window(5, sound("dog", 1.2, 3))])
    assert told(merged) == [("dog", 6, 8, "horizontal front")]


@pytest.mark.parametrize(
    ("label", "zone", "onset"),
    [("cat", "horizontal front", 0), ("dog", "horizontal left", 0), ("dog", "horizontal front", 2)],
)
def test_another_label_place_or_time_is_another_sound(label, zone, onset):
    merged = merge([window(0, sound("dog", 7, 10)), window(10, sound(label, onset, 3, zone))])
    assert len(merged) == 2


def test_a_sound_that_moves_is_followed_from_zone_to_zone():
    zones = ("horizontal front", "horizontal front-left", "upper left")
    merged = merge(window(10 * i, sound("car", 0, 10, zone)) for i, zone in enumerate(zones))
    assert len(merged) == 1 and merged[0].zones == zones


def test_of_two_alike_each_goes_on_where_it_was():
    first = (sound("voice", 0, 10, "horizontal left"), sound("voice", 0, 10, "horizontal right"))
    second = (
        sound("voice", 0, 4, "horizontal back-right"),
        sound("voice", 0, 6, "horizontal left"),
    )
    merged = merge([window(0, *first), window(10, *second)])
    assert sorted(i.zones for i in merged) == [
        ("horizontal left",),
        ("horizontal right", "horizontal back-right"),
    ]


def test_two_of_one_window_stay_two_and_only_one_goes_on():
    merged = merge(
        [window(0, sound("dog", 0, 4), sound("dog", 5, 10)), window(10, sound("dog", 0, 1))]
    )
    assert [(i.source.onset, i.source.offset) for i in merged] == [(0, 4), (5, 11)]


def test_values_are_weighted_by_time():
    merged = merge(
        [
            window(0, sound("dog", 0, 10, "above", loudness=-20, distance=2.0)),
            window(10, sound("dog", 0, 5, "upper left", loudness=-300, distance=5.0)),
        ]
    )
    (item,) = merged
    assert item.source.zone == "above" and item.source.distance == 3.0
    assert item.source.loudness == -22  # two thirds of the power of -20 dB: -21.8


def test_words_are_joined_and_those_of_the_overlap_said_once():
    label = "English female speech with transcript '{}'"
    merged = merge(
        [
            window(0, sound(label.format("Put the red book"), 2, 10)),
            window(5, sound(label.format("the red book, on the table."), 3, 9)),
        ]
    )
    assert merged[0].source.transcript == "Put the red book on the table."
    assert merged[0].source.name == "English female speech"
    assert join_words(["a b", "c"]) == "a b c"


def test_unknown_times_are_those_of_the_window_and_unknown_zones_go_with_any():
    merged = merge([window(0, sound("dog", None, None, None)), window(10, sound("dog", 0, 2))])
    assert told(merged) == [("dog", 0, 12, "horizontal front")]


def test_silent_windows_part_nothing_shorter_than_a_second():
    merged = merge(
        [window(0, sound("dog", 0, 1), length=1), (1, 1.5, None), window(1.5, sound("dog", 0, 1))]
    )
    assert len(merged) == 1


def test_what_is_told_beyond_the_window_is_cut():
    merged = merge([window(0, sound("dog", 1, 10), sound("cat", 5, 9), length=4.0)])
    assert told(merged) == [("dog", 1, 4, "horizontal front")]


def test_the_whole_has_the_median_room_and_the_commonest_background():
    rain, wind = Background("rain", -40), Background("wind", -20)
    windows = [
        window(0, volume=100, rt60=0.2, background=rain),
        window(10, volume=900, rt60=0.3, background=wind),
        window(20, volume=200, rt60=None, background=Background("rain", -46)),
        (30, 40, None),
    ]
    description = whole([w[2] for w in windows if w[2] is not None], merge(windows))
    assert description.room_volume == 200 and description.rt60 == 0.3
    assert description.background == Background("rain", -42)  # mean power of -40 and -46
    assert whole([], []) is None


def test_sources_of_the_whole_are_loudest_first():
    windows = [window(0, sound("a", 0, 1, loudness=-40), sound("b", 5, 6, loudness=-20))]
    description = whole([windows[0][2]], merge(windows))
    assert [s.label for s in description.sources] == ["b", "a"]


def test_what_could_not_be_read_is_not_joined_and_does_not_outvote():
    unread = Background("Unknown", None)
    windows = [
        window(0, sound("Unknown", 5, 10), background=unread),
        window(10, sound("Unknown", 0, 10), background=unread),
        window(20, background=Background("rain", -40)),
    ]
    merged = merge(windows)
    assert len(merged) == 2
    assert whole([w[2] for w in windows], merged).background == Background("rain", -40)
    assert whole([windows[0][2]], []).background == unread

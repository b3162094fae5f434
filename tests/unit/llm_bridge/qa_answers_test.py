# SPDX-License-Identifier: Apache-2.0
"""Answers in text: the paper's value lists and forms, round trips, and readers that never guess."""

from __future__ import annotations

import string
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_bridge.qa import answers
from llm_bridge.qa.answers import Location, Reply, Utterance
from spatial_core.errors import InputError
from spatial_core.geometry.coords import azimuth_error

patient = settings(deadline=None, max_examples=80)
listed_place = st.builds(
    Location,
    st.sampled_from(answers.AZIMUTHS).map(lambda text: ((float(text) + 179) % 360) - 179),
    st.sampled_from(answers.ELEVATIONS).map(lambda text: float(text) - 90),
    st.sampled_from(answers.DISTANCES).map(lambda text: float(text) / 10),
)
places = st.lists(listed_place, max_size=2)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(str.strip)
strictness = pytest.mark.parametrize("strict", [True, False])


def spoken(location: Location, transcript: str) -> SimpleNamespace:
    return SimpleNamespace(start=0.0, end=1.0, transcript=transcript, **vars(location))


def two(items: list) -> tuple:
    return (*items, None, None)[:2]


def test_value_lists_are_the_published_ones() -> None:
    assert answers.AZIMUTHS == tuple(f"{value:03d}" for value in range(0, 360, 10))
    assert answers.ELEVATIONS == tuple(f"{value:03d}" for value in range(0, 181, 10))
    published = "01 06 12 17 22 28 33 39 44 49 55 60"
    assert answers.DISTANCES == tuple(published.split())


def test_the_written_form() -> None:
    here = Location(-90.0, 0.0, 1.75)
    assert answers.format_locations([here]) == (
        "azimuth_degrees_1=270, elevation_degrees_1=090, distance_meters_1=17, "
        "azimuth_degrees_2=none, elevation_degrees_2=none, distance_meters_2=none"
    )
    talkers = [
        spoken(here, "How is  it\ngoing?"),
        spoken(Location(180.0, 88.0, 9.0), "Fine [really]"),
    ]
    assert answers.format_utterances(talkers) == (
        "transcript_1=[How is it going?], azimuth_degrees_1=270, elevation_degrees_1=090, "
        "distance_meters_1=17, transcript_2=[Fine (really)], azimuth_degrees_2=180, "
        "elevation_degrees_2=180, distance_meters_2=60"
    )
    assert answers.format_transcript(None) == "none"
    assert (answers.format_yes_no(True), answers.format_yes_no(False)) == ("yes", "no")


@patient
@given(st.floats(-720, 720), st.floats(-90, 90), st.floats(0.0, 12.0))
def test_a_place_is_written_as_the_nearest_listed_one(
    azimuth: float, elevation: float, distance: float
) -> None:
    near = answers.snapped(Location(azimuth, elevation, distance))
    # Half a step of the lists; distances are listed rounded to decimetres: half of one more.
    assert azimuth_error(near.azimuth, azimuth) <= 5 + 1e-9
    assert abs(near.elevation - elevation) <= 5 + 1e-9
    assert abs(near.distance - min(max(distance, 0.1), 6.0)) <= (5.9 / 11) / 2 + 0.05 + 1e-9


@patient
@given(places, st.booleans())
def test_task_1_round_trip(located: list[Location], strict: bool) -> None:
    parsed = answers.parse_task1(answers.format_locations(located), strict)
    assert parsed.ok
    assert parsed.value == two(located)


@patient
@given(places, words, words, st.booleans())
def test_task_3_round_trip_of_any_words(
    located: list[Location], first: str, second: str, strict: bool
) -> None:
    talkers = [spoken(place, text) for place, text in zip(located, (first, second))]
    parsed = answers.parse_task3(answers.format_utterances(talkers), strict)
    assert parsed.ok, parsed.problems
    expected = [
        Utterance(answers.clean_transcript(t.transcript), p) for t, p in zip(talkers, located)
    ]
    assert parsed.value == two(expected)


@patient
@given(st.none() | words, st.booleans())
def test_task_4_round_trip(text: str | None, strict: bool) -> None:
    parsed = answers.parse_task4(answers.format_transcript(text), strict)
    assert parsed.ok
    assert parsed.value == Reply(None if text is None else answers.clean_transcript(text))


@strictness
def test_words_that_look_like_fields_or_like_none_stay_words(strict: bool) -> None:
    place = Location(10.0, 0.0, 1.2)
    tricky = "he said azimuth_degrees_1=090, transcript_2=none"
    talkers = [spoken(place, tricky), spoken(place, "none")]
    parsed = answers.parse_task3(answers.format_utterances(talkers), strict)
    assert parsed.ok
    assert [one.transcript for one in parsed.value] == [tricky, "None."]


@strictness
def test_yes_and_no_round_trip(strict: bool) -> None:
    for answer in (True, False):
        assert answers.parse_task2(answers.format_yes_no(answer), strict).value is answer


def test_signed_elevations_of_the_prompts() -> None:
    """The encoder's grid written with a sign: -79 is -78.75, 034 is 33.75; listed values stay listed."""
    for text, degrees in {
        "-79": -79,
        "034": 34,
        "-11": -11,
        "-90": -90,
        "100": 10,
        "000": -90,
    }.items():
        answer = (
            f"azimuth_degrees_1=010, elevation_degrees_1={text}, distance_meters_1=01, "
            "azimuth_degrees_2=none, elevation_degrees_2=none, distance_meters_2=none"
        )
        for strict in (True, False):
            parsed = answers.parse_task1(answer, strict)
            assert parsed.ok
            assert parsed.value == (Location(10.0, degrees, 0.1), None)


def test_lenient_forgives_the_form_without_a_word() -> None:
    """distance_decimeters, spaces, capitals, colons, quotes, zeros and brackets left out, text around."""
    answer = (
        "**Model:** Transcript_1 = Hello there; AZIMUTH_DEGREES_1: 10 ,elevation_degrees_1 = '90',\n"
        'distance_decimeters_1=1, transcript_2="none", azimuth_degrees_2=None,'
        "elevation_degrees_2=`none`, distance_decimeters_2=‘none’."
    )
    assert not answers.parse_task3(answer).ok
    parsed = answers.parse_task3(answer.replace(" = Hello", "=Hello"), strict=False)
    assert parsed.problems == ()
    assert parsed.value == (Utterance("Hello there", Location(10.0, 0.0, 0.1)), None)


def test_sample_outputs_of_the_paper() -> None:
    """Appendix H: an open bracket and an azimuth of 205, both named, neither lost nor repaired."""
    failed = (
        "transcript_1=[a b.], azimuth_degrees_1=180, elevation_degrees_1=090, "
        "distance_decimeters_1=44, transcript_2=[none, azimuth_degrees_2=340, "
        "elevation_degrees_2=080, distance_decimeters_2=22"
    )
    parsed = answers.parse_task3(failed, strict=False)
    assert parsed.value == (
        Utterance("a b.", Location(180.0, 0.0, 4.4)),
        Utterance(None, Location(-20.0, -10.0, 2.2)),
    )
    assert len(parsed.problems) == 2
    truth = failed.replace("=180", "=205").replace("[none", "[c]")
    parsed = answers.parse_task3(truth, strict=False)
    assert parsed.value[0].location.azimuth == -155.0
    assert parsed.problems == ("azimuth_1 '205' is not in the list",)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("azimuth_degrees_1", "205", -155.0),
        ("azimuth_degrees_1", "-90", -90.0),
        ("azimuth_degrees_1", "400", None),
        ("azimuth_degrees_1", "left", None),
        ("elevation_degrees_1", "-50", -50.0),
        ("elevation_degrees_1", "085", None),  # 5 down or 85 up
        ("elevation_degrees_1", "190", None),
        ("distance_meters_1", "20", 2.0),
        ("distance_meters_1", "1.7", None),  # metres or decimetres
        ("distance_meters_1", "near", None),
        ("distance_meters_1", "", None),
    ],
)
def test_values_off_the_list_are_named_and_kept_only_if_certain(
    field: str, text: str, value: float | None
) -> None:
    listed = answers.format_locations([Location(10.0, 0.0, 1.2)])
    old = listed.split(f"{field}=")[1].split(",")[0]
    answer = listed.replace(f"{field}={old}", f"{field}={text}", 1)
    name = field.split("_")[0]
    parsed = answers.parse_task1(answer, strict=False)
    assert getattr(parsed.value[0], name) == value
    assert parsed.value[1] is None
    assert len(parsed.problems) == 1 and parsed.problems[0].startswith(f"{name}_1")
    strict = answers.parse_task1(answer)
    assert not strict.ok
    assert strict.value is None or getattr(strict.value[0], name) is None


def test_a_distance_with_its_unit_is_certain() -> None:
    answer = answers.format_locations([Location(10.0, 0.0, 1.2)])
    for text in ("1.2 m", "12 dm", "1.2m"):
        parsed = answers.parse_task1(answer.replace("=12,", f"={text},"), strict=False)
        assert parsed.ok and parsed.value[0].distance == 1.2


def test_missing_repeated_and_contradicting_fields_are_named() -> None:
    parsed = answers.parse_task1("azimuth_degrees_1=010, azimuth_degrees_1=020", strict=False)
    assert parsed.value == (Location(10.0, None, None), None)
    assert any("twice" in problem for problem in parsed.problems)
    assert sum("missing" in problem for problem in parsed.problems) == 5
    cut_off = answers.parse_task3("transcript_1=[It is late.]", strict=False)
    assert cut_off.value == (Utterance("It is late.", Location(None, None, None)), None)
    assert len(cut_off.problems) == 7 and all("missing" in x for x in cut_off.problems)
    listed = answers.format_locations([Location(10.0, 0.0, 1.2)])
    half = listed.replace("elevation_degrees_1=090", "elevation_degrees_1=none")
    swapped = listed.replace("_1", "_x").replace("_2", "_1").replace("_x", "_2")
    for answer in (half, swapped):
        parsed = answers.parse_task1(answer, strict=False)
        assert len(parsed.problems) == 1
    assert answers.parse_task1(swapped, strict=False).value == (None, Location(10.0, 0.0, 1.2))
    assert "talker 2" in answers.parse_task1(swapped, strict=False).problems[0]


@pytest.mark.parametrize("text", ["", "maybe", "yes and no", "nope", "yesno"])
@strictness
def test_neither_yes_nor_no_is_no_answer(text: str, strict: bool) -> None:
    parsed = answers.parse_task2(text, strict)
    assert parsed.value is None and not parsed.ok


@pytest.mark.parametrize("text", ["Yes", "yes.", " **YES** ", "The answer is yes."])
def test_lenient_yes(text: str) -> None:
    assert answers.parse_task2(text, strict=False) == answers.Parsed(True)
    assert answers.parse_task2(text).value is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is late.", "It is late."),
        ('"It is late."', "It is late."),
        ("transcript_1=[It is late.]", "It is late."),
        ("They say: [It is late.]", "It is late."),
        ("[It is late.", "It is late."),
        ("'Tis late", "'Tis late"),
        ("'none'", None),
        (" None. ", None),
    ],
)
def test_lenient_targeted_transcripts(text: str, words: str | None) -> None:
    assert answers.parse_task4(text, strict=False) == answers.Parsed(Reply(words))
    assert answers.parse_task4(text).value is None


def test_doubtful_transcripts_are_named() -> None:
    assert answers.parse_task4("[none]", strict=False).value == Reply(None)
    assert not answers.parse_task4("[none]", strict=False).ok
    for empty in ("", "[]", "  "):
        assert answers.parse_task4(empty, strict=False).value is None


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            [
                *"[]=,_ 129",
                "transcript_1=",
                "azimuth_degrees_2=",
                "none",
                "distance_meters_1=",
                "-79",
            ]
        )
        | st.text(string.printable, max_size=3),
        max_size=25,
    ).map("".join)
)
def test_no_text_breaks_a_reader(text: str) -> None:
    """Anything a model may say is read or reported; what is reported valid is written back the same."""
    for task in (1, 2, 3, 4, 5):
        for strict in (True, False):
            parsed = answers.parse_answer(task, text, strict)
            assert parsed.value is not None or parsed.problems
    strict_places = answers.parse_task1(text)
    if strict_places.ok:
        assume("-" not in text)
        places = [place for place in strict_places.value if place]
        assert answers.format_locations(places) == text


def test_what_cannot_be_written_is_refused() -> None:
    place = Location(0.0, 0.0, 1.0)
    with pytest.raises(InputError, match="2 talkers, got 3"):
        answers.format_locations([place] * 3)
    with pytest.raises(InputError, match="needs azimuth"):
        answers.format_locations([Location(None, 0.0, 1.0)])
    with pytest.raises(InputError, match="without words"):
        answers.format_utterances([spoken(place, "  ")])
    with pytest.raises(InputError, match="tasks are 1 to 5, got 6"):
        answers.parse_answer(6, "yes")
    with pytest.raises(InputError, match="finite"):
        answers.format_locations([Location(np.nan, 0.0, 1.0)])

# SPDX-License-Identifier: Apache-2.0
"""The text form is the published one, comes back exactly, and is read as far as it can be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciphi.json_format import from_json, to_json
from sciphi.records import SceneTruth, SourceTruth
from sciphi.schema import ORDERS, Background, SceneDescription, Source, describe_truth
from sciphi.text_format import parse_text, to_text
from sciphi.zones import ZONES_15, ZONES_26
from spatial_core.errors import InputError

# Sci-Phi's demo page, with two sources.
PUBLISHED = (
    "room_volume=1900m^3; RT60=0.4s; n_src=2. noise_label: rain;noise_loudness=-47dB. "
    "Sound label: (time, direction, distance, loudness, C50): "
    "dog barking:(0.0s-10.0s, horizontal front-right, 3.4m, -33dB, 12dB); "
    "English female speech with transcript 'Well, I don't know: (maybe) it's late; who's there?'"
    ":(1.2s-4.5s, upper back-left, 12.0m, -40dB, -3dB)."
)

labels = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40
) | st.sampled_from(
    [
        "English female speech with transcript 'a, b; c: (d) it's (0.0s-1.0s, above, 1.0m, -1dB, 2dB)'",
        "bell;noise_loudness=-3dB. Sound label: (x): ",
        ":(0.0s-1.0s, above",
        "n_src=4. noise_label: x",
        "; .,",
    ]
)
levels = st.none() | st.integers(-200, 200)
tenths = st.none() | st.integers(0, 99_999).map(lambda n: n / 10)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    times = draw(st.none() | st.tuples(st.floats(0, 99), st.floats(0, 99)).map(sorted))
    zone = draw(st.none() | st.sampled_from(ZONES_26.names + ZONES_15.names))
    label = draw(labels.filter(_sayable))
    onset, offset = times or (None, None)
    return Source(label, onset, offset, zone, draw(tenths), draw(levels), draw(levels))


def _sayable(label: str) -> bool:
    try:
        Source(label, None, None, None, None, None, None)
        Background(label, None)
    except InputError:
        return False
    return True


backgrounds = st.none() | st.builds(Background, labels.filter(_sayable), levels)
descriptions = st.builds(
    SceneDescription,
    st.none() | st.floats(1, 900_000),
    tenths,
    backgrounds,
    st.lists(sources(), max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(descriptions)
def test_every_description_comes_back_exactly_from_text_and_json(scene: SceneDescription) -> None:
    assert parse_text(to_text(scene)) == (scene, ())
    assert from_json(json.loads(json.dumps(to_json(scene)))) == scene


@settings(max_examples=60, deadline=None)
@given(descriptions, st.integers(0, 600), st.integers(0, 40), st.text(max_size=20))
def test_no_damage_makes_reading_fail(scene, at, length, instead) -> None:
    text = to_text(scene)
    damaged = text[:at] + instead + text[at + length :]
    read, problems = parse_text(damaged)
    # Whatever was read is a description that can be written and read again without complaint.
    assert parse_text(to_text(read)) == (read, ())
    assert all(isinstance(problem, str) and problem for problem in problems)


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    read, problems = parse_text(text)
    assert problems or read.sources or read.room_volume


def test_the_published_form_is_written_and_read() -> None:
    read, problems = parse_text(PUBLISHED)
    assert problems == ()
    assert read.room_volume == 1900 and read.rt60 == 0.4
    assert read.background == Background("rain", -47)
    dog, speech = read.sources
    assert dog == Source("dog barking", 0.0, 10.0, "horizontal front-right", 3.4, -33, 12)
    assert speech.name == "English female speech"
    # The bracket after a colon opens the values, so in a label it has none.
    assert speech.transcript == "Well, I don't know (maybe) it's late; who's there?"
    assert dog.transcript is None
    assert to_text(read) == PUBLISHED.replace("know: (", "know (")


def test_the_example_of_the_docs_is_in_this_form() -> None:
    page = Path(__file__).parents[3] / "docs" / "sciphi-descriptions.md"
    (example,) = re.findall(r"^room_volume=.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    read, problems = parse_text(example)
    assert problems == () and to_text(read) == example and len(read.sources) == 2


def test_no_background_and_an_unknown_volume_are_written_as_published() -> None:
    scene = SceneDescription(None, 0.4, None)
    assert to_text(scene) == (
        "room_volume=Unknown; RT60=0.4s; n_src=0. noise_label: not present;noise_loudness=None. "
        "Sound label: (time, direction, distance, loudness, C50): ."
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("RT60=0.4s", "RT60=soon"), "RT60 'soon' cannot be read in s"),
        (("1900m^3", "1,900m^3"), "room_volume '1,900m^3' cannot be read in m^3"),
        (("n_src=2", "n_src=3"), "n_src is 3, but 2 could be read"),
        (("3.4m", "11ft"), "source 1: distance '11ft' cannot be read in m"),
        (("front-right", "north"), "source 1: direction 'horizontal north' is no zone"),
        (("-33dB, 12dB", "12dB"), "source 1: loudness is missing"),
        (("0.0s-10.0s", "9.0s-1.0s"), "source 1: time '9.0s-1.0s' does not end after its start"),
        ((";noise_loudness=-47dB", ""), "noise_loudness is missing"),
        ((", -3dB).", ""), "source 2: the answer ends within its values"),
        (("noise_label: rain", "noise_label: not present"), "no background is there"),
        (("-47dB", "1000dB"), "noise_loudness '1000dB' cannot be"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_kept(change, problem) -> None:
    read, problems = parse_text(PUBLISHED.replace(*change))
    assert any(problem in one for one in problems), problems
    assert [source.name for source in read.sources] == ["dog barking", "English female speech"]
    assert read.sources[1].zone == "upper back-left"


@pytest.mark.parametrize(
    "change",
    [
        ("horizontal front-right", "Horizontal Right Front"),
        ("0.0s-10.0s", "0.0 - 10.0 s"),
        ("-33dB", "−33 dBA"),
        ("3.4m", "3.40 metres"),
        ("1900m^3", "1900 m³"),
        ("; n_src", ", n_src"),
        (";noise_loudness=", "; Noise loudness: "),
        ("Sound label: (time, direction, distance, loudness, C50):", "sound label: (time, ...):"),
    ],
)
def test_other_spellings_are_forgiven(change) -> None:
    assert change[0] in PUBLISHED
    assert parse_text(PUBLISHED.replace(*change)) == parse_text(PUBLISHED)


def test_one_level_alone_is_neither_loudness_nor_c50() -> None:
    read, _ = parse_text(PUBLISHED.replace("-33dB, 12dB", "12dB"))
    assert (read.sources[0].loudness, read.sources[0].c50) == (None, None)


def _truth() -> SceneTruth:
    speech = ("English male speech", "speech", "speech", "Good morning.")
    return SceneTruth(
        volume=48.0,
        rt60=0.449,
        background="rain",
        background_loudness=-46.5,
        sources=(
            SourceTruth(*speech, 1.249, 4.05, -45.0, 10.0, 3.449, -30.5, 59.96),
            SourceTruth("bell", "event", "bell", None, 0.0, 10.0, 0.0, 80.0, 12.0, -20.4, -2.5),
            SourceTruth("alarm", "event", "alarm", None, 0.5, 3.0, 170.0, -30.0, 0.04, -35.0, 9.0),
        ),
    )


def test_a_truth_is_described_on_the_published_steps() -> None:
    # Halves go up, and the smallest room is not 0 m^3.
    assert to_text(describe_truth(_truth())) == (
        "room_volume=100m^3; RT60=0.4s; n_src=3. noise_label: rain;noise_loudness=-46dB. "
        "Sound label: (time, direction, distance, loudness, C50): "
        "bell:(0.0s-10.0s, above, 12.0m, -20dB, -2dB); "
        "English male speech with transcript 'Good morning.'"
        ":(1.2s-4.1s, horizontal front-right, 3.4m, -30dB, 60dB); "
        "alarm:(0.5s-3.0s, lower back, 0.0m, -35dB, 9dB)."
    )
    fine = describe_truth(_truth(), ZONES_15)
    assert [source.zone for source in fine.sources] == [
        "azimuth 0 elevation 75",
        "azimuth -45 elevation 15",
        "azimuth 165 elevation -30",
    ]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("loudness", ["bell", "English", "alarm"]),
        ("zone", ["English", "alarm", "bell"]),
        ("distance", ["alarm", "English", "bell"]),
        ("name", ["alarm", "bell", "English"]),
        ("onset", ["bell", "alarm", "English"]),
    ],
)
def test_five_orders(order, names) -> None:
    assert order in ORDERS and len(ORDERS) == 5
    scene = describe_truth(_truth(), order=order)
    assert [source.name.split()[0] for source in scene.sources] == names
    assert set(scene.sources) == set(describe_truth(_truth()).sources)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("", 0, 1, "above", 1, 1, 1), "needs a label"),
        (("bell", 2, 1, "above", 1, 1, 1), "before its start"),
        (("bell", 0, None, "above", 1, 1, 1), "only one of onset and offset"),
        (("bell", 0, 1, "north", 1, 1, 1), "none of the 26 zones"),
        (("bell", 0, 1, "above", -1, 1, 1), "distance of 'bell' is -1"),
        (("bell", 0, 1, "above", 1, float("nan"), 1), "loudness of 'bell' is nan"),
    ],
)
def test_a_source_that_cannot_be_is_refused(values, says) -> None:
    with pytest.raises(InputError, match=says):
        Source(*values)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "need an object with"),
        ({"room_volume_m3": 1}, "missing: background"),
        ({"room_volume_m3": "1", "rt60_s": 1, "background": None, "sources": []}, "need a number"),
        ({"room_volume_m3": 1, "rt60_s": 1, "background": None, "sources": [{}]}, "source 1 needs"),
        ({"room_volume_m3": 1, "rt60_s": 1, "background": None, "sources": None}, "need a list"),
    ],
)
def test_malformed_metadata_is_refused(content, says) -> None:
    with pytest.raises(InputError, match=says):
        from_json(content)

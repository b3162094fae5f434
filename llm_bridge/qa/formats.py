# SPDX-License-Identifier: Apache-2.0
"""Answers in text: the value lists and formats of the four tasks (PhaseCoder, appendix D).

Task 1  azimuth_degrees_1=010, elevation_degrees_1=090, distance_meters_1=17, azimuth_degrees_2=none, ...
Task 2  yes | no
Task 3  transcript_1=[How is it going?], azimuth_degrees_1=010, ..., transcript_2=none, ...
Task 4  [How is it going?] | none
Task 5  one number, or one for each talker: 060 | 33, 17 | none

Values in text: azimuth 000..350 in tens, counter-clockwise, 000 right (+x), 090 front (+y); elevation
plus 90 in tens, 090 horizontal; distance in decimetres, although the field is called meters. Values in
Python are the library's: azimuth (-180, 180], elevation [-90, 90] degrees, distance in metres.
`answers.py` reads the text back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH, DISTANCE, ELEVATION, ClassGrid
from spatial_core.geometry.coords import wrap_degrees

T = TypeVar("T")
TALKERS = 2  # slots of an answer: the first and the second to be heard
NONE = "none"
YES, NO = "yes", "no"

# The encoder's elevation grid has steps of 11.25 degrees, the answers' list steps of 10.
ELEVATION_TEXT = ClassGrid("elevation in answers", -90.0, 90.0, 19)

AZIMUTHS = tuple(f"{value:03.0f}" for value in AZIMUTH.centres[:-1] + 180.0)
ELEVATIONS = tuple(f"{value:03.0f}" for value in ELEVATION_TEXT.centres + 90.0)
DISTANCES = tuple(f"{value:02.0f}" for value in DISTANCE.centres * 10.0)


def _signed_elevations() -> dict[str, float]:
    """The other way to write elevation that the paper's prompts show: -79, 034, the encoder's grid.

    What the list also has (000, 090) means the list's value; halves are found rounded both ways.
    """
    signed = {}
    for centre in ELEVATION.centres:
        for value in {int(np.floor(centre + 0.5)), int(np.ceil(centre - 0.5))}:
            text = f"{value:03d}" if value >= 0 else str(value)
            if text not in ELEVATIONS:
                signed[text] = float(value)
    return signed


SIGNED_ELEVATIONS = _signed_elevations()


class Placed(Protocol):
    """Anything with a place: azimuth and elevation in degrees, distance in metres."""

    @property
    def azimuth(self) -> float | None: ...
    @property
    def elevation(self) -> float | None: ...
    @property
    def distance(self) -> float | None: ...


class TalkerLike(Protocol):
    """One talker of a clip: start and end in seconds, the place, and the words."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def azimuth(self) -> float: ...
    @property
    def elevation(self) -> float: ...
    @property
    def distance(self) -> float: ...
    @property
    def transcript(self) -> str: ...


@dataclass(frozen=True)
class Location:
    """A place read from text, degrees and metres; None where the text gave no usable value."""

    azimuth: float | None
    elevation: float | None
    distance: float | None


def azimuth_text(azimuth: float) -> str:
    """Nearest listed azimuth of degrees in the library's convention: -90 gives "270"."""
    centre = float(AZIMUTH.decode(AZIMUTH.encode(azimuth)))
    return f"{centre % 360.0:03.0f}"


def elevation_text(elevation: float) -> str:
    """Nearest listed elevation: degrees above the horizontal plane, plus 90, in tens."""
    return ELEVATIONS[int(ELEVATION_TEXT.encode(elevation))]


def distance_text(distance: float) -> str:
    """Nearest listed distance of metres, in decimetres; over 6 m gives "60"."""
    return DISTANCES[int(DISTANCE.encode(distance))]


def azimuth_of(text: str) -> float:
    """Degrees of a listed azimuth, (-180, 180]."""
    return float(wrap_degrees(float(text)))


def elevation_of(text: str) -> float:
    """Degrees of a listed or of a signed elevation, [-90, 90]."""
    return float(text) - 90.0 if text in ELEVATIONS else SIGNED_ELEVATIONS[text]


def distance_of(text: str) -> float:
    """Metres of a listed distance."""
    return float(text) / 10.0


def snapped(place: Placed) -> Location:
    """The place as an answer would state it: every value the nearest of its list."""
    azimuth, elevation, distance = _place_texts(place)
    return Location(azimuth_of(azimuth), elevation_of(elevation), distance_of(distance))


def clean_transcript(words: str) -> str:
    """The words as an answer holds them: one space between words, round brackets for square ones.

    Square brackets end a transcript, so they cannot be in it. A talker who says just "none" is
    written "None.", which no reader takes for nobody.
    """
    text = " ".join(words.split()).replace("[", "(").replace("]", ")")
    return "None." if text.casefold() == NONE else text


def format_transcript(words: str | None) -> str:
    """Task 4: the words in square brackets, `none` for nobody. InputError for empty words."""
    if words is None:
        return NONE
    text = clean_transcript(words)
    if not text:
        raise InputError("a talker without words has no transcript to ask for; leave the clip out")
    return f"[{text}]"


def format_yes_no(answer: bool) -> str:
    """Task 2."""
    return YES if answer else NO


def format_locations(places: Sequence[Placed]) -> str:
    """Task 1: up to two places in the order they are heard."""
    _check_count(places)
    fields = [_location_fields(slot, _at(places, slot)) for slot in range(TALKERS)]
    return ", ".join(fields)


def format_utterances(talkers: Sequence[TalkerLike]) -> str:
    """Task 3: words and places of up to two talkers in the order they are heard."""
    _check_count(talkers)
    fields = []
    for slot in range(TALKERS):
        talker = _at(talkers, slot)
        words = format_transcript(None if talker is None else talker.transcript)
        fields.append(f"transcript_{slot + 1}={words}, {_location_fields(slot, talker)}")
    return ", ".join(fields)


def format_measure(kind: str, talkers: Sequence[Placed]) -> str:
    """Task 5: the numbers of a kind, as Task 1 writes them; `none` if there are not its talkers.

    measure_separation: of two azimuths, the short way round, 000..180. measure_turn: from the first
    azimuth counter-clockwise to the second, 000..350.
    """
    if len(talkers) != (1 if kind == "measure_distance" else 2):
        return NONE
    azimuths, _, distances = zip(*map(_place_texts, talkers), strict=True)
    if kind in ("measure_distance", "measure_distances"):
        return ", ".join(distances)
    if kind == "measure_directions":
        return ", ".join(azimuths)
    first, second = (talker.azimuth or 0.0 for talker in talkers)
    turn = float(wrap_degrees(second - first))
    return azimuth_text(abs(turn) if kind == "measure_separation" else turn)


def _at(places: Sequence[T], slot: int) -> T | None:
    return places[slot] if slot < len(places) else None


def _check_count(places: Sequence) -> None:
    if len(places) > TALKERS:
        raise InputError(f"an answer has room for {TALKERS} talkers, got {len(places)}")


def _place_texts(place: Placed) -> tuple[str, str, str]:
    if place.azimuth is None or place.elevation is None or place.distance is None:
        raise InputError(
            f"a place needs azimuth, elevation and distance to be written, got {place}"
        )
    return (
        azimuth_text(place.azimuth),
        elevation_text(place.elevation),
        distance_text(place.distance),
    )


def _location_fields(slot: int, place: Placed | None) -> str:
    texts = (NONE, NONE, NONE) if place is None else _place_texts(place)
    number = slot + 1
    return (
        f"azimuth_degrees_{number}={texts[0]}, elevation_degrees_{number}={texts[1]}, "
        f"distance_meters_{number}={texts[2]}"
    )

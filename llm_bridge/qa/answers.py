# SPDX-License-Identifier: Apache-2.0
"""From an answer's text back to values: strict and lenient readers that report and never guess.

Strict takes exactly the form that `formats.py` writes (elevations also signed, as the paper's prompts
show them). Lenient forgives how it is written - spaces, capitals, quotes, leading zeros, brackets left
out, distance_decimeters, text around - and says nothing about that. Neither forgives a value: one that is not in its
list is named in `problems`; lenient keeps it where its meaning is certain (azimuth 205), and otherwise
the value is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from llm_bridge.qa.formats import (
    AZIMUTHS,
    DISTANCES,
    ELEVATIONS,
    NO,
    NONE,
    SIGNED_ELEVATIONS,
    TALKERS,
    YES,
    Location,
    Placed,
    TalkerLike,
    azimuth_of,
    azimuth_text,
    clean_transcript,
    distance_of,
    distance_text,
    elevation_of,
    elevation_text,
    format_locations,
    format_measure,
    format_transcript,
    format_utterances,
    format_yes_no,
    snapped,
)
from spatial_core.errors import InputError
from spatial_core.geometry.coords import wrap_degrees

# The one address of everything about answers: what `formats` writes and what is read back here.
__all__ = [
    "AZIMUTHS",
    "DISTANCES",
    "ELEVATIONS",
    "NO",
    "NONE",
    "YES",
    "Location",
    "Locations",
    "Parsed",
    "Placed",
    "Reply",
    "TalkerLike",
    "Utterance",
    "Utterances",
    "azimuth_text",
    "clean_transcript",
    "distance_text",
    "elevation_text",
    "format_locations",
    "format_measure",
    "format_transcript",
    "format_utterances",
    "format_yes_no",
    "parse_answer",
    "parse_task1",
    "parse_task2",
    "parse_task3",
    "parse_task4",
    "parse_task5",
    "snapped",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """What was read. value is None if nothing could be; problems say what was invalid."""

    value: T | None
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if the answer was valid in every part."""
        return not self.problems


@dataclass(frozen=True)
class Utterance:
    """One talker of Task 3: words (None if not given) and place."""

    transcript: str | None
    location: Location


@dataclass(frozen=True)
class Reply:
    """Task 4: the words, or None for the answer `none`."""

    transcript: str | None


Locations = tuple[Location | None, Location | None]
Utterances = tuple[Utterance | None, Utterance | None]

_VALUE = r"[^,\[\]=\s]+"
_WORDS = r"none|\[[^\[\]]*\]"
_PLACE = (
    rf"azimuth_degrees_#=({_VALUE}), elevation_degrees_#=({_VALUE}), distance_meters_#=({_VALUE})"
)
_TASK1 = re.compile(", ".join(_PLACE.replace("#", str(n + 1)) for n in range(TALKERS)))
_TASK3 = re.compile(
    ", ".join(
        rf"transcript_#=({_WORDS}), {_PLACE}".replace("#", str(n + 1)) for n in range(TALKERS)
    )
)
_TASK4 = re.compile(_WORDS)
_TASK5 = re.compile(r"\d{2,3}(?:, \d{2,3})?")
_PARTS = ("azimuth", "elevation", "distance")
_FIELD = re.compile(
    r"(transcript|azimuth(?:_degrees)?|elevation(?:_degrees)?"
    r"|distance(?:_(?:deci)?(?:meters|metres))?)_?([12])\s*[=:]\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"([+-]?\d+(?:\.\d+)?)\s*(°|degrees|degree|deg|decimeters|decimetres|dm|meters|metres|m)?"
)
_QUOTES = " \t\r\n\"'`‘’“”*"


def parse_task1(text: str, strict: bool = True) -> Parsed[Locations]:
    """Places of the first and second talker, None for a talker who is not there."""
    fields, problems = _split(text, _TASK1, _PARTS, strict)
    if fields is None:
        return Parsed(None, tuple(problems))
    places = [_location(fields, slot, strict, problems) for slot in range(TALKERS)]
    _check_order(places, problems)
    return Parsed((places[0], places[1]), tuple(problems))


def parse_task2(text: str, strict: bool = True) -> Parsed[bool]:
    """True for yes. Lenient takes a text that says one of the two words and not the other."""
    if strict:
        said = {text} & {YES, NO}
    else:
        said = set(re.findall(rf"\b(?:{YES}|{NO})\b", text.casefold()))
    if len(said) != 1:
        return Parsed(None, (f"expected {YES} or {NO}, got {_short(text)}",))
    return Parsed(said == {YES})


def parse_task3(text: str, strict: bool = True) -> Parsed[Utterances]:
    """Words and places of the first and second talker, None for a talker who is not there."""
    fields, problems = _split(text, _TASK3, ("transcript", *_PARTS), strict)
    if fields is None:
        return Parsed(None, tuple(problems))
    read: list[Utterance | None] = []
    for slot in range(TALKERS):
        words = _words(fields, slot, strict, problems)
        place = _location(fields, slot, strict, problems)
        told = f"transcript_{slot + 1}" in fields
        placed = any(f"{part}_{slot + 1}" in fields for part in _PARTS)
        if told and placed and (words is None) != (place is None):
            problems.append(
                f"transcript_{slot + 1} and the place of talker {slot + 1} disagree: one is {NONE}"
            )
        if words is None and place is None:
            read.append(None)
        else:
            read.append(Utterance(words, place or Location(None, None, None)))
    _check_order(read, problems)
    return Parsed((read[0], read[1]), tuple(problems))


def parse_task4(text: str, strict: bool = True) -> Parsed[Reply]:
    """The words of the talker asked for; Reply(None) for the answer none."""
    if strict:
        if not _TASK4.fullmatch(text):
            return Parsed(None, (f"expected [words] or {NONE}, got {_short(text)}",))
        fields = {"transcript_1": text}
    else:
        fields = {
            "transcript_1": re.sub(
                r"^[^\w\[]*transcript(?:_?1)?\s*[=:]\s*", "", text, flags=re.IGNORECASE
            )
        }
    problems: list[str] = []
    words = _words(fields, 0, strict, problems)
    if words is None and problems and not _is_none(fields["transcript_1"]):
        return Parsed(None, tuple(problems))
    return Parsed(Reply(words), tuple(problems))


def parse_task5(text: str, strict: bool = True) -> Parsed[tuple[float, ...]]:
    """The numbers as written, one or two; none gives no number. Lenient takes text around them."""
    if text == NONE or (not strict and _is_none(text)):
        return Parsed(())
    if strict and not _TASK5.fullmatch(text):
        return Parsed(None, (f"expected one or two numbers or {NONE}, got {_short(text)}",))
    numbers = tuple(float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text))
    if not 1 <= len(numbers) <= TALKERS:
        return Parsed(None, (f"expected one or two numbers or {NONE}, got {_short(text)}",))
    return Parsed(numbers)


_PARSERS: dict[int, Callable[[str, bool], Parsed]] = {
    1: parse_task1,
    2: parse_task2,
    3: parse_task3,
    4: parse_task4,
    5: parse_task5,
}


def parse_answer(task: int, text: str, strict: bool = True) -> Parsed:
    """Answer of any task: the value is that of parse_task1..5."""
    if task not in _PARSERS:
        raise InputError(f"tasks are 1 to 5, got {task!r}")
    return _PARSERS[task](text, strict)


def _split(
    text: str, form: re.Pattern[str], parts: tuple[str, ...], strict: bool
) -> tuple[dict[str, str] | None, list[str]]:
    """Texts of the fields by name ("azimuth_1"), None if there is no field; and what was wrong."""
    names = [f"{part}_{slot + 1}" for slot in range(TALKERS) for part in parts]
    if strict:
        match = form.fullmatch(text)
        if match is None:
            return None, [f"not of the form of the answers: {_short(text)}"]
        return dict(zip(names, match.groups())), []
    fields, problems = _scan(text, set(names))
    if not fields:
        return None, [f"no field of an answer in {_short(text)}"]
    problems += [f"{name} is missing" for name in names if name not in fields]
    return fields, problems


def _scan(text: str, names: set[str]) -> tuple[dict[str, str], list[str]]:
    """Fields wherever they stand. What is inside closed brackets is words, never a field."""
    fields: dict[str, str] = {}
    problems: list[str] = []
    match = _FIELD.search(text)
    while match:
        name = f"{match[1].casefold().split('_')[0]}_{match[2]}"
        start = match.end()
        end = _closing(text, start) if name.startswith("transcript") else None
        following = _FIELD.search(text, end or start)
        if end is None:
            end = following.start() if following else len(text)
        if name in fields:
            problems.append(f"{name} is given twice; the first counts")
        elif name in names:
            fields[name] = text[start:end].strip(" \t\r\n,;")
        match = following
    return fields, problems


def _closing(text: str, start: int) -> int | None:
    """End of the bracketed words that begin at `start`; None without brackets or if left open."""
    close, inner = text.find("]", start), text.find("[", start + 1)
    if not text.startswith("[", start) or close < 0 or 0 <= inner < close:
        return None
    return close + 1


def _location(
    fields: dict[str, str], slot: int, strict: bool, problems: list[str]
) -> Location | None:
    """The place of one slot; None if every field is none (or missing, which is reported already)."""
    values: dict[str, float | None] = {}
    empty = []
    for part in _PARTS:
        name = f"{part}_{slot + 1}"
        text = fields.get(name)
        values[part] = None
        if text is None:
            continue
        if text == NONE or (not strict and _is_none(text)):
            empty.append(part)
            continue
        values[part], problem = _READERS[part](text, strict)
        if problem:
            problems.append(f"{name} {problem}")
    given = sum(f"{part}_{slot + 1}" in fields for part in _PARTS)
    if len(empty) == given:
        return None
    if empty:
        problems.append(f"talker {slot + 1}: {', '.join(empty)} is {NONE}, the rest is not")
    return Location(values["azimuth"], values["elevation"], values["distance"])


def _azimuth(text: str, strict: bool) -> tuple[float | None, str | None]:
    if text in AZIMUTHS:
        return azimuth_of(text), None
    match = None if strict else _number(text)
    if match is None:
        return None, _unlisted(text)
    value = float(match[1])
    if value in map(float, AZIMUTHS):
        return float(wrap_degrees(value)), None
    return float(wrap_degrees(value)) if -180.0 <= value <= 360.0 else None, _unlisted(text)


def _elevation(text: str, strict: bool) -> tuple[float | None, str | None]:
    """Listed values are elevation + 90. A sign, or a value only the signed form has, means signed."""
    if text in ELEVATIONS or text in SIGNED_ELEVATIONS:
        return elevation_of(text), None
    match = None if strict else _number(text)
    if match is None:
        return None, _unlisted(text)
    value, signed = float(match[1]), match[1][0] in "+-"
    grid = {*SIGNED_ELEVATIONS.values(), 0.0, 90.0}
    if not signed and value in map(float, ELEVATIONS):
        return value - 90.0, None
    if value in grid:
        return value, None
    # 085 could be five degrees down or 85 up: only a sign tells.
    return value if signed and abs(value) <= 90.0 else None, _unlisted(text)


def _distance(text: str, strict: bool) -> tuple[float | None, str | None]:
    if text in DISTANCES:
        return distance_of(text), None
    match = None if strict else _number(text)
    if match is None:
        return None, _unlisted(text)
    unit = (match[2] or "").casefold()
    if not unit and "." in match[1]:
        return None, f"{text!r} does not say whether it is metres or decimetres"
    value = float(match[1]) * (10.0 if unit.startswith("m") else 1.0)
    if any(abs(value - float(listed)) < 1e-6 for listed in DISTANCES):
        return round(value) / 10.0, None
    return value / 10.0 if 0.0 <= value <= 1000.0 else None, _unlisted(text)


_READERS = {"azimuth": _azimuth, "elevation": _elevation, "distance": _distance}


def _number(text: str) -> re.Match[str] | None:
    return _NUMBER.fullmatch(text.strip(_QUOTES).rstrip(".").casefold())


def _unlisted(text: str) -> str:
    return f"{_short(text)} is not in the list"


def _words(fields: dict[str, str], slot: int, strict: bool, problems: list[str]) -> str | None:
    """Transcript of one slot; None for none and for a missing or empty one, both reported."""
    name = f"transcript_{slot + 1}"
    text = fields.get(name)
    if text is None or text == NONE:
        return None
    enclosed = re.findall(r"\[([^\[\]]*)\]", text)
    if strict:
        words = enclosed[0]
    elif (enclosed and enclosed[0].strip().casefold() == NONE) or (not enclosed and _is_none(text)):
        if "[" in text or "]" in text:
            problems.append(f"{name}: {_short(text)} has brackets; read as {NONE}")
        return None
    else:
        if len(enclosed) > 1:
            problems.append(f"{name} has {len(enclosed)} parts in brackets; the first counts")
        words = enclosed[0] if enclosed else _unquoted(text.strip().strip("[]"))
    words = words.strip()
    if not words:
        problems.append(f"{name} is empty")
        return None
    return words


def _unquoted(text: str) -> str:
    """Without quotes around the whole; an apostrophe that begins a word stays."""
    text = text.strip()
    pairs = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
    if len(text) > 1 and pairs.get(text[0]) == text[-1]:
        return text[1:-1]
    return text


def _is_none(text: str) -> bool:
    return text.strip(_QUOTES + "[].,").casefold() == NONE


def _check_order(slots: list, problems: list[str]) -> None:
    if slots[0] is None and slots[1] is not None:
        problems.append(f"talker 2 is given although talker 1 is {NONE}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")

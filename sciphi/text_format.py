# SPDX-License-Identifier: Apache-2.0
"""The text form of a description, as Sci-Phi's language model writes it, and the way back.

    room_volume=1900m^3; RT60=0.4s; n_src=1. noise_label: rain;noise_loudness=-47dB. Sound label: (time,
    direction, distance, loudness, C50): dog barking:(0.0s-10.0s, horizontal front-right, 3.4m, -33dB, 12dB).

All on one line. No background is `noise_label: not present;noise_loudness=None`, a value that is not known
`Unknown`. Labels and transcripts may hold commas, quotes, brackets and semicolons: a source is found by the
values in brackets at its right. Reading is exact for what `to_text` writes, and lenient for the rest: it
forgives how a value is written, never guesses one, names what it could not read, and never raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sciphi.schema import (
    MOST,
    MOST_LEVEL,
    NO_BACKGROUND,
    UNKNOWN,
    Background,
    SceneDescription,
    Source,
)
from sciphi.zones import read_zone

LEGEND = "Sound label: (time, direction, distance, loudness, C50):"
MAX_CHARS = 20_000  # of an answer that is read; four sources take some 600

_NUMBER = r"\d{1,7}(?:\.\d{1,6})?"
_SIGNED = rf"[-−+]?\s*{_NUMBER}"
_NOTHING = re.compile(r"unknown|none|n/?a|\?|-", re.IGNORECASE)
_TO_NEXT = r"\s*[=:]\s*(.*?)\s*(?:;|,\s*(?=[a-z])|\.\s|\.?$)"
_VOLUME = re.compile(rf"room[ _]?volume{_TO_NEXT}", re.IGNORECASE)
_RT60 = re.compile(rf"rt[ _]?60{_TO_NEXT}", re.IGNORECASE)
_COUNT = re.compile(r"n[ _]?(?:src|sources)\s*[=:]\s*(\d{1,3})\b", re.IGNORECASE)
_NOISE = re.compile(r"noise[ _]?label\s*[:=]\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_LEVEL = rf"(?P<value>{_SIGNED}(?:\s*dB(?:\(?A\)?)?)?|\w*)\.?(?:\s+|$)"
# Labels of backgrounds hold no semicolon, so that the first one ends them.
_NOISE_LEVEL = re.compile(rf"(?<=;)noise_loudness={_LEVEL}")
_LOOSE_NOISE_LEVEL = re.compile(rf"[;,]?\s*noise[ _]?loudness\s*[=:]\s*{_LEVEL}", re.IGNORECASE)
_LEGEND = re.compile(r"\s*sound[ _]?label\s*:?\s*\([^()]*\)\s*:?\s*", re.IGNORECASE)
# A source's values. The last may lack its bracket, where an answer was cut off.
_VALUES = re.compile(r":\s*\(([^()]*)(\)|$)")
_TIME = re.compile(
    rf"({_NUMBER})\s*s?(?:ec)?\s*(?:-|–|—|to)\s*({_NUMBER})\s*s(?:ec)?", re.IGNORECASE
)
_UNITS = {
    "m^3": r"m\s*\^?\s*3|m³|cubic met(?:er|re)s",
    "s": r"s(?:ec(?:onds?)?)?",
    "m": r"m(?:et(?:er|re)s?)?",
    "dB": r"dB(?:\(?A\)?)?",
}
_FORMS = {
    unit: re.compile(
        rf"(?P<number>{_SIGNED if unit == 'dB' else _NUMBER})\s*(?P<unit>{name})?", re.IGNORECASE
    )
    for unit, name in _UNITS.items()
}
_PLACES = ("time", "zone", "distance", "loudness", "c50")
Span = tuple[int, int]


@dataclass(frozen=True)
class Marks:
    """Where in a text its number of sources stands, and the zone of each source: first character, end."""

    count: Span | None
    zones: tuple[Span | None, ...]


def to_text(description: SceneDescription) -> str:
    """The text of a description, its sources in the order they have."""
    background = description.background
    if background is None:
        noise = f"noise_label: {NO_BACKGROUND};noise_loudness=None"
    else:
        noise = f"noise_label: {background.label};noise_loudness={_show(background.loudness, 'dB')}"
    room = (
        f"room_volume={_show(description.room_volume, 'm^3')}; RT60={_show(description.rt60, 's')}"
    )
    sources = "; ".join(source_text(source) for source in description.sources)
    return f"{room}; n_src={len(description.sources)}. {noise}. {LEGEND} {sources}."


def source_text(source: Source) -> str:
    """`dog barking:(0.0s-10.0s, horizontal front-right, 3.4m, -33dB, 12dB)`."""
    time = UNKNOWN if source.onset is None else f"{source.onset:.1f}s-{source.offset:.1f}s"
    values = (
        time,
        source.zone or UNKNOWN,
        _show(source.distance, "m"),
        _show(source.loudness, "dB"),
        _show(source.c50, "dB"),
    )
    return f"{source.label}:({', '.join(values)})"


def parse_text(text: str) -> tuple[SceneDescription, tuple[str, ...]]:
    """What a text describes, and what of it could not be read; never raises.

    Both grids of zones are known. A value that is missing or unreadable is None, a label `Unknown`; a source
    without its values in brackets is left out and named.
    """
    description, problems, _ = parse_marked(text)
    return description, problems


def parse_marked(text: str) -> tuple[SceneDescription, tuple[str, ...], Marks]:
    """`parse_text`, and where the values stand; nowhere in a text with other white space than single spaces."""
    problems: list[str] = []
    given = str(text)
    text = " ".join(given[:MAX_CHARS].split())
    if len(text) == MAX_CHARS:
        problems.append(f"only the first {MAX_CHARS} characters were read")
    noise = _NOISE.search(text)
    head = text[: noise.start()] if noise else text
    volume = _head_value(head, _VOLUME, "m^3", "room_volume", problems)
    rt60 = _head_value(head, _RT60, "s", "RT60", problems)
    if noise:
        background, rest = _background(noise["rest"], problems)
    else:
        problems.append("noise_label is missing")
        background, rest = Background(UNKNOWN, None), _after_head(text)
    read = _sources(rest, problems)
    sources = tuple(source for source, _ in read)
    count = _check_count(head, len(sources), problems)
    at = len(text) - len(rest)  # what is left to read is always the end of the text
    zones = tuple(span and (at + span[0], at + span[1]) for _, span in read)
    if text != given:
        count, zones = None, (None,) * len(zones)
    return SceneDescription(volume, rt60, background, sources), tuple(problems), Marks(count, zones)


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return UNKNOWN
    return f"{value}{unit}" if isinstance(value, int) else f"{value:.1f}{unit}"


def _float(text: str) -> float:
    return float(text.replace("−", "-").replace(" ", ""))


def _head_value(
    head: str, where: re.Pattern[str], unit: str, name: str, problems: list[str]
) -> float | None:
    found = where.search(head)
    if found is None:
        problems.append(f"{name} is missing")
        return None
    return _value(found[1], unit, name, problems)


def _value(text: str, unit: str, name: str, problems: list[str]) -> float | None:
    """A number of a unit, which may be left out; None for `Unknown`; else a problem is named."""
    if not text:
        problems.append(f"{name} is missing")
        return None
    if _NOTHING.fullmatch(text):
        return None
    found = _FORMS[unit].fullmatch(text)
    if found is None:
        problems.append(f"{name} {text[:40]!r} cannot be read in {unit}")
        return None
    value = _float(found["number"])
    if abs(value) > (MOST_LEVEL if unit == "dB" else MOST) or (unit == "m^3" and not value):
        problems.append(f"{name} {text[:40]!r} cannot be")
        return None
    return value


def _check_count(head: str, sources: int, problems: list[str]) -> Span | None:
    """Where the number of sources stands; a problem if it is another one."""
    found = _COUNT.search(head)
    if found is None:
        problems.append("n_src is missing")
    elif int(found[1]) != sources:
        problems.append(f"n_src is {found[1]}, but {sources} could be read")
    return None if found is None else found.span(1)


def _after_head(text: str) -> str:
    """What follows the legend, or else the last value of the head, of a text without a noise label."""
    legend = _LEGEND.search(text)
    if legend:
        return text[legend.end() :]
    ends = [
        found.end() for found in (_COUNT.search(text), _LOOSE_NOISE_LEVEL.search(text)) if found
    ]
    return text[max(ends) :].lstrip(". ") if ends else text


def _background(rest: str, problems: list[str]) -> tuple[Background | None, str]:
    """The background at the start of what follows `noise_label:`, and what follows it."""
    label, level, after = _noise_parts(rest, problems)
    absent = label.casefold() == NO_BACKGROUND
    loudness = None
    if absent and level is not None and level.casefold() != "none":
        problems.append(f"noise_loudness is {level[:40]!r} although no background is there")
    elif not absent and level is not None:
        loudness = _value(level, "dB", "noise_loudness", problems)
    legend = _LEGEND.match(after)
    if legend is None:
        problems.append("the line of what the values are is missing")
    else:
        after = after[legend.end() :]
    if not label:
        problems.append("noise_label is empty")
    return (None if absent else Background(label or UNKNOWN, loudness)), after


def _noise_parts(rest: str, problems: list[str]) -> tuple[str, str | None, str]:
    """Label, loudness (None if there is none) and what follows them."""
    level = _NOISE_LEVEL.search(rest)
    if level and ";" not in rest[: level.start() - 1]:
        return rest[: level.start() - 1].strip(), level["value"], rest[level.end() :]
    legend = _LEGEND.search(rest)
    level = _LOOSE_NOISE_LEVEL.search(rest, 0, legend.start() if legend else len(rest))
    if level:
        return rest[: level.start()].strip(), level["value"], rest[level.end() :]
    problems.append("noise_loudness is missing")
    end = legend.start() if legend else rest.find(". ")
    if end < 0:
        end = len(rest)
    return rest[:end].strip(" .;"), None, rest[end:].lstrip(". ")


def _sources(rest: str, problems: list[str]) -> list[tuple[Source, Span | None]]:
    """The sources, and where in `rest` the zone of each stands."""
    sources: list[tuple[Source, Span | None]] = []
    at = 0
    for found in _VALUES.finditer(rest):
        if not _looks_like_values(found[1]):
            continue  # brackets in a label
        number = f"source {len(sources) + 1}"
        label = rest[at : found.start()]
        label = (re.sub(r"^\s*[;.,]?\s*", "", label) if at else label).strip()
        at = found.end()
        if not label:
            problems.append(f"{number} has no label")
        if not found[2]:
            problems.append(f"{number}: the answer ends within its values")
        values = _read_values(found[1], number, problems)
        source = Source(label=label or UNKNOWN, **values)
        sources.append((source, _zone_span(found, source.zone)))
    left = rest[at:].strip(" ;.")
    if left:
        problems.append(f"{left[:60]!r} could not be read: no values in brackets follow it")
    return sources


def _zone_span(values: re.Match[str], zone: str | None) -> Span | None:
    """Where the part of a source's values stands that means its zone."""
    at = values.start(1)
    for part in values[1].split(","):
        if zone is not None and read_zone(part) == zone:
            start = at + len(part) - len(part.lstrip())
            return start, at + len(part.rstrip())
        at += len(part) + 1
    return None


def _kind(part: str) -> str | None:
    """What a part of the values can only be, by its unit: time, zone, m or dB; None if it is not clear."""
    if _TIME.fullmatch(part):
        return "time"
    if read_zone(part):
        return "zone"
    for unit in ("m", "dB"):
        found = _FORMS[unit].fullmatch(part)
        if found and found["unit"]:
            return unit
    return None


def _looks_like_values(body: str) -> bool:
    parts = [part.strip() for part in body.split(",")]
    return len(parts) == len(_PLACES) or any(_kind(part) is not None for part in parts)


def _read_values(body: str, number: str, problems: list[str]) -> dict[str, Any]:
    """Values of a source by field: by their places if there are five, else by their units."""
    parts = [part.strip() for part in body.split(",")]
    if len(parts) == len(_PLACES):
        texts = dict(zip(_PLACES, parts))
    else:
        texts = _by_unit(parts, number, problems)
    onset, offset = _time(texts.get("time", ""), f"{number}: time", problems)
    loudness, c50 = (
        _value(texts.get(name, ""), "dB", f"{number}: {name}", problems)
        for name in ("loudness", "c50")
    )
    return {
        "onset": onset,
        "offset": offset,
        "zone": _zone(texts.get("zone", ""), f"{number}: direction", problems),
        "distance": _value(texts.get("distance", ""), "m", f"{number}: distance", problems),
        "loudness": loudness,
        "c50": c50,
    }


def _by_unit(parts: list[str], number: str, problems: list[str]) -> dict[str, str]:
    """Values that only their units tell apart. Of levels, two are loudness and C50; one can be either."""
    found: dict[str, list[str]] = {"time": [], "zone": [], "m": [], "dB": []}
    for part in parts:
        kind = _kind(part)
        if kind:
            found[kind].append(part)
        elif part and not _NOTHING.fullmatch(part):
            problems.append(f"{number}: {part[:40]!r} could not be read")
    texts = {}
    for kind, name in (("time", "time"), ("zone", "zone"), ("m", "distance")):
        if len(found[kind]) == 1:
            texts[name] = found[kind][0]
    if len(found["dB"]) == 2:
        texts["loudness"], texts["c50"] = found["dB"]
    return texts


def _time(text: str, name: str, problems: list[str]) -> tuple[float | None, float | None]:
    if _NOTHING.fullmatch(text):
        return None, None
    found = _TIME.fullmatch(text)
    if found is None:
        problems.append(f"{name} {text[:40]!r} cannot be read" if text else f"{name} is missing")
        return None, None
    onset, offset = float(found[1]), float(found[2])
    if not onset <= offset <= MOST:
        problems.append(f"{name} {text[:40]!r} does not end after its start")
        return None, None
    return onset, offset


def _zone(text: str, name: str, problems: list[str]) -> str | None:
    if _NOTHING.fullmatch(text):
        return None
    zone = read_zone(text)
    if zone is None:
        problems.append(f"{name} {text[:40]!r} is no zone" if text else f"{name} is missing")
    return zone

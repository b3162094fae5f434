# SPDX-License-Identifier: Apache-2.0
"""The answer to "what sounds where": a description of each window, and one of the whole recording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciphi.json_format import to_json
from sciphi.schema import UNKNOWN, SceneDescription, Source
from sciphi.text_format import to_text
from sciphi.timeline import TimelineSource

CONVENTION = (
    "directions are zones seen from the microphone, whose front is +x of the Ambisonic channels; azimuth in "
    "degrees counter-clockwise from the front (90 is left, -90 right), elevation up; both of the zone's centre"
)
_MOST_ROWS = 40
_VALUES = ("azimuth", "elev.", "distance", "loudness", "C50", "what")


@dataclass(frozen=True)
class DescribedWindow:
    """What a describer says of one window, `start` to `end` seconds of the recording.

    description: None in silence. text: the model's own words. problems: what in them could not be read.
    level_db: of W, RMS re full scale. Times inside of `description` count from `start`.
    """

    start: float
    end: float
    description: SceneDescription | None
    text: str
    problems: tuple[str, ...]
    level_db: float

    @property
    def silent(self) -> bool:
        """Whether nothing was there to be described."""
        return self.description is None


@dataclass(frozen=True)
class SceneResult:
    """What sounds where in a recording.

    windows: in the order of time, each with its description. timeline: sources that go on from window to
    window told once, in seconds of the recording, by onset. description: the whole recording's, its sources
    those of the timeline, loudest first; None where all is silence. notes: what to know of the recording
    before trusting it. problems: what the model wrote and could not be read.
    """

    windows: tuple[DescribedWindow, ...]
    timeline: tuple[TimelineSource, ...]
    description: SceneDescription | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    source: str
    format: str
    source_rate: int
    model_name: str
    start_seconds: float
    end_seconds: float
    window_seconds: float
    hop_seconds: float

    @property
    def text(self) -> str:
        """The whole description in the text form that the model was taught; empty in silence."""
        return "" if self.description is None else to_text(self.description)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; seconds and degrees as in the fields' names."""
        return {
            "source": self.source,
            "format": self.format,
            "source_rate_hz": self.source_rate,
            "model": self.model_name,
            "convention": CONVENTION,
            "start_s": round(self.start_seconds, 3),
            "end_s": round(self.end_seconds, 3),
            "window_s": self.window_seconds,
            "hop_s": self.hop_seconds,
            "description": None if self.description is None else to_json(self.description),
            "timeline": [_timeline_json(item) for item in self.timeline],
            "windows": [_window_json(window) for window in self.windows],
            "notes": list(self.notes),
            "problems": list(self.problems),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_text(self, every_window: bool = False) -> str:
        """For people: the room, the background, one line for each source. every_window: window by window."""
        return "\n".join(self._lines(every_window))

    def plot(self, path: str | Path) -> Path:
        """Draw the scene from above and its timeline as a PNG; returns its path."""
        from sciphi.plots import draw_scene

        return draw_scene(self, path)

    def _lines(self, every_window: bool) -> Iterator[str]:
        count = len(self.windows)
        heard = f"{count} window{'s' if count != 1 else ''} of {self.window_seconds:g} s"
        yield (
            f"{self.source}: {self.start_seconds:.1f} to {self.end_seconds:.1f} s, {self.format}, heard in "
            f"{heard} by {self.model_name}"
        )
        if self.description is None:
            yield "Silence: nothing to describe."
            return
        if not every_window:
            sources = tuple(item.source for item in self.timeline)
            yield from description_lines(self.description, sources, self._paths())
            return
        for window in self.windows:
            yield ""
            yield f"From {window.start:.1f} to {window.end:.1f} s:"
            if window.description is None:
                yield "  silence"
                continue
            sources = window.description.ordered("onset").sources
            yield from (f"  {line}" for line in description_lines(window.description, sources))

    def _paths(self) -> tuple[str, ...]:
        """For each source of the timeline the zones that it passes; empty if it stays."""
        return tuple(
            " > ".join(item.zones) if len(item.zones) > 1 else "" for item in self.timeline
        )


def room_text(description: SceneDescription) -> str:
    """`room of about 200 m³, RT60 0.4 s; background: rain, -47 dB`."""
    volume = description.room_volume
    parts = [
        "room of unknown size" if volume is None else f"room of about {volume} m³",
        "RT60 unknown" if description.rt60 is None else f"RT60 {description.rt60:.1f} s",
    ]
    background = description.background
    if background is None:
        return f"{', '.join(parts)}; no background sound"
    if background.label == UNKNOWN:
        return f"{', '.join(parts)}; background unknown"
    level = "" if background.loudness is None else f", {background.loudness} dB"
    return f"{', '.join(parts)}; background: {background.label}{level}"


def description_lines(
    description: SceneDescription, sources: tuple[Source, ...], paths: tuple[str, ...] = ()
) -> Iterator[str]:
    """The room, the background and a table of the sources; paths: the zones that each passes."""
    room = room_text(description)
    yield room[0].upper() + room[1:]
    if not sources:
        yield "No sources."
        return
    count = description.count_confidence
    sure = "" if count is None else f" (the model is {100 * count:.0f} % sure of how many)"
    yield f"{len(sources)} source{'s' if len(sources) != 1 else ''}{sure}:"
    rows = [_row(source) for source in sources[:_MOST_ROWS]]
    head = ("from", "to", "direction", "sure", *_VALUES)
    if not any(source.confidence is not None for source in sources):
        head, *rows = [(*row[:3], *row[4:]) for row in (head, *rows)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    for row, path in zip((head, *rows), ("", *paths, *[""] * len(rows))):
        cells = [
            cell.ljust(width) if i == 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        moves = f" (moves: {path})" if path else ""
        yield f"  {'  '.join(cells)}  {row[-1]}{moves}"
    if len(sources) > _MOST_ROWS:
        yield f"  ... and {len(sources) - _MOST_ROWS} more; JSON has all"


def _row(source: Source) -> tuple[str, ...]:
    direction = source.direction
    return (
        _or_dash(source.onset, "{:.1f} s"),
        _or_dash(source.offset, "{:.1f} s"),
        source.zone or "unknown",
        "-" if source.confidence is None else f"{100 * source.confidence:.0f} %",
        # Straight above and below have no azimuth.
        "-" if direction is None or abs(direction[1]) == 90 else f"{direction[0]:.0f}°",
        "-" if direction is None else f"{direction[1]:.0f}°",
        _or_dash(source.distance, "{:.1f} m"),
        _or_dash(source.loudness, "{} dB"),
        _or_dash(source.c50, "{} dB"),
        source.name + (f': "{source.transcript}"' if source.transcript else ""),
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _source_json(source: Source) -> dict[str, Any]:
    """The source as in a description, with its words apart."""
    (content,) = to_json(SceneDescription(None, None, None, (source,)))["sources"]
    return {**content, "name": source.name, "transcript": source.transcript}


def _timeline_json(item: TimelineSource) -> dict[str, Any]:
    stays = [
        {"start_s": round(stay.start, 3), "end_s": round(stay.end, 3), "zone": stay.zone}
        for stay in item.stays
    ]
    return {**_source_json(item.source), "windows": list(item.windows), "stays": stays}


def _window_json(window: DescribedWindow) -> dict[str, Any]:
    description = window.description
    return {
        "start_s": round(window.start, 3),
        "end_s": round(window.end, 3),
        "silent": window.silent,
        "level_db": round(window.level_db, 1),
        "description": None if description is None else to_json(description),
        "text": window.text,
        "problems": list(window.problems),
    }

# SPDX-License-Identifier: Apache-2.0
"""One timeline from the descriptions of many windows: a sound that goes on is told once.

A language model describes a window at a time. A source of a later window goes on with an earlier one
when both have the same label (the words that are said apart), their zones are neighbours, and no more
than a second of silence lies between them; which goes on with which is the assignment with the
smallest angles. Nothing is guessed across windows: other labels stay other sources.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from sciphi.schema import (
    UNKNOWN,
    Background,
    SceneDescription,
    Source,
    order_sources,
    with_transcript,
)
from sciphi.zones import zone_error

NEIGHBOURS = 61.0
"""Degrees between the centres of zones that touch: 45 beside each other, 60 at a corner of the 26."""
MAX_GAP = 1.0
"""Seconds of silence within one sound."""
_NEVER = 1e6


@dataclass(frozen=True)
class Stay:
    """Where a source was said to be, from one window: seconds of the recording, zone or None."""

    start: float
    end: float
    zone: str | None


@dataclass(frozen=True)
class TimelineSource:
    """One sound through the whole recording.

        source: its description with onset and offset in seconds of the recording; the zone is the one in which
    is heard longest, distance, C50 and confidence are means and loudness    zones in the order of time, one from each window; more than one zone may mean that it moves. windows:
        numbers, from 0, of the windows that tell of it.
    """

    source: Source
    stays: tuple[Stay, ...]
    windows: tuple[int, ...]

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones that it passes, each once in a row."""
        named = [stay.zone for stay in self.stays if stay.zone is not None]
        return tuple(zone for i, zone in enumerate(named) if i == 0 or zone != named[i - 1])


@dataclass
class _Track:
    """A timeline source in the making: what each window says, in seconds of the recording."""

    parts: list[tuple[int, Source]]

    @property
    def last(self) -> Source:
        return self.parts[-1][1]

    @property
    def end(self) -> float:
        return max(_offset(source) for _, source in self.parts)


def merge(windows: Iterable[tuple[float, float, SceneDescription | None]]) -> list[TimelineSource]:
    """The timeline of windows (start s, end s, description or None), by onset.

    Sources without times count as sounding through their window. What a window tells beyond its own end
    (a padded one, a wrong answer) is cut off there; a source that lies wholly beyond it is left out.
    """
    tracks: list[_Track] = []
    for index, (start, end, description) in enumerate(windows):
        found = [] if description is None else _placed(description, start, end)
        ongoing = [track for track in tracks if track.parts[-1][0] < index]
        for track, source in _assign(ongoing, found):
            if track is None:
                tracks.append(_Track([(index, source)]))
            else:
                track.parts.append((index, source))
    merged = [_merged(track) for track in tracks]
    return sorted(merged, key=lambda item: (_onset(item.source), _offset(item.source)))


def whole(
    descriptions: Sequence[SceneDescription], timeline: Sequence[TimelineSource]
) -> SceneDescription | None:
    """One description of a recording: the room's median, the commonest background, the timeline.

    None without a description, as in silence.
    """
    if not descriptions:
        return None
    volumes = [d.room_volume for d in descriptions if d.room_volume is not None]
    times = [d.rt60 for d in descriptions if d.rt60 is not None]
    counts = [d.count_confidence for d in descriptions]
    return SceneDescription(
        count_confidence=_mean(counts, [1.0] * len(counts)),
        room_volume=round(statistics.median(volumes)) if volumes else None,
        rt60=statistics.median(times) if times else None,
        background=_background([d.background for d in descriptions]),
        sources=order_sources(tuple(item.source for item in timeline), "loudness"),
    )


def _placed(description: SceneDescription, start: float, end: float) -> list[Source]:
    """The sources of one window, in seconds of the recording."""
    placed = []
    for source in description.sources:
        onset = start + (0.0 if source.onset is None else source.onset)
        offset = end if source.offset is None else min(end, start + source.offset)
        if onset <= offset:
            placed.append(replace(source, onset=onset, offset=offset))
    return placed


def _assign(tracks: list[_Track], found: list[Source]) -> list[tuple[_Track | None, Source]]:
    """Each source with the track that it goes on with, or None for a new one."""
    cost = np.array([[_cost(track, source) for track in tracks] for source in found])
    matched: dict[int, _Track] = {}
    if cost.size:
        for row, column in zip(*linear_sum_assignment(cost)):
            if cost[row, column] < _NEVER:
                matched[int(row)] = tracks[int(column)]
    return [(matched.get(i), source) for i, source in enumerate(found)]


def _cost(track: _Track, source: Source) -> float:
    """Degrees between a source and the end of a track, some more for silence between; or never."""
    last = track.last
    gap = _onset(source) - track.end
    same = last.name.casefold() == source.name.casefold() and source.name != UNKNOWN
    if not same or gap > MAX_GAP:
        return _NEVER
    # A zone that could not be read is no reason to start anew, but a known one is better.
    angle = NEIGHBOURS
    if last.zone is not None and source.zone is not None:
        angle = zone_error(last.zone, source.zone)
    return angle + max(0.0, gap) if angle <= NEIGHBOURS else _NEVER


def _onset(source: Source) -> float:
    return 0.0 if source.onset is None else source.onset


def _offset(source: Source) -> float:
    return 0.0 if source.offset is None else source.offset


def _merged(track: _Track) -> TimelineSource:
    sources = [source for _, source in track.parts]
    weights = [max(_offset(source) - _onset(source), 0.1) for source in sources]
    words = [source.transcript for source in sources if source.transcript]
    label = sources[0].label
    if len(sources) > 1 and words:
        label = with_transcript(sources[0].name, join_words(words))
    source = Source(
        label=label,
        onset=min(map(_onset, sources)),
        offset=max(map(_offset, sources)),
        zone=_longest(sources, weights),
        distance=_mean([s.distance for s in sources], weights),
        loudness=_mean_power([s.loudness for s in sources], weights),
        c50=_rounded(_mean([s.c50 for s in sources], weights)),
        confidence=_mean([s.confidence for s in sources], weights),
    )
    stays = tuple(Stay(_onset(s), _offset(s), s.zone) for s in sources)
    return TimelineSource(source, stays, tuple(index for index, _ in track.parts))


def join_words(parts: Sequence[str]) -> str:
    """Transcripts of neighbouring windows as one: words that end one and begin the next are said once."""
    joined: list[str] = []
    for part in parts:
        words = part.split()
        plain = [_plain(word) for word in words]
        tail = [_plain(word) for word in joined]
        longest = min(len(words), len(joined))
        shared = next((n for n in range(longest, 0, -1) if tail[-n:] == plain[:n]), 0)
        joined += words[shared:]
    return " ".join(joined)


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def _longest(sources: Sequence[Source], weights: Sequence[float]) -> str | None:
    """The zone with the most time; of equals the first."""
    held: dict[str, float] = {}
    for source, weight in zip(sources, weights):
        if source.zone is not None:
            held[source.zone] = held.get(source.zone, 0.0) + weight
    return max(held, key=lambda zone: held[zone]) if held else None


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights) if value is not None]
    if not known:
        return None
    return sum(v * w for v, w in known) / sum(w for _, w in known)


def _mean_power(levels: Sequence[float | None], weights: Sequence[float]) -> int | None:
    """Mean of levels in dB as powers."""
    powers = [None if level is None else 10.0 ** (level / 10) for level in levels]
    power = _mean(powers, weights)
    return None if power is None else round(10 * math.log10(power))


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _background(backgrounds: Sequence[Background | None]) -> Background | None:
    """The commonest background, present or not, at the mean power of its windows.

    What could not be read counts only if nothing else was.
    """
    known = [b for b in backgrounds if b is None or b.label != UNKNOWN]
    backgrounds = known or backgrounds
    labels = Counter(None if b is None else b.label for b in backgrounds)
    label = labels.most_common(1)[0][0]
    if label is None:
        return None
    levels = [b.loudness for b in backgrounds if b is not None and b.label == label]
    return Background(label, _mean_power(levels, [1.0] * len(levels)))

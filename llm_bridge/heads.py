# SPDX-License-Identifier: Apache-2.0
"""Answers from the encoder's own heads, without a language model: what the tokens are worth at most.

A direction and a distance for each 160 ms become up to two talkers, one after the other; their places
answer Task 1 and the yes-or-no questions of Task 2 by the rules of `qa.geometry`. Words they have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_bridge.qa import truth
from llm_bridge.qa.asking import Question
from llm_bridge.qa.formats import format_locations, format_utterances, format_yes_no
from llm_bridge.qa.geometry import YES, Margins, Scenes
from llm_bridge.tokens.record import Talker
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian, to_spherical

Floats = NDArray[np.float64]
UNHEARD = "..."  # in place of words; punctuation alone, so it counts as no word
# A model has to decide what is near a boundary, too.
_SHARP = Margins(
    side=0.0,
    separation=0.0,
    lateral=0.0,
    distance=0.0,
    here_azimuth=0.0,
    here_distance=0.0,
    there_azimuth=0.0,
    there_distance=0.0,
    steep=90.0,
)


@dataclass(frozen=True)
class Segmentation:
    """How windows become talkers.

    speech: probability from which a window has speech. shortest: windows that a talker has at least.
    angle: degrees between two parts that make them two talkers.
    gap: seconds without speech after which a talker of the same place counts as another, too.
    """

    speech: float = 0.5
    shortest: int = 3
    angle: float = 20.0
    gap: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.speech <= 1.0 or self.shortest < 1 or self.angle < 0 or self.gap < 0:
            raise InputError(
                f"{self}: a probability, at least one window, no negative angle or gap"
            )


def talkers_of(
    heads: Mapping[str, NDArray[np.floating]], how: Segmentation | None = None
) -> tuple[Talker, ...]:
    """Up to two talkers, without words, from the encoder's answers [n] for each 160 ms.

    The windows with speech are cut in two where the directions of both parts agree best among
    themselves; that makes two talkers if the parts' directions differ, else the longest pause may.
    """
    how = how or Segmentation()
    heard = np.flatnonzero(heads["speech_probability"] >= how.speech)
    if len(heard) < how.shortest:
        return ()
    units = to_cartesian(heads["azimuth"][heard], heads["elevation"][heard])
    weight = np.maximum(np.asarray(heads["confidence"][heard], np.float64), 1e-3)
    cut = _cut(heard, units, weight, how)
    parts = [slice(0, cut), slice(cut, None)] if cut else [slice(None)]
    return tuple(
        _talker(heard[part], units[part], weight[part], np.asarray(heads["distance"])[heard[part]])
        for part in parts
    )


def answer(question: Question, talkers: tuple[Talker, ...]) -> str | None:
    """The text of an answer from talkers found; None for Task 4, which asks for words alone."""
    if question.task == 1:
        return format_locations(talkers)
    if question.task == 2:
        return format_yes_no(_is_so(question, talkers))
    return format_utterances(talkers) if question.task == 3 else None


def _is_so(question: Question, talkers: tuple[Talker, ...]) -> bool:
    if question.kind.startswith("single") and len(talkers) > 1:
        talkers = (max(talkers, key=lambda one: one.end - one.start),)
    scenes = Scenes.of([talkers])
    return bool(truth.yes_no(scenes, question.kind, question.labels["asked"], _SHARP)[0] == YES)


def _cut(heard: NDArray[np.int64], units: Floats, weight: Floats, how: Segmentation) -> int:
    """Index where the second talker begins, 0 if there is one talker."""
    count, least = len(heard), how.shortest
    if count < 2 * least:
        return 0
    sums = np.cumsum(units * weight[:, None], axis=0)
    ends = np.arange(least, count - least + 1)
    before, after = sums[ends - 1], sums[-1] - sums[ends - 1]
    # The length of a sum of unit vectors is largest where they agree.
    agreement = np.linalg.norm(before, axis=1) + np.linalg.norm(after, axis=1)
    # Of equally good places the one in a pause: a window there hears both talkers.
    pause = np.diff(heard)[ends - 1] - 1
    best = int(np.argmax(agreement + 0.05 * np.minimum(pause, 4)))
    cut = int(ends[best])
    first, second = (_direction(units[part], weight[part]) for part in _halves(cut))
    if np.degrees(np.arccos(np.clip(first @ second, -1.0, 1.0))) >= how.angle:
        return cut
    longest = int(np.argmax(pause))
    return int(ends[longest]) if pause[longest] * HOP / SAMPLE_RATE >= how.gap else 0


def _halves(cut: int) -> tuple[slice, slice]:
    return slice(0, cut), slice(cut, None)


def _direction(units: Floats, weight: Floats) -> Floats:
    """Unit vector [3] that most windows agree on: the mean of those within 30 degrees of the medoid."""
    likeness = np.clip(units @ units.T, -1.0, 1.0)
    medoid = int(np.argmin(np.arccos(likeness) @ weight))
    near = likeness[medoid] >= np.cos(np.radians(30.0))
    mean = weight[near] @ units[near]
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9))


def _talker(
    windows: NDArray[np.int64], units: Floats, weight: Floats, distance: NDArray[np.floating]
) -> Talker:
    azimuth, elevation, _ = to_spherical(_direction(units, weight))
    seconds = HOP / SAMPLE_RATE
    return Talker(
        start=float(windows[0]) * seconds,
        end=float(windows[-1] + 1) * seconds,
        azimuth=float(azimuth),
        elevation=float(elevation),
        distance=max(0.0, float(np.median(distance))),
        transcript=UNHEARD,
        speaker="",
    )

# SPDX-License-Identifier: Apache-2.0
"""One question with its answer: the words from the book, the answer from the geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_bridge.qa import truth
from llm_bridge.qa.book import QuestionBook
from llm_bridge.qa.formats import (
    TalkerLike,
    format_locations,
    format_measure,
    format_transcript,
    format_utterances,
    format_yes_no,
)
from llm_bridge.qa.geometry import UNSURE, YES, Margins, Scenes
from spatial_core.errors import InputError


@dataclass(frozen=True)
class Question:
    """What a model is asked about one clip, and what it should say.

    labels (plain values, fit for JSON): talkers, the truth, unrounded, in the library's convention;
    asked, the values in the question; wording, its number; and answer (Task 2, bool) or target
    (Task 4: 0, 1 or None, the talker to transcribe).
    """

    task: int
    kind: str
    system: str
    user: str
    answer: str
    labels: dict[str, Any]


def ask_question(
    talkers: Sequence[TalkerLike],
    task: int,
    kind: str,
    values: Mapping[str, float],
    wording: int,
    book: QuestionBook,
    margins: Margins,
) -> Question:
    """A question of a given kind with given values (metres; degrees, azimuths as text has them).

    Raises InputError if the clip is too near a boundary to decide it, or for talkers without words.
    """
    user = book.question(task, kind, wording, truth.value_texts(values))
    labels: dict[str, Any] = {
        "talkers": [_truth_of(talker) for talker in talkers],
        "asked": {name: float(value) for name, value in values.items()},
        "wording": wording % len(book.wordings(task, kind)),
    }
    scenes = Scenes.of([talkers])
    if task == 1:
        answer = format_locations(talkers)
    elif task == 2:
        verdict = truth.yes_no(scenes, kind, values, margins)[0]
        if verdict == UNSURE:
            raise _undecided(user, labels)
        labels["answer"] = bool(verdict == YES)
        answer = format_yes_no(labels["answer"])
    elif task == 3:
        answer = format_utterances(talkers)
    elif task == 5:
        answer = format_measure(kind, talkers)
    else:
        who = int(truth.target(scenes, kind, values, margins)[0])
        if who == truth.UNCLEAR:
            raise _undecided(user, labels)
        labels["target"] = None if who == truth.NOBODY else who
        answer = format_transcript(None if who == truth.NOBODY else talkers[who].transcript)
    return Question(task, kind, book.system_prompt(task), user, answer, labels)


def _truth_of(talker: TalkerLike) -> dict[str, Any]:
    return {
        "start": float(talker.start),
        "end": float(talker.end),
        "azimuth": float(talker.azimuth),
        "elevation": float(talker.elevation),
        "distance": float(talker.distance),
        "transcript": talker.transcript,
    }


def _undecided(user: str, labels: dict[str, Any]) -> InputError:
    places = [
        (talker["azimuth"], talker["elevation"], talker["distance"]) for talker in labels["talkers"]
    ]
    return InputError(f"{user!r} has no clear answer for talkers at {places} (degrees, metres)")

# SPDX-License-Identifier: Apache-2.0
"""Answers without hearing anything, in the right form: what every score has to be held against.

Task 1 places as many talkers as a coin with three sides says, each value drawn from its list; Task 2
tosses a coin; Task 3 has places like Task 1 and the words of some other clip; Task 4 knows every word
that is said and picks one of the clip's talkers or `none`: a perfect transcriber that cannot tell where.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_bridge.qa.answers import (
    format_locations,
    format_transcript,
    format_utterances,
    format_yes_no,
)
from llm_bridge.qa.asking import Question
from llm_bridge.qa.formats import (
    AZIMUTHS,
    DISTANCES,
    ELEVATIONS,
    TALKERS,
    azimuth_of,
    distance_of,
    elevation_of,
)
from llm_bridge.tokens.record import Talker


def chance_answers(
    plan: Sequence[tuple[int, Question]], clips: Sequence[Sequence[Talker]], seed: int = 0
) -> list[str]:
    """An answer to each (clip, question) of a plan; the same for the same seed.

    clips: the talkers of each clip, whose words Tasks 3 and 4 draw from.
    """
    rng = np.random.default_rng([seed, 90])
    words = [talker.transcript for talkers in clips for talker in talkers if talker.transcript]
    return [_answer(question, words or ["Hello."], rng) for _, question in plan]


def _answer(question: Question, words: Sequence[str], rng: np.random.Generator) -> str:
    if question.task == 2:
        return format_yes_no(bool(rng.integers(2)))
    if question.task == 4:
        talkers = question.labels["talkers"]
        picked = int(rng.integers(len(talkers) + 1))
        return format_transcript(talkers[picked]["transcript"] if picked < len(talkers) else None)
    talkers = [_somebody(words, rng) for _ in range(int(rng.integers(TALKERS + 1)))]
    return format_locations(talkers) if question.task == 1 else format_utterances(talkers)


def _somebody(words: Sequence[str], rng: np.random.Generator) -> Talker:
    def pick(values: Sequence[str]) -> str:
        return values[int(rng.integers(len(values)))]

    return Talker(
        0.0,
        0.0,
        azimuth_of(pick(AZIMUTHS)),
        elevation_of(pick(ELEVATIONS)),
        distance_of(pick(DISTANCES)),
        pick(words),
        "",
    )

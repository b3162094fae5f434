# SPDX-License-Identifier: Apache-2.0
"""Scores of answers in text (tables 3 and 6 of the paper).

Answers are read leniently (`qa.answers`): how a value is written is forgiven, a value is never guessed.
What is invalid is counted beside every score. Definitions that the paper leaves open are set here:

Places (Tasks 1, 3): errors over the talkers that are in truth and in the answer, slot by slot (first
heard, second heard), against the unrounded truth. A talker of the truth without a place in the answer is
missed, one of the answer who is not in the truth is extra; neither has an error.
Yes or no (Task 2): an answer that is neither is wrong.
Words (Tasks 3, 4): word error rate of every talker who is there and asked for, casefolded and without
punctuation (`plain_words`); a talker for whom no words are given has 1.0. Rates above 3.0 (loops) are
left out of mean and median and counted. Median and mean are over talkers, not over words.
Whom (Task 4): right if the words are those of the talker who is meant (their rate is at most 0.5 and below
that of the other talker), or `none` where nobody is. `attributed` asks only for the lower rate, below 1:
it does not mind bad hearing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from llm_bridge.qa.answers import Location, parse_answer
from llm_bridge.qa.asking import Question
from llm_bridge.qa.book import KINDS
from spatial_core.eval.bootstrap import NOTHING, Interval, draw, mean_interval, median_interval
from spatial_core.geometry.coords import azimuth_error

WER_LIMIT = 3.0
TARGET_WER = 0.5
Answered = tuple[int, Question, str]  # clip, question, the model's text
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Places:
    """Tasks 1 and 3: mean absolute errors (degrees, metres), and who was found.

    exact: share of the answers with as many talkers as there are. talkers: in the truth; missed and
    extra: see the module. azimuths [n, 2]: truth and answer in degrees, for pictures.
    """

    azimuth: Interval
    elevation: Interval
    distance: Interval
    exact: Interval
    talkers: int
    missed: int
    extra: int
    azimuths: Floats = field(repr=False, compare=False)


@dataclass(frozen=True)
class Tally:
    """So many right of so many."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """right / total; nan of nothing."""
        return self.right / self.total if self.total else float("nan")


@dataclass(frozen=True)
class YesNo:
    """Task 2: accuracy, its tallies by kind (in the order of the book), recall of both answers."""

    accuracy: Interval
    kinds: dict[str, Tally]
    yes: Tally
    no: Tally

    @property
    def overall(self) -> Tally:
        """All kinds together."""
        parts = self.kinds.values()
        return Tally(sum(part.right for part in parts), sum(part.total for part in parts))


@dataclass(frozen=True)
class Words:
    """Word error rates, 1.0 is 100%. dropped: rates above `WER_LIMIT`, which are in neither."""

    mean: Interval
    median: Interval
    talkers: int
    dropped: int


@dataclass(frozen=True)
class Targets:
    """Task 4: right answers, those attributed to the right one, and `none` where it is right."""

    accuracy: Interval
    attributed: Interval
    none: Tally
    words: Words


@dataclass(frozen=True)
class Validity:
    """Answers of a task: all, those with a part that is invalid, those of which nothing could be read."""

    answers: int
    invalid: int
    unreadable: int


@dataclass(frozen=True)
class Scores:
    """All that a model's answers are worth; None for what was not asked or is not to be had."""

    validity: dict[int, Validity]
    task1: Places | None = None
    task2: YesNo | None = None
    task3: Places | None = None
    words3: Words | None = None
    task4: Targets | None = None


def score(answered: Iterable[Answered], seed: int = 0) -> Scores:
    """Scores of (clip, question, text). Intervals resample clips: their questions share their luck."""
    by_task: dict[int, list[Answered]] = {}
    for item in answered:
        by_task.setdefault(item[1].task, []).append(item)
    validity = {task: _validity(items) for task, items in sorted(by_task.items())}
    first, second, third, fourth = (by_task.get(task) for task in (1, 2, 3, 4))
    return Scores(
        validity,
        task1=_places(first, seed) if first else None,
        task2=_yes_no(second, seed) if second else None,
        task3=_places(third, seed) if third else None,
        words3=_transcripts(third, seed) if third else None,
        task4=_targets(fourth, seed) if fourth else None,
    )


def plain_words(text: str) -> str:
    """Words as they are compared: casefolded, hyphens as spaces, no other punctuation but apostrophes
    inside of words; numbers and spellings stay as they are."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    text = re.sub(r"[-‐-―/_]", " ", text)
    text = re.sub(r"[^\w\s']", "", text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", text).split())


def word_error_rate(truth: str, said: str | None) -> float:
    """Substitutions, deletions and insertions per word of the truth; 1.0 if nothing was said.

    nan for a truth without words.
    """
    reference, hypothesis = plain_words(truth), plain_words(said or "")
    if not reference:
        return float("nan")
    return float(jiwer.wer(reference, hypothesis))


def _validity(items: Sequence[Answered]) -> Validity:
    parsed = [parse_answer(question.task, text, strict=False) for _, question, text in items]
    return Validity(
        len(items),
        sum(not one.ok for one in parsed),
        sum(one.value is None for one in parsed),
    )


def _interval(values: Sequence[float], clips: Sequence[int], seed: int) -> Interval:
    return mean_interval(np.asarray(values), draw(np.asarray(clips), seed)) if values else NOTHING


def _slots(item: Answered) -> list[tuple[dict[str, Any] | None, Any]]:
    """Truth and what was read of it, for both slots."""
    _, question, text = item
    value = parse_answer(question.task, text, strict=False).value or (None, None)
    truth = [*question.labels["talkers"], None, None][:2]
    return list(zip(truth, value, strict=True))


def _places(items: Sequence[Answered], seed: int) -> Places:
    names = ("azimuth", "elevation", "distance")
    errors: dict[str, list[float]] = {name: [] for name in names}
    clips: dict[str, list[int]] = {name: [] for name in names}
    exact, azimuths = [], []
    talkers = missed = extra = 0
    for item in items:
        slots = _slots(item)
        exact.append(float(_readable(item) and all((a is None) == (b is None) for a, b in slots)))
        for truth, read in slots:
            place = _place(read)
            talkers += truth is not None
            missed += truth is not None and place is None
            extra += truth is None and read is not None
            if truth is None or place is None:
                continue
            for name in names:
                value = getattr(place, name)
                if value is not None:
                    azimuths += [(truth[name], value)] if name == "azimuth" else []
                    errors[name].append(_error(name, truth[name], value))
                    clips[name].append(item[0])
    means = {name: _interval(errors[name], clips[name], seed) for name in names}
    return Places(
        **means,
        exact=_interval(exact, [item[0] for item in items], seed),
        talkers=talkers,
        missed=missed,
        extra=extra,
        azimuths=np.asarray(azimuths, np.float64).reshape(-1, 2),
    )


def _readable(item: Answered) -> bool:
    return parse_answer(item[1].task, item[2], strict=False).value is not None


def _place(read: Any) -> Location | None:
    """The place of a slot that was read, None if it has no usable value."""
    place = getattr(read, "location", read)
    if place is None or (place.azimuth, place.elevation, place.distance) == (None, None, None):
        return None
    return place  # type: ignore[no-any-return]


def _error(name: str, truth: float, value: float) -> float:
    return float(azimuth_error(truth, value) if name == "azimuth" else abs(truth - value))


def _yes_no(items: Sequence[Answered], seed: int) -> YesNo:
    right = []
    kinds = {kind: [0, 0] for kind in KINDS[2]}
    answers = {True: [0, 0], False: [0, 0]}
    for _, question, text in items:
        wanted = question.labels["answer"]
        hit = parse_answer(2, text, strict=False).value is wanted
        right.append(float(hit))
        for tally in (kinds[question.kind], answers[wanted]):
            tally[0] += hit
            tally[1] += 1
    return YesNo(
        _interval(right, [item[0] for item in items], seed),
        {kind: Tally(*tally) for kind, tally in kinds.items() if tally[1]},
        yes=Tally(*answers[True]),
        no=Tally(*answers[False]),
    )


def _words(rates: Sequence[float], clips: Sequence[int], seed: int) -> Words:
    """Mean and median of word error rates that are at most `WER_LIMIT`."""
    values, places = np.asarray(rates, np.float64), np.asarray(clips, np.int64)
    known = np.isfinite(values)
    kept = known & (values <= WER_LIMIT)
    if not kept.any():
        return Words(NOTHING, NOTHING, int(known.sum()), int(known.sum()))
    resamples = draw(places[kept], seed)
    return Words(
        mean_interval(values[kept], resamples),
        median_interval(values[kept], resamples),
        int(known.sum()),
        int((known & ~kept).sum()),
    )


def _transcripts(items: Sequence[Answered], seed: int) -> Words:
    rates, clips = [], []
    for item in items:
        for truth, read in _slots(item):
            if truth is not None:
                said = None if read is None else read.transcript
                rates.append(word_error_rate(truth["transcript"], said))
                clips.append(item[0])
    return _words(rates, clips, seed)


def _targets(items: Sequence[Answered], seed: int) -> Targets:
    right, attributed, rates, clips = [], [], [], []
    none = [0, 0]
    for clip, question, text in items:
        reply = parse_answer(4, text, strict=False).value
        target, talkers = question.labels["target"], question.labels["talkers"]
        if target is None:
            hit = reply is not None and reply.transcript is None
            none[0] += hit
            none[1] += 1
            right.append(float(hit))
            attributed.append(float(hit))
            continue
        said = None if reply is None else reply.transcript
        meant = talkers[target]["transcript"]
        rate = word_error_rate(meant, said)
        # Where both say the same, the words do not tell whose they are.
        others = [t["transcript"] for n, t in enumerate(talkers) if n != target]
        others = [words for words in others if plain_words(words) != plain_words(meant)]
        nearest = all(rate < word_error_rate(words, said) for words in others)
        right.append(float(said is not None and nearest and rate <= TARGET_WER))
        attributed.append(float(said is not None and nearest and rate < 1.0))
        rates.append(rate)
        clips.append(clip)
    places = [item[0] for item in items]
    return Targets(
        _interval(right, places, seed),
        _interval(attributed, places, seed),
        Tally(*none),
        _words(rates, clips, seed),
    )

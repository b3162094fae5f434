# SPDX-License-Identifier: Apache-2.0
"""A set of questions about many clips: every kind equally often, answers balanced within each kind.

Task 2 is asked in pairs: the same words and values once to a clip where the answer is yes and once to
one where it is no, so that the words alone tell nothing. Task 4 takes turns: the first talker, the
second, nobody; a question that means nobody repeats one that means somebody.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llm_bridge.qa import truth
from llm_bridge.qa.asking import Question, ask_question
from llm_bridge.qa.book import KINDS, QuestionBook
from llm_bridge.qa.formats import NONE, TalkerLike
from llm_bridge.qa.geometry import NO, YES, Margins, Scenes
from spatial_core.errors import InputError

log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]
Values = dict[str, float]


@dataclass(frozen=True)
class Mixture:
    """Shares of clips that a kind would not choose by itself.

    absent: of the answers no and none, those due to a talker who is not there at all; half as many in Task 5.
    alone: of the answers to targeted questions, those from clips with a single talker.
    """

    absent: float = 0.1
    alone: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise InputError(f"share {name} must be between 0 and 1, got {value}")


@dataclass(frozen=True)
class Asked:
    """What one question of a plan is: the clip, the values asked and the number of the wording."""

    clip: int
    values: Values
    wording: int


@dataclass
class _Desk:
    """The clips, how often each was taken, and the randomness of one task and kind."""

    scenes: Scenes
    margins: Margins
    mixture: Mixture
    usage: NDArray[np.int64]
    rng: np.random.Generator
    wordings: int
    asked: list[Asked] = field(default_factory=list)

    def add(self, clip: int, values: Values, wording: int) -> None:
        self.asked.append(Asked(clip, values, wording))

    def wording(self) -> int:
        return int(self.rng.integers(self.wordings))

    def take(self, mask: Mask) -> int:
        """One of the least used clips of the mask, which must not be empty."""
        clips = np.flatnonzero(mask)
        uses = self.usage[clips]
        clips = clips[uses == uses.min()]
        clip = int(clips[self.rng.integers(len(clips))])
        self.usage[clip] += 1
        return clip

    def mixed(self, usual: Mask, rare: Mask, share: float) -> int | None:
        """A clip of `rare` with the probability `share`, else of `usual`; of the other if one is empty."""
        first, second = (rare, usual) if self.rng.random() < share else (usual, rare)
        for mask in (first, second):
            if mask.any():
                return self.take(mask)
        return None


def plan_questions(
    clips: Sequence[Sequence[TalkerLike]],
    counts: Mapping[int, int],
    seed: int,
    book: QuestionBook | None = None,
    margins: Margins | None = None,
    mixture: Mixture | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[tuple[int, Question]]:
    """`counts[task]` questions of each task, as (index of the clip, question), task after task, shuffled within.

    clips: the talkers of each clip. Clips are used evenly. A kind that no clip can carry (a comparison
    needs clips with two talkers, "single" kinds need clips with one) is left out with a warning and the
    others are asked more often; InputError if a task has none. `balance` reports what came out.
    weights: how often a kind is asked, relative to the other kinds of its task; 1 for those not named.
    """
    book = QuestionBook.load() if book is None else book
    margins = Margins() if margins is None else margins
    mixture = Mixture() if mixture is None else mixture
    weights = check_weights(weights or {})
    _check(clips, counts, seed)
    scenes = Scenes.of(clips)
    plan: list[tuple[int, Question]] = []
    for task in sorted(counts):
        usage = np.zeros(len(clips), np.int64)
        desks = {
            kind: _Desk(
                scenes,
                margins,
                mixture,
                usage,
                np.random.default_rng([seed, task, number]),
                len(book.wordings(task, kind)),
            )
            for number, kind in enumerate(KINDS[task])
        }
        questions = [
            (
                one.clip,
                ask_question(clips[one.clip], task, kind, one.values, one.wording, book, margins),
            )
            for kind, asked in _asked(desks, task, counts[task], seed, weights).items()
            for one in asked
        ]
        order = np.random.default_rng([seed, task]).permutation(len(questions))
        plan += [questions[n] for n in order]
    return plan


def wants_yes(kind: str, index: int, seed: int) -> bool:
    """The answer of question `index` of a Task 2 kind: yes and no take turns, kinds begin differently."""
    return (index + _offset(2, kind, seed)) % 2 == 0


def wants_target(kind: str, index: int, seed: int) -> int:
    """Whom question `index` of a Task 4 kind means: truth.FIRST, SECOND, NOBODY, in turns.

    So a third of the answers is none, and guessing whom is right once in three, as in the paper.

    Comparisons mean the first and second talker in turns: only clips without two talkers give none.
    """
    turn = index % 3
    if turn == 2 and not kind.startswith("comparison"):
        return truth.NOBODY
    turn = index if kind.startswith("comparison") else turn
    return (truth.FIRST, truth.SECOND)[(turn + _offset(4, kind, seed)) % 2]


def _offset(task: int, kind: str, seed: int) -> int:
    return list(KINDS[task]).index(kind) + seed


def _check(clips: Sequence, counts: Mapping[int, int], seed: int) -> None:
    for task, count in counts.items():
        if task not in KINDS:
            raise InputError(f"tasks are 1 to 5, got {task!r}")
        if count < 0:
            raise InputError(f"task {task} needs a count of 0 or more, got {count}")
    if seed < 0:
        raise InputError(f"a seed is 0 or more, got {seed}")
    if not clips and any(counts.values()):
        raise InputError("there are no clips to ask about")


def check_weights(weights: Mapping[str, float]) -> Mapping[str, float]:
    """The weights; InputError if a kind does not exist or a weight is negative."""
    kinds = [kind for task in KINDS.values() for kind in task]
    for kind, weight in weights.items():
        if kind not in kinds:
            near = difflib.get_close_matches(kind, kinds, 1)
            hint = f"do you mean {near[0]}?" if near else f"kinds are {', '.join(kinds)}"
            raise InputError(f"weights: there is no kind of question {kind!r}; {hint}")
        if not 0.0 <= weight < float("inf"):
            raise InputError(f"weights: {kind} weighs {weight}; use 0 or more")
    return weights


def _shares(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """`count` divided as the weights, what is left over to the largest fractions; of equal ones, by the seed."""
    total, n = sum(weights), len(weights)
    exact = [count * weight / total for weight in weights]
    shares = [int(each) for each in exact]
    order = sorted(range(n), key=lambda i: (shares[i] - exact[i], (i + seed) % n))
    for i in order[: count - sum(shares)]:
        shares[i] += 1
    return shares


def _asked(
    desks: dict[str, _Desk], task: int, count: int, seed: int, weights: Mapping[str, float]
) -> dict[str, list[Asked]]:
    """Plan of one task: the kinds that clips can carry share the count by their weights."""
    desks = {kind: desk for kind, desk in desks.items() if weights.get(kind, 1.0) > 0}
    if not count:
        return {}
    if not desks:
        raise InputError(f"weights: every kind of task {task} weighs 0 and {count} are asked")
    carried = [kind for kind, desk in desks.items() if _CARRIES[task](desk, kind)]
    left_out = [kind for kind in desks if kind not in carried]
    if not carried:
        raise InputError(
            f"no clip can carry a question of task {task}: of {len(next(iter(desks.values())).scenes)} "
            "clips some must have one talker and some two, with words, at different places"
        )
    if left_out:
        log.warning("task %d: no clips for questions of kind %s", task, ", ".join(left_out))
    shares = _shares([weights.get(kind, 1.0) for kind in carried], count, seed)
    for kind, share in zip(carried, shares, strict=True):
        _PLANNERS[task](desks[kind], kind, share, seed)
    return {kind: desks[kind].asked for kind in carried}


def _listable(desk: _Desk, kind: str) -> Mask:
    """Clips that Task 1, or Task 3 (everybody has words), can be asked about."""
    if kind == "locate":
        return np.ones(len(desk.scenes), bool)
    return np.all(desk.scenes.worded | ~desk.scenes.present, axis=1)


def _plan_list(desk: _Desk, kind: str, count: int, seed: int) -> None:
    """Tasks 1 and 3: every clip in turn, so talkers occur as often as in the clips."""
    usable = _listable(desk, kind)
    for _ in range(count):
        desk.add(desk.take(usable), {}, desk.wording())


def _answers(desk: _Desk, kind: str) -> tuple[list[Values], Mask, Mask, NDArray[np.float64]]:
    """Values a Task 2 kind may ask; clips [values, n] with the answers yes and no; weight of each value.

    Clips without the talkers are in neither. A value weighs as much as its rarer answer has clips.
    """
    grid = truth.asked_grid(KINDS[2][kind])
    names = list(grid)
    options: list[Values] = [{names[0]: float(v)} for v in grid[names[0]]] if names else [{}]
    verdicts = np.stack(
        [truth.yes_no(desk.scenes, kind, values, desk.margins) for values in options]
    )
    complete = desk.scenes.count == truth.talkers_needed(kind)
    yes, no = (verdicts == YES) & complete, (verdicts == NO) & complete
    return options, yes, no, np.minimum(yes.sum(axis=1), no.sum(axis=1)).astype(np.float64)


def _plan_yes_no(desk: _Desk, kind: str, count: int, seed: int) -> None:
    options, yes, no, weights = _answers(desk, kind)
    absent = desk.scenes.count < truth.talkers_needed(kind)
    option, wording = 0, 0
    for index in range(count):
        if index % 2 == 0:
            option = int(desk.rng.choice(len(options), p=weights / weights.sum()))
            wording = desk.wording()
        if wants_yes(kind, index, seed):
            clip: int | None = desk.take(yes[option])
        else:
            clip = desk.mixed(no[option], absent, desk.mixture.absent)
        assert clip is not None  # a value without clips for both answers has no weight
        desk.add(clip, options[option], wording)


def _found(desk: _Desk, kind: str, slot: int) -> tuple[dict[str, NDArray], Mask]:
    """Values [n] that ask for the talker of a slot, and the clips where they mean that one."""
    values = truth.place_values(desk.scenes, slot, KINDS[4][kind])
    return values, truth.target(desk.scenes, kind, values, desk.margins) == slot


def _plan_targets(desk: _Desk, kind: str, count: int, seed: int) -> None:
    scenes, share = desk.scenes, desk.mixture
    found = {slot: _found(desk, kind, slot) for slot in (truth.FIRST, truth.SECOND)}
    recent: dict[int, tuple[Values, int]] = {}  # the last question for each slot
    lacking = scenes.count < truth.talkers_needed(kind)
    elsewhere: dict[tuple, Mask] = {}  # by the values asked: clips where they mean nobody
    for index in range(count):
        want = wants_target(kind, index, seed)
        if want != truth.NOBODY and kind.startswith("comparison") and lacking.any():
            want = truth.NOBODY if desk.rng.random() < share.absent else want
        if want == truth.NOBODY:
            # A comparison may come here before any other question; it asks no values.
            repeated = list(recent.values()) or [({}, desk.wording())]
            values, wording = repeated[desk.rng.integers(len(repeated))]
            asked = tuple(values.values())
            if asked not in elsewhere:
                nobody = truth.target(scenes, kind, values, desk.margins) == truth.NOBODY
                elsewhere[asked] = nobody & ~lacking
            clip = _nobody(desk, elsewhere[asked], lacking)
            if clip is not None:
                desk.add(clip, values, wording)
                continue
            want = truth.FIRST  # somebody is everywhere
        clip, values, wording = _question_for(desk, found, want)
        recent[want] = (values, wording)
        desk.add(clip, values, wording)


def _nobody(desk: _Desk, elsewhere: Mask, lacking: Mask) -> int | None:
    """A clip where nobody is meant: mostly with two talkers who are elsewhere."""
    if lacking.any() and (desk.rng.random() < desk.mixture.absent or not elsewhere.any()):
        return desk.take(lacking)
    both = desk.scenes.both
    return desk.mixed(elsewhere & both, elsewhere & ~both, desk.mixture.alone)


def _question_for(
    desk: _Desk, found: dict[int, tuple[dict[str, NDArray], Mask]], slot: int
) -> tuple[int, Values, int]:
    """Clip, values and wording of a question for the talker of a slot, or of the other if it has no clip."""
    slot = slot if found[slot][1].any() else 1 - slot
    values, mask = found[slot]
    both = desk.scenes.both
    clip = desk.mixed(mask & both, mask & ~both, desk.mixture.alone)
    assert clip is not None  # kinds without clips are not planned
    return clip, {name: float(value[clip]) for name, value in values.items()}, desk.wording()


def _measurable(desk: _Desk, kind: str) -> Mask:
    """Clips with the talkers of a kind of Task 5, whose azimuths say something if they are asked for."""
    scenes = desk.scenes
    mask = scenes.count == truth.talkers_needed(kind)
    if "distance" in kind:
        return mask
    return mask & np.all(np.abs(scenes.elevation) <= desk.margins.steep, axis=1)


def _plan_measures(desk: _Desk, kind: str, count: int, seed: int) -> None:
    usable = _measurable(desk, kind)
    lacking = desk.scenes.count < truth.talkers_needed(kind)
    for _ in range(count):
        clip = desk.mixed(usable, lacking, desk.mixture.absent / 2)
        assert clip is not None  # kinds without clips are not planned
        desk.add(clip, {}, desk.wording())


_PLANNERS = {
    1: _plan_list,
    2: _plan_yes_no,
    3: _plan_list,
    4: _plan_targets,
    5: _plan_measures,
}
_CARRIES = {
    1: lambda desk, kind: bool(_listable(desk, kind).any()),
    2: lambda desk, kind: bool(_answers(desk, kind)[3].any()),
    3: lambda desk, kind: bool(_listable(desk, kind).any()),
    4: lambda desk, kind: any(_found(desk, kind, slot)[1].any() for slot in (0, 1)),
    5: lambda desk, kind: bool(_measurable(desk, kind).any()),
}


@dataclass(frozen=True)
class Balance:
    """What a plan holds of one kind: questions, different clips, and how often each answer."""

    task: int
    kind: str
    count: int
    clips: int
    answers: dict[str, int]


def balance(plan: Iterable[tuple[int, Question]]) -> list[Balance]:
    """Balance of a plan by task and kind. Answers: yes, no; first, second, none; else talkers 0, 1, 2."""
    groups: dict[tuple[int, str], list[tuple[int, Question]]] = {}
    for clip, question in plan:
        groups.setdefault((question.task, question.kind), []).append((clip, question))
    rows = []
    for task, kinds in KINDS.items():
        for kind in kinds:
            group = groups.get((task, kind), [])
            answers = Counter(_answer_of(question) for _, question in group)
            if group:
                clips = len({clip for clip, _ in group})
                rows.append(Balance(task, kind, len(group), clips, dict(sorted(answers.items()))))
    return rows


def balance_table(rows: Sequence[Balance]) -> str:
    """Markdown table of a balance."""
    lines = ["| task | kind | questions | clips | answers |", "|---|---|---|---|---|"]
    for row in rows:
        answers = ", ".join(f"{name} {count}" for name, count in row.answers.items())
        lines.append(f"| {row.task} | {row.kind} | {row.count} | {row.clips} | {answers} |")
    return "\n".join(lines)


def _answer_of(question: Question) -> str:
    if question.task == 2:
        return question.answer
    if question.task == 4:
        target = question.labels["target"]
        return NONE if target is None else ("first", "second")[target]
    talkers = len(question.labels["talkers"])
    return f"{talkers} talkers" if talkers != 1 else "1 talker"

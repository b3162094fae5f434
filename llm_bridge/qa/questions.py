# SPDX-License-Identifier: Apache-2.0
"""Questions of Tasks 1-5 about the talkers of a clip, one at a time; `plan_questions` makes a set.

Deterministic from the generator given. Answers come from the geometry, never from the text; a value
that a question asks is chosen so that the truth is clear of it by the margins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llm_bridge.qa import truth
from llm_bridge.qa.asking import Question, ask_question
from llm_bridge.qa.book import KINDS, QuestionBook
from llm_bridge.qa.formats import TalkerLike
from llm_bridge.qa.geometry import UNSURE, YES, Margins, Scenes
from llm_bridge.qa.plan import (
    Balance,
    balance,
    balance_table,
    plan_questions,
    wants_target,
    wants_yes,
)
from spatial_core.errors import InputError

__all__ = [
    "KINDS",
    "Balance",
    "Margins",
    "Question",
    "QuestionBook",
    "ask_question",
    "balance",
    "balance_table",
    "make_question",
    "plan_questions",
    "wants_target",
    "wants_yes",
]

Choice = tuple[str, bool, dict[str, float]]  # kind, yes (somebody meant), values


def make_question(
    talkers: Sequence[TalkerLike],
    task: int,
    rng: np.random.Generator,
    book: QuestionBook | None = None,
    kind: str | None = None,
    yes: bool | None = None,
    margins: Margins | None = None,
) -> Question:
    """A question of a task that 0-2 talkers (in the order heard) can carry.

    kind: None takes one at random, of those that speak of as many talkers as there are if possible.
    yes: the answer wanted in Task 2; in Task 4 True means a talker and False the answer none; None
    takes either with equal chance where both are possible. Not for Tasks 1, 3 and 5.
    Raises InputError if these talkers cannot carry such a question.
    """
    book = QuestionBook.load() if book is None else book
    margins = Margins() if margins is None else margins
    if task not in KINDS:
        raise InputError(f"tasks are 1 to 5, got {task!r}")
    if kind is not None and kind not in KINDS[task]:
        raise InputError(f"task {task} has the kinds {', '.join(KINDS[task])}, got {kind!r}")
    if task in (1, 3, 5):
        if yes is not None:
            raise InputError(f"task {task} has no yes or no")
        kinds = list(KINDS[task]) if kind is None else [kind]
        fitting = [name for name in kinds if truth.talkers_needed(name) == len(talkers)] or kinds
        only = fitting[rng.integers(len(fitting))] if len(fitting) > 1 else fitting[0]
        return ask_question(talkers, task, only, {}, _wording(book, task, only, rng), book, margins)
    scenes = Scenes.of([talkers])
    choices = [
        choice
        for name in (KINDS[task] if kind is None else (kind,))
        for choice in _choices(scenes, task, name, margins)
        if yes is None or choice[1] == yes
    ]
    if not choices:
        wanted = "" if yes is None else f" with the answer {'yes' if yes else 'no or none'}"
        raise InputError(
            f"no question of task {task}, kind {kind or 'any'}{wanted} has a clear answer for these "
            f"{len(talkers)} talkers; take another clip"
        )
    name, _, values = _pick(choices, len(talkers), rng)
    return ask_question(talkers, task, name, values, _wording(book, task, name, rng), book, margins)


def _choices(scenes: Scenes, task: int, kind: str, margins: Margins) -> Iterator[Choice]:
    """Every question of a kind that one scene can carry."""
    names = KINDS[task][kind]
    if task == 2:
        grid = truth.asked_grid(names)
        verdicts = truth.yes_no(scenes, kind, grid, margins)
        for n in np.flatnonzero(verdicts != UNSURE):
            yield kind, bool(verdicts[n] == YES), {key: float(v[n]) for key, v in grid.items()}
        return
    if not names:
        who = truth.target(scenes, kind, {}, margins)[0]
        if who != truth.UNCLEAR:
            yield kind, bool(who != truth.NOBODY), {}
        return
    for slot in range(int(scenes.count[0])):
        values = {key: float(v[0]) for key, v in truth.place_values(scenes, slot, names).items()}
        if truth.target(scenes, kind, values, margins)[0] == slot:
            yield kind, True, values
    grid = truth.place_grid(names)
    for n in np.flatnonzero(truth.target(scenes, kind, grid, margins) == truth.NOBODY):
        yield kind, False, {key: float(v[n]) for key, v in grid.items()}


def _pick(choices: list[Choice], count: int, rng: np.random.Generator) -> Choice:
    """First the kinds that speak of `count` talkers, then yes or no, then the kind, then the values."""
    fitting = [choice for choice in choices if truth.talkers_needed(choice[0]) <= max(count, 1)]
    choices = fitting or choices
    answers = sorted({yes for _, yes, _ in choices})
    wanted = answers[rng.integers(len(answers))]
    kinds = sorted({kind for kind, yes, _ in choices if yes == wanted})
    kind = kinds[rng.integers(len(kinds))]
    choices = [choice for choice in choices if choice[:2] == (kind, wanted)]
    return choices[rng.integers(len(choices))]


def _wording(book: QuestionBook, task: int, kind: str, rng: np.random.Generator) -> int:
    return int(rng.integers(len(book.wordings(task, kind))))

# SPDX-License-Identifier: Apache-2.0
"""Questions one at a time and as a set: true answers, balance, no hint in the words, same from a seed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.qa import answers, truth
from llm_bridge.qa.book import KINDS, QuestionBook
from llm_bridge.qa.examples import example_clips, examples
from llm_bridge.qa.geometry import UNSURE, Margins, Scenes
from llm_bridge.qa.plan import Mixture
from llm_bridge.qa.questions import (
    balance,
    balance_table,
    make_question,
    plan_questions,
    wants_target,
    wants_yes,
)
from llm_bridge.tokens.record import Talker
from spatial_core.errors import InputError

patient = settings(deadline=None, max_examples=50)
BOOK = QuestionBook.load()
COUNTS = {1: 50, 2: 205, 3: 50, 4: 203, 5: 300}


def people(rng: np.random.Generator, count: int) -> tuple[Talker, ...]:
    return tuple(
        Talker(
            start=3.0 * slot,
            end=3.0 * slot + 2.0,
            azimuth=float(rng.uniform(-180, 180)),
            elevation=float(np.degrees(np.arcsin(rng.uniform(-0.8, 0.8)))),
            distance=float(rng.uniform(0.5, 6.5)),
            transcript=f"Sentence {rng.integers(10**6)}.",
            speaker=f"s{slot}",
        )
        for slot in range(count)
    )


def crowd(number: int, seed: int = 0) -> list[tuple[Talker, ...]]:
    """Clips with two talkers, one and none, 12 : 7 : 1."""
    rng = np.random.default_rng(seed)
    return [people(rng, int(rng.choice(3, p=[0.05, 0.35, 0.6]))) for _ in range(number)]


CLIPS = crowd(600)
PLAN = plan_questions(CLIPS, COUNTS, seed=3, book=BOOK)


def of_task(task: int) -> list:
    return [question for _, question in PLAN if question.task == task]


def test_the_counts_asked_for_and_every_kind_equally() -> None:
    assert Counter(question.task for _, question in PLAN) == COUNTS
    for task in (2, 4):
        shares = Counter(question.kind for question in of_task(task))
        assert set(shares) == set(KINDS[task])
        assert max(shares.values()) - min(shares.values()) <= 1


def test_yes_and_no_are_balanced_within_every_kind_and_in_all() -> None:
    for row in balance(PLAN):
        if row.task == 2:
            assert abs(row.answers["yes"] - row.answers["no"]) <= 1
    total = Counter(question.answer for question in of_task(2))
    assert abs(total["yes"] - total["no"]) <= len(KINDS[2])
    even = plan_questions(CLIPS, {2: 200}, seed=3, book=BOOK)
    assert Counter(question.answer for _, question in even) == {"yes": 100, "no": 100}


def test_the_words_of_a_question_tell_nothing_of_its_answer() -> None:
    """Every text with the answer yes is asked as often with the answer no: without sound it is 50%."""
    even = [question for _, question in plan_questions(CLIPS, {2: 600}, seed=1, book=BOOK)]
    yes = Counter(question.user for question in even if question.answer == "yes")
    no = Counter(question.user for question in even if question.answer == "no")
    assert yes == no


def test_a_third_of_targeted_questions_means_nobody() -> None:
    for kind in KINDS[4]:
        asked = [question for question in of_task(4) if question.kind == kind]
        targets = Counter(question.labels["target"] for question in asked)
        first, second, nobody = (targets[name] for name in (0, 1, None))
        if kind.startswith("comparison"):
            assert abs(first - second) <= 5  # some turns go to clips without two talkers
            assert 0 < nobody + first + second == len(asked) and nobody < len(asked) / 3
        else:
            assert max(first, second, nobody) - min(first, second, nobody) <= 1


def test_a_question_for_nobody_repeats_one_for_somebody() -> None:
    for kind in ("place", "distance"):
        asked = [question for question in of_task(4) if question.kind == kind]
        found = {question.user for question in asked if question.labels["target"] is not None}
        nobody = {question.user for question in asked if question.labels["target"] is None}
        assert nobody <= found


def test_absent_talkers_give_no_and_none() -> None:
    plan = plan_questions(CLIPS, {2: 1000, 4: 600}, seed=5, book=BOOK)
    absent = [
        q
        for _, q in plan
        if len(q.labels["talkers"]) < truth.talkers_needed(q.kind) and q.task != 1
    ]
    assert absent
    assert {question.answer for question in absent} == {"no", "none"}
    share = sum(q.task == 2 for q in absent) / 500
    assert 0.06 < share < 0.14  # 10% of 500: four standard deviations are 5.4%
    never = plan_questions(CLIPS, {2: 400}, seed=5, book=BOOK, mixture=Mixture(absent=0.0))
    assert all(len(q.labels["talkers"]) == truth.talkers_needed(q.kind) for _, q in never)


def test_answers_follow_from_the_clip_and_parse() -> None:
    for clip, question in PLAN:
        talkers = CLIPS[clip]
        parsed = answers.parse_answer(question.task, question.answer)
        assert parsed.ok
        assert [t["azimuth"] for t in question.labels["talkers"]] == [t.azimuth for t in talkers]
        if question.task == 1:
            expected = [answers.snapped(t) for t in talkers]
            assert parsed.value == (*expected, None, None)[:2]
        if question.task == 2:
            assert parsed.value == question.labels["answer"]
        if question.task == 3:
            assert [one.transcript for one in parsed.value if one] == [
                t.transcript for t in talkers
            ]
        if question.task == 4:
            target = question.labels["target"]
            words = None if target is None else talkers[target].transcript
            assert parsed.value.transcript == words
        assert question.system == BOOK.system_prompt(question.task)


def test_answers_against_plain_arithmetic() -> None:
    """Distances and sides of Task 2 and 4 again, from the labels alone."""
    for question in of_task(2) + of_task(4):
        people, asked = question.labels["talkers"], question.labels["asked"]
        kind, count = question.kind, len(question.labels["talkers"])
        if question.task == 2 and count == truth.talkers_needed(kind):
            first = people[0]
            x, y = np.cos(np.radians(first["azimuth"])), np.sin(np.radians(first["azimuth"]))
            expected = {
                "single_azimuth_left": x < 0,
                "single_azimuth_right": x > 0,
                "single_azimuth_front": y > 0,
                "single_azimuth_back": y < 0,
                "single_distance_closer": first["distance"] < asked.get("distance", 0),
                "single_distance_further": first["distance"] > asked.get("distance", 0),
                "multi_distance_closer": first["distance"] < people[-1]["distance"],
                "multi_distance_further": first["distance"] > people[-1]["distance"],
            }
            if kind in expected:
                assert question.labels["answer"] == expected[kind]
        if kind == "comparison_closer" and count == 2:
            nearest = int(np.argmin([t["distance"] for t in people]))
            assert question.labels["target"] == nearest


def test_clips_are_used_evenly() -> None:
    """Task 1 takes every clip once before any twice; other tasks what the kinds allow."""
    plan = plan_questions(CLIPS[:40], {1: 100, 3: 80}, seed=0, book=BOOK)
    for task, low, high in ((1, 2, 3), (3, 2, 2)):
        uses = Counter(clip for clip, question in plan if question.task == task)
        assert len(uses) == 40 and min(uses.values()) == low and max(uses.values()) == high
    assert all(row.clips > 0.8 * row.count for row in balance(PLAN) if row.task in (2, 4))


def test_the_same_from_a_seed_and_different_from_another() -> None:
    again = plan_questions(CLIPS, COUNTS, seed=3, book=BOOK)
    assert again == PLAN
    other = plan_questions(CLIPS, COUNTS, seed=4, book=BOOK)
    assert [q.user for _, q in other] != [q.user for _, q in PLAN]
    # A task's questions do not depend on which other tasks are asked.
    assert plan_questions(CLIPS, {2: 205}, 3, BOOK) == [(c, q) for c, q in PLAN if q.task == 2]


def test_labels_are_plain_and_questions_survive_json() -> None:
    for _, question in PLAN[::17]:
        assert json.loads(json.dumps(asdict(question))) == asdict(question)


def test_values_stay_clear_of_the_truth() -> None:
    wide = Margins(distance=1.0, separation=30.0)
    for clip, question in plan_questions(CLIPS, {2: 300}, seed=2, book=BOOK, margins=wide):
        talkers, asked = CLIPS[clip], question.labels["asked"]
        if "distance" in asked and len(talkers) == 1:
            assert abs(talkers[0].distance - asked["distance"]) >= 1.0
        if "angle" in asked and len(talkers) == 2:
            apart = abs((talkers[0].azimuth - talkers[1].azimuth + 180) % 360 - 180)
            assert abs(apart - asked["angle"]) >= 30.0 - 1e-9


def test_kinds_without_clips_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    alone = [clip for clip in CLIPS if len(clip) == 1]
    with caplog.at_level(logging.WARNING):
        plan = plan_questions(alone, {2: 60}, seed=0, book=BOOK)
    assert len(plan) == 60 and all(question.kind.startswith("single") for _, question in plan)
    assert "multi_distance_closer" in caplog.text


def test_what_cannot_be_planned_is_refused() -> None:
    silent: list[tuple[Talker, ...]] = [(), ()]
    with pytest.raises(InputError, match="no clip can carry a question of task 2"):
        plan_questions(silent, {2: 10}, 0, BOOK)
    mute = [tuple(replace(t, transcript="") for t in clip) for clip in CLIPS if clip]
    for task in (3, 4):
        with pytest.raises(InputError, match=f"no clip can carry a question of task {task}"):
            plan_questions(mute, {task: 10}, 0, BOOK)
    for arguments, message in (
        ((CLIPS, {6: 1}, 0), "tasks are 1 to 5, got 6"),
        ((CLIPS, {1: -1}, 0), "count of 0 or more"),
        ((CLIPS, {1: 1}, -1), "seed is 0 or more"),
        (([], {1: 1}, 0), "no clips"),
    ):
        with pytest.raises(InputError, match=message):
            plan_questions(*arguments, BOOK)
    assert plan_questions([], {1: 0}, 0, BOOK) == []
    with pytest.raises(InputError, match="share alone"):
        Mixture(alone=2.0)


def test_words_that_are_missing_are_not_asked_for() -> None:
    some = [
        tuple(replace(t, transcript="") for t in clip) if n % 2 else clip
        for n, clip in enumerate(CLIPS)
    ]
    for clip, question in plan_questions(some, {3: 60, 4: 90}, 0, BOOK):
        if question.answer != "none" and question.task == 4:
            assert clip % 2 == 0
        if question.task == 3:
            assert clip % 2 == 0 or not CLIPS[clip]


@pytest.mark.parametrize("kind", KINDS[2])
def test_yes_and_no_take_turns(kind: str) -> None:
    for seed in (0, 1):
        turns = [wants_yes(kind, index, seed) for index in range(6)]
        assert turns in ([True, False] * 3, [False, True] * 3)


def test_targets_take_turns() -> None:
    for kind in KINDS[4]:
        turns = [wants_target(kind, index, 0) for index in range(6)]
        if kind.startswith("comparison"):
            assert Counter(turns) == {truth.FIRST: 3, truth.SECOND: 3}
        else:
            assert Counter(turns) == {truth.FIRST: 2, truth.SECOND: 2, truth.NOBODY: 2}
            assert turns[2] == truth.NOBODY


@patient
@given(st.integers(0, 2), st.integers(1, 4), st.none() | st.booleans(), st.integers(0, 10**6))
def test_one_question_about_any_talkers(count: int, task: int, yes: bool | None, seed: int) -> None:
    talkers = people(np.random.default_rng(seed), count)
    yes = None if task in (1, 3) else yes
    try:
        question = make_question(talkers, task, np.random.default_rng(seed), BOOK, yes=yes)
    except InputError:
        assert task in (2, 4)
        assert yes or count
        return
    assert question == make_question(talkers, task, np.random.default_rng(seed), BOOK, yes=yes)
    assert answers.parse_answer(task, question.answer).ok
    if yes is not None:
        assert (question.answer not in ("no", "none")) == yes
    if count == 0 and task != 1:
        assert "none" in question.answer or question.answer == "no"
    if count:
        assert truth.talkers_needed(question.kind) <= count or task in (1, 3)


@patient
@given(st.sampled_from(sorted(KINDS[2])), st.booleans(), st.integers(0, 10**6))
def test_one_question_of_a_kind_is_found_whenever_one_exists(
    kind: str, yes: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    talkers = people(rng, truth.talkers_needed(kind))
    grid = truth.asked_grid(KINDS[2][kind])
    verdicts = truth.yes_no(Scenes.of([talkers]), kind, grid, Margins())
    possible = bool(np.any((verdicts > 0) == yes, where=verdicts != UNSURE))
    if possible:
        assert make_question(talkers, 2, rng, BOOK, kind, yes).labels["answer"] == yes
    else:
        with pytest.raises(InputError, match="take another clip"):
            make_question(talkers, 2, rng, BOOK, kind, yes)


def test_impossible_single_questions_are_refused() -> None:
    rng = np.random.default_rng(0)
    talkers = people(rng, 2)
    with pytest.raises(InputError, match="tasks are"):
        make_question(talkers, 7, rng, BOOK)
    with pytest.raises(InputError, match="task 4 has the kinds place"):
        make_question(talkers, 4, rng, BOOK, kind="locate")
    with pytest.raises(InputError, match="no yes or no"):
        make_question(talkers, 1, rng, BOOK, yes=True)
    with pytest.raises(InputError, match="with the answer yes"):
        make_question((), 2, rng, BOOK, yes=True)


def test_the_balance_as_a_table_and_the_examples() -> None:
    table = balance_table(balance(PLAN))
    assert table.count("\n") == 1 + sum(len(kinds) for kinds in KINDS.values())
    assert "| 2 | multi_azimuth_within |" in table
    text = examples()
    assert all(f"| {kind} |" in text for kinds in KINDS.values() for kind in kinds)
    assert text == examples(example_clips())


def test_measures_are_the_talkers_geometry() -> None:
    """From 170 degrees counter-clockwise to -150 is 40; back is 320, and 40 either way between them."""
    anybody = Talker(0.3, 2.1, 170.0, 0.0, 1.7, "Here.", "anna")
    here, there = anybody, replace(anybody, azimuth=-150.0, distance=3.4)
    kinds = {"measure_distances": "17, 33", "measure_directions": "170, 210"}
    for kind, right in {**kinds, "measure_separation": "040", "measure_turn": "040"}.items():
        assert answers.format_measure(kind, [here, there]) == right
        assert answers.format_measure(kind, [here]) == "none"
    assert answers.format_measure("measure_turn", [there, here]) == "320"
    assert answers.format_measure("measure_separation", [there, here]) == "040"
    assert answers.format_measure("measure_distance", [there]) == "33"
    assert answers.parse_task5("17, 33").value == (17.0, 33.0)
    assert answers.parse_task5("none").value == ()


def test_measures_are_asked_equally_and_mostly_of_who_is_there() -> None:
    asked = of_task(5)
    shares = Counter(question.kind for question in asked)
    assert set(shares) == set(KINDS[5]) and max(shares.values()) - min(shares.values()) <= 1
    nobody = sum(question.answer == "none" for question in asked)
    assert 0 < nobody < len(asked) / 8
    for question in asked:
        assert answers.parse_answer(5, question.answer).ok


def test_kinds_are_asked_by_their_weights() -> None:
    weights = {"multi_azimuth_within": 3.0, "single_azimuth_left": 0.5, "single_azimuth_back": 0.0}
    plan = plan_questions(CLIPS, {2: 210, 1: 5}, seed=4, book=BOOK, weights=weights)
    counts = Counter(question.kind for _, question in plan if question.task == 2)
    # 7 kinds of weight 1, with 3 and a half 10.5 in all.
    assert counts == {
        **{kind: 20 for kind in KINDS[2] if kind not in weights},
        "multi_azimuth_within": 60,
        "single_azimuth_left": 10,
    }
    yes = Counter(q.answer for _, q in plan if q.kind == "multi_azimuth_within")
    assert yes["yes"] == yes["no"] == 30


def test_weights_that_name_no_kind_are_refused() -> None:
    with pytest.raises(InputError, match="do you mean multi_azimuth_within"):
        plan_questions(CLIPS, {2: 10}, seed=0, weights={"multi_azimut_within": 2.0})
    with pytest.raises(InputError, match="weighs -1"):
        plan_questions(CLIPS, {2: 10}, seed=0, weights={"locate": -1.0})
    with pytest.raises(InputError, match="every kind of task 1 weighs 0"):
        plan_questions(CLIPS, {1: 10}, seed=0, weights={"locate": 0.0})

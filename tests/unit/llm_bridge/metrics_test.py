# SPDX-License-Identifier: Apache-2.0
"""Scores of answers, held to numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llm_bridge import published
from llm_bridge.chance import chance_answers
from llm_bridge.heads import Segmentation, answer, talkers_of
from llm_bridge.metrics import Tally, plain_words, score, word_error_rate
from llm_bridge.qa.asking import Question
from llm_bridge.qa.plan import plan_questions
from llm_bridge.tokens.record import Talker
from tests.unit.llm_bridge.made_up import made_up_clips

NOBODY = "azimuth_degrees_{0}=none, elevation_degrees_{0}=none, distance_meters_{0}=none"


def place(slot: int, azimuth: str, elevation: str, distance: str) -> str:
    return (
        f"azimuth_degrees_{slot}={azimuth}, elevation_degrees_{slot}={elevation}, "
        f"distance_meters_{slot}={distance}"
    )


def talker(azimuth=0.0, elevation=0.0, distance=1.0, words="so it is") -> dict:
    return {
        "start": 0.0,
        "end": 1.0,
        "azimuth": azimuth,
        "elevation": elevation,
        "distance": distance,
        "transcript": words,
    }


def question(task: int, kind: str, talkers: list, **labels) -> Question:
    return Question(task, kind, "", "?", "", {"talkers": talkers, "asked": {}, **labels})


def locate(*talkers) -> Question:
    return question(1, "locate", list(talkers))


def test_errors_go_the_short_way_round_and_count_talkers_in_both():
    """Errors 4 and 20 degrees of azimuth, 3 and 10 of elevation, 0.2 and 0.5 m; one missed, one extra."""
    answered = [
        # True azimuth 176 and text 180, which is 180: 4 degrees. -175 and text 165: 20 degrees.
        (0, locate(talker(176, 3, 1.0)), f"{place(1, '180', '090', '12')}, {NOBODY.format(2)}"),
        (1, locate(talker(-175, -10, 1.7)), f"{place(1, '170', '090', '22')}, {NOBODY.format(2)}"),
        # The second talker is missed.
        (2, locate(talker(), talker()), f"{place(1, '000', '090', '12')}, {NOBODY.format(2)}"),
        # Nobody is there, one is said to be.
        (3, locate(), f"{place(1, '000', '090', '12')}, {NOBODY.format(2)}"),
        # Nothing can be read: the talker is missed, and no error is made up.
        (4, locate(talker(90)), "I hear a kettle."),
    ]
    scores = score(answered)
    places = scores.task1
    assert places.azimuth.value == pytest.approx((4 + 15 + 0) / 3)
    assert places.elevation.value == pytest.approx((3 + 10 + 0) / 3)
    assert places.distance.value == pytest.approx((0.2 + 0.5 + 0.2) / 3)
    assert (places.talkers, places.missed, places.extra) == (5, 2, 1)
    assert places.azimuth.count == 3 and places.exact.value == pytest.approx(2 / 5)
    assert places.azimuths.tolist() == [[176, 180], [-175, 170], [0, 0]]
    assert (scores.validity[1].answers, scores.validity[1].unreadable) == (5, 1)
    assert places.azimuth.low <= places.azimuth.value <= places.azimuth.high


def test_an_invalid_value_is_counted_and_not_scored():
    text = f"{place(1, 'left', '090', '12')}, {NOBODY.format(2)}"
    scores = score([(0, locate(talker(180, 10, 1.2)), text)])
    assert scores.validity[1].invalid == 1 and scores.validity[1].unreadable == 0
    assert scores.task1.azimuth.count == 0 and math.isnan(scores.task1.azimuth.value)
    assert scores.task1.elevation.value == pytest.approx(10)
    assert scores.task1.missed == 0


def test_yes_and_no_by_kind_with_recalls():
    def asked(kind, right):
        return question(2, kind, [talker()], answer=right)

    left, near = "single_azimuth_left", "single_distance_closer"
    answered = [
        (0, asked(left, True), "yes"),
        (1, asked(left, True), "No."),
        (2, asked(left, False), "no"),
        (3, asked(near, False), "yes"),
        (4, asked(near, True), "maybe"),  # wrong, and unreadable
    ]
    yes_no = score(answered).task2
    assert yes_no.kinds == {near: Tally(0, 2), left: Tally(2, 3)}
    assert yes_no.overall == Tally(2, 5) and yes_no.accuracy.value == pytest.approx(0.4)
    assert yes_no.yes == Tally(1, 3) and yes_no.no == Tally(1, 2)
    assert score(answered).validity[2].unreadable == 1


@pytest.mark.parametrize(
    ("truth", "said", "rate"),
    [
        ("So it is, isn't it?", "so it is isn't it", 0.0),
        ("A well-known place.", "a well known place", 0.0),
        ("one two three four", "one too three", 0.5),  # one substituted, one left out
        ("one two", None, 1.0),
        ("one two", "", 1.0),
        ("one", "one one one one one", 4.0),
    ],
)
def test_word_error_rates(truth, said, rate):
    assert word_error_rate(truth, said) == pytest.approx(rate)


def test_words_as_they_are_compared():
    assert plain_words("  “Rock ’n’ roll”, don't — STOP!") == "rock n roll don't stop"
    assert math.isnan(word_error_rate("...", "so"))


def test_loops_are_dropped_and_counted():
    """Rates 0, 0.5 and 1.0 (missed) stay, 4.0 goes: mean 0.5, median 0.5."""

    def asked(words):
        return question(3, "transcribe", [talker(words=words)])

    def said(words):
        return f"transcript_1=[{words}], {place(1, '000', '090', '12')}, transcript_2=none, {NOBODY.format(2)}"

    nobody = f"transcript_1=none, {NOBODY.format(1)}, transcript_2=none, {NOBODY.format(2)}"
    answered = [
        (0, asked("one two"), said("One, two.")),
        (1, asked("one two"), said("one too")),
        (2, asked("one two"), nobody),
        (3, asked("one"), said("one one one one one")),
    ]
    scores = score(answered)
    assert scores.words3.mean.value == pytest.approx(0.5)
    assert scores.words3.median.value == pytest.approx(0.5)
    assert (scores.words3.talkers, scores.words3.dropped, scores.words3.mean.count) == (4, 1, 3)
    assert scores.task3.azimuth.count == 3 and scores.task3.missed == 1


def test_whom_the_words_belong_to():
    two = [talker(words="put the kettle on"), talker(words="the last bus has gone")]

    def asked(target):
        return question(4, "area_left", two, target=target)

    answered = [
        (0, asked(0), "[Put the kettle on.]"),  # right
        (1, asked(0), "[the last bus has gone]"),  # the other one's words
        (2, asked(1), "[the last boss was done]"),  # 3 of 5 wrong: hers, but not half right
        (3, asked(1), "none"),
        (4, asked(None), "none"),  # right
        (5, asked(None), "[put the kettle on]"),
    ]
    targets = score(answered).task4
    assert targets.accuracy.value == pytest.approx(2 / 6)
    assert targets.attributed.value == pytest.approx(3 / 6)
    assert targets.none == Tally(1, 2)
    # Rates of the four who are meant: 0, 5/4 (all four words wrong, one more), 3/5, 1.
    assert targets.words.mean.value == pytest.approx((0 + 1.25 + 0.6 + 1) / 4)
    assert targets.words.talkers == 4


def test_right_answers_have_no_errors_beyond_the_lists():
    """The answers that questions carry: errors are those of rounding to the lists, all else is right."""
    clips = made_up_clips(40)
    plan = plan_questions(clips.talkers, {1: 60, 2: 100, 3: 30, 4: 90}, seed=1)
    scores = score([(clip, q, q.answer) for clip, q in plan])
    assert all(one.invalid == 0 for one in scores.validity.values())
    assert scores.task1.azimuth.value < 5 and scores.task1.exact.value == 1
    assert scores.task1.missed == scores.task1.extra == 0
    assert scores.task2.overall.share == 1 and len(scores.task2.kinds) == 10
    assert scores.words3.mean.value == 0
    # Some of the made-up pairs say the same: either one's words are right then.
    assert scores.task4.accuracy.value == 1 and scores.task4.words.mean.value == 0


def test_chance_is_what_chance_is():
    """Azimuth 90 degrees, yes or no 50%, whom 1 of 3 with two talkers (and 1 of 2 with one)."""
    clips = made_up_clips(40)
    plan = plan_questions(clips.talkers, {1: 1500, 2: 1500, 3: 10, 4: 300}, seed=1)
    texts = chance_answers(plan, clips.talkers, seed=3)
    assert texts == chance_answers(plan, clips.talkers, seed=3)
    scores = score([(clip, q, text) for (clip, q), text in zip(plan, texts)])
    assert scores.task1.azimuth.value == pytest.approx(90, abs=6)  # 3.5 standard errors
    assert scores.task2.accuracy.value == pytest.approx(0.5, abs=0.05)
    assert 0.2 < scores.task4.accuracy.value < 0.5
    assert all(one.invalid == 0 for one in scores.validity.values())


def heads_of(*stretches: tuple[int, float, float, float, bool]) -> dict[str, np.ndarray]:
    """Windows, azimuth, elevation, distance, speech of each stretch."""
    rows = [row[1:] for row in stretches for _ in range(row[0])]
    azimuth, elevation, distance, speech = np.array(rows, np.float32).T
    confidence = np.full(len(rows), 0.8, np.float32)
    return {
        "azimuth": azimuth,
        "elevation": elevation,
        "distance": distance,
        "speech_probability": speech,
        "confidence": confidence,
    }


def test_heads_become_talkers():
    silence = (2, 0, 0, 3, False)
    one = talkers_of(heads_of(silence, (9, 175, 10, 1.5, True), (9, -175, 10, 1.5, True), silence))
    assert len(one) == 1  # 10 degrees across the seam at 180 are one talker
    assert abs(one[0].azimuth) == pytest.approx(180, abs=1)
    assert one[0].elevation == pytest.approx(10, abs=0.2) and one[0].distance == pytest.approx(1.5)
    assert (one[0].start, one[0].end) == pytest.approx((0.32, 3.2))
    two = talkers_of(heads_of((8, 40, 0, 1.0, True), silence, (6, -90, 20, 4.0, True)))
    assert [round(t.azimuth) for t in two] == [40, -90]
    assert [round(t.distance) for t in two] == [1, 4]
    assert two[1].start == pytest.approx(1.6)
    assert talkers_of(heads_of(silence, (2, 40, 0, 1, True))) == ()
    with pytest.raises(Exception, match="at least one window"):
        Segmentation(shortest=0)


def test_heads_answer_by_the_rules_of_the_questions():
    clips = made_up_clips(40)
    known = [tuple(Talker(**{**vars(t), "transcript": "..."}) for t in ts) for ts in clips.talkers]
    plan = plan_questions(clips.talkers, {1: 20, 2: 100, 4: 3}, seed=2)
    texts = [(clip, q, answer(q, known[clip])) for clip, q in plan]
    assert [text for _, q, text in texts if q.task == 4] == [None] * 3
    scores = score([row for row in texts if row[2] is not None])
    assert scores.task2.overall.share == 1 and scores.task1.exact.value == 1


def test_the_papers_tables_agree_with_themselves():
    right, asked = (sum(column) for column in zip(*published.TABLE_6.values()))
    assert (right, asked) == (786, 1024)
    assert right == published.TABLE_6_YES[0] + published.TABLE_6_NO[0]
    row = published.table_3()["Gemma 3n fine-tuned, synthetic"]
    assert row["task2_accuracy"] == pytest.approx(100 * right / asked, abs=0.01)
    assert (
        row["words4_mean"] == 8.77
        and "words3_mean" not in published.table_3()["encoder's own heads, synthetic"]
    )

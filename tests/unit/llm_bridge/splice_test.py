# SPDX-License-Identifier: Apache-2.0
"""Spliced conversations: each half is one conversation's own, and talkers stand where they are heard."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from llm_bridge import splice
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.qa import answers
from llm_bridge.stream import Clips, QuestionStream
from llm_bridge.tokens.record import Talker
from spatial_core.errors import InputError

COUNT, TOKENS = 12, 38


def conversations() -> Clips:
    """Token k of clip n holds (n, k) and, while somebody talks, the azimuth in tens of degrees."""
    rng = np.random.default_rng(0)
    tokens, audio, talkers = [], [], []
    for n in range(COUNT):
        heard = np.zeros((TOKENS, 256), np.float16)
        heard[:, 0], heard[:, 1] = n, np.arange(TOKENS)
        here = []
        pause = rng.integers(10, 24)
        spans = ((2, pause), (pause + 4, 36)) if n % 3 else ((2, pause),)
        for slot, (start, end) in enumerate(spans):
            azimuth = 10.0 * int(rng.integers(-17, 18))
            heard[start:end, 2] = azimuth / 10
            times = start * splice.SECONDS, end * splice.SECONDS
            here.append(Talker(*times, azimuth, 0.0, 2.0, "Hello.", f"voice {slot}"))
        tokens.append(heard)
        audio.append(heard[:, :1].repeat(640, axis=1))
        talkers.append(tuple(here))
    return Clips(tuple(tokens), audio, tuple(talkers))


def test_the_first_talker_of_one_and_the_second_of_another() -> None:
    clips = conversations()
    chosen = splice.pairs(clips.talkers, 50, np.random.default_rng(1), TOKENS)
    assert 10 < len(chosen) < 50 and np.all(chosen % 3 != 0)  # both have two talkers
    for i, j in chosen:
        talkers = splice.talkers_of(clips.talkers[i], clips.talkers[j])
        spatial, mono = splice.joined(
            (clips.tokens[i], clips.audio[i]),
            (clips.tokens[j], clips.audio[j]),
            clips.talkers[i],
            clips.talkers[j],
            TOKENS,
        )
        assert len(spatial) == len(mono) <= TOKENS
        np.testing.assert_array_equal(spatial[:, 0], mono[:, 0])
        cut = splice.middle(clips.talkers[i])
        assert np.all(spatial[:cut, 0] == i) and np.all(spatial[cut:, 0] == j)
        for talker in talkers:
            # Where a talker is said to talk, the tokens say that talker's azimuth, to the token.
            start, end = (round(t / splice.SECONDS) for t in (talker.start, talker.end))
            assert end <= len(spatial)
            assert np.all(spatial[start:end, 2] == talker.azimuth / 10)


def test_no_conversation_of_two_gives_none() -> None:
    assert splice.pairs([(), ()], 5, np.random.default_rng(0), 9).shape == (0, 2)


def stream(spliced: float, **settings: Any) -> QuestionStream:
    """About `conversations`."""
    made = QuestionStream(
        tokens="nowhere",
        backbone=TinyBackbone(),
        style="brief",
        batch_size=16,
        spliced=spliced,
        soft=TOKENS,
        length=128,
        answer_length=16,
        **({"stages": ((4, 0, 0, 0, 0, 64),)} | settings),
    )
    made._open.append(conversations())
    return made


def test_a_stream_asks_about_spliced_conversations_what_is_true_of_them() -> None:
    one, other = stream(4.0), stream(4.0)
    seen = 0
    for step in range(4):
        batch, again = one.batch(step), other.batch(step)
        for name, value in batch.items():
            np.testing.assert_array_equal(value, again[name])
        for row, (about, question) in enumerate(one.asked(step)):
            i, j = about.first, about.second
            seen += i != j
            heard = batch["tokens"][row]
            assert {i, j} >= set(heard[:, 0].astype(int)) - {0}
            if question.kind == "measure_directions" and question.answer != "none":
                azimuths = dict.fromkeys(heard[heard[:, 2] != 0, 2] * 10.0)
                said = answers.parse_task5(question.answer).value
                assert set(azimuths) - {0.0} <= {(a + 180) % 360 - 180 for a in said}
    assert seen > 16
    unspliced = (about for step in range(4) for about, _ in stream(0.0).asked(step))
    assert all(about.first == about.second for about in unspliced)
    with pytest.raises(InputError, match="spliced is -1"):
        stream(-1)


def test_kinds_weigh_what_their_stage_says() -> None:
    stages = ((2, 0, 32), (2, 0, 32), (2, 0, 32))
    weights = (
        {"single_azimuth_left": 0.0, "single_azimuth_right": 0.0},
        {"single_azimuth_left": 1e9},
    )
    asked = stream(1.0, stages=stages, weights=weights)
    kinds = [
        Counter(question.kind for step in (first, first + 1) for _, question in asked.asked(step))
        for first in (0, 2, 4)
    ]
    # Of conversations that are all 2 m away these four kinds can be asked.
    wide = {"multi_azimuth_within": 8, "multi_azimuth_outside": 8}
    assert kinds[0] == {kind: 2 * count for kind, count in wide.items()}
    assert set(kinds[1]) == {"single_azimuth_left"}
    assert kinds[2] == {**wide, "single_azimuth_left": 8, "single_azimuth_right": 8}
    with pytest.raises(InputError, match="3 entries for 1 stages"):
        stream(0.0, weights=({}, {}, {}))
    with pytest.raises(InputError, match="no kind of question"):
        stream(0.0, weights=({"left": 1.0},))

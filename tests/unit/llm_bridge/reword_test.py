# SPDX-License-Identifier: Apache-2.0
"""Other words for a conversation: those of the answers are heard while their talker talks, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from llm_bridge import reword
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.backbones.word_slots import NUMBERS, SLOT, from_numbers
from llm_bridge.stream import Clips, QuestionStream
from llm_bridge.tokens.record import Talker
from spatial_core.errors import InputError

SLOTS, FEATURES = 60, 640
SENTENCES = ("How are you?", "The well is dry, they said.", "Come home soon!")


@dataclass(frozen=True)
class HearingBackbone(TinyBackbone):
    """A tiny backbone that would hear words."""

    words: bool = True
    audio_width: int = FEATURES + NUMBERS


def stream(reworded: float, backbone: Any = None) -> QuestionStream:
    made = QuestionStream(
        tokens="nowhere",
        backbone=backbone or HearingBackbone(),
        style="brief",
        stages=((4, 0, 0, 48),),
        batch_size=12,
        reworded=reworded,
        soft=SLOTS,
        length=256,
        answer_length=160,
    )
    talkers = tuple(
        (
            Talker(0.5, 4.0, 90.0, 0.0, 2.0, SENTENCES[n % 3], "one"),
            Talker(5.0, 9.0, -40.0, 10.0, 1.0, SENTENCES[(n + 1) % 3], "two"),
        )
        for n in range(9)
    )
    rng = np.random.default_rng(0)
    audio = [rng.normal(size=(SLOTS, FEATURES + NUMBERS)).astype(np.float16) for _ in talkers]
    tokens = tuple(np.full((SLOTS, 256), n, np.float16) for n in range(9))
    made._open.append(Clips(tokens, audio, talkers))
    return made


def test_the_words_of_the_answer_are_heard_while_their_talker_talks() -> None:
    one, tokenizer, seen = stream(2.0), HearingBackbone().tokenizer, 0
    for step in range(4):
        batch = one.batch(step)
        for row, (about, question) in enumerate(one.asked(step)):
            clip = one.clips.audio[about.first]
            np.testing.assert_array_equal(batch["tokens"][row], one.clips.tokens[about.first])
            np.testing.assert_array_equal(batch["audio"][row, :, :FEATURES], clip[:, :FEATURES])
            if not about.reworded:
                np.testing.assert_array_equal(batch["audio"][row], clip)
                continue
            seen += 1
            ids = np.asarray(from_numbers(batch["audio"][row, :, FEATURES:].astype(np.float32)))
            for talker in about.talkers:
                # A slot more on both sides: it is the nearest one.
                slots = range(int(talker.start / SLOT) - 1, int(talker.end / SLOT) + 2)
                said = tokenizer.decode([int(ids[k]) for k in slots if ids[k] >= 0])
                assert said == f" {talker.transcript}"
                if question.task == 3:
                    assert talker.transcript in question.answer
            true = one.clips.talkers[about.first]
            assert [t.azimuth for t in about.talkers] == [t.azimuth for t in true]
            assert [len(t.transcript.split()) for t in about.talkers] == [
                len(t.transcript.split()) for t in true
            ]
    assert seen > 16  # two thirds of 48


def test_words_are_those_of_all_talkers_in_any_order_and_the_seed_alone_decides() -> None:
    words = reword.vocabulary([[Talker(0, 1, 0, 0, 1, text, "x")] for text in SENTENCES])
    assert {"well", "home", "you"} <= set(words) and "you?" not in words
    asked = [[about.talkers for about, _ in stream(2.0).asked(1)] for _ in range(2)]
    assert asked[0] == asked[1]
    silent = Talker(0, 1, 0, 0, 1, "", "x")
    assert reword.with_other_words([silent], words, np.random.default_rng(0)) == (silent,)


def test_a_backbone_that_hears_no_words_is_refused() -> None:
    with pytest.raises(InputError, match="'tiny' hears no words"):
        stream(1.0, TinyBackbone())
    with pytest.raises(InputError, match="reworded is -1"):
        stream(-1.0)

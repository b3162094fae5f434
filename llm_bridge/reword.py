# SPDX-License-Identifier: Apache-2.0
"""Other words for the talkers of a conversation: its places stay, what is said is new.

A corpus of a few hundred sentences is learned by heart long before a language model learns to repeat what it
hears. A mono ear that hands over words (`backbones/word_slots.py`) makes it easy to say something else: words
of all talkers in any order, in the transcript and in the slots in which they are heard. Nothing is left to
remember then. The ear's features stay, which tell what was really said: a model that hears them can still know a
sentence by heart, so leave their map untrained (gin/llm_bridge/small_training.gin).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llm_bridge.backbones.word_slots import NUMBERS, Word, place_words, to_numbers
from llm_bridge.protocol import Tokenizer
from llm_bridge.tokens.record import Talker

_MARKS = ".,;:!?\"'()"


def vocabulary(conversations: Iterable[Sequence[Talker]]) -> tuple[str, ...]:
    """All words that talkers say, without marks at their ends, each once."""
    words = (w for talkers in conversations for t in talkers for w in t.transcript.split())
    return tuple(sorted({word.strip(_MARKS).lower() for word in words} - {""}))


def with_other_words(
    talkers: Sequence[Talker], words: Sequence[str], rng: np.random.Generator
) -> tuple[Talker, ...]:
    """The talkers, each with as many words as before, drawn from `words`."""

    def said(talker: Talker) -> str:
        drawn = " ".join(rng.choice(words, len(talker.transcript.split())))
        return drawn[:1].upper() + drawn[1:] + "."

    return tuple(
        dataclasses.replace(talker, transcript=said(talker))
        if talker.transcript.split()
        else talker
        for talker in talkers
    )


def heard(
    mono: NDArray[np.float16], talkers: Sequence[Talker], tokenizer: Tokenizer
) -> NDArray[np.float16]:
    """Mono tokens [k, n] in whose slots the talkers say their words, each as long as it has letters."""
    spoken = []
    for talker in talkers:
        words = talker.transcript.split()
        ends = np.cumsum([len(word) + 1 for word in words])
        edges = talker.start + (talker.end - talker.start) * np.concatenate([[0], ends / ends[-1:]])
        spoken += [Word(*each) for each in zip(words, edges[:-1], edges[1:], strict=True)]
    ids, _ = place_words(spoken, tokenizer, len(mono))
    out = mono.copy()
    out[:, -NUMBERS:] = to_numbers(ids)
    return out

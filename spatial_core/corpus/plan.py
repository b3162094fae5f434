# SPDX-License-Identifier: Apache-2.0
"""Who says which sentence in the embedded speech, and which split each voice belongs to."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

VALIDATION_VOICES = frozenset(
    {"af_sarah", "am_liam", "bm_lewis", "jf_alpha", "zf_xiaoni", "hm_psi"}
)
# Voices of one name in two languages (santa, alex, dora) may be one speaker: all are in training.
TEST_VOICES = frozenset(
    {
        "af_bella",
        "am_fenrir",
        "bf_emma",
        "bm_george",
        "ff_siwis",
        "hf_alpha",
        "zm_yunxi",
        "im_nicola",
    }
)
ENGLISH_SENTENCES = 14  # per native voice, about 40 s
OTHER_SENTENCES = 6  # per voice of another language, about 16 s
_SENTENCE_SPLIT = ("train",) * 8 + ("validation", "test")


@dataclass(frozen=True)
class Utterance:
    """One sentence in one voice. `speed` is relative to the voice's own."""

    key: str
    voice: str
    split: str
    text: str
    speed: float

    @property
    def wav(self) -> str:
        """Name of its rendering; a changed sentence or speed is a different file."""
        digest = hashlib.sha256(f"{self.text}|{self.speed}".encode()).hexdigest()[:8]
        return f"{self.key}-{digest}.wav"


def voice_split(voice: str) -> str:
    """The split of a voice: 40 train, 6 validation, 8 test, balanced by sex and native tongue."""
    if voice in VALIDATION_VOICES:
        return "validation"
    return "test" if voice in TEST_VOICES else "train"


def plan_utterances(voices: Sequence[str], sentences: Sequence[str], seed: int) -> list[Utterance]:
    """Every utterance in rendering order: round after round over all voices.

    Any prefix is balanced over voices, and no sentence is said in two splits.
    """
    draw = random.Random(seed)
    decks: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for index, sentence in enumerate(sentences):
        decks[_SENTENCE_SPLIT[index % len(_SENTENCE_SPLIT)]].append(sentence)
    for deck in decks.values():
        draw.shuffle(deck)
    dealt = dict.fromkeys(decks, 0)
    plan = []
    for turn in range(max(ENGLISH_SENTENCES, OTHER_SENTENCES)):
        for voice in sorted(voices):
            if turn >= (ENGLISH_SENTENCES if voice[0] in "ab" else OTHER_SENTENCES):
                continue
            split = voice_split(voice)
            deck = decks[split]
            text = deck[dealt[split] % len(deck)]
            dealt[split] += 1
            speed = round(draw.uniform(0.9, 1.15), 3)
            plan.append(Utterance(f"{voice}-{turn:02d}", voice, split, text, speed))
    return plan

# SPDX-License-Identifier: Apache-2.0
"""How alike two labels are, 0 to 1: by a text embedding where one is installed, else by shared words."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_bridge.metrics import plain_words
from sciphi import minilm
from spatial_core.errors import InputError

Choice = Literal["auto", "embedding", "words"]


class Similarity(Protocol):
    """A measure of labels; what is the same but for case and punctuation is always 1."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        ...

    def prepare(self, labels: Iterable[str]) -> None:
        """Says which labels will be compared, so that they can be worked on together."""
        ...

    def __call__(self, a: str, b: str) -> float:
        """0 for nothing in common, 1 for the same."""
        ...


class SharedWords:
    """The words that two labels share, as a part of all their words (Dice), without any meaning."""

    name = "shared words, no embedding"

    def prepare(self, labels: Iterable[str]) -> None:
        """Nothing to prepare."""

    def __call__(self, a: str, b: str) -> float:
        """2 |A and B| / (|A| + |B|) of the sets of words; `a`, `an` and `the` do not count."""
        if plain_words(a) == plain_words(b):
            return 1.0
        first, second = _words(a), _words(b)
        total = len(first) + len(second)
        return 2 * len(first & second) / total if total else 0.0


class Embedding:
    """Cosine of all-MiniLM-L6-v2's embeddings, nothing below 0. Embeddings are kept."""

    name = f"cosine of {minilm.NAME}"

    def __init__(self, model: minilm.MiniLM) -> None:
        self._model = model
        self._known: dict[str, NDArray[np.float32]] = {}

    def prepare(self, labels: Iterable[str]) -> None:
        """Embeds together what is not known yet."""
        new = sorted({plain_words(label) for label in labels} - set(self._known))
        if new:
            self._known.update(zip(new, self._model.embed(new), strict=True))

    def __call__(self, a: str, b: str) -> float:
        """Cosine of two labels; 1 for the same words."""
        first, second = plain_words(a), plain_words(b)
        if first == second:
            return 1.0
        self.prepare((a, b))
        cosine = float(self._known[first] @ self._known[second])
        return min(1.0, max(0.0, cosine))


def load_similarity(choice: Choice = "auto") -> Similarity:
    """The embedding ("embedding"), shared words ("words"), or the best there is ("auto").

    Raises InputError for another choice, and if the embedding is wanted and not installed.
    """
    if choice == "words":
        return SharedWords()
    if choice not in ("auto", "embedding"):
        raise InputError(f"similarity {choice!r} is unknown: choose auto, embedding or words")
    try:
        return _embedding()
    except InputError:
        if choice == "embedding":
            raise
        return SharedWords()


@cache
def _embedding() -> Embedding:
    return Embedding(minilm.MiniLM.load())


def _words(label: str) -> set[str]:
    return set(plain_words(label).split()) - {"a", "an", "the"}

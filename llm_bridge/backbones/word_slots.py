# SPDX-License-Identifier: Apache-2.0
"""Words on the grid of the soft tokens: a language model's ids, each in the slot in which it is spoken.

Beside the features of a mono encoder an id stands as two small whole numbers, which float16 keeps exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from llm_bridge.protocol import Tokenizer
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.typing import Array

SLOT = HOP / SAMPLE_RATE  # seconds
NUMBERS = 2  # that an id becomes
BASE = 1024  # float16 holds every whole number up to 2048


@dataclass(frozen=True)
class Word:
    """A word with its punctuation, without the space before it; start and end in seconds."""

    text: str
    start: float
    end: float


def place_words(
    words: Sequence[Word], tokenizer: Tokenizer, slots: int
) -> tuple[NDArray[np.int32], int]:
    """Ids of words in their slots [slots], -1 where none is, and how many ids found no slot.

    Every word is written with a space before it, so that the ids in order are the text. A slot holds
    one id; the ids of a word are spread over its span, and the order of all is kept. Of all such
    placements it is the one with the smallest sum of distances between slot and time. More ids than
    slots: the last ones are left out.
    """
    ids: list[int] = []
    times: list[float] = []
    for word in words:
        parts = tokenizer.encode(" " + word.text)
        ids += parts
        steps = (np.arange(len(parts)) + 0.5) / max(1, len(parts))
        times += list(word.start + (word.end - word.start) * steps)
    out = np.full(slots, -1, np.int32)
    kept = min(len(ids), slots)
    if kept:
        out[_nearest(np.asarray(times[:kept]) / SLOT - 0.5, slots)] = ids[:kept]
    return out, len(ids) - kept


def _nearest(wanted: NDArray[np.float64], slots: int) -> NDArray[np.int64]:
    """Rising slots with the smallest sum of distances to the wanted ones [n], n <= slots."""
    count = len(wanted)
    # best[i, s]: the first i + 1 in slots up to s, the last of them in taken[i, s].
    best = np.zeros(slots + 1)
    taken = np.zeros((count, slots), np.int64)
    for i in range(count):
        here = best[:-1] + np.abs(np.arange(slots) - wanted[i])
        best = np.concatenate([[np.inf], np.minimum.accumulate(here)])
        newest = np.where(here <= best[1:], np.arange(slots), 0)
        taken[i] = np.maximum.accumulate(newest)
    out = np.zeros(count, np.int64)
    last = slots
    for i in range(count - 1, -1, -1):
        out[i] = last = taken[i, last - 1]
    return out


def to_numbers(ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Ids [k] as numbers [k, 2]; -1, no word, as zeros, which padding is too."""
    return np.stack(np.divmod(ids + 1, BASE), axis=-1).astype(np.float32)


def from_numbers(numbers: Float[Array, "... 2"]) -> Int[Array, "..."]:
    """The ids again, -1 where no word is."""
    whole = jnp.round(numbers).astype(jnp.int32)
    return whole[..., 0] * BASE + whole[..., 1] - 1

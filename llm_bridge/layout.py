# SPDX-License-Identifier: Apache-2.0
"""Where soft tokens stand among words (section 3.3).

    prefix [BSA] spatial x k [ESA] [boa] mono x k [eoa] suffix answer stop padding

Both streams have one token for each 160 ms, token k for the sound from 160 k ms on: k is 188 for 30 s.
In the arrays of ids a soft token is a negative placeholder that no vocabulary has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_bridge.protocol import Backbone
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError

SPATIAL, MONO = -1, -2
MAX_SECONDS = 30.0
MAX_SOFT = 188


def token_count(samples: int) -> int:
    """Soft tokens of a clip at 16 kHz: one for each begun 160 ms."""
    return -(-samples // HOP)


def check_length(samples: int) -> None:
    """InputError for a clip without sound or over 30 s."""
    if samples < 1:
        raise InputError("the clip is empty: it has no samples")
    if token_count(samples) > MAX_SOFT:
        raise InputError(
            f"the clip has {samples / SAMPLE_RATE:.1f} s: the language model hears at most "
            f"{MAX_SECONDS:.0f} s at once; cut it into pieces"
        )


@dataclass(frozen=True)
class Row:
    """One example as ids: the prompt with placeholders, and the answer with its stop id."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    soft: int


def make_row(
    backbone: Backbone, system: str, user: str, soft: int, answer: str | None = None
) -> Row:
    """The ids of a question about a clip of `soft` tokens, and of its answer if that is given."""
    if not 0 <= soft <= MAX_SOFT:
        raise InputError(f"{soft} soft tokens: a clip has 0 to {MAX_SOFT} (30 s)")
    ids = backbone.ids
    before, after = backbone.prompt(system, user)
    heard = [ids.bsa, *[SPATIAL] * soft, ids.esa, ids.boa, *[MONO] * soft, ids.eoa]
    prompt = (*before, *heard, *after) if soft else (*before, *after)
    text = () if answer is None else (*backbone.tokenizer.encode(answer), ids.stop[0])
    return Row(tuple(prompt), tuple(text), soft)


def pad_rows(
    rows: Sequence[Row], pad: int, length: int, left: bool = False
) -> dict[str, NDArray[np.generic]]:
    """Rows as arrays [b, length]: `ids` int32; `positions` int32, 0 at the first valid one; `valid` bool.

    Training pads on the right; generation on the left, so that all rows go on at the same slot.
    InputError for a row that is too long.
    """
    ids = np.full((len(rows), length), pad, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        whole = row.prompt + row.answer
        if len(whole) > length:
            raise InputError(
                f"row {i} has {len(whole)} ids ({2 * row.soft} soft, {len(row.answer)} of the answer): "
                f"more than the {length} of a row; raise the length or shorten clip or question"
            )
        start = length - len(whole) if left else 0
        ids[i, start : start + len(whole)] = whole
        valid[i, start : start + len(whole)] = True
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0).astype(np.int32)
    return {"ids": ids, "positions": positions, "valid": valid}


def pad_answers(rows: Sequence[Row], length: int) -> dict[str, NDArray[np.generic]]:
    """What the loss reads of rows padded on the right, as arrays [b, length].

    `answer_ids` int32; `answer_slots` int32, the slot whose hidden state predicts each, the one before
    it; `answer_weight` float32, 1 for ids of the answer and its stop id, else 0. InputError for an
    answer that is empty or too long.
    """
    slots = np.zeros((len(rows), length), np.int32)
    ids, weight = np.zeros_like(slots), np.zeros(slots.shape, np.float32)
    for i, row in enumerate(rows):
        count = len(row.answer)
        if not 1 <= count <= length:
            raise InputError(
                f"the answer of row {i} has {count} ids: 1 to {length} fit; raise the answers' length"
            )
        slots[i, :count] = np.arange(len(row.prompt) - 1, len(row.prompt) + count - 1)
        ids[i, :count] = row.answer
        weight[i, :count] = 1.0
    return {"answer_slots": slots, "answer_ids": ids, "answer_weight": weight}


def pad_soft(streams: Sequence[NDArray[np.floating]], count: int) -> NDArray[np.float32]:
    """Soft-token inputs of several clips [k, w] as one array [b, count, w], zeros behind their end."""
    out = np.zeros((len(streams), count, streams[0].shape[1]), np.float32)
    for i, stream in enumerate(streams):
        if len(stream) > count:
            raise InputError(
                f"clip {i} has {len(stream)} soft tokens: more than the {count} of a row"
            )
        out[i, : len(stream)] = stream
    return out


def rows_of_batch(batch: Mapping[str, NDArray[np.generic]], count: int) -> list[Row]:
    """The first `count` rows that `pad_rows` and `pad_answers` made arrays of."""
    rows = []
    for i in range(min(count, len(batch["ids"]))):
        answer = batch["answer_ids"][i][batch["answer_weight"][i] > 0]
        prompt = batch["ids"][i][: int(batch["answer_slots"][i][0]) + 1]
        soft = int(np.sum(prompt == SPATIAL))
        rows.append(Row(tuple(map(int, prompt)), tuple(map(int, answer)), soft))
    return rows

# SPDX-License-Identifier: Apache-2.0
"""Where soft tokens stand among words (section 3.3).

    prefix [BSA] spatial x k [ESA] [boa] mono x l [eoa] suffix answer stop padding

PhaseCoder's streams both have one token for each 160 ms, token k for the sound from 160 k ms on: k = l
= 188 for 30 s. Other encoders have other grids, so the counts may differ. In the arrays of ids a soft
token is a negative placeholder that no vocabulary has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError

if TYPE_CHECKING:
    from llm_bridge.protocol import Backbone

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

    @property
    def spatial(self) -> int:
        """Spatial tokens of the prompt."""
        return self.prompt.count(SPATIAL)

    @property
    def mono(self) -> int:
        """Mono tokens of the prompt."""
        return self.prompt.count(MONO)


def make_row(
    backbone: Backbone,
    system: str,
    user: str,
    spatial: int,
    answer: str | None = None,
    *,
    mono: int | None = None,
) -> Row:
    """The ids of a question about a clip, and of its answer if that is given.

    spatial, mono: soft tokens of each stream; mono None: as many as spatial. A stream without tokens
    has no brackets either.
    """
    mono = spatial if mono is None else mono
    for count in (spatial, mono):
        if not 0 <= count <= MAX_SOFT:
            raise InputError(f"{count} soft tokens: a clip has 0 to {MAX_SOFT} (30 s)")
    ids = backbone.ids
    before, after = backbone.prompt(system, user)
    heard = [ids.bsa, *[SPATIAL] * spatial, ids.esa] if spatial else []
    heard += [ids.boa, *[MONO] * mono, ids.eoa] if mono else []
    text = () if answer is None else (*backbone.tokenizer.encode(answer), ids.stop[0])
    return Row((*before, *heard, *after), tuple(text))


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
                f"row {i} has {len(whole)} ids ({row.spatial + row.mono} soft, {len(row.answer)} of the answer): "
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


def checked_soft(values: NDArray[np.floating], width: int) -> NDArray[np.floating]:
    """`values` if they are soft-token inputs [k, width], else InputError."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != width:
        raise InputError(f"soft tokens have shape {values.shape}: [k, {width}] is wanted")
    return values


def rows_of_batch(batch: Mapping[str, NDArray[np.generic]], count: int) -> list[Row]:
    """The first `count` rows that `pad_rows` and `pad_answers` made arrays of."""
    rows = []
    for i in range(min(count, len(batch["ids"]))):
        answer = batch["answer_ids"][i][batch["answer_weight"][i] > 0]
        prompt = batch["ids"][i][: int(batch["answer_slots"][i][0]) + 1]
        rows.append(Row(tuple(map(int, prompt)), tuple(map(int, answer))))
    return rows

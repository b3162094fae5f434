# SPDX-License-Identifier: Apache-2.0
"""Greedy answers: fixed shapes, a key-value cache, many questions at once or one as a stream."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from llm_bridge.layout import Row, checked_soft, pad_rows, pad_soft
from llm_bridge.nn import Cache
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.typing import Array, Params

# Ids between two looks at whether all rows are done: long enough that the host hardly counts.
CHUNK = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """cache; id to feed next [b]; its position [b]; rows that have ended [b]."""

    cache: Cache
    ids: Int[Array, " b"]
    positions: Int[Array, " b"]
    done: Bool[Array, " b"]


@dataclass(frozen=True)
class Asked:
    """A prompt with what is heard: the task's spatial input, as tokens [k, 256], and mono features [l, a]."""

    row: Row
    tokens: NDArray[np.floating[Any]]
    audio: NDArray[np.floating[Any]]


class Generator:
    """Answers of a bridge; `params` are all of its parameters, trained and frozen.

    Args:
        task: the model; its `soft` and `length` bound the prompts.
        max_new: ids of an answer at most (the paper's 1,024).
        batch_size: rows of one program; a shorter rest is padded.
    """

    def __init__(self, task: BridgeTask, max_new: int = 160, batch_size: int = 32):
        if max_new < 1 or batch_size < 1:
            raise InputError(f"max_new {max_new}, batch_size {batch_size}: at least 1")
        self.task = task
        self.max_new, self.batch_size = -(-max_new // CHUNK) * CHUNK, batch_size
        self._begin = jax.jit(functools.partial(_begin, task, self.max_new))
        self._go_on = jax.jit(functools.partial(_go_on, task), donate_argnums=1)

    def answers(self, asked: Sequence[Asked], params: Params) -> list[str]:
        """The answer of each question, without its stop id."""
        out: list[str] = []
        for first in range(0, len(asked), self.batch_size):
            part = list(asked[first : first + self.batch_size])
            rows = part + [part[-1]] * (self.batch_size - len(part))
            chunks = list(self._chunks(rows, params))
            ids = np.concatenate(chunks, axis=1)[: len(part)]
            out += [self._text(row) for row in ids]
        return out

    def stream(self, asked: Asked, params: Params) -> Iterator[str]:
        """The answer to one question, piece by piece as it is made."""
        said, ids = "", np.zeros(0, np.int32)
        for chunk in self._chunks([asked], params):
            ids = np.concatenate([ids, chunk[0]])
            text = self._text(ids)
            # A piece that ends inside a character is held back until the rest is there.
            if text.startswith(said) and not text.endswith("�"):
                yield text[len(said) :]
                said = text
        text = self._text(ids)
        if text != said:
            yield text[len(said) :]

    def _chunks(self, asked: Sequence[Asked], params: Params) -> Iterator[NDArray[np.int32]]:
        """ids [b, CHUNK] after ids, until all rows have ended or max_new is reached."""
        task, pad = self.task, self.task.backbone.ids.pad
        arrays = {
            **pad_rows([one.row for one in asked], pad, task.length, left=True),
            "tokens": task.stack_spatial([one.tokens for one in asked]),
            "audio": pad_soft(
                [checked_soft(one.audio, task.backbone.audio_width) for one in asked],
                task.mono_soft,
            ),
        }
        state = self._begin(params, arrays)
        for _ in range(self.max_new // CHUNK):
            state, ids = self._go_on(params, state)
            yield np.asarray(ids)
            if bool(jnp.all(state.done)):
                return

    def _text(self, ids: NDArray[np.int32]) -> str:
        """Text up to the first stop id."""
        ends = np.flatnonzero(np.isin(ids, self.task.backbone.ids.stop))
        kept = ids[: ends[0]] if ends.size else ids
        return self.task.backbone.tokenizer.decode([int(i) for i in kept])


def _begin(task: BridgeTask, max_new: int, params: Params, batch: dict[str, Array]) -> _State:
    """Reads the prompts, which end at the last slot."""
    bridge = task.bind(params)
    ids, positions = batch["ids"], batch["positions"]
    cache = bridge.model.new_cache(ids.shape[0], ids.shape[1] + max_new)
    embeds = bridge.embed(ids, batch["tokens"], batch["audio"])
    hidden, cache = bridge.model(embeds, ids, positions, batch["valid"], cache)
    first = jnp.argmax(bridge.model.logits(hidden[:, -1]), axis=-1).astype(jnp.int32)
    return _State(cache, first, positions[:, -1] + 1, jnp.zeros(first.shape, bool))


def _go_on(task: BridgeTask, params: Params, state: _State) -> tuple[_State, Array]:
    """CHUNK more ids [b, CHUNK]; pad where a row has ended."""
    bridge = task.bind(params)
    stop = jnp.asarray(task.backbone.ids.stop)

    def step(state: _State, _: None) -> tuple[_State, Array]:
        ids = jnp.where(state.done, task.backbone.ids.pad, state.ids)
        done = state.done | jnp.any(ids[:, None] == stop, axis=1)
        embeds = bridge.model.embed(ids[:, None])
        hidden, cache = bridge.model(
            embeds, ids[:, None], state.positions[:, None], ~state.done[:, None], state.cache
        )
        best = jnp.argmax(bridge.model.logits(hidden[:, 0]), axis=-1).astype(jnp.int32)
        return _State(cache, best, state.positions + 1, done), ids

    state, ids = jax.lax.scan(step, state, None, length=CHUNK)
    return state, ids.T

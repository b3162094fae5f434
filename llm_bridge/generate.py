# SPDX-License-Identifier: Apache-2.0
"""Greedy answers: fixed shapes, a key-value cache, many questions at once or one as a stream."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from llm_bridge.layout import Row, checked_soft, pad_rows, pad_soft
from llm_bridge.nn import Cache
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.train import partition
from spatial_core.typing import Array, Params

# Ids between two looks at whether all rows are done: long enough that the host hardly counts.
CHUNK = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """cache; id to feed next [b], its probability; its position [b]; rows that have ended [b]."""

    cache: Cache
    ids: Int[Array, " b"]
    chances: Float[Array, " b"]
    positions: Int[Array, " b"]
    done: Bool[Array, " b"]


@dataclass(frozen=True)
class Asked:
    """A prompt with what is heard: the task's spatial input, as tokens [k, 256], and mono features [l, a]."""

    row: Row
    tokens: NDArray[np.floating[Any]]
    audio: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Told:
    """An answer and how sure the model was of it.

    pieces: (first character, end, probability) of each id's part of the text, in order. The probability is
    the model's own, of this id given all before it; an id that ends inside of a character has no part.
    """

    text: str
    pieces: tuple[tuple[int, int, float], ...]

    def chance(self, start: int, end: int) -> float:
        """Probability of the ids that write the characters from `start` to `end`, their product."""
        return float(np.prod([p for a, b, p in self.pieces if a < end and b > start]))


class Generator:
    """Answers of a bridge; `params` are all of its parameters, trained and frozen.

    Parameters that are whole on several devices (`partition.whole_here`) make each answer its share of the rows.

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
        return [self._text(ids) for ids, _ in self._rows(asked, params)]

    def told(self, asked: Sequence[Asked], params: Params) -> list[Told]:
        """The same answers, with the probability of each id."""
        return [self._told(ids, chances) for ids, chances in self._rows(asked, params)]

    def _rows(
        self, asked: Sequence[Asked], params: Params
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Ids and their probabilities of each answer."""
        for first in range(0, len(asked), self.batch_size):
            part = list(asked[first : first + self.batch_size])
            rows = part + [part[-1]] * (self.batch_size - len(part))
            ids, chances = zip(*self._chunks(rows, params), strict=True)
            yield from zip(
                np.concatenate(ids, axis=1)[: len(part)],
                np.concatenate(chances, axis=1)[: len(part)],
                strict=True,
            )

    def stream(self, asked: Asked, params: Params) -> Iterator[str]:
        """The answer to one question, piece by piece as it is made."""
        said, ids = "", np.zeros(0, np.int32)
        for chunk, _ in self._chunks([asked], params):
            ids = np.concatenate([ids, chunk[0]])
            text = self._text(ids)
            # A piece that ends inside a character is held back until the rest is there.
            if text.startswith(said) and not text.endswith("�"):
                yield text[len(said) :]
                said = text
        text = self._text(ids)
        if text != said:
            yield text[len(said) :]

    def _chunks(
        self, asked: Sequence[Asked], params: Params
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """ids [b, CHUNK] and their probabilities, until all rows have ended or max_new is reached."""
        task, pad = self.task, self.task.backbone.ids.pad
        arrays = {
            **pad_rows([one.row for one in asked], pad, task.length, left=True),
            "tokens": task.stack_spatial([one.tokens for one in asked]),
            "audio": pad_soft(
                [checked_soft(one.audio, task.backbone.audio_width) for one in asked],
                task.mono_soft,
            ),
        }
        state = self._begin(params, partition.beside(params, arrays))
        # The only part that comes from no input; laid otherwise later, it would have the rest compiled twice.
        state = dataclasses.replace(state, done=partition.beside(params, state.done))
        for _ in range(self.max_new // CHUNK):
            state, ids, chances = self._go_on(params, state)
            yield np.asarray(ids), np.asarray(chances)
            if bool(jnp.all(state.done)):
                return

    def _text(self, ids: NDArray[np.int32]) -> str:
        """Text up to the first stop id."""
        return self.task.backbone.tokenizer.decode(self._kept(ids))

    def _kept(self, ids: NDArray[np.int32]) -> list[int]:
        ends = np.flatnonzero(np.isin(ids, self.task.backbone.ids.stop))
        return [int(i) for i in (ids[: ends[0]] if ends.size else ids)]

    def _told(self, ids: NDArray[np.int32], chances: NDArray[np.float32]) -> Told:
        kept, decode = self._kept(ids), self.task.backbone.tokenizer.decode
        ends = [len(decode(kept[:count])) for count in range(len(kept) + 1)]
        pieces = [
            (start, end, float(chance))
            for start, end, chance in zip(ends, ends[1:], chances)
            if end > start
        ]
        return Told(decode(kept), tuple(pieces))


def _begin(task: BridgeTask, max_new: int, params: Params, batch: dict[str, Array]) -> _State:
    """Reads the prompts, which end at the last slot."""
    bridge = task.bind(params)
    ids, positions = batch["ids"], batch["positions"]
    cache = bridge.model.new_cache(ids.shape[0], ids.shape[1] + max_new)
    embeds = bridge.embed(ids, batch["tokens"], batch["audio"])
    hidden, cache = bridge.model(embeds, ids, positions, batch["valid"], cache)
    first, chances = _best(bridge.model.logits(hidden[:, -1]))
    return _State(cache, first, chances, positions[:, -1] + 1, jnp.zeros(first.shape, bool))


def _best(logits: Float[Array, "b v"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """The likeliest id of each row and its probability."""
    logits = logits.astype(jnp.float32)
    chances = jnp.exp(jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1))
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), chances


def _go_on(task: BridgeTask, params: Params, state: _State) -> tuple[_State, Array, Array]:
    """CHUNK more ids [b, CHUNK] and their probabilities; pad where a row has ended."""
    bridge = task.bind(params)
    stop = jnp.asarray(task.backbone.ids.stop)

    def step(state: _State, _: None) -> tuple[_State, tuple[Array, Array]]:
        ids = jnp.where(state.done, task.backbone.ids.pad, state.ids)
        done = state.done | jnp.any(ids[:, None] == stop, axis=1)
        embeds = bridge.model.embed(ids[:, None])
        hidden, cache = bridge.model(
            embeds, ids[:, None], state.positions[:, None], ~state.done[:, None], state.cache
        )
        best, chances = _best(bridge.model.logits(hidden[:, 0]))
        return _State(cache, best, chances, state.positions + 1, done), (ids, state.chances)

    state, (ids, chances) = jax.lax.scan(step, state, None, length=CHUNK)
    return state, ids.T, chances.T

# SPDX-License-Identifier: Apache-2.0
"""What the training loop asks of a model and of a data stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

Params = dict[str, Any]
Batch = dict[str, Any]
Metrics = dict[str, Any]
Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
STATISTICS = "statistics"


@runtime_checkable
class Task(Protocol):
    """A model with its loss: all that a trainer needs to know about it.

    Every method is a pure function of its arguments and can be traced by `jax.jit`. A task or a stream
    may also have `metadata`, JSON values by name that its checkpoints carry and that a run which goes
    on from them has to share (see `workdir.metadata`).
    """

    @property
    def name(self) -> str:
        """Short name for messages and reports."""
        ...

    @property
    def partition_rules(self) -> Rules:
        """(path regex, one mesh axis or None per dimension); the first that matches wins."""
        ...

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters: a nested dict of float arrays."""
        ...

    def loss(
        self, params: Params, batch: Batch, rng: jax.Array, train: bool
    ) -> tuple[jax.Array, Metrics]:
        """Scalar loss (mean over the batch) and scalar metrics; `rng` drives dropout.

        A task with running statistics, such as batch normalisation's, keeps them among its parameters
        and stops gradients at them. In training its metrics then hold their new values under
        `STATISTICS`, as a part of the parameter tree: the step puts them where they belong.
        """
        ...

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Answers for a batch, arrays with the batch on axis 0."""
        ...

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the batch leaves that `loss` reads, batch on axis 0."""
        ...


@runtime_checkable
class FrozenTask(Protocol):
    """A task with parameters that are not trained: they stay out of state, optimizer and checkpoints.

    `Task.init` makes the trained ones only; `loss` and `predict` receive both, merged.
    """

    def frozen_shapes(self) -> Params:
        """The frozen parameters as shapes and types; nothing is read or allocated."""
        ...

    def load_frozen(self, shardings: Params) -> Params:
        """The frozen parameters on the devices, each with its sharding."""
        ...


@runtime_checkable
class SamplingTask(Protocol):
    """A task whose answers a person would rather read than see as a number."""

    def samples(self, params: Params, batch: Batch) -> list[str]:
        """A few lines for the console: what was asked, what is right, what the model says.

        Called on one host, with all parameters, after each validation on its first batch.
        """
        ...


@dataclass(frozen=True)
class Exhibit:
    """Something of a batch to look at (.png) or to listen to (.wav), or words alone.

    row: of the batch; None for what shows all of it.
    """

    caption: str
    path: Path | None = None
    row: int | None = None


@runtime_checkable
class DrawingTask(Protocol):
    """A task whose batches a person can look at, labels included."""

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """Writes pictures (and sounds, if the batch holds them) of some rows into a folder.

        batch: host arrays, as the stream makes them.
        """
        ...


@runtime_checkable
class AudibleStream(Protocol):
    """A stream whose batches hold features, and which knows the sound behind them."""

    def sounds(self, step: int, rows: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Of some rows of a step's batch: samples [c, t], one or two channels for ears, and their rate in Hz."""
        ...


def merge_params(trained: Params, frozen: Params) -> Params:
    """One nested dict of two that share no leaf."""
    merged = dict(trained)
    for name, value in frozen.items():
        merged[name] = merge_params(merged[name], value) if name in merged else value
    return merged


def replace_params(params: Params, new: Params) -> Params:
    """The nested dict with the values of `new`, a part of it, in their places."""
    replaced = dict(params)
    for name, value in new.items():
        replaced[name] = replace_params(params[name], value) if isinstance(value, dict) else value
    return replaced


@runtime_checkable
class DataStream(Protocol):
    """A stream of batches that is a pure function of the step."""

    @property
    def batch_size(self) -> int:
        """Examples in one global batch, over all hosts."""
        ...

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, np.ndarray]:
        """This host's contiguous slice of the global batch of a step."""
        ...

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps start_step, start_step + 1, ... without end."""
        ...

# SPDX-License-Identifier: Apache-2.0
"""A task of a few hundred parameters and a stream to go with it, for the tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class ToyTask:
    """Regression by a two-layer network with dropout; "poison" in a batch makes the loss NaN."""

    features: int = 16
    width: int = 32
    dropout: float = 0.1
    name: str = "toy"
    partition_rules: tuple = ((r"hidden/kernel$", (None, "fsdp")),)

    def init(self, rng):
        a, b = jax.random.split(rng)
        return {
            "hidden": {
                "kernel": jax.random.normal(a, (self.features, self.width)) / 4,
                "bias": jnp.zeros(self.width),
            },
            "out": {"kernel": jax.random.normal(b, (self.width, 1)) / 4},
        }

    def predict(self, params, batch):
        return {"y": self._forward(params, batch["x"], None)}

    def _forward(self, params, x, rng):
        hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        if rng is not None and self.dropout:
            keep = jax.random.bernoulli(rng, 1 - self.dropout, hidden.shape)
            hidden = jnp.where(keep, hidden / (1 - self.dropout), 0)
        return (hidden @ params["out"]["kernel"])[:, 0]

    def loss(self, params, batch, rng, train):
        y = self._forward(params, batch["x"], rng if train else None)
        error = jnp.mean((y - batch["y"]) ** 2) + jnp.sum(batch["poison"])
        return error, {"mae": jnp.mean(jnp.abs(y - batch["y"]))}

    def example_batch(self, batch_size):
        return {
            "x": jax.ShapeDtypeStruct((batch_size, self.features), jnp.float32),
            "y": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
            "poison": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        }


@dataclass(frozen=True)
class ToyStream:
    """Batches as a function of (seed, step); `poisoned` steps hold a NaN."""

    batch_size: int = 16
    seed: int = 0
    features: int = 16
    poisoned: tuple[int, ...] = ()

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        x = rng.standard_normal((self.batch_size, self.features)).astype(np.float32)
        poison = np.full(self.batch_size, np.nan if step in self.poisoned else 0.0, np.float32)
        size = self.batch_size // hosts
        part = slice(host * size, (host + 1) * size)
        y = np.tanh(x[:, 0] - x[:, 1])
        return {
            "x": x[part],
            "y": y[part],
            "poison": poison[part],
            "example_id": np.arange(self.batch_size, dtype=np.int64)[part],
        }

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        step = start_step
        while True:
            yield self.batch(step, host, hosts)
            step += 1

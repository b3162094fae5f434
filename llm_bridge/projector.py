# SPDX-License-Identifier: Apache-2.0
"""From spatial tokens to the language model's embeddings (section 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Float
from numpy.typing import NDArray

from spatial_core.typing import Array, Params

TOKEN_WIDTH = 256


class Projector(nnx.Module):
    """Linear, GELU, Linear: w -> d -> d. From PhaseCoder's 256 to 2048 it has 4.72 million parameters."""

    def __init__(self, width: int, token_width: int = TOKEN_WIDTH, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(token_width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b k w"]) -> Float[Array, "b k d"]:
        """Soft tokens, float32."""
        return self.out(jax.nn.gelu(self.expand(tokens), approximate=False))


def fit_projector(
    tokens: NDArray[np.float32],
    wanted: NDArray[np.float32],
    *,
    steps: int = 800,
    batch: int = 512,
    rate: float = 3e-3,
    seed: int = 0,
) -> tuple[Params, float]:
    """A projector from tokens [n, w] to embeddings [n, d], and the share of their variance that it tells."""
    projector = Projector(wanted.shape[1], tokens.shape[1], rngs=nnx.Rngs(seed))
    graph, params = nnx.split(projector)
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.adam(schedule)
    scale = float(np.mean(wanted**2))

    def loss(params: nnx.State, x: Float[Array, "b w"], y: Float[Array, "b d"]) -> jax.Array:
        return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2) / scale

    @jax.jit
    def step(params: nnx.State, moments: optax.OptState, x: Array, y: Array) -> tuple:
        value, slope = jax.value_and_grad(loss)(params, x, y)
        change, moments = optimizer.update(slope, moments)
        return optax.apply_updates(params, change), moments, value

    moments = optimizer.init(params)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(steps):
        rows = rng.integers(len(tokens), size=batch)
        params, moments, value = step(params, moments, tokens[rows], wanted[rows])
        values.append(float(value))
    return nnx.to_pure_dict(params), 1.0 - float(np.mean(values[-20:]))

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
    """Linear, GELU, Linear: w -> d -> d. From PhaseCoder's 256 to 2048 it has 4.72 million parameters.

    cycle: output layers, which take turns: token k goes through layer k mod cycle, so that a place that is
    heard for a second can be said in several words, one after the other. The paper's has one.
    """

    def __init__(
        self, width: int, token_width: int = TOKEN_WIDTH, cycle: int = 1, *, rngs: nnx.Rngs
    ):
        self.expand = nnx.Linear(token_width, width, rngs=rngs)
        self.out = nnx.Linear(width, cycle * width, rngs=rngs)

    def turns(self, tokens: Float[Array, "... w"]) -> Float[Array, "... c d"]:
        """What each output layer makes of each token."""
        hidden = jax.nn.gelu(self.expand(tokens), approximate=False)
        said = self.out(hidden)
        return said.reshape(*said.shape[:-1], -1, hidden.shape[-1])

    def __call__(self, tokens: Float[Array, "b k w"]) -> Float[Array, "b k d"]:
        """Soft tokens, float32."""
        turns = self.turns(tokens)
        turn = (jnp.arange(tokens.shape[1]) % turns.shape[2])[None, :, None, None]
        return jnp.take_along_axis(turns, turn, axis=2)[:, :, 0]


def fit_projector(
    tokens: NDArray[np.float32],
    wanted: NDArray[np.float32],
    *,
    steps: int = 800,
    batch: int = 512,
    rate: float = 3e-3,
    seed: int = 0,
) -> tuple[Params, float]:
    """A projector from tokens [n, w] to embeddings [n, d], and the share of their variance that it tells.

    For a projector with a cycle of c, wanted is what each output layer should say: [n, c, d].
    """
    wanted = wanted if wanted.ndim == 3 else wanted[:, None]
    _, cycle, width = wanted.shape
    graph, params = nnx.split(Projector(width, tokens.shape[1], cycle, rngs=nnx.Rngs(seed)))
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.adam(schedule)
    scale = float(np.mean(wanted**2))

    def loss(params: nnx.State, x: Float[Array, "b w"], y: Float[Array, "b c d"]) -> jax.Array:
        return jnp.mean((nnx.merge(graph, params).turns(x) - y) ** 2) / scale

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

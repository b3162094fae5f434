# SPDX-License-Identifier: Apache-2.0
"""From spatial tokens to the language model's embeddings (section 3.3)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Float

from spatial_core.typing import Array

TOKEN_WIDTH = 256


class Projector(nnx.Module):
    """Linear, GELU, Linear: 256 -> d -> d. At d = 2048 it has 4.72 million parameters."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(TOKEN_WIDTH, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b k 256"]) -> Float[Array, "b k d"]:
        """Soft tokens, float32."""
        return self.out(jax.nn.gelu(self.expand(tokens), approximate=False))

# SPDX-License-Identifier: Apache-2.0
"""From spatial tokens to the language model's embeddings (section 3.3)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Float

from spatial_core.typing import Array

TOKEN_WIDTH = 256


class Projector(nnx.Module):
    """Linear, GELU, Linear: w -> d -> d. From PhaseCoder's 256 to 2048 it has 4.72 million parameters."""

    def __init__(self, width: int, token_width: int = TOKEN_WIDTH, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(token_width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b k w"]) -> Float[Array, "b k d"]:
        """Soft tokens, float32."""
        return self.out(jax.nn.gelu(self.expand(tokens), approximate=False))

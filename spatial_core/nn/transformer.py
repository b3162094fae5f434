# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer blocks with a head width of their own, for masked and biased attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from spatial_core.typing import Array, Bool, Float

# Finite, because a row that is masked everywhere must give zeros' gradient, not NaN.
MASKED = -1e9


class Attention(nnx.Module):
    """Multi-head attention whose head width need not be ``width / heads`` (PhaseCoder Table 7)."""

    def __init__(self, width: int, heads: int, head_width: int, *, dtype, rngs: nnx.Rngs):
        self.heads, self.head_width = heads, head_width
        inner = heads * head_width
        self.query = nnx.Linear(width, inner, dtype=dtype, rngs=rngs)
        self.key_value = nnx.Linear(width, 2 * inner, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "b q d"],
        source: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | None = None,
        bias: Float[Array, "h q n"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Attend from ``query`` to the unmasked tokens of ``source``."""
        split = (*source.shape[:2], 2, self.heads, self.head_width)
        q = self.query(query).reshape(*query.shape[:2], self.heads, self.head_width)
        k, v = jnp.moveaxis(self.key_value(source).reshape(split), 2, 0)
        scores = jnp.einsum("bqhc,bnhc->bhqn", q, k).astype(jnp.float32) * self.head_width**-0.5
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhqn,bnhc->bqhc", weights, v)
        return self.out(mixed.reshape(*query.shape[:2], -1))


class Block(nnx.Module):
    """Pre-norm block: attention, then a two-layer feed-forward network, each with a residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        *,
        activation=jax.nn.relu,
        dropout: float = 0.0,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.activation, self.dropout = activation, dropout
        self.norm_attention = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, heads, head_width, dtype=dtype, rngs=rngs)
        self.norm_feed_forward = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.contract = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | None = None,
        bias: Float[Array, "h n n"] | None = None,
        queries: int | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b q d"]:
        """Transform ``x``; with ``queries`` only that many leading tokens are computed (exact)."""
        h = self.norm_attention(x)
        x = x[:, :queries]
        x = x + self._drop(self.attention(h[:, :queries], h, mask, bias), key, 0)
        h = self.contract(self.activation(self.expand(self.norm_feed_forward(x))))
        return x + self._drop(h, key, 1)

    def _drop(self, x: Array, key: Array | None, salt: int) -> Array:
        if key is None or self.dropout == 0.0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(key, salt), 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)

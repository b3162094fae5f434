# SPDX-License-Identifier: Apache-2.0
"""A gated recurrent layer that reads a sequence both ways (Cho et al. 2014, torch's variant)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from spatial_core.typing import Array, Float


class _Gates(nnx.Module):
    """Linear maps of both directions to reset, update and candidate: kernel [2, in, 3 d]."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        uniform = nnx.initializers.uniform(2 * width**-0.5)
        low = width**-0.5
        self.kernel = nnx.Param(uniform(rngs.params(), (2, inputs, 3 * width)) - low)
        self.bias = nnx.Param(uniform(rngs.params(), (2, 3 * width)) - low)


class BidirectionalGru(nnx.Module):
    """[b, n, in] -> [b, n, 2 d]: forward states, then backward ones.

    r, z, c = gates(x) + gates(h); h' = (1 - z) tanh(c_x + r c_h) + z h. The products with x are made
    for all times at once, and both directions go through one scan.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.input = _Gates(inputs, width, rngs=rngs)
        self.state = _Gates(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        """States of both directions, each in the light of what it has read so far."""
        given = jnp.einsum("bnc,rcg->nrbg", x, self.input.kernel[...])
        given = given + self.input.bias[...][:, None]
        given = jnp.stack([given[:, 0], given[::-1, 1]], axis=1)
        kernel, bias = self.state.kernel[...], self.state.bias[...][:, None]
        width = kernel.shape[1]

        def step(state: Array, gates: Array) -> tuple[Array, Array]:
            held = jnp.einsum("rbd,rdg->rbg", state, kernel) + bias
            reset, update = jnp.split(
                jax.nn.sigmoid(gates[..., : 2 * width] + held[..., : 2 * width]), 2, axis=-1
            )
            candidate = jnp.tanh(gates[..., 2 * width :] + reset * held[..., 2 * width :])
            state = candidate + update * (state - candidate)
            return state, state

        start = jnp.zeros((2, x.shape[0], width), x.dtype)
        _, states = jax.lax.scan(step, start, given)
        both = jnp.concatenate([states[:, 0], states[::-1, 1]], axis=-1)
        return jnp.moveaxis(both, 0, 1)

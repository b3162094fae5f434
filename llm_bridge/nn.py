# SPDX-License-Identifier: Apache-2.0
"""Parts that all language models here are made of: linear maps with adapters, norms, attention.

Shapes: b batch, n new positions, s positions that can be attended to, h heads, g key-value heads,
c channels of a head, d width. Layers of one kind are stacked on a leading axis and scanned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from spatial_core.typing import Array

# Finite, because a row that is masked everywhere (padding) must not give NaN.
MASKED = -1e30


class Linear(nnx.Module):
    """y = x W + b, and with an adapter + alpha / r * dropout(x) A B (LoRA, Hu et al. 2021).

    Leaves: `kernel` [in, out], `bias` [out] if wanted; `lora.attach` adds `lora_a` [in, r] and
    `lora_b` [r, out], which are trained; `lora.attach_fixed` adds `fixed_a` and `fixed_b`, an adapter
    that was published with the weights and stays as it is. Both add to y. All leaves have a leading
    layer axis in scanned layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), param_dtype))
        self.bias = nnx.data(nnx.Param(jnp.zeros((outputs,), param_dtype)) if bias else None)
        self.lora_a: Any = nnx.data(None)
        self.lora_b: Any = nnx.data(None)
        self.dtype = dtype
        self.lora_scale, self.lora_dropout, self.salt = 0.0, 0.0, 0
        self.fixed_a: Any = nnx.data(None)
        self.fixed_b: Any = nnx.data(None)
        self.fixed_scale = 0.0

    def __call__(self, x: Float[Array, "... i"], key: Array | None = None) -> Float[Array, "... o"]:
        """Apply it; `key` drives the trained adapter's dropout (None: no dropout)."""
        x = x.astype(self.dtype)
        y = x @ self.kernel[...].astype(self.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype)
        if self.fixed_a is not None:
            low = x @ self.fixed_a[...].astype(self.dtype)
            y = y + self.fixed_scale * (low @ self.fixed_b[...].astype(self.dtype))
        if self.lora_a is None:
            return y
        if key is not None and self.lora_dropout > 0:
            kept = 1.0 - self.lora_dropout
            # The salt, one per linear map, keeps maps that read the same x independent.
            mask = jax.random.bernoulli(jax.random.fold_in(key, self.salt), kept, x.shape)
            # Else the TPU compiler draws the bits inside the product, which it compiles very slowly.
            mask = jax.lax.optimization_barrier(mask)
            x = jnp.where(mask, x / kept, 0).astype(self.dtype)
        low = x @ self.lora_a[...].astype(self.dtype)
        return y + self.lora_scale * (low @ self.lora_b[...].astype(self.dtype))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale in float32 (Zhang & Sennrich 2019); without `scaled` no scale."""

    def __init__(
        self, width: int, *, eps: float = 1e-6, scaled: bool = True, param_dtype: Any = jnp.float32
    ):
        self.scale = nnx.data(nnx.Param(jnp.ones((width,), param_dtype)) if scaled else None)
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalise the last axis."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        if self.scale is not None:
            y = y * self.scale[...].astype(jnp.float32)
        return y.astype(x.dtype)


def rope(
    x: Float[Array, "b n h c"], positions: Int[Array, "b n"], base: float | Array
) -> Float[Array, "b n h c"]:
    """Rotary position embedding in the half-split form: channel i turns with channel i + c / 2."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return turn(x, positions[..., None, None].astype(jnp.float32) * frequency)


def turn(x: Float[Array, "b n h c"], angle: Float[Array, "b n 1 e"]) -> Float[Array, "b n h c"]:
    """Channels i and i + c / 2, as a point in the plane, turned by angle i; e = c / 2."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the positions so far, in fixed shapes.

    keys, values: what the model keeps, its own structure with the slots on one axis. positions [b s]
    and valid [b s] describe the slots; index: the slot that the next position goes to.
    """

    keys: Any
    values: Any
    positions: Int[Array, "b s"]
    valid: Bool[Array, "b s"]
    index: Int[Array, ""]

    def advance(self, positions: Int[Array, "b n"], valid: Bool[Array, "b n"]) -> Cache:
        """The cache with n more positions entered; the model then writes their keys and values."""
        update = jax.lax.dynamic_update_slice
        return dataclasses.replace(
            self,
            positions=update(self.positions, positions.astype(jnp.int32), (0, self.index)),
            valid=update(self.valid, valid, (0, self.index)),
            index=self.index + positions.shape[1],
        )


def empty_cache(keys: Any, values: Any, batch: int, length: int) -> Cache:
    """A cache without entries around zeroed keys and values."""
    return Cache(
        keys,
        values,
        jnp.zeros((batch, length), jnp.int32),
        jnp.zeros((batch, length), bool),
        jnp.zeros((), jnp.int32),
    )


def write_slots(
    stored: Float[Array, "b s g c"], new: Float[Array, "b n g c"], index: Int[Array, ""]
) -> Float[Array, "b s g c"]:
    """`stored` with `new` in slots index, index + 1, ..."""
    return jax.lax.dynamic_update_slice(stored, new.astype(stored.dtype), (0, index, 0, 0))


def attention_mask(
    queries: Int[Array, "b n"],
    keys: Int[Array, "b s"],
    valid: Bool[Array, "b s"],
    window: int | None = None,
) -> Bool[Array, "b n s"]:
    """Which key position a query position may see: valid, not later, at most window - 1 earlier."""
    distance = queries[:, :, None] - keys[:, None, :]
    seen = (distance >= 0) & valid[:, None, :]
    return seen if window is None else seen & (distance < window)


def attend(
    query: Float[Array, "b n h c"],
    key: Float[Array, "b s g c"],
    value: Float[Array, "b s g c"],
    mask: Bool[Array, "b n s"],
    scale: float,
) -> Float[Array, "b n e"]:
    """Grouped-query attention, softmax in float32; h / g query heads share a key head. e = h c."""
    batch, length, heads, width = query.shape
    grouped = query.reshape(batch, length, key.shape[2], heads // key.shape[2], width)
    scores = jnp.einsum("bngqc,bsgc->bgqns", grouped, key).astype(jnp.float32) * scale
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, MASKED), axis=-1)
    mixed = jnp.einsum("bgqns,bsgc->bngqc", weights.astype(value.dtype), value)
    return mixed.reshape(batch, length, heads * width)


def stack_layers(build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` modules of one kind as one whose leaves have a leading layer axis."""
    if count < 1:
        raise ValueError(f"{count} layers: at least 1")
    keys = jax.random.split(rngs.params(), count)
    return nnx.vmap(lambda key: build(nnx.Rngs(params=key)), in_axes=0, out_axes=0)(keys)


def scan_layers(
    layers: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any = None,
    remat: bool = False,
    unroll: bool = False,
) -> tuple[Any, Any]:
    """Run `step(layer, carry, input) -> (carry, output)` over stacked layers.

    inputs: a tree with the layers on axis 0, or None. remat: recompute each layer in the backward
    pass instead of keeping its activations. unroll: one program after the other instead of a loop, which
    is faster on a CPU and compiles longer. Returns (carry, outputs stacked on axis 0).
    """
    graph, state = nnx.split(layers)

    def body(carry: Any, item: Any) -> tuple[Any, Any]:
        leaves, given = item
        return step(nnx.merge(graph, leaves), carry, given)

    run = jax.checkpoint(body, prevent_cse=False) if remat else body
    return jax.lax.scan(run, carry, (state, inputs), unroll=unroll)

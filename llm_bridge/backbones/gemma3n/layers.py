# SPDX-License-Identifier: Apache-2.0
"""The parts of a layer of Gemma 3n's text decoder.

The mathematics is that of `Gemma3nTextDecoderLayer` and its parts in Hugging Face transformers
(Apache-2.0, copyright 2025 Google LLC): a transformer layer whose state is kept in several streams
(AltUp, Baykal et al. 2023), with a learned low-rank residual (Laurel), an embedding of its own for
each id, few activations in the first layers, and in the last ones the keys and values of earlier ones.

Axes: b batch, n positions, s positions to attend to, d width, r streams, l layers, p width of the
per-layer embeddings, h heads, g key-value heads, c channels of a head, e = h c.
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.nn import Linear, RMSNorm, attend, rope, write_slots
from spatial_core.typing import Array, Bool, Float, Int

KeysValues = tuple[Array, Array]


def linear(
    inputs: int, outputs: int, config: Gemma3nTextConfig, rngs: nnx.Rngs, dtype: Any = None
) -> Linear:
    """A linear map in this model's number formats."""
    return Linear(
        inputs,
        outputs,
        dtype=config.dtype if dtype is None else dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def norm(width: int, config: Gemma3nTextConfig) -> RMSNorm:
    """A norm over `width` channels, with a scale."""
    return RMSNorm(width, eps=config.eps, param_dtype=config.param_dtype)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


class AltUp(nnx.Module):
    """Predicts all streams for a layer that computes one of them, and corrects them by its result."""

    def __init__(self, config: Gemma3nTextConfig, rngs: nnx.Rngs):
        count = config.streams
        self.norm = norm(config.width, config)
        self.router = linear(config.width, count, config, rngs)
        # In float32, as the coefficients weigh whole streams.
        self.prediction = linear(count, count * count, config, rngs, jnp.float32)
        self.correction = linear(count, count, config, rngs, jnp.float32)
        self.output_scale = nnx.Param(jnp.ones((config.width,), config.param_dtype))
        self.count = count

    def _route(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n r"]:
        routed = self.router(self.norm(x) * (1.0 / x.shape[-1]), key)
        return jnp.tanh(routed.astype(jnp.float32))

    def predict(self, h: Float[Array, "r b n d"], key: Array | None) -> Float[Array, "r b n d"]:
        """Each stream plus a mix of all."""
        mix = self.prediction(self._route(h[0], key), key)
        mix = mix.reshape(*mix.shape[:-1], self.count, self.count)
        mix = jnp.moveaxis(mix, (-2, -1), (0, 1))[..., None]
        # A sum of products, not a product of matrices: 4 x 4 is no size for a matrix unit.
        return h + jnp.sum(mix * h.astype(jnp.float32), axis=1).astype(h.dtype)

    def correct(
        self, predicted: Float[Array, "r b n d"], x: Float[Array, "b n d"], key: Array | None
    ) -> Float[Array, "r b n d"]:
        """Each stream plus a share of what the layer's result `x` differs from the first by."""
        if key is not None:
            # The router drops out anew: it is another pass than that of the prediction.
            key = jax.random.fold_in(key, 1)
        share = self.correction(self._route(x, key), key) + 1.0
        difference = (x - predicted[0])[None]
        return (predicted + jnp.moveaxis(share, -1, 0)[..., None] * difference).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with normed queries, keys and values, and no scaling.

    Without `own` keys and values it has only queries, for those of another layer.
    """

    def __init__(self, config: Gemma3nTextConfig, own: bool, rngs: nnx.Rngs):
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        self.query = linear(config.width, inner, config, rngs)
        self.query_norm = norm(config.head_width, config)
        self.out = linear(inner, config.width, config, rngs)
        if own:
            self.key = linear(config.width, shared, config, rngs)
            self.key_norm = norm(config.head_width, config)
            self.value = linear(config.width, shared, config, rngs)
            self.value_norm = RMSNorm(config.head_width, eps=config.eps, scaled=False)
        self.channels = config.head_width

    def keys_values(
        self, x: Float[Array, "b n d"], positions: Array, base: Array, key: Array | None
    ) -> KeysValues:
        """This layer's own, each [b n g c]."""
        keys = rope(self.key_norm(self._heads(self.key(x, key))), positions, base)
        return keys, self.value_norm(self._heads(self.value(x, key)))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Array,
        base: Array,
        given: KeysValues,
        mask: Array,
        key: Array | None,
    ) -> Float[Array, "b n d"]:
        """Attend from `x` to the `given` keys and values where the mask [b n s] allows."""
        query = rope(self.query_norm(self._heads(self.query(x, key))), positions, base)
        return self.out(attend(query, *given, mask, scale=1.0), key)

    def _heads(self, x: Float[Array, "b n e"]) -> Float[Array, "b n h c"]:
        return x.reshape(*x.shape[:-1], -1, self.channels)


class FeedForward(nnx.Module):
    """Gated GELU; with a sparsity only activations in the upper tail of a Gaussian pass."""

    def __init__(self, config: Gemma3nTextConfig, sparse: bool, rngs: nnx.Rngs):
        self.gate = linear(config.width, config.hidden, config, rngs)
        self.up = linear(config.width, config.hidden, config, rngs)
        self.down = linear(config.hidden, config.width, config, rngs)
        self.cutoff = NormalDist().inv_cdf(config.sparsity) if sparse else None

    def __call__(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """Transform each position."""
        gate = self.gate(x, key)
        if self.cutoff is not None:
            wide = gate.astype(jnp.float32)
            mean = wide.mean(axis=-1, keepdims=True)
            deviation = wide.std(axis=-1, keepdims=True)
            gate = jax.nn.relu(wide - (mean + self.cutoff * deviation)).astype(gate.dtype)
        return self.down(_gelu(gate) * self.up(x, key), key)


class Laurel(nnx.Module):
    """x plus the norm of a low-rank map of it."""

    def __init__(self, config: Gemma3nTextConfig, rngs: nnx.Rngs):
        self.left = linear(config.width, config.laurel_rank, config, rngs)
        self.right = linear(config.laurel_rank, config.width, config, rngs)
        self.norm = norm(config.width, config)

    def __call__(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """Transform each position."""
        return x + self.norm(self.right(self.left(x, key), key))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pass:
    """What all layers of a forward pass share; masks [b n s], index of the first new cache slot."""

    positions: Int[Array, "b n"]
    local_mask: Bool[Array, "b n s"]
    global_mask: Bool[Array, "b n s"]
    index: Int[Array, ""] | None
    key: Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerInput:
    """What differs from layer to layer; stacked on a leading axis for a group."""

    number: Int[Array, ""]
    is_global: Bool[Array, ""]
    embeds: Float[Array, "b n p"]
    stored: KeysValues | None = None


class Layer(nnx.Module):
    """One layer of a kind: `sparse` activations or not, `own` keys and values or given ones."""

    def __init__(self, config: Gemma3nTextConfig, sparse: bool, own: bool, rngs: nnx.Rngs):
        self.bases = (config.local_rope_base, config.global_rope_base)
        self.altup = AltUp(config, rngs)
        self.laurel = Laurel(config, rngs)
        self.attention = Attention(config, own, rngs)
        self.mlp = FeedForward(config, sparse, rngs)
        self.norm_attention, self.norm_attended, self.norm_mlp, self.norm_mapped = (
            norm(config.width, config) for _ in range(4)
        )
        self.per_layer_gate = linear(config.width, config.per_layer_width, config, rngs)
        self.per_layer_out = linear(config.per_layer_width, config.width, config, rngs)
        self.per_layer_norm = norm(config.width, config)

    def __call__(
        self,
        h: Float[Array, "r b n d"],
        this: LayerInput,
        whole: Pass,
        shared: tuple[KeysValues, KeysValues] | None,
    ) -> tuple[Float[Array, "r b n d"], KeysValues]:
        """The streams after this layer, and the keys and values it attended to.

        shared: those of the local and of the global source layer, for layers without their own.
        """
        key = None if whole.key is None else jax.random.fold_in(whole.key, this.number)
        base = jnp.where(this.is_global, self.bases[1], self.bases[0])
        mask = jnp.where(this.is_global, whole.global_mask, whole.local_mask)
        predicted = self.altup.predict(h, key)
        x = self.norm_attention(predicted[0])
        if shared is not None:
            given = jax.tree.map(lambda a, b: jnp.where(this.is_global, b, a), *shared)
        else:
            given = self.attention.keys_values(x, whole.positions, base, key)
            if this.stored is not None and whole.index is not None:
                given = (
                    write_slots(this.stored[0], given[0], whole.index),
                    write_slots(this.stored[1], given[1], whole.index),
                )
        attended = self.attention(x, whole.positions, base, given, mask, key)
        mixed = predicted[0] + self.norm_attended(attended) + self.laurel(x, key)
        mixed = mixed * math.sqrt(0.5)
        mixed = mixed + self.norm_mapped(self.mlp(self.norm_mlp(mixed), key))
        h = self.altup.correct(predicted, mixed, key)
        first = h[0] * self.altup.output_scale[...].astype(h.dtype)
        injected = _gelu(self.per_layer_gate(first, key)) * this.embeds
        injected = self.per_layer_norm(self.per_layer_out(injected, key))
        return jnp.concatenate([h[:1], h[1:] + injected], axis=0), given


class PerLayerInputs(nnx.Module):
    """For each position and layer a vector: from the id's row of a table and from the embedding."""

    def __init__(self, config: Gemma3nTextConfig, rngs: nnx.Rngs):
        self.shape = (config.layers, config.per_layer_width)
        columns = config.layers * config.per_layer_width
        init = nnx.initializers.normal(config.per_layer_width**-0.5)
        shape = (config.per_layer_vocabulary, columns)
        self.table = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.projection = linear(config.width, columns, config, rngs)
        self.norm = norm(config.per_layer_width, config)

    def __call__(
        self, embeds: Float[Array, "b n d"], ids: Int[Array, "b n"], key: Array | None
    ) -> Float[Array, "l b n p"]:
        """Ids that the table lacks, placeholders among them, read row 0."""
        rows = jnp.where((ids >= 0) & (ids < self.table.shape[0]), ids, 0)
        looked_up = self.table[...][rows].reshape(*ids.shape, *self.shape)
        looked_up = looked_up.astype(embeds.dtype) * math.sqrt(self.shape[1])
        projected = self.projection(embeds, key) * embeds.shape[-1] ** -0.5
        projected = self.norm(projected.reshape(*ids.shape, *self.shape))
        return jnp.moveaxis((projected + looked_up) * math.sqrt(0.5), 2, 0)

# SPDX-License-Identifier: Apache-2.0
"""One pre-norm decoder for Llama- and Gemma-3-shaped models, chosen by its configuration.

Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped-query attention, gated SiLU.
Gemma 3 (Gemma Team 2025): also norms after both halves of a layer, norms of queries and keys,
local layers between the global ones, scaled embeddings, gated GELU.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from llm_bridge.backbones.cached_layers import Enter, new_cache, scan_cached
from llm_bridge.backbones.word_slots import NUMBERS, from_numbers
from llm_bridge.nn import (
    Cache,
    Linear,
    RMSNorm,
    attend,
    attention_mask,
    rope,
    stack_layers,
)
from spatial_core.typing import Array


class RowLinear(Linear):
    """A linear map of rows [n, i]: with several leading axes its gradient is far slower on a CPU."""

    def __call__(self, x: Float[Array, "... i"], key: Array | None = None) -> Float[Array, "... o"]:
        """Apply it, as `Linear`."""
        rows = super().__call__(x.reshape(-1, x.shape[-1]), key)
        return rows.reshape(*x.shape[:-1], rows.shape[-1])


ACTIVATIONS = {"silu": jax.nn.silu, "gelu": lambda x: jax.nn.gelu(x, approximate=True)}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder.

    local_window: positions a local layer sees, None when all layers are global; then every
    `period`-th layer is global with `rope_base` and the others local with `local_rope_base`.
    embed_scale: factor on embeddings. audio_width: width of the mono audio encoder's output,
    audio_hidden: width between two linear maps of it, None for one map; audio_scale: factor on what
    they give, so that fresh ones give soft tokens about as large as a pretrained model's words.
    audio_words: the last numbers of the encoder's output are the id of a word (see word_slots), whose
    embedding is added; fresh maps then give zeros, so that the words are read as they are.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    audio_width: int
    audio_hidden: int | None = None
    audio_scale: float = 1.0
    audio_words: bool = False
    activation: str = "silu"
    rope_base: float = 10_000.0
    local_rope_base: float = 10_000.0
    local_window: int | None = None
    period: int = 6
    eps: float = 1e-6
    query_key_norm: bool = False
    post_norm: bool = False
    embed_scale: float = 1.0
    tied: bool = True
    remat: bool = False
    unroll: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.heads % self.kv_heads or self.head_width % 2:
            raise ValueError(
                f"{self.heads} heads, {self.kv_heads} key heads of {self.head_width} channels: "
                "heads must divide evenly and channels be even"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r}: one of {sorted(ACTIVATIONS)}")

    def linear(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
        """A linear map without bias in this model's number formats."""
        return RowLinear(inputs, outputs, dtype=self.dtype, param_dtype=self.param_dtype, rngs=rngs)

    def norm(self, width: int) -> RMSNorm:
        """A norm in this model's number formats."""
        return RMSNorm(width, eps=self.eps, param_dtype=self.param_dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        self.query = config.linear(config.width, inner, rngs)
        self.key = config.linear(config.width, shared, rngs)
        self.value = config.linear(config.width, shared, rngs)
        self.out = config.linear(inner, config.width, rngs)
        normed = config.query_key_norm
        self.query_norm = nnx.data(config.norm(config.head_width) if normed else None)
        self.key_norm = nnx.data(config.norm(config.head_width) if normed else None)
        self.head_width = config.head_width

    def project(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "b n"],
        base: float | Float[Array, ""],
        key: Array | None,
    ) -> tuple[Array, Array, Array]:
        """Query [b n h c], key and value [b n g c], the first two normed and turned."""
        split = (*x.shape[:2], -1, self.head_width)
        q, k = self.query(x, key).reshape(split), self.key(x, key).reshape(split)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        v = self.value(x, key).reshape(split)
        return rope(q, positions, base), rope(k, positions, base), v


class Layer(nnx.Module):
    """Attention, then a gated feed-forward network, each normed and added to its input."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config, rngs=rngs)
        self.gate = config.linear(config.width, config.hidden, rngs)
        self.up = config.linear(config.width, config.hidden, rngs)
        self.down = config.linear(config.hidden, config.width, rngs)
        self.attention_norm = config.norm(config.width)
        self.feed_forward_norm = config.norm(config.width)
        post = config.post_norm
        self.attention_post_norm = nnx.data(config.norm(config.width) if post else None)
        self.feed_forward_post_norm = nnx.data(config.norm(config.width) if post else None)
        self.activation = config.activation

    def mix(self, x: Array, mixed: Array, key: Array | None) -> Array:
        """`x` with the attention's result added."""
        out = self.attention.out(mixed, key)
        return x + (out if self.attention_post_norm is None else self.attention_post_norm(out))

    def feed_forward(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """`x` with the gated network's result added."""
        h = self.feed_forward_norm(x)
        out = self.down(ACTIVATIONS[self.activation](self.gate(h, key)) * self.up(h, key), key)
        return x + (
            out if self.feed_forward_post_norm is None else self.feed_forward_post_norm(out)
        )


class AudioProjection(nnx.Module):
    """The mono audio encoder's output as soft tokens: one linear map, or two around a GELU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> Linear:
            # Trained even where the rest is frozen, so float32 whatever the weights are.
            return Linear(inputs, outputs, bias=True, dtype=config.dtype, rngs=rngs)

        heard = config.audio_width - (NUMBERS if config.audio_words else 0)
        inner = config.audio_hidden
        self.inner = nnx.data(None if inner is None else linear(heard, inner))
        self.out = linear(inner or heard, config.width)
        if config.audio_words:
            self.out.kernel[...] = jnp.zeros_like(self.out.kernel[...])
        self.scale = config.audio_scale

    def __call__(self, x: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Map every token."""
        h = x if self.inner is None else jax.nn.gelu(self.inner(x), approximate=False)
        return self.scale * self.out(h)


class Decoder(nnx.Module):
    """The language model: see llm_bridge.protocol.LanguageModel for what each method promises."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        # Embeddings of unit scale after `embed_scale`, and logits of unit scale under the norm.
        table = jax.random.normal(rngs.params(), (config.vocabulary, config.width))
        table = table / math.sqrt(config.width)
        self.embedding = nnx.Param(table.astype(config.param_dtype))
        self.layers = stack_layers(lambda r: Layer(config, rngs=r), config.layers, rngs)
        self.norm = config.norm(config.width)
        self.head = nnx.data(
            None if config.tied else config.linear(config.width, config.vocabulary, rngs)
        )
        self.audio = AudioProjection(config, rngs=rngs)

    def embed(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Embeddings of text; ids below 0 (placeholders) give zeros."""
        rows = self.embedding[...].astype(self.config.dtype)[jnp.maximum(ids, 0)]
        # The factor is rounded like the rows: Gemma was trained with it in bfloat16.
        rows = rows * jnp.asarray(self.config.embed_scale, self.config.dtype)
        return jnp.where((ids >= 0)[..., None], rows, 0)

    def embed_audio(self, features: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Soft tokens from the mono audio encoder's output, with the words' embeddings if it has words."""
        if not self.config.audio_words:
            return self.audio(features)
        words = from_numbers(features[..., -NUMBERS:])
        return self.audio(features[..., :-NUMBERS]) + self.embed(words)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache; all layers keep all `length` positions."""
        c = self.config
        return new_cache(c.layers, batch, length, c.kv_heads, c.head_width, c.dtype)

    def __call__(
        self,
        embeds: Float[Array, "b n d"],
        ids: Int[Array, "b n"],
        positions: Int[Array, "b n"],
        valid: Bool[Array, "b n"],
        cache: Cache | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache | None]:
        """Last layer's output, normed, and the cache with these positions entered.

        ids: unused, these models embed only once. key: dropout of adapters, None for none.
        """
        c = self.config
        if cache is not None:
            cache = cache.advance(positions, valid)
        seen = (positions, valid) if cache is None else (cache.positions, cache.valid)
        everywhere = attention_mask(positions, *seen)
        nearby = everywhere
        if c.local_window is not None:
            nearby = attention_mask(positions, *seen, window=c.local_window)

        def step(
            layer: Layer, x: Array, number: Array, salted: Array | None, enter: Enter
        ) -> Array:
            mask, base = everywhere, c.rope_base
            if c.local_window is not None:
                wide = (number + 1) % c.period == 0
                mask = jnp.where(wide, everywhere, nearby)
                base = jnp.where(wide, c.rope_base, c.local_rope_base)
            h = layer.attention_norm(x)
            q, k, v = layer.attention.project(h, positions, base, salted)
            mixed = attend(q, *enter(k, v), mask, c.head_width**-0.5)
            return layer.feed_forward(layer.mix(x, mixed, salted), salted)

        x, new = embeds.astype(c.dtype), embeds.shape[1]
        x, cache = scan_cached(self.layers, step, x, c.layers, cache, new, key, c.remat, c.unroll)
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 scores of every id."""
        if self.head is not None:
            return self.head(hidden).astype(jnp.float32)
        table = self.embedding[...].astype(self.config.dtype)
        return jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)

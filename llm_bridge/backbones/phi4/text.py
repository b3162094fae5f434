# SPDX-License-Identifier: Apache-2.0
"""Phi-4-mini's text decoder, its layers stacked and scanned.

The mathematics is that of `Phi3ForCausalLM` and `Phi4MultimodalForCausalLM` of Hugging Face transformers
(Apache-2.0, copyright 2024 Microsoft): pre-norm layers with RMSNorm, grouped-query attention and a gated
SiLU, without biases. As in the published weights, query, key and value are one linear map, gate and up
another: adapters on them are those of the published ones.

Positions turn the first channels of a head only (Su et al. 2021). Rows of more than 4,096 positions are
turned by longer wavelengths (LongRoPE); which ones is decided for each row by its last position so far.
The cache therefore holds keys before their rotation. A row that passes that length while it is written
keeps what earlier layers made of its beginning, where transformers starts over.

Axes: b batch, n positions, s positions to attend to, d width, h heads, g key heads, c channels of a
head, e pairs of turned channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.backbones.cached_layers import Enter, new_cache, scan_cached
from llm_bridge.backbones.phi4.config import Phi4TextConfig
from llm_bridge.lora import attach_fixed
from llm_bridge.nn import (
    Cache,
    Linear,
    RMSNorm,
    attend,
    attention_mask,
    stack_layers,
    turn,
)
from spatial_core.train.partition import split_batch
from spatial_core.typing import Array, Bool, Float, Int

# Along the model's width, behind the layer axis; adapters on their longer side, what is small everywhere.
PARTITION_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(lora_a|lora_b|scale|bias)$", ()),
    (r"^(model/)?audio/", ()),
    # The table by column: then each device looks up its columns of every row without moving it.
    (r"(^|/)embedding$", (None, "fsdp")),
    (r"(^|/)(qkv|gate_up)/kernel$", (None, "fsdp", None)),
    (r"(^|/)(out|down)/kernel$", (None, None, "fsdp")),
    (r"fixed_a$", (None, "fsdp", None)),
    (r"fixed_b$", (None, None, "fsdp")),
)


def frequencies(
    config: Phi4TextConfig, positions: Int[Array, "b n"], valid: Bool[Array, "b n"]
) -> Float[Array, "b e"]:
    """Radians per position of each pair of channels, by the length of each row."""
    pairs = config.rotary_width // 2
    base = config.rope_base ** (np.arange(pairs, dtype=np.float32) / pairs)
    short, long = (
        np.float32(1.0) / (np.asarray(factors, np.float32) * base)
        for factors in (config.short_factors, config.long_factors)
    )
    length = jnp.max(jnp.where(valid, positions, 0), axis=1) + 1
    return jnp.where((length > config.original_positions)[:, None], long, short)


def rotate(
    x: Float[Array, "b n h c"], angle: Float[Array, "b n 1 e"], scale: float
) -> Float[Array, "b n h c"]:
    """The first 2 e channels turned and scaled, the others as they are."""
    width = 2 * angle.shape[-1]
    turned = turn(x[..., :width].astype(jnp.float32), angle) * scale
    return jnp.concatenate([turned.astype(x.dtype), x[..., width:]], axis=-1)


class Attention(nnx.Module):
    """The linear maps of grouped-query attention."""

    def __init__(self, config: Phi4TextConfig, rngs: nnx.Rngs):
        self.split = (
            config.heads * config.head_width,
            (config.heads + config.kv_heads) * config.head_width,
        )
        inner = (config.heads + 2 * config.kv_heads) * config.head_width
        self.qkv = _linear(config.width, inner, config, rngs)
        self.out = _linear(self.split[0], config.width, config, rngs)
        self.head_width = config.head_width

    def project(
        self, x: Float[Array, "b n d"], key: Array | None
    ) -> tuple[Float[Array, "b n h c"], Float[Array, "b n g c"], Float[Array, "b n g c"]]:
        """Query, key and value, not yet turned."""
        parts = jnp.split(self.qkv(x, key), self.split, axis=-1)
        query, keys, values = (part.reshape(*x.shape[:2], -1, self.head_width) for part in parts)
        return query, keys, values


class Layer(nnx.Module):
    """Attention, then a gated feed-forward network, each normed and added to its input."""

    def __init__(self, config: Phi4TextConfig, rngs: nnx.Rngs):
        self.attention = Attention(config, rngs)
        self.gate_up = _linear(config.width, 2 * config.hidden, config, rngs)
        self.down = _linear(config.hidden, config.width, config, rngs)
        self.attention_norm, self.feed_forward_norm = _norm(config), _norm(config)

    def feed_forward(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """`x` with the gated network's result added."""
        gate, up = jnp.split(self.gate_up(self.feed_forward_norm(x), key), 2, axis=-1)
        return x + self.down(jax.nn.silu(gate) * up, key)


class AudioProjection(nnx.Module):
    """The mono audio encoder's output as soft tokens: two linear maps around a GELU."""

    def __init__(self, config: Phi4TextConfig, rngs: nnx.Rngs):
        # What is trained is float32 whatever the frozen weights are.
        param_dtype = jnp.float32 if config.audio_trained else config.param_dtype

        def linear(inputs: int) -> Linear:
            return Linear(
                inputs,
                config.width,
                bias=True,
                dtype=config.dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.up, self.down = linear(config.audio_width), linear(config.width)

    def __call__(self, x: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Map every token."""
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class Phi4Text(nnx.Module):
    """The language model: see llm_bridge.protocol.LanguageModel for what each method promises."""

    def __init__(self, config: Phi4TextConfig, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.width**-0.5)
        shape = (config.vocabulary, config.width)
        self.embedding = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.layers = stack_layers(lambda own: Layer(config, own), config.layers, rngs)
        self.norm = _norm(config)
        self.audio = AudioProjection(config, rngs)
        if config.speech_lora is not None:
            attach_fixed(self, config.speech_lora, rngs)

    def embed(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Rows of the table; ids below 0 (placeholders) give zeros."""
        rows = self.embedding[...][jnp.maximum(ids, 0)].astype(self.config.dtype)
        return jnp.where((ids >= 0)[..., None], rows, 0)

    def embed_audio(self, features: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Mono soft tokens from the audio encoder's output."""
        return self.audio(features)

    def __call__(
        self,
        embeds: Float[Array, "b n d"],
        ids: Int[Array, "b n"],
        positions: Int[Array, "b n"],
        valid: Bool[Array, "b n"],
        cache: Cache | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache | None]:
        """Last hidden states, normed, and the cache with these positions entered; `ids` are not used."""
        config = self.config
        if cache is not None:
            cache = cache.advance(positions, valid)
        slots, seen = (positions, valid) if cache is None else (cache.positions, cache.valid)
        mask = attention_mask(positions, slots, seen)
        frequency = frequencies(config, slots, seen)[:, None, None]
        turns, earlier = (
            p[..., None, None].astype(jnp.float32) * frequency for p in (positions, slots)
        )

        def step(layer: Layer, x: Array, _: Array, salted: Array | None, enter: Enter) -> Array:
            x = split_batch(x)
            q, k, v = layer.attention.project(layer.attention_norm(x), salted)
            k, v = enter(k, v)
            mixed = attend(
                rotate(q, turns, config.attention_scale),
                rotate(k, earlier, config.attention_scale),
                v,
                mask,
                config.head_width**-0.5,
            )
            x = x + layer.attention.out(mixed, salted)
            return split_batch(layer.feed_forward(x, salted))

        x, new, count = embeds.astype(config.dtype), embeds.shape[1], config.layers
        x, cache = scan_cached(self.layers, step, x, count, cache, new, key, config.remat)
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 scores of every id, by the embedding table."""
        table = self.embedding[...].astype(self.config.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache; keys are stored before their rotation."""
        c = self.config
        return new_cache(c.layers, batch, length, c.kv_heads, c.head_width, c.dtype)


def _linear(inputs: int, outputs: int, config: Phi4TextConfig, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, outputs, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs)


def _norm(config: Phi4TextConfig) -> RMSNorm:
    return RMSNorm(config.width, eps=config.eps, param_dtype=config.param_dtype)

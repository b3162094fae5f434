# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's text decoder, each kind of layer stacked and scanned.

The mathematics is that of `Gemma3nTextModel` and `Gemma3nForCausalLM` of Hugging Face transformers
(Apache-2.0, copyright 2025 Google LLC): a transformer of the layers in `layers`.

Local and global layers differ in a mask and a rotation only, which the scan selects, so that one
compiled layer serves all of its kind: three for the whole model.

Axes: b batch, n positions, s positions to attend to, d width, r streams, l layers of a group, p width of
the per-layer embeddings, g key-value heads, c channels of a head.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.backbones.gemma3n.embedder import MultimodalEmbedder
from llm_bridge.backbones.gemma3n.layers import (
    KeysValues,
    Layer,
    LayerInput,
    Pass,
    PerLayerInputs,
    linear,
    norm,
)
from llm_bridge.nn import (
    Cache,
    Linear,
    attention_mask,
    empty_cache,
    scan_layers,
    stack_layers,
)
from spatial_core.train.partition import split_batch
from spatial_core.typing import Array, Bool, Float, Int

# Of the mean square below which AltUp does not scale a stream up.
MAGNITUDE_FLOOR = 1e-5

PARTITION_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Adapters and what is small: everywhere.
    (r"(lora_a|lora_b|scale|bias)$", ()),
    (r"altup/(router|prediction|correction)/kernel$", ()),
    # Tables by column: then each device looks up its columns of every row without moving the table.
    (r"(^|/)embedding$", (None, "fsdp")),
    (r"per_layer/table$", (None, "fsdp")),
    (r"per_layer/projection/kernel$", ("fsdp", None)),
    (r"audio_embedder/table$", ()),
    (r"audio_embedder/projection/kernel$", (None, "fsdp")),
    # The axis of the width, in stacked layers behind the layer axis.
    (
        r"(^|/)(query|key|value|gate|up|left|per_layer_gate|altup_in|altup_out)/kernel$",
        (None, "fsdp", None),
    ),
    (r"(^|/)(out|down|right|per_layer_out)/kernel$", (None, None, "fsdp")),
)


class Gemma3nText(nnx.Module):
    """The language model; groups of layers `sparse`, `dense` and `shared` are stacked, see `groups`."""

    def __init__(self, config: Gemma3nTextConfig, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.width**-0.5)
        shape = (config.vocabulary, config.width)
        self.embedding = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.per_layer = PerLayerInputs(config, rngs)
        self.audio_embedder = MultimodalEmbedder(config, rngs)
        self.altup_in, self.altup_out = (
            stack_layers(
                lambda layer_rngs: linear(config.width, config.width, config, layer_rngs),
                config.streams - 1,
                rngs,
            )
            for _ in range(2)
        )
        for name, layers in config.groups.items():
            sparse, own = name == "sparse", name != "shared"
            setattr(self, name, self._stack(len(layers), sparse, own, rngs))
        self.norm = norm(config.width, config)

    def embed(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Scaled rows of the table; of audio ids by the audio embedder; placeholders give zeros."""
        config = self.config
        rows = self.embedding[...][jnp.clip(ids, 0, config.vocabulary - 1)].astype(config.dtype)
        # The scale is rounded as the table is: that is what the model was trained with.
        rows = rows * jnp.asarray(math.sqrt(config.width), config.dtype)
        audio = self.audio_embedder.hard(ids).astype(config.dtype)
        rows = jnp.where((ids >= config.audio_offset)[..., None], audio, rows)
        return jnp.where((ids >= 0)[..., None], rows, 0)

    def embed_audio(self, features: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Mono soft tokens from the audio encoder's output."""
        return self.audio_embedder.soft(features)

    def __call__(
        self,
        embeds: Float[Array, "b n d"],
        ids: Int[Array, "b n"],
        positions: Int[Array, "b n"],
        valid: Bool[Array, "b n"],
        cache: Cache | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache | None]:
        """Last hidden states; `ids` choose the per-layer embeddings. Unmasked keys are causal."""
        embeds = split_batch(embeds.astype(self.config.dtype))
        index = None if cache is None else cache.index
        if cache is not None:
            cache = cache.advance(positions, valid)
        slots = (positions, valid) if cache is None else (cache.positions, cache.valid)
        whole = Pass(
            positions,
            attention_mask(positions, *slots, window=self.config.window),
            attention_mask(positions, *slots),
            index,
            key,
        )
        per_layer = self.per_layer(embeds, ids, key)
        h = self._spread(embeds, key)
        own: dict[str, KeysValues] = {}
        for name, layers in self.config.groups.items():
            inputs = LayerInput(
                jnp.asarray(layers),
                jnp.asarray([self.config.is_global(layer) for layer in layers]),
                per_layer[layers.start : layers.stop],
                None
                if cache is None or name == "shared"
                else (cache.keys[name], cache.values[name]),
            )
            shared = self._sources(own) if name == "shared" else None
            h, given = self._scan(name, h, inputs, whole, shared, keep=cache is not None)
            if given is not None:
                own[name] = given
        if cache is not None:
            keys, values = ({name: kv[i] for name, kv in own.items()} for i in range(2))
            cache = dataclasses.replace(cache, keys=keys, values=values)
        return split_batch(self.norm(self._gather(h, key))), cache

    def logits(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 scores, softly capped, by the embedding table."""
        table = self.embedding[...].astype(self.config.dtype)
        scores = jnp.einsum(
            "...d,vd->...v",
            hidden.astype(self.config.dtype),
            table,
            preferred_element_type=jnp.float32,
        )
        return self.config.logit_cap * jnp.tanh(scores / self.config.logit_cap)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache; layers with shared keys have none."""
        config = self.config

        def zeros() -> dict[str, Array]:
            shape = (batch, length, config.kv_heads, config.head_width)
            return {
                name: jnp.zeros((len(layers), *shape), config.dtype)
                for name, layers in config.groups.items()
                if name != "shared"
            }

        return empty_cache(zeros(), zeros(), batch, length)

    def _stack(self, count: int, sparse: bool, own: bool, rngs: nnx.Rngs) -> nnx.Module:
        return stack_layers(
            lambda layer_rngs: Layer(self.config, sparse, own, layer_rngs), count, rngs
        )

    def _scan(
        self,
        name: str,
        h: Array,
        inputs: LayerInput,
        whole: Pass,
        shared: tuple[KeysValues, KeysValues] | None,
        keep: bool,
    ) -> tuple[Array, KeysValues | None]:
        """Run a group of layers; its keys and values if later layers or the cache want them."""
        layers = self.config.groups[name]
        if name == "shared":
            keep = False
        elif self.config.shared_layers:
            keep = keep or any(source in layers for source in self.config.sources)

        def step(layer: Layer, carry: Array, this: LayerInput) -> tuple[Array, KeysValues | None]:
            carry, given = layer(split_batch(carry, axis=1), this, whole, shared)
            return split_batch(carry, axis=1), given if keep else None

        return scan_layers(getattr(self, name), step, h, inputs, remat=self.config.remat)

    def _sources(self, own: dict[str, KeysValues]) -> tuple[KeysValues, KeysValues]:
        """Keys and values of the local and of the global layer that the last layers read."""
        found = []
        for source in self.config.sources:
            name, layers = next(item for item in self.config.groups.items() if source in item[1])
            keys, values = own[name]
            found.append((keys[source - layers.start], values[source - layers.start]))
        return found[0], found[1]

    def _spread(self, embeds: Float[Array, "b n d"], key: Array | None) -> Float[Array, "r b n d"]:
        """The embedding and linear maps of it, all of one magnitude, as the first streams."""
        numbers = jnp.arange(self.config.streams - 1)

        def step(layer: Linear, carry: None, number: Array) -> tuple[None, Array]:
            return None, layer(embeds, _fold(key, number))

        _, mapped = scan_layers(self.altup_in, step, None, numbers)
        return jnp.concatenate([embeds[None], _match(mapped, embeds)], axis=0)

    def _gather(self, h: Float[Array, "r b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """The mean of the first stream and linear maps of the others, all of one magnitude."""
        numbers = jnp.arange(self.config.streams - 1)

        def step(layer: Linear, carry: None, item: tuple[Array, Array]) -> tuple[None, Array]:
            number, stream = item
            return None, layer(stream, _fold(key, number))

        _, mapped = scan_layers(self.altup_out, step, None, (numbers, h[1:]))
        streams = jnp.concatenate([h[:1], _match(mapped, h[0])], axis=0)
        return streams.astype(jnp.float32).mean(axis=0).astype(h.dtype)


def _fold(key: Array | None, number: Array) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def _match(x: Float[Array, "r b n d"], like: Float[Array, "b n d"]) -> Float[Array, "r b n d"]:
    """`x` with the root mean square of `like` at each position."""

    def square(y: Array) -> Array:
        return jnp.mean(jnp.square(y.astype(jnp.float32)), axis=-1, keepdims=True)

    # The floor of `like` only keeps the root's gradient finite where padding is all zeros.
    ratio = jnp.maximum(square(like), np.finfo(np.float32).tiny) / jnp.maximum(
        square(x), MAGNITUDE_FLOOR
    )
    return (x * jnp.sqrt(ratio)).astype(x.dtype)

# SPDX-License-Identifier: Apache-2.0
"""Sizes of Gemma 3n's language model, as E2B, as E4B and small enough for a test."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig
from spatial_core.errors import InputError

LAYERS_PER_PERIOD = 5
"""Four local layers, then a global one."""


@dataclasses.dataclass(frozen=True)
class Gemma3nTextConfig:
    """Shape of the text decoder; the defaults are E4B's (6.84 B parameters).

    vocabulary: rows of the embedding, per_layer_vocabulary: of the per-layer embeddings, which ids
    beyond it do not have. hidden: of the feed-forward networks. sparse_layers: the first layers, which
    keep only the largest 1 - sparsity of their activations. shared_layers: the last layers, which read
    the keys and values of the last local and the last global layer before them. window: positions a
    local layer sees. streams: copies of the state that AltUp keeps. audio_offset: from this id on,
    embeddings come from the audio embedder's table of audio_vocabulary rows [audio_width]. dtype: of the
    matrix products; norms, softmax, AltUp's coefficients and logits are float32. remat: recompute each
    layer in the backward pass.
    """

    vocabulary: int = 262_400
    per_layer_vocabulary: int = 262_144
    width: int = 2048
    hidden: int = 16_384
    layers: int = 35
    heads: int = 8
    kv_heads: int = 2
    head_width: int = 256
    per_layer_width: int = 256
    laurel_rank: int = 64
    streams: int = 4
    sparse_layers: int = 10
    sparsity: float = 0.95
    shared_layers: int = 15
    window: int = 512
    local_rope_base: float = 10_000.0
    global_rope_base: float = 1_000_000.0
    logit_cap: float = 30.0
    eps: float = 1e-6
    audio_width: int = 1536
    audio_vocabulary: int = 128
    audio_offset: int = 262_272
    dtype: Any = jnp.bfloat16
    param_dtype: Any = jnp.bfloat16
    remat: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads or self.head_width % 2:
            raise InputError(
                f"{self.heads} heads, {self.kv_heads} key heads of {self.head_width} channels: "
                "the heads must divide evenly and the channels be even"
            )
        own = self.layers - self.shared_layers
        if self.layers < 1 or self.sparse_layers < 0 or self.sparse_layers > own:
            raise InputError(
                f"{self.layers} layers, {self.sparse_layers} sparse first ones and "
                f"{self.shared_layers} last ones with shared keys: the two must not overlap"
            )
        if self.shared_layers < 0 or (self.shared_layers and own < LAYERS_PER_PERIOD):
            raise InputError(
                f"{self.shared_layers} of {self.layers} layers share keys: a local and a global layer, "
                f"so at least {LAYERS_PER_PERIOD} layers, must come before them"
            )
        if not 0.0 < self.sparsity < 1.0:
            raise InputError(f"sparsity {self.sparsity}: above 0 and below 1")
        if self.streams < 2:
            raise InputError(f"{self.streams} streams: AltUp needs at least 2")

    @property
    def own_layers(self) -> int:
        """Layers that have keys and values."""
        return self.layers - self.shared_layers

    def is_global(self, layer: int) -> bool:
        """Whether a layer sees all positions."""
        return layer % LAYERS_PER_PERIOD == LAYERS_PER_PERIOD - 1

    @property
    def groups(self) -> dict[str, range]:
        """Layers of one kind, which are stacked and scanned together, in their order."""
        ranges = {
            "sparse": range(self.sparse_layers),
            "dense": range(self.sparse_layers, self.own_layers),
            "shared": range(self.own_layers, self.layers),
        }
        return {name: layers for name, layers in ranges.items() if layers}

    @property
    def sources(self) -> tuple[int, int]:
        """The local and the global layer whose keys and values the last layers read."""
        own = range(self.own_layers)
        return (
            max(layer for layer in own if not self.is_global(layer)),
            max(layer for layer in own if self.is_global(layer)),
        )


@dataclasses.dataclass(frozen=True)
class Gemma3nConfig:
    """A whole model: its name, its text decoder and its audio encoder."""

    name: str
    text: Gemma3nTextConfig
    audio: Gemma3nAudioConfig

    def __post_init__(self) -> None:
        if self.text.audio_width != self.audio.width:
            raise InputError(
                f"{self.name}: the text decoder expects audio of width {self.text.audio_width}, the "
                f"audio encoder gives {self.audio.width}"
            )


def e4b(**changes: Any) -> Gemma3nConfig:
    """Gemma 3n E4B; `changes` to the text decoder, such as remat=True."""
    text = Gemma3nTextConfig(**changes)
    return Gemma3nConfig("gemma3n-e4b", text, _audio(text))


def e2b(**changes: Any) -> Gemma3nConfig:
    """Gemma 3n E2B: 30 layers, the last 10 with shared keys, half the feed-forward width."""
    sizes = {"hidden": 8192, "layers": 30, "shared_layers": 10}
    text = Gemma3nTextConfig(**{**sizes, **changes})
    return Gemma3nConfig("gemma3n-e2b", text, _audio(text))


def small_text(**changes: Any) -> Gemma3nTextConfig:
    """A text decoder with every part of the real one and a hundred thousand parameters, float32."""
    sizes: dict[str, Any] = {
        "vocabulary": 320,
        "per_layer_vocabulary": 256,
        "width": 64,
        "hidden": 128,
        "layers": 15,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 16,
        "per_layer_width": 8,
        "laurel_rank": 8,
        "sparse_layers": 5,
        "shared_layers": 5,
        "window": 8,
        "audio_width": 32,
        "audio_vocabulary": 16,
        "audio_offset": 272,
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return Gemma3nTextConfig(**{**sizes, **changes})


def _audio(text: Gemma3nTextConfig) -> Gemma3nAudioConfig:
    return Gemma3nAudioConfig(
        width=text.audio_width, dtype=text.dtype, param_dtype=text.param_dtype, remat=text.remat
    )

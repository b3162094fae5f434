# SPDX-License-Identifier: Apache-2.0
"""Sizes of Phi-4-mini, alone and with Phi-4-multimodal's audio half, and small enough for a test."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from llm_bridge.lora import LoraConfig
from spatial_core.errors import InputError

# Of both published models: their context of 4,096 was extended to 131,072 (LongRoPE, Ding et al. 2024).
LONG_FACTORS: tuple[float, ...] = (
    *(1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817),
    *(2.187582649, 2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687),
    *(4.279200023, 4.785517845, 5.351743533, 5.984965424, 6.693110555, 7.485043894),
    *(8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252),
    *(16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884),
    *(32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97),
    *(33.28, 33.49, 33.5, 44.16, 47.77),
)
SHORT_FACTORS: tuple[float, ...] = (1.0,) * 48
# All linear maps of the layers: where the published adapters are, and those of Sci-Phi.
LAYERS = r"^layers/(attention/(qkv|out)|gate_up|down)$"
SPEECH_LORA = LoraConfig(rank=320, alpha=640.0, dropout=0.0, targets=LAYERS)


@dataclasses.dataclass(frozen=True)
class Phi4TextConfig:
    """Shape of the text decoder; the defaults are the published ones (3.84 B parameters).

    rotary_width: first channels of a head that are turned by their position; the others are not.
    short_factors, long_factors: by which the wavelengths of the rotation are stretched, one for each
    pair of channels, in rows of up to `original_positions` and in longer ones. positions: the longest
    row. hidden: of the feed-forward networks. audio_width: of the mono encoder's output. audio_trained:
    its projection is float32 and starts fresh, and is not read with the weights. speech_lora: the frozen
    adapter that was published with the weights, None for none. dtype: of matrix products; norms, rotations,
    softmax and logits are float32. remat: recompute each layer in the backward pass.
    """

    vocabulary: int = 200_064
    width: int = 3072
    hidden: int = 8192
    layers: int = 32
    heads: int = 24
    kv_heads: int = 8
    head_width: int = 128
    rotary_width: int = 96
    rope_base: float = 10_000.0
    short_factors: tuple[float, ...] = SHORT_FACTORS
    long_factors: tuple[float, ...] = LONG_FACTORS
    original_positions: int = 4096
    positions: int = 131_072
    eps: float = 1e-5
    audio_width: int = 1024
    audio_trained: bool = False
    speech_lora: LoraConfig | None = SPEECH_LORA
    dtype: Any = jnp.bfloat16
    param_dtype: Any = jnp.bfloat16
    remat: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise InputError(f"{self.heads} heads do not divide over {self.kv_heads} key heads")
        if not 0 < self.rotary_width <= self.head_width or self.rotary_width % 2:
            raise InputError(
                f"rotary_width {self.rotary_width}: even, and at most the {self.head_width} of a head"
            )
        pairs = self.rotary_width // 2
        if {len(self.short_factors), len(self.long_factors)} != {pairs}:
            raise InputError(
                f"{len(self.short_factors)} short and {len(self.long_factors)} long factors: "
                f"{pairs} of each, one for each pair of turned channels"
            )

    @property
    def attention_scale(self) -> float:
        """LongRoPE's factor on turned queries and keys, 1.190 as published, in short rows too."""
        longer = self.positions / self.original_positions
        if longer <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(longer) / math.log(self.original_positions))


@dataclasses.dataclass(frozen=True)
class Phi4AudioConfig:
    """Shape of the audio encoder; the defaults are the published ones (441 M parameters).

    bands: of the log-mel. channels: of the strided convolutions. hidden: of the feed-forward branches.
    kernel: taps of the causal convolution. distance: the relative position at which attention's bias
    is clipped. piece: sub-frames that are encoded at once. eps: of the norms.
    """

    bands: int = 80
    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 1536
    channels: int = 1024
    kernel: int = 3
    distance: int = 500
    piece: int = 500
    eps: float = 1e-5
    dtype: Any = jnp.bfloat16
    param_dtype: Any = jnp.bfloat16
    remat: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"audio width {self.width} does not divide over {self.heads} heads")


def small_text(**changes: Any) -> Phi4TextConfig:
    """A text decoder with every part of the real one and some ten thousand parameters, float32."""
    sizes: dict[str, Any] = {
        "vocabulary": 96,
        "width": 32,
        "hidden": 48,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "rotary_width": 6,
        "short_factors": (1.0, 1.0, 1.0),
        "long_factors": (1.0, 4.0, 30.0),
        "audio_width": 32,
        "speech_lora": dataclasses.replace(SPEECH_LORA, rank=4, alpha=8.0),
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return Phi4TextConfig(**{**sizes, **changes})


def small_audio(**changes: Any) -> Phi4AudioConfig:
    """An audio encoder with every part of the real one and some ten thousand parameters, float32."""
    sizes: dict[str, Any] = {
        "width": 32,
        "layers": 2,
        "heads": 4,
        "hidden": 24,
        "channels": 6,
        "distance": 20,
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return Phi4AudioConfig(**{**sizes, **changes})

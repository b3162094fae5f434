# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's audio encoder: a Universal Speech Model conformer, 160 ms to a token.

Two strided convolutions make one sub-frame of 40 ms from four log-mel frames, 12 conformer blocks mix
the last half second or so (chunked local attention with relative positions, causal), and every fourth
sub-frame is a token. The mathematics is that of `Gemma3nAudioEncoder` of Hugging Face transformers
(Apache-2.0, copyright 2025 Google LLC), less its clipping of activations at 1e10.

Axes: b batch, f log-mel frames (10 ms), n sub-frames (40 ms), k tokens (160 ms), d width, u chunks,
w sub-frames of a chunk, c sub-frames that a chunk sees, h heads, e channels of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.backbones.gemma3n import mel
from llm_bridge.nn import MASKED, Linear, RMSNorm, scan_layers, stack_layers
from spatial_core.errors import InputError
from spatial_core.typing import Array, Bool, Float

FRAMES_PER_SUBFRAME = 4


@dataclass(frozen=True)
class Gemma3nAudioConfig:
    """Sizes of the encoder; the defaults are those of both E2B and E4B (0.681 B parameters).

    chunk: sub-frames that attend together; each sees itself and `left` - 1 before it. channels: of the
    two strided convolutions. residual: weight of the feed-forward branches. dtype: of the matrix
    products; norms and softmax are float32. remat: recompute each block in a backward pass.
    """

    width: int = 1536
    layers: int = 12
    heads: int = 8
    chunk: int = 12
    left: int = 13
    right: int = 0
    logit_cap: float = 50.0
    kernel: int = 5
    reduction: int = 4
    residual: float = 0.5
    channels: tuple[int, int] = (128, 32)
    group_eps: float = 1e-3
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise InputError(
                f"audio width {self.width} must be even and divide over {self.heads} heads"
            )

    @property
    def before(self) -> int:
        """Sub-frames before itself that one attends to."""
        return max(0, self.left - 1)


class CumulativeConvolution(nnx.Module):
    """3 x 3 convolution of stride 2, group norm over all time so far, ReLU.

    In time it reads ahead (two frames of its input), and the norm's statistics run from the first
    frame to the present one, padding included: as in the original.
    """

    def __init__(self, inputs: int, outputs: int, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs), config.param_dtype))
        self.scale = nnx.Param(jnp.ones((outputs,), config.param_dtype))
        self.eps, self.dtype = config.group_eps, config.dtype

    def __call__(self, x: Float[Array, "b f m i"]) -> Float[Array, "b g n o"]:
        """Halve time and bands, rounding up."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=(2, 2),
            padding=((0, 2), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype(jnp.float32)
        count = jnp.arange(1, y.shape[1] + 1) * (y.shape[2] * y.shape[3])
        mean = jnp.cumsum(y.sum((2, 3)), axis=1) / count
        # Squares about the mean *of their own time*, summed: not the variance of all so far.
        centred = y - mean[:, :, None, None]
        variance = jnp.cumsum((centred * centred).sum((2, 3)), axis=1) / count
        y = centred * jax.lax.rsqrt(variance + self.eps)[:, :, None, None]
        return jax.nn.relu(y * self.scale[...].astype(jnp.float32)).astype(self.dtype)


class Subsample(nnx.Module):
    """Log-mel frames to sub-frames: two strided convolutions and a linear map."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        first, second = config.channels
        self.convolution_0 = CumulativeConvolution(1, first, config, rngs)
        self.convolution_1 = CumulativeConvolution(first, second, config, rngs)
        self.project = _linear(mel.BANDS // 4 * second, config.width, config, rngs)

    def __call__(self, frames: Float[Array, "b f m"]) -> Float[Array, "b n d"]:
        """Sub-frame i from log-mel frames 4 i .. 4 i + 6."""
        x = self.convolution_1(self.convolution_0(frames[..., None]))
        return self.project(x.reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """x + residual * norm(W2 silu(W1 norm(x)))."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        self.norm_in, self.norm_out = _norm(config), _norm(config)
        self.expand = _linear(config.width, 4 * config.width, config, rngs)
        self.contract = _linear(4 * config.width, config.width, config, rngs)
        self.residual = config.residual

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Transform each sub-frame."""
        y = self.contract(jax.nn.silu(self.expand(self.norm_in(x))))
        return x + self.residual * self.norm_out(y)


class LocalAttention(nnx.Module):
    """Attention within chunks and a little before them, with relative positions (Dai et al. 2019)."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        self.config = config
        self.norm_in, self.norm_out = _norm(config), _norm(config)
        self.query, self.key, self.value, self.position, self.out = (
            _linear(config.width, config.width, config, rngs) for _ in range(5)
        )
        self.channel_scale = nnx.Param(
            jnp.zeros((config.width // config.heads,), config.param_dtype)
        )

    def __call__(
        self, x: Float[Array, "b n d"], valid: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """Mix each sub-frame with valid ones in its reach."""
        length, chunk = x.shape[1], self.config.chunk
        chunks = -(-length // chunk)
        y = self.norm_in(x)
        query = _pad_time(self._heads(self.query(y)) * self._query_scale(), 0, chunks * chunk)
        query = query.reshape(x.shape[0], chunks, chunk, *query.shape[2:])
        key, value, seen = (
            self._context(part, chunks)
            for part in (self._heads(self.key(y)), self._heads(self.value(y)), valid)
        )
        scores = jnp.einsum("buwhe,buche->bhuwc", query, key) + self._relative(query)
        cap = self.config.logit_cap
        scores = cap * jnp.tanh(scores.astype(jnp.float32) / cap)
        mask = seen[:, None, :, None, :] & self._reach()
        weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhuwc,buche->buwhe", weights, value)
        mixed = mixed.reshape(x.shape[0], chunks * chunk, -1)[:, :length]
        return x + self.norm_out(self.out(mixed))

    def _heads(self, x: Float[Array, "... d"]) -> Float[Array, "... h e"]:
        return x.reshape(*x.shape[:-1], self.config.heads, -1)

    def _query_scale(self) -> Float[Array, "e"]:
        """1 / sqrt(e) at a channel scale of 0."""
        scale = jax.nn.softplus(self.channel_scale[...].astype(jnp.float32)) / math.log(2.0)
        return (scale * scale.shape[0] ** -0.5).astype(self.config.dtype)

    def _context(self, x: Array, chunks: int) -> Array:
        """What each chunk sees: [b, n, ...] -> [b, u, c, ...], zeros outside."""
        chunk, before, after = self.config.chunk, self.config.before, self.config.right
        x = _pad_time(x, before, before + chunks * chunk + after)
        index = np.arange(chunks)[:, None] * chunk + np.arange(chunk + before + after)
        return x[:, index]

    def _reach(self) -> np.ndarray:
        """[w, c]: a sub-frame sees `before` sub-frames, itself and `right` more."""
        span = self.config.before + self.config.right
        offset = np.arange(self.config.chunk + span) - np.arange(self.config.chunk)[:, None]
        return (offset >= 0) & (offset <= span)

    def _relative(self, query: Float[Array, "b u w h e"]) -> Float[Array, "b h u w c"]:
        """Scores of the distance between query and key, one learned vector for each distance."""
        span = self.config.before + self.config.right
        distance = np.arange(self.config.before, -self.config.right - 1, -1)
        half = self.config.width // 2
        angle = distance[:, None] * np.exp(-np.arange(half) * (math.log(1e4) / max(half - 1, 1)))
        signal = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)
        vectors = self._heads(self.position(jnp.asarray(signal)))
        scores = jnp.einsum("buwhe,she->bhuws", query, vectors)
        # Row w of a chunk is moved right by w: pad each row by one more than it needs, run the rows
        # together and cut them again without that one.
        width = self.config.chunk + span
        scores = jnp.pad(scores, ((0, 0),) * 4 + ((0, width - span),))
        flat = scores.reshape(*scores.shape[:3], -1)[..., : self.config.chunk * width]
        return flat.reshape(*scores.shape[:4], width)


class LightConvolution(nnx.Module):
    """x + W2 silu(norm(causal depthwise convolution of a gated linear unit))."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        self.norm_in, self.norm_mid = _norm(config), _norm(config)
        self.start = _linear(config.width, 2 * config.width, config, rngs)
        self.end = _linear(config.width, config.width, config, rngs)
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(
            init(rngs.params(), (config.kernel, config.width), config.param_dtype)
        )

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Mix each sub-frame with the few before it."""
        value, gate = jnp.split(self.start(self.norm_in(x)), 2, axis=-1)
        kernel = self.kernel[...].astype(value.dtype)
        taps, length = kernel.shape[0], x.shape[1]
        y = _pad_time(value * jax.nn.sigmoid(gate), taps - 1, taps - 1 + length)
        shifted = jnp.stack([y[:, tap : tap + length] for tap in range(taps)])
        y = jnp.einsum("tbnd,td->bnd", shifted, kernel)
        return x + self.end(jax.nn.silu(self.norm_mid(y)))


class ConformerBlock(nnx.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (Gulati et al. 2020)."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        self.feed_forward_start = FeedForward(config, rngs)
        self.attention = LocalAttention(config, rngs)
        self.convolution = LightConvolution(config, rngs)
        self.feed_forward_end = FeedForward(config, rngs)
        self.norm = _norm(config)

    def __call__(
        self, x: Float[Array, "b n d"], valid: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """One block; what is not valid does not reach what is."""
        x = self.attention(self.feed_forward_start(x), valid)
        x = self.convolution(jnp.where(valid[..., None], x, 0))
        return self.norm(self.feed_forward_end(x))


class Gemma3nAudioEncoder(nnx.Module):
    """Log-mel frames to tokens of 160 ms; `layers` is stacked on a leading axis and scanned."""

    def __init__(self, config: Gemma3nAudioConfig, rngs: nnx.Rngs):
        self.config = config
        self.subsample = Subsample(config, rngs)
        self.layers = stack_layers(lambda own: ConformerBlock(config, own), config.layers, rngs)

    def __call__(
        self, frames: Float[Array, "b f m"], valid: Bool[Array, "b f"]
    ) -> tuple[Float[Array, "b k d"], Bool[Array, "b k"]]:
        """Tokens, k = ceil(f / 16), and which of them begin inside their clip; zeros elsewhere."""
        x = self.subsample(frames)
        inside = valid[:, ::FRAMES_PER_SUBFRAME]
        x, _ = scan_layers(
            self.layers, lambda block, y, _: (block(y, inside), None), x, remat=self.config.remat
        )
        step = self.config.reduction
        x, inside = x[:, ::step], inside[:, ::step]
        return jnp.where(inside[..., None], x, 0), inside

    def from_audio(
        self, audio: Float[Array, "b t"], samples: Array
    ) -> tuple[Float[Array, "b k d"], Bool[Array, "b k"]]:
        """The same from 16 kHz audio padded with zeros (`mel.padded_length`), `samples` [b] of it real."""
        frames = mel.log_mel(audio)
        return self(frames, mel.frames_inside(samples, frames.shape[1]))


def _linear(inputs: int, outputs: int, config: Gemma3nAudioConfig, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, outputs, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs)


def _norm(config: Gemma3nAudioConfig) -> RMSNorm:
    return RMSNorm(config.width, eps=config.norm_eps, param_dtype=config.param_dtype)


def _pad_time(x: Array, before: int, total: int) -> Array:
    """Zeros before and after on axis 1, to `total` in all; what is beyond is cut."""
    after = max(0, total - before - x.shape[1])
    return jnp.pad(x, ((0, 0), (before, after)) + ((0, 0),) * (x.ndim - 2))[:, :total]

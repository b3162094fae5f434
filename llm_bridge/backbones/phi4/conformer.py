# SPDX-License-Identifier: Apache-2.0
"""Phi-4-multimodal's audio encoder: strided convolutions and a conformer, 80 ms to a token.

The mathematics is that of `Phi4MultimodalAudioModel` of Hugging Face transformers (Apache-2.0, copyright
2025 Microsoft) for a clip on its own, whatever the batch it is in. There, in a batch of clips of several
lengths, the mask of the padding is *added* to the scores of attention as 0 or 1 instead of excluding them, and
the frames of padding run into the last convolutions of a clip: a shorter clip hears its neighbours'
length. Here what is behind the end of a clip is zero before each convolution and excluded from attention,
which for clips of one length is the same.

More than 500 sub-frames (40 s) are encoded in pieces of 500 that do not see each other. The last piece is
filled with zeros, to which its clip does attend: that is how the model was used.

Axes: b batch, f log-mel frames (10 ms), n tokens (80 ms), d width, h heads, e channels of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from llm_bridge.backbones.phi4 import audio_frontend as frontend
from llm_bridge.backbones.phi4.config import Phi4AudioConfig
from llm_bridge.nn import MASKED, Linear, scan_layers, stack_layers
from spatial_core.typing import Array, Bool, Float, Int


class Convolution(nnx.Module):
    """A convolution over time and bands, [b f m i] -> [b f' m' o], `depthwise` with a kernel for each channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        config: Phi4AudioConfig,
        rngs: nnx.Rngs,
        *,
        depthwise: bool = False,
    ):
        init = nnx.initializers.he_normal()
        shape = (size, size, 1 if depthwise else inputs, outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), config.param_dtype))
        self.groups, self.dtype = inputs if depthwise else 1, config.dtype
        # A kernel of 3 halves time and bands, rounding up.
        self.stride, self.edge = (2, 1) if size == 3 else (1, 0)

    def __call__(self, x: Float[Array, "b f m i"]) -> Float[Array, "b g n o"]:
        """Zeros stand around the edges."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((self.edge, self.edge), (self.edge, self.edge)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + self.bias[...].astype(self.dtype)


class Subsample(nnx.Module):
    """Log-mel frames to sub-frames of 80 ms: three strided convolutions, the last two separable."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        channels = config.channels
        self.convolution = Convolution(1, channels, 3, config, rngs)
        self.depthwise_1, self.depthwise_2 = (
            Convolution(channels, channels, 3, config, rngs, depthwise=True) for _ in range(2)
        )
        self.pointwise_1, self.pointwise_2 = (
            Convolution(channels, channels, 1, config, rngs) for _ in range(2)
        )
        bands = -(-config.bands // frontend.FRAMES_PER_TOKEN)
        self.out = _linear(bands * channels, config.width, config, rngs)

    def __call__(self, x: Float[Array, "b f m"], lengths: Int[Array, "b"]) -> Float[Array, "b n d"]:
        """Of `lengths` frames each; frames behind them are as good as not there."""
        x = self._convolve((self.convolution,), _cut(x, lengths)[..., None])
        lengths = _half(lengths)
        x = self._convolve((self.depthwise_1, self.pointwise_1), _cut(x, lengths))
        lengths = _half(lengths)
        x = self._convolve((self.depthwise_2, self.pointwise_2), _cut(x, lengths))
        # Theirs is flattened by channel, then band.
        return self.out(jnp.swapaxes(x, 2, 3).reshape(*x.shape[:2], -1))

    @staticmethod
    def _convolve(parts: tuple[Convolution, ...], x: Array) -> Array:
        for part in parts:
            x = part(x)
        return jax.nn.relu(x)


class FeedForward(nnx.Module):
    """W2 (a * silu(b)), where a and b are the halves of W1 norm(x)."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        self.norm = _norm(config, rngs)
        self.up_gate = _linear(config.width, 2 * config.hidden, config, rngs)
        self.down = _linear(config.hidden, config.width, config, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Transform each sub-frame."""
        up, gate = jnp.split(self.up_gate(self.norm(x)), 2, axis=-1)
        return self.down(up * jax.nn.silu(gate))


class Attention(nnx.Module):
    """Attention of all sub-frames of a piece with each other, with a bias by their distance."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        self.norm = _norm(config, rngs)
        self.query, self.key, self.value, self.out = (
            _linear(config.width, config.width, config, rngs) for _ in range(4)
        )
        self.heads = config.heads

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "h n n"], seen: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """Mix each sub-frame with those that are `seen`."""
        y = self.norm(x)
        query, key, value = (
            part(y).reshape(*x.shape[:2], self.heads, -1)
            for part in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("bqhe,bkhe->bhqk", query, key).astype(jnp.float32)
        scores = scores * query.shape[-1] ** -0.5 + bias
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, MASKED), axis=-1)
        mixed = jnp.einsum("bhqk,bkhe->bqhe", weights.astype(value.dtype), value)
        return self.out(mixed.reshape(x.shape))


class LightConvolution(nnx.Module):
    """A gated linear unit, a causal depthwise convolution with a linear map, SiLU, and another map."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        self.norm = _norm(config, rngs)
        self.start = _linear(config.width, 2 * config.width, config, rngs)
        # Beside the linear map's own: the published weights have both.
        self.up_bias, self.gate_bias = (
            nnx.Param(jnp.zeros((config.width,), config.param_dtype)) for _ in range(2)
        )
        init = nnx.initializers.lecun_normal()
        shape = (config.kernel, config.width)
        self.kernel = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.bias = nnx.Param(jnp.zeros((config.width,), config.param_dtype))
        self.pointwise, self.end = (
            _linear(config.width, config.width, config, rngs) for _ in range(2)
        )

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Mix each sub-frame with the few before it."""
        up, gate = jnp.split(self.start(self.norm(x)), 2, axis=-1)
        up = up + self.up_bias[...].astype(up.dtype)
        y = up * jax.nn.silu(gate + self.gate_bias[...].astype(up.dtype))
        kernel = self.kernel[...].astype(y.dtype)
        taps, length = kernel.shape[0], y.shape[1]
        y = jnp.pad(y, ((0, 0), (taps - 1, 0), (0, 0)))
        shifted = jnp.stack([y[:, tap : tap + length] for tap in range(taps)])
        y = jnp.einsum("tbnd,td->bnd", shifted, kernel) + self.bias[...].astype(y.dtype)
        return self.end(jax.nn.silu(self.pointwise(y)))


class Block(nnx.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (Gulati et al. 2020)."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        self.feed_forward_in = FeedForward(config, rngs)
        self.attention = Attention(config, rngs)
        self.convolution = LightConvolution(config, rngs)
        self.feed_forward_out = FeedForward(config, rngs)
        self.norm = _norm(config, rngs)

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "h n n"], seen: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """One block."""
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.attention(x, bias, seen)
        x = x + self.convolution(x)
        x = x + 0.5 * self.feed_forward_out(x)
        return self.norm(x)


class Phi4AudioEncoder(nnx.Module):
    """Log-mel frames to tokens of 80 ms; `layers` is stacked on a leading axis and scanned."""

    def __init__(self, config: Phi4AudioConfig, rngs: nnx.Rngs):
        self.config = config
        self.mean = nnx.Param(jnp.zeros((config.bands,), jnp.float32))
        self.inverse_deviation = nnx.Param(jnp.ones((config.bands,), jnp.float32))
        self.subsample = Subsample(config, rngs)
        init = nnx.initializers.normal(0.02)
        shape = (2 * config.distance, config.heads)
        self.position = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.layers = stack_layers(lambda own: Block(config, own), config.layers, rngs)

    def __call__(
        self, frames: Float[Array, "b f m"], lengths: Int[Array, "b"] | None = None
    ) -> Float[Array, "b n d"]:
        """Tokens, n = ceil(f / 8), of clips of `lengths` frames (None: all); zeros behind their end."""
        if lengths is None:
            lengths = jnp.full(frames.shape[:1], frames.shape[1])
        x = (frames - self.mean[...]) * self.inverse_deviation[...]
        x = self.subsample(x, lengths)
        for _ in range(3):
            lengths = _half(lengths)
        x = _cut(x, lengths)
        batch, length, width = x.shape
        piece = self.config.piece
        seen = lengths
        if length > piece:
            x = jnp.pad(x, ((0, 0), (0, -length % piece), (0, 0)))
            # A clip of several pieces attends to what fills up its last one.
            seen = jnp.where(lengths > piece, -(-lengths // piece) * piece, lengths)
        visible = jnp.arange(x.shape[1])[None] < seen[:, None]
        cut = (-1, min(length, piece))
        x, visible = x.reshape(*cut, width), visible.reshape(cut)
        bias = self._bias(x.shape[1])
        x, _ = scan_layers(
            self.layers,
            lambda block, y, _: (block(y, bias, visible), None),
            x,
            remat=self.config.remat,
        )
        return _cut(x.reshape(batch, -1, width)[:, :length], lengths)

    def from_audio(
        self, audio: Float[Array, "b t"], samples: Int[Array, "b"]
    ) -> Float[Array, "b n d"]:
        """The same from 16 kHz audio, t >= 400, of which `samples` are real (at least 400)."""
        return self(frontend.log_mel(audio), frontend.frame_count(samples))

    def _bias(self, length: int) -> Float[Array, "h n n"]:
        """What attention adds for a key so far behind a query, clipped at `distance`."""
        place = jnp.arange(length)
        reach = self.config.distance
        distance = jnp.clip(place[None, :] - place[:, None], -reach, reach - 1)
        return jnp.moveaxis(self.position[...].astype(jnp.float32)[distance + reach], -1, 0)


def _half(lengths: Array) -> Array:
    """Frames after a convolution of stride 2."""
    return (lengths + 1) // 2


def _cut(x: Array, lengths: Int[Array, "b"]) -> Array:
    """`x` [b, f, ...] with zeros behind the end of each row."""
    inside = jnp.arange(x.shape[1])[None] < lengths[:, None]
    return jnp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, 0)


def _linear(inputs: int, outputs: int, config: Phi4AudioConfig, rngs: nnx.Rngs) -> Linear:
    return Linear(
        inputs, outputs, bias=True, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs
    )


def _norm(config: Phi4AudioConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.width,
        epsilon=config.eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        use_fast_variance=False,
        rngs=rngs,
    )

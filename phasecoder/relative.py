# SPDX-License-Identifier: Apache-2.0
"""Microphone-frame tokens with phase relative to a reference channel.

A loser of the encoder competition (docs/encoders.md), kept because its curve must stay
reproducible. Tokens are those of the paper, but a token sees log magnitude and the phase
differences to the reference and to the next channel as cosine and sine, and its coordinates
relative to both enter through a small MLP that scales and shifts it (FiLM).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from phasecoder.paper import TokenHeads
from spatial_core.audio.stft import NUM_BINS, stft, unit_phase
from spatial_core.nn.posenc import sinusoid
from spatial_core.nn.transformer import Block
from spatial_core.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class RelativeConfig:
    """Sizes; ``train_frames`` random frames of the 33 are seen in training, all in evaluation."""

    family: str = "relative"
    width: int = 128
    heads: int = 4
    head_width: int = 32
    hidden: int = 256
    blocks: int = 3
    train_frames: int = 8
    dtype: str = "float32"


class RelativeEncoder(nnx.Module):
    """[CLS] and one token per microphone and frame through a transformer."""

    def __init__(self, config: RelativeConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.project = nnx.Linear(5 * NUM_BINS, width, dtype=dtype, rngs=rngs)
        self.place_in = nnx.Linear(9, width, rngs=rngs)
        self.place_out = nnx.Linear(width, 2 * width, rngs=rngs)
        glorot = nnx.initializers.glorot_uniform()
        self.cls = nnx.Param(glorot(rngs.params(), (1, width), jnp.float32))
        for index in range(config.blocks):
            sizes = (width, config.heads, config.head_width, config.hidden)
            setattr(self, f"block_{index}", Block(*sizes, dtype=dtype, rngs=rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.heads = TokenHeads(width, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "b m t"],
        positions: Float[Array, "b m 3"],
        mask: Bool[Array, "b m"],
        key: Array | None = None,
    ) -> dict[str, Array]:
        """Class logits and token; the reference is the first microphone."""
        spectrum = stft(audio)
        frame = jnp.arange(spectrum.shape[2], dtype=jnp.float32)
        if key is not None and self.config.train_frames:
            chosen = jax.random.permutation(key, spectrum.shape[2])[: self.config.train_frames]
            spectrum, frame = spectrum[:, :, chosen], frame[chosen]
        batch, microphones, frames, _ = spectrum.shape
        index = jnp.arange(microphones)
        following = jnp.where(jnp.roll(mask, -1, axis=1), (index + 1) % microphones, 0)
        neighbour = jnp.take_along_axis(spectrum, following[:, :, None, None], axis=1)
        to_reference = unit_phase(spectrum * jnp.conj(spectrum[:, :1]), 1e-12)
        to_neighbour = unit_phase(spectrum * jnp.conj(neighbour), 1e-12)
        level = jnp.sqrt(jnp.mean(audio**2, axis=(1, 2)) + 1e-12)[:, None, None, None]
        parts = [0.3 * jnp.log(jnp.abs(spectrum) / level + 1e-3)]
        parts += [part for x in (to_reference, to_neighbour) for part in (x.real, x.imag)]
        x = self.project(jnp.concatenate(parts, axis=-1))
        next_place = jnp.take_along_axis(positions, following[:, :, None], axis=1)
        place = [positions, positions - positions[:, :1], positions - next_place]
        place = self.place_out(nnx.gelu(self.place_in(10.0 * jnp.concatenate(place, axis=-1))))
        scale, shift = jnp.split(place[:, :, None], 2, axis=-1)
        x = x * (1.0 + scale) + shift + sinusoid(frame, self.config.width)
        x = x.reshape(batch, microphones * frames, -1)
        cls = jnp.broadcast_to(self.cls[...][None], (batch, 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1).astype(self.config.dtype)
        seen = jnp.repeat(mask, frames, axis=1)
        seen = jnp.concatenate([jnp.ones((batch, 1), bool), seen], axis=1)
        for block in range(self.config.blocks):
            last = block == self.config.blocks - 1
            x = getattr(self, f"block_{block}")(x, seen, queries=1 if last else None)
        return self.heads(self.norm(x[:, 0]))

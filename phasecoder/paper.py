# SPDX-License-Identifier: Apache-2.0
"""The published PhaseCoder encoder (section 3.1, Table 7): microphone-frame tokens, raw phase."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from phasecoder.mic_embedding import microphone_embedding
from spatial_core.audio.stft import NUM_BINS, stft
from spatial_core.nn.posenc import sinusoid
from spatial_core.nn.transformer import Block
from spatial_core.typing import Array, Bool, Float

TOKEN_WIDTH = 256
AZIMUTH_CLASSES, ELEVATION_CLASSES, DISTANCE_CLASSES = 38, 18, 13


@dataclasses.dataclass(frozen=True)
class PaperConfig:
    """Sizes of one published encoder; the defaults are M.

    The head width is not in Table 7. Only 256 for S and M and 128 for L give its parameter counts
    (1.5, 6 and 34 M); with the usual ``width / heads`` M would have 2.2 M.
    """

    family: str = "paper"
    width: int = 256
    heads: int = 4
    head_width: int = 256
    hidden: int = 256
    blocks: int = 5
    dtype: str = "float32"


SIZES = {
    "s": PaperConfig(heads=2, blocks=2),
    "m": PaperConfig(),
    "l": PaperConfig(width=512, heads=8, head_width=128, hidden=2048, blocks=8),
}


class TokenHeads(nnx.Module):
    """Summary vector -> two-layer ReLU MLP -> 256-d spatial token -> three one-layer heads."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(width, TOKEN_WIDTH, rngs=rngs)
        self.token = nnx.Linear(TOKEN_WIDTH, TOKEN_WIDTH, rngs=rngs)
        self.azimuth = nnx.Linear(TOKEN_WIDTH, AZIMUTH_CLASSES, rngs=rngs)
        self.elevation = nnx.Linear(TOKEN_WIDTH, ELEVATION_CLASSES, rngs=rngs)
        self.distance = nnx.Linear(TOKEN_WIDTH, DISTANCE_CLASSES, rngs=rngs)

    def __call__(self, summary: Float[Array, "b d"]) -> dict[str, Array]:
        """Logits [b, 38], [b, 18], [b, 13] (last class: no speech) and the token [b, 256]."""
        token = self.token(jax.nn.relu(self.hidden(summary.astype(jnp.float32))))
        return {
            "azimuth_logits": self.azimuth(token),
            "elevation_logits": self.elevation(token),
            "distance_logits": self.distance(token),
            "token": token,
        }


class PaperEncoder(nnx.Module):
    """[CLS] and 33 x m tokens of magnitude and raw phase through a plain transformer."""

    def __init__(self, config: PaperConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.project = nnx.Linear(2 * NUM_BINS, config.width, dtype=dtype, rngs=rngs)
        glorot = nnx.initializers.glorot_uniform()
        self.cls = nnx.Param(glorot(rngs.params(), (1, config.width), jnp.float32))
        for index in range(config.blocks):
            block = Block(
                config.width,
                config.heads,
                config.head_width,
                config.hidden,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"block_{index}", block)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.heads = TokenHeads(config.width, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "b m t"],
        positions: Float[Array, "b m 3"],
        mask: Bool[Array, "b m"],
        key: Array | None = None,
    ) -> dict[str, Array]:
        """Class logits and token of each clip; masked microphones change nothing.

        The position of a token in the flattened sequence (frame by frame, section 3.1) counts the
        real microphones only, so a clip gives the same answer alone or padded.
        """
        del key  # the paper names no dropout
        spectrum = stft(audio)
        batch, microphones, frames, _ = spectrum.shape
        features = jnp.concatenate([jnp.abs(spectrum), jnp.angle(spectrum)], axis=-1)
        x = self.project(features).swapaxes(1, 2)  # b f m d
        width = self.config.width
        frame = jnp.arange(1, frames + 1, dtype=jnp.float32)
        rank = jnp.cumsum(mask, axis=1)
        count = rank[:, -1:]
        sequence = (frame[None, :, None] - 1) * count[:, :, None] + rank[:, None, :]
        x = x + sinusoid(sequence, width) + sinusoid(frame, width)[None, :, None]
        x = x + microphone_embedding(positions, width)[:, None]
        x = x.reshape(batch, frames * microphones, width)
        cls = jnp.broadcast_to(self.cls[...][None], (batch, 1, width))
        x = jnp.concatenate([cls, x], axis=1).astype(self.config.dtype)
        tokens = jnp.broadcast_to(mask[:, None], (batch, frames, microphones)).reshape(batch, -1)
        mask = jnp.concatenate([jnp.ones((batch, 1), bool), tokens], axis=1)
        for index in range(self.config.blocks):
            # Only [CLS] is read after the last block: its other tokens need not be computed.
            last = index == self.config.blocks - 1
            x = getattr(self, f"block_{index}")(x, mask, queries=1 if last else None)
        return self.heads(self.norm(x[:, 0]))

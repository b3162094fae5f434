# SPDX-License-Identifier: Apache-2.0
"""Where in the spectrogram the talker's direct sound is: a mask, learned from what simulation knows.

Reflections and distractors spoil most cells of a spectrogram, and the phases of the few cells that
the direct sound dominates tell the direction. benchmarks/masking.py measures what the true mask would
be worth to steered coherence alone, and what a trained one is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phasecoder import steering
from spatial_core.audio.stft import NUM_BINS, stft
from spatial_core.nn.transformer import Block
from spatial_core.typing import Array, Bool, Complex, Float

CELLS = steering.BAND_BINS.size
FRAMES = 33
HEADS = 4


def direct_share(
    audio: Float[Array, "b m t"], direct: Float[Array, "b t"]
) -> Float[Array, "b f n i"]:
    """Share of each cell's power at the first microphone that is direct sound, in [0, 1]."""
    whole, part = (stft(x)[..., steering.BAND_BINS] for x in (audio[:, 0], direct))
    rest = whole - part
    wanted, unwanted = (jnp.real(x * jnp.conj(x)) for x in (part, rest))
    return wanted / (wanted + unwanted + 1e-12)


def agreement(
    phasor: Complex[Array, "b m f n i"], mask: Bool[Array, "b m"]
) -> Float[Array, "b f n i"]:
    """How well each cell's phase differences between channels agree with their mean over the clip.

    Cells that one still source dominates agree with each other, whatever the array's shape.
    """
    first, second = np.triu_indices(phasor.shape[1], k=1)
    pairs = phasor[:, first] * jnp.conj(phasor[:, second])
    mean = pairs.mean(axis=2, keepdims=True)
    count = jnp.sum(mask[:, first] & mask[:, second], axis=1).astype(jnp.float32)
    total = jnp.sum(jnp.real(pairs * jnp.conj(mean)), axis=1)
    return total / jnp.maximum(count, 1.0)[:, None, None, None]


class DirectMask(nnx.Module):
    """A transformer over the frames of a clip: spectrum and agreement -> logits of direct sound."""

    def __init__(self, width: int, blocks: int, *, dtype, rngs: nnx.Rngs):
        self.blocks = blocks
        self.inputs = nnx.Linear(NUM_BINS + CELLS, width, dtype=dtype, rngs=rngs)
        place = nnx.initializers.normal(0.02)(rngs.params(), (FRAMES, width), jnp.float32)
        self.frame = nnx.Param(place)
        for index in range(blocks):
            block = Block(
                width,
                HEADS,
                width // HEADS,
                2 * width,
                activation=jax.nn.gelu,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"block_{index}", block)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.cells = nnx.Linear(width, CELLS, rngs=rngs)

    def __call__(
        self,
        mono: Float[Array, "b f k"],
        phasor: Complex[Array, "b m f n i"],
        mask: Bool[Array, "b m"],
    ) -> Float[Array, "b f n i"]:
        """Logits of ``direct_share``; mono is the channels' mean power, of any scale."""
        level = jnp.mean(mono, axis=(1, 2), keepdims=True)
        loud = 0.3 * jnp.log(mono / (level + 1e-20) + 1e-5)
        agree = agreement(phasor, mask)
        seen = jnp.concatenate([loud, agree.reshape(*loud.shape[:2], CELLS)], axis=-1)
        x = self.inputs(jax.lax.stop_gradient(seen)) + self.frame[...]
        for index in range(self.blocks):
            x = getattr(self, f"block_{index}")(x)
        return self.cells(self.norm(x.astype(jnp.float32))).reshape(agree.shape)

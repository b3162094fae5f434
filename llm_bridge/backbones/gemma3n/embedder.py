# SPDX-License-Identifier: Apache-2.0
"""What is not text, as embeddings: ids of audio markers and soft tokens of the audio encoder.

The mathematics is that of `Gemma3nMultimodalEmbedder` of Hugging Face transformers (Apache-2.0,
copyright 2025 Google LLC).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.nn import Linear, RMSNorm
from spatial_core.typing import Array, Float, Int


class MultimodalEmbedder(nnx.Module):
    """Audio features ("soft") or audio ids ("hard"), each with a norm of its own, to embeddings.

    Leaves: `table` [ids, a], `hard_norm/scale` and `soft_norm/scale` [a], `projection/kernel` [a, d].
    """

    def __init__(self, config: Gemma3nTextConfig, rngs: nnx.Rngs):
        shape = (config.audio_vocabulary, config.audio_width)
        init = nnx.initializers.normal(1.0)
        self.table = nnx.Param(init(rngs.params(), shape, config.param_dtype))
        self.hard_norm, self.soft_norm = (
            RMSNorm(config.audio_width, eps=config.eps, param_dtype=config.param_dtype)
            for _ in range(2)
        )
        self.projection = Linear(
            config.audio_width,
            config.width,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        self.out_norm = RMSNorm(config.width, eps=config.eps, scaled=False)
        self.offset, self.dtype = config.audio_offset, config.dtype

    def soft(
        self, features: Float[Array, "b k a"], key: Array | None = None
    ) -> Float[Array, "b k d"]:
        """Embeddings of the audio encoder's output."""
        normed = self.soft_norm(features.astype(jnp.float32))
        return self.out_norm(self.projection(normed, key))

    def hard(self, ids: Int[Array, "b n"], key: Array | None = None) -> Float[Array, "b n d"]:
        """Embeddings of ids from the offset on; others give that of the nearest such id."""
        rows = jnp.clip(ids - self.offset, 0, self.table.shape[0] - 1)
        normed = self.hard_norm(self.table[...][rows].astype(jnp.float32))
        return self.out_norm(self.projection(normed, key))

# SPDX-License-Identifier: Apache-2.0
"""SELDNet of the DCASE 2024 baseline: feature maps -> ten tokens a second -> multi-ACCDDOA.

Convolutions, recurrence and attention as in Adavanne et al. 2018 (doi.org/10.1109/JSTSP.2018.2885636)
and Sudarsanam et al. 2021, sizes of the public baseline; it computes what that computes (a test holds it
to a torch implementation). Weight layout: kernels [in, out], convolutions [3, 3, in, out].

Running statistics are parameters like others, in `encoder/input` and `encoder/block_i/norm`. Gradients
stop at them; a training step returns their new values (see `spatial_core.train.task.Task.loss`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sciphi.adpit import TRACKS
from sciphi.convolution import convolve, max_pool
from sciphi.features import MAPS, MELS
from sciphi.recurrence import BidirectionalGru
from sciphi.running import BatchNorm, Standardizer
from spatial_core.errors import InputError
from spatial_core.typing import Array, Float, Params

FRAMES_PER_TOKEN = 5
TOKEN_WIDTH = 128
AXES = 4  # of an answer: x, y, z (length: activity) and distance in metres
_ENCODER = "encoder"


@dataclass(frozen=True)
class SeldNetConfig:
    """Sizes of the encoder; the defaults are the baseline's (705,536 weights).

    channels: of each convolution. frequency_pool: of each block; time is pooled by 5 in the first.
    width: of a token, and of each direction of the recurrence. gru_layers, attention_layers, heads: of
    what follows. dropout: where the baseline has it, in training.
    """

    channels: int = 64
    width: int = TOKEN_WIDTH
    frequency_pool: tuple[int, ...] = (4, 4, 2)
    gru_layers: int = 2
    attention_layers: int = 2
    heads: int = 8
    dropout: float = 0.05

    def __post_init__(self) -> None:
        rest = MELS
        for pool in self.frequency_pool:
            if pool < 1 or rest % pool:
                raise InputError(
                    f"frequency_pool {self.frequency_pool} does not divide {MELS} mels"
                )
            rest //= pool
        if self.width % self.heads:
            raise InputError(f"heads is {self.heads}: it has to divide the width {self.width}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: it must be in [0, 1)")

    @property
    def pooled_width(self) -> int:
        """Numbers of a token's time that enter the recurrence."""
        rest = MELS
        for pool in self.frequency_pool:
            rest //= pool
        return rest * self.channels


class ConvBlock(nnx.Module):
    """Convolution 3x3, batch normalisation, max pooling, ReLU.

    The baseline pools after the ReLU, which gives the same and costs more.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        kernel = nnx.initializers.he_normal()(rngs.params(), (3, 3, inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.norm = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, "b f k c"], pool: tuple[int, int], train: bool
    ) -> tuple[Float[Array, "b g j d"], Params]:
        """The block's output, and the norm's new statistics in training."""
        x, moved = self.norm(convolve(x, self.kernel[...]) + self.bias[...], train)
        return jax.nn.relu(max_pool(x, *pool)), {"norm": moved}


class SelfAttention(nnx.Module):
    """Attention, residual, LayerNorm: no positions, no feed-forward part."""

    def __init__(self, width: int, heads: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], key: Array | None) -> Float[Array, "b n d"]:
        """The next tokens; `key` drops attention weights."""
        shape = (*x.shape[:2], 3, self.heads, x.shape[-1] // self.heads)
        q, k, v = jnp.moveaxis(self.query_key_value(x).reshape(shape), 2, 0)
        scores = jnp.einsum("bqhc,bnhc->bhqn", q, k) * shape[-1] ** -0.5
        weights = drop(jax.nn.softmax(scores, axis=-1), self.dropout, key)
        mixed = jnp.einsum("bhqn,bnhc->bqhc", weights, v).reshape(x.shape)
        return self.norm(x + self.out(mixed))


class SeldNet(nnx.Module):
    """The encoder: feature maps as `seld_features` makes them -> tokens.

    Works inside any traced model; `running.is_statistic` tells its statistics from its weights.
    """

    def __init__(self, config: SeldNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.input = Standardizer(MAPS * MELS)
        inputs = MAPS
        for i, _ in enumerate(config.frequency_pool):
            setattr(self, f"block_{i}", ConvBlock(inputs, config.channels, rngs=rngs))
            inputs = config.channels
        inputs = config.pooled_width
        for i in range(config.gru_layers):
            setattr(self, f"gru_{i}", BidirectionalGru(inputs, config.width, rngs=rngs))
            inputs = 2 * config.width
        for i in range(config.attention_layers):
            block = SelfAttention(config.width, config.heads, config.dropout, rngs=rngs)
            setattr(self, f"attention_{i}", block)

    def encode(
        self, features: Float[Array, "b 7 f 64"], key: Array | None = None
    ) -> Float[Array, "b n d"]:
        """Tokens, n = f // 5: token k is of the 100 ms from 0.1 k s, in the light of the whole clip.

        The stored statistics normalise, and get no gradient. `key` turns dropout on.
        """
        return self._encode(features, key, train=False)[0]

    def encode_in_training(
        self, features: Float[Array, "b 7 f 64"], key: Array | None
    ) -> tuple[Float[Array, "b n d"], Params]:
        """Tokens normalised by the batch's own statistics, and the new running ones by path."""
        return self._encode(features, key, train=True)

    def _encode(
        self, features: Array, key: Array | None, train: bool
    ) -> tuple[Float[Array, "b n d"], Params]:
        if features.ndim != 4 or features.shape[1::2] != (MAPS, MELS):
            raise InputError(f"features are [b, {MAPS}, f, {MELS}], not {list(features.shape)}")
        config, moved = self.config, {}
        keys = iter(_split(key, 8 + config.gru_layers + config.attention_layers))
        x = jnp.moveaxis(features.astype(jnp.float32), 1, 2).reshape(*features.shape[::2], -1)
        x, moved["input"] = self.input(x, train)
        x = jnp.moveaxis(x.reshape(*x.shape[:2], MAPS, MELS), 2, 3)
        for i, pool in enumerate(config.frequency_pool):
            block = getattr(self, f"block_{i}")
            x, moved[f"block_{i}"] = block(x, (1 if i else FRAMES_PER_TOKEN, pool), train)
            x = drop(x, config.dropout, next(keys), (1, 2))
        # Channel by channel, as the baseline's weights expect.
        x = jnp.moveaxis(x, 3, 2).reshape(*x.shape[:2], -1)
        for i in range(config.gru_layers):
            x = getattr(self, f"gru_{i}")(x if i == 0 else drop(x, config.dropout, next(keys)))
        x = jnp.tanh(x)
        x = x[..., config.width :] * x[..., : config.width]
        for i in range(config.attention_layers):
            x = getattr(self, f"attention_{i}")(x, next(keys))
        return x, moved


class SeldModel(nnx.Module):
    """The encoder and two linear layers to multi-ACCDDOA (Krause et al. 2024, arXiv 2403.11827)."""

    def __init__(self, config: SeldNetConfig, classes: int, *, rngs: nnx.Rngs):
        self.encoder = SeldNet(config, rngs=rngs)
        self.hidden = nnx.Linear(config.width, config.width, rngs=rngs)
        self.answer = nnx.Linear(config.width, TRACKS * AXES * classes, rngs=rngs)

    def head(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n 3 4 c"]:
        """Per track and class x, y, z (a unit vector where one sounds, else 0) and metres."""
        answer = self.answer(self.hidden(tokens))
        return answer.reshape(*tokens.shape[:2], TRACKS, AXES, -1)


def drop(
    x: Array, rate: float, key: Array | None, shared: tuple[int, ...] = ()
) -> Float[Array, "..."]:
    """`x` with values zeroed at a rate, the rest scaled up; whole along the axes `shared`."""
    if key is None or rate == 0:
        return x
    shape = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape))
    return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x / (1 - rate), 0)


def encoder_part(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters of a SELD training by "/"-path: those of `SeldNet`, by its own paths."""
    prefix = f"{_ENCODER}/"
    return {path.removeprefix(prefix): x for path, x in flat.items() if path.startswith(prefix)}


def _split(key: Array | None, count: int) -> list[Array | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))

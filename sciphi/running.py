# SPDX-License-Identifier: Apache-2.0
"""Running statistics as parameters: a standardizer of inputs and batch normalisation."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax import nnx

from spatial_core.typing import Array, Float, Params

_MOMENTUM = 0.1
_EPSILON = 1e-5
# Features that never change, such as the intensity of silence, stay as they are.
_SMALLEST = 1e-12
_STATISTICS = re.compile(r"(^|/)(input/(count|mean|power)|norm/(mean|variance))$")


def is_statistic(path: str) -> bool:
    """Whether the "/"-path of a parameter of SELDNet is a running statistic and no weight."""
    return _STATISTICS.search(path) is not None


class Standardizer(nnx.Module):
    """Zero mean and unit variance of each input, over all batches seen in training.

    The baseline's StandardScaler, fitted while it trains: `mean`, `power` (mean square) and how many
    batches they are of. A fresh one changes nothing.
    """

    def __init__(self, width: int):
        self.mean = nnx.Param(jnp.zeros(width))
        self.power = nnx.Param(jnp.ones(width))
        self.count = nnx.Param(jnp.zeros(()))

    def __call__(self, x: Float[Array, "*b d"], train: bool) -> tuple[Float[Array, "*b d"], Params]:
        """Standardized `x`, in training by all batches with this one, and the new statistics then."""
        mean, power, count = jax.lax.stop_gradient(
            (self.mean[...], self.power[...], self.count[...])
        )
        moved: Params = {}
        if train:
            axes = tuple(range(x.ndim - 1))
            share = 1 / (count + 1)
            mean = mean + share * (x.mean(axes) - mean)
            power = power + share * (jnp.square(x).mean(axes) - power)
            moved = {"mean": mean, "power": power, "count": count + 1}
        variance = power - jnp.square(mean)
        rate = jnp.where(variance > _SMALLEST, jax.lax.rsqrt(jnp.maximum(variance, _SMALLEST)), 1.0)
        return (x - mean) * rate, moved


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), momentum 0.1."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.Param(jnp.zeros(width))
        self.variance = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "*b d"], train: bool) -> tuple[Float[Array, "*b d"], Params]:
        """Normalised `x`: by itself in training, with the new statistics; by those stored otherwise."""
        mean, variance = jax.lax.stop_gradient((self.mean[...], self.variance[...]))
        moved: Params = {}
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1]
            batch_mean = x.mean(axes)
            batch_variance = jnp.square(x - batch_mean).mean(axes)
            unbiased = batch_variance * (count / max(count - 1, 1))
            moved = jax.lax.stop_gradient(
                {
                    "mean": mean + _MOMENTUM * (batch_mean - mean),
                    "variance": variance + _MOMENTUM * (unbiased - variance),
                }
            )
            mean, variance = batch_mean, batch_variance
        rate = self.scale[...] * jax.lax.rsqrt(variance + _EPSILON)
        return x * rate + (self.bias[...] - mean * rate), moved

# SPDX-License-Identifier: Apache-2.0
"""Convolution and pooling in the forms that a CPU's compiler makes fast, channels last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from spatial_core.typing import Array, Float


def _plain(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def convolve(
    x: Float[Array, "b f k c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b f k d"]:
    """Cross-correlation with zeros around.

    On a CPU the kernel's gradient is a matrix product of each example's patches, which stay in the
    cache; the compiler's form, a convolution over the batch, takes two to three times as long there.
    """
    return _plain(x, kernel)


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    height, width, inputs, outputs = kernel.shape

    def by_patches(x: Array, gradient: Array) -> Array:
        def add(total: Array, example: tuple[Array, Array]) -> tuple[Array, None]:
            one, one_gradient = example
            patches = _patches(one, height, width)
            return total + patches.T @ one_gradient.reshape(-1, outputs), None

        start = jnp.zeros((height * width * inputs, outputs), gradient.dtype)
        total, _ = jax.lax.scan(add, start, (x, gradient))
        return total.reshape(kernel.shape)

    def by_convolution(x: Array, gradient: Array) -> Array:
        return jax.linear_transpose(lambda k: _plain(x, k), kernel)(gradient)[0]

    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    of_kernel = jax.lax.platform_dependent(x, gradient, cpu=by_patches, default=by_convolution)
    return _plain(gradient, flipped), of_kernel


def _patches(x: Float[Array, "f k c"], height: int, width: int) -> Float[Array, "n p"]:
    frames, bins, channels = x.shape
    padded = jnp.pad(x, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)))
    shifted = [padded[i : i + frames, j : j + bins] for i in range(height) for j in range(width)]
    return jnp.concatenate(shifted, axis=-1).reshape(frames * bins, height * width * channels)


convolve.defvjp(_convolve_forward, _convolve_backward)


def max_pool(x: Float[Array, "b f k c"], time: int, frequency: int) -> Float[Array, "b g j c"]:
    """The largest of each time x frequency patch; a last partial patch is left out.

    As a maximum over reshaped axes: a CPU takes three times as long for the gradient of a window.
    """
    batch, frames, bins, channels = x.shape
    frames, bins = frames // time, bins // frequency
    return _max_pool(
        x[:, : frames * time, : bins * frequency].reshape(
            batch, frames, time, bins, frequency, channels
        )
    )


@jax.custom_vjp
def _max_pool(x: Float[Array, "b g t j k c"]) -> Float[Array, "b g j c"]:
    return x.max((2, 4))


def _pool_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    top = _max_pool(x)
    return top, (x, top)


def _pool_backward(saved: tuple[Array, Array], gradient: Array) -> Any:
    """To the largest value; equal ones (all of silence) share it."""
    x, top = saved
    hit = x == top[:, :, None, :, None]
    share = gradient / hit.sum((2, 4), dtype=gradient.dtype)
    return (jnp.where(hit, share[:, :, None, :, None], 0),)


_max_pool.defvjp(_pool_forward, _pool_backward)

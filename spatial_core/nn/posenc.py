# SPDX-License-Identifier: Apache-2.0
"""Fixed positional encodings."""

from __future__ import annotations

import jax.numpy as jnp

from spatial_core.typing import Array, Float


def sinusoid(position: Float[Array, "..."], width: int) -> Float[Array, "... d"]:
    """Sinusoidal encoding of any real position: [sin | cos] at wavelengths 2 pi .. 10,000 * 2 pi.

    Computed from the position rather than read from a table, so that sequences of any length and
    positions that differ between the examples of a batch cost the same.
    """
    rates = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
    angle = jnp.asarray(position, jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

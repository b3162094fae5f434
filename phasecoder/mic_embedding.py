# SPDX-License-Identifier: Apache-2.0
"""Phase-modulation embedding of microphone coordinates (PhaseCoder section 3.1, appendix A)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from spatial_core.typing import Array, Float

ALPHA = 7.0
BETA = 4.0


def microphone_embedding(positions: Float[Array, "*b m 3"], width: int) -> Float[Array, "*b m d"]:
    """Embed positions in metres about the array centroid.

    ``alpha r [cos(w + theta), sin(w + theta), cos(w + phi), sin(w + phi)]`` with
    ``w = 2 pi beta v``, theta the *colatitude* (0 is straight up) and phi the azimuth. A microphone
    on the centroid has no direction: it embeds as zeros, with zero gradient.
    """
    x, y, z = jnp.moveaxis(jnp.asarray(positions, jnp.float32), -1, 0)
    flat_squared = x**2 + y**2
    squared = flat_squared + z**2
    off_centre = squared > 1e-12
    # The branch that is not taken must be differentiable too, so it is moved away from 0 first.
    radius = jnp.sqrt(jnp.where(off_centre, squared, 1.0))
    flat = jnp.sqrt(jnp.where(flat_squared > 1e-12, flat_squared, 1e-12))
    colatitude = jnp.arctan2(jnp.where(off_centre, flat, 1.0), jnp.where(off_centre, z, 0.0))
    on_axis = flat_squared <= 1e-12
    azimuth = jnp.arctan2(jnp.where(on_axis, 0.0, y), jnp.where(on_axis, 1.0, x))
    quarter = width // 4
    wave = 2 * np.pi * BETA * jnp.arange(quarter) / quarter
    theta = wave + colatitude[..., None]
    phi = wave + azimuth[..., None]
    parts = [jnp.cos(theta), jnp.sin(theta), jnp.cos(phi), jnp.sin(phi)]
    scale = jnp.where(off_centre, ALPHA * radius, 0.0)
    return scale[..., None] * jnp.concatenate(parts, axis=-1)

# SPDX-License-Identifier: Apache-2.0
"""The late field by a statistical model: a fixed number of arrivals with the energy of all images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.sim.images import (
    LATE_STREAM,
    SAMPLES_PER_METRE,
    Arrivals,
    Geometry,
    Samples,
    log_gains,
    room_key,
)
from spatial_core.sim.rooms import (
    BAND_WEIGHTS,
    SPEED_OF_SOUND,
    direction_cells,
    direction_edges,
)
from spatial_core.typing import Array, Float, Int

# Least share of energy that a wall reflects in the density from which arrivals are drawn.
_LEAST_DRAWN = 0.15


def late_arrivals(
    room: Geometry, start: Float[Array, ""], count: int, air: Sequence[float] | None = None
) -> Arrivals:
    """`count` arrivals between `start` and the room's reach (samples from the centre).

    Images are spread evenly over space, one in each mirrored copy of the room. Points are drawn at
    random and get the loudness of the image in whose copy they lie, over the square root of the density
    with which they are drawn: the expected energy in every band, direction and moment is the images'.
    The density follows the model of Lehmann and Johansson (JASA 124, 2008; `RoomSpec.decay`): sound
    from direction u meets the walls of axis a c |u_a| / L_a times a second, so its energy falls
    exponentially at a rate of its own. Draws are stratified, so each arrival stands for about the
    same energy, and the slow decay between two hard walls gets its share.
    Signs are random: many arrivals of one sign would add up to a step that no room has.
    """
    cosines, shares = direction_cells()
    rates = _rates(room, cosines.astype(np.float32))
    if air is not None:
        rates = rates + SPEED_OF_SOUND * jnp.asarray(air, jnp.float32)
    begin = start / SAMPLE_RATE
    length = jnp.maximum(room.reach / SAMPLE_RATE - begin, 0)
    bands = jnp.asarray(BAND_WEIGHTS, jnp.float32)
    mass = shares.astype(np.float32)[:, None] * bands * jnp.exp(-rates * begin)
    mass = (mass * -jnp.expm1(-rates * length) / rates).reshape(-1)
    total = jnp.cumsum(mass)

    keys = jax.random.split(room_key(room, LATE_STREAM), 4)
    strata = (jnp.arange(count) + jax.random.uniform(keys[0], (count,))) / count
    drawn = jnp.clip(jnp.searchsorted(total, strata * total[-1]), 0, mass.size - 1)
    direction, band = drawn // 4, drawn % 4
    own = rates[direction]
    rate = jnp.take_along_axis(own, band[:, None], axis=1)[:, 0]
    share = jax.random.uniform(keys[1], (count,))
    seconds = begin - jnp.log1p(share * jnp.expm1(-rate * length)) / rate
    metres = seconds * SPEED_OF_SOUND
    place = room.centre[:, None] + metres * SAMPLES_PER_METRE * _within(keys[2], direction)
    cells = list(jnp.floor(place / room.sides.total()[:, None]).astype(jnp.int32))
    # Energies are taken as logarithms: both may be too small for a float32, not their ratio.
    energy = 2 * log_gains(cells, room.log_reflection)
    if air is not None:
        energy -= metres[:, None] * jnp.asarray(air, jnp.float32)
    density = jax.nn.logsumexp(-own * seconds[:, None], b=bands, axis=1, keepdims=True)
    volume = jnp.prod(room.sides.total() / SAMPLES_PER_METRE)
    scale = 4 * jnp.pi * SPEED_OF_SOUND / volume * total[-1] / count
    gains = jnp.sqrt(scale) * jnp.exp((energy - density) / 2) * metres[:, None]
    gains *= jax.random.rademacher(keys[3], (count, 1), jnp.float32)
    whole = jnp.round(place)
    position = Samples(whole.astype(jnp.int32), place - whole)
    gains = jnp.where(total[-1] > 0, gains, 0)
    return Arrivals(position, gains, 1.0 - 2.0 * (jnp.stack(cells) & 1))


def _rates(room: Geometry, cosines: np.ndarray) -> Float[Array, "d 4"]:
    """Rates in 1/s at which energy from |direction cosines| [d, 3] falls, for drawing.

    Walls that reflect next to nothing count as reflecting a little: along them there are loud images
    that the continuous model, for which every path meets every wall, would hardly ever draw.
    """
    loss = jnp.maximum(2 * room.log_reflection, math.log(_LEAST_DRAWN)).sum(axis=1)
    per_axis = loss / (room.sides.total() / SAMPLES_PER_METRE)[:, None]
    rates = jnp.matmul(cosines, per_axis, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(-SPEED_OF_SOUND / 2 * rates, 1e-3)


def _within(key: Array, direction: Int[Array, "n"]) -> Float[Array, "3 n"]:
    """Unit vectors anywhere in these cells of directions, in any octant."""
    edges = direction_edges().astype(np.float32)
    points = len(edges) - 1
    keys = jax.random.split(key)
    rows = jnp.stack([direction // points, direction % points])
    share = jax.random.uniform(keys[0], rows.shape)
    up, turn = jnp.asarray(edges)[rows] + share * jnp.asarray(np.diff(edges))[rows]
    flat = jnp.sqrt(jnp.maximum(1 - up**2, 0))
    angle = turn * (np.pi / 2)
    signs = jax.random.rademacher(keys[1], (3, direction.size), jnp.float32)
    return signs * jnp.stack([flat * jnp.cos(angle), flat * jnp.sin(angle), up])

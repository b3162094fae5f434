# SPDX-License-Identifier: Apache-2.0
"""Soft targets, continuous angles and honest confidence from class distributions.

Reading an angle off the winning 10-degree class alone costs 2.5 degrees of error. Targets spread
over neighbouring classes instead, and the answer is the local mean about the distribution's peak.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.geometry.bins import AZIMUTH, DISTANCE, ELEVATION
from spatial_core.typing import Array, Bool, Float

# Points of the azimuth grid with -180 and 180 merged: the same direction is one class.
AZIMUTH_POINTS = AZIMUTH.centres[:-1]
NEIGHBOURHOOD = 20.0  # degrees about the peak that the local mean reads
MEAN_SHIFTS = 5
CONFIDENT_WITHIN = 10.0  # degrees of azimuth error that ``confidence`` speaks about


def wrap(degrees: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Angles wrapped to [-180, 180)."""
    return jnp.mod(degrees + 180.0, 360.0) - 180.0


def merge_ends(logits: Float[Array, "b 38"]) -> Float[Array, "b 37"]:
    """Azimuth logits with the two end classes, one direction, added up; last: no speech."""
    ends = jnp.logaddexp(logits[:, 0], logits[:, AZIMUTH.points - 1])
    return jnp.concatenate([ends[:, None], logits[:, 1 : AZIMUTH.points - 1], logits[:, -1:]], -1)


def circular_target(azimuth: Float[Array, "b"], points: np.ndarray, width: float) -> Array:
    """Von Mises weights [b, n] over azimuth ``points``; ``width`` is its deviation in degrees."""
    concentration = 1.0 / np.radians(width) ** 2
    difference = jnp.radians(azimuth[:, None] - jnp.asarray(points, jnp.float32))
    return jax.nn.softmax(concentration * (jnp.cos(difference) - 1.0), axis=-1)


def linear_target(value: Float[Array, "b"], points: np.ndarray, width: float) -> Array:
    """Gaussian weights [b, n] over the points of a grid that does not wrap."""
    difference = (value[:, None] - jnp.asarray(points, jnp.float32)) / width
    return jax.nn.softmax(-0.5 * difference**2, axis=-1)


def sphere_target(
    azimuth: Float[Array, "b"],
    elevation: Float[Array, "b"],
    azimuths: np.ndarray,
    elevations: np.ndarray,
    width: float,
) -> Float[Array, "b n"]:
    """Von Mises-Fisher weights over (azimuth, elevation) cells, each weighted by its solid angle.

    Near the zenith azimuth loses its meaning, and the target spreads over azimuths accordingly.
    """
    concentration = 1.0 / np.radians(width) ** 2
    el = jnp.radians(elevation)[:, None, None]
    cell_el = jnp.radians(jnp.asarray(elevations, jnp.float32))
    turn = jnp.radians(azimuth[:, None] - jnp.asarray(azimuths, jnp.float32))[:, :, None]
    cosine = jnp.sin(el) * jnp.sin(cell_el) + jnp.cos(el) * jnp.cos(cell_el) * jnp.cos(turn)
    step = np.radians(elevations[1] - elevations[0])
    edges = np.clip(np.radians(elevations)[:, None] + [-step / 2, step / 2], -np.pi / 2, np.pi / 2)
    area = np.sin(edges[:, 1]) - np.sin(edges[:, 0])
    logits = concentration * (cosine - 1.0) + jnp.asarray(np.log(area), jnp.float32)
    return jax.nn.softmax(logits.reshape(azimuth.shape[0], -1), axis=-1)


def with_absence(target: Float[Array, "b n"], speech: Bool[Array, "b"]) -> Float[Array, "b n1"]:
    """Append the "no speech" class, which takes all the weight where speech is absent."""
    present = speech.astype(target.dtype)[:, None]
    return jnp.concatenate([target * present, 1.0 - present], axis=-1)


def circular_peak(probs: Float[Array, "b n"], points: np.ndarray) -> Float[Array, "b"]:
    """Azimuth in degrees: the local circular mean about the strongest direction.

    Mean shift with a triangular window, from the strongest smoothed cell: the window moves onto
    the answer, so that the cells' edges do not pull it.
    """
    points = jnp.asarray(points, jnp.float32)
    kernel = jnp.maximum(1.0 - jnp.abs(wrap(points[:, None] - points)) / NEIGHBOURHOOD, 0.0)
    angle = points[jnp.argmax(probs @ kernel, axis=-1)]
    for _ in range(MEAN_SHIFTS):
        angle = wrap(angle + _shift(probs, wrap(points - angle[:, None])))
    return angle


def linear_peak(probs: Float[Array, "b n"], points: np.ndarray) -> Float[Array, "b"]:
    """The local mean in degrees about the strongest point of a grid that does not wrap."""
    points = jnp.asarray(points, jnp.float32)
    value = points[jnp.argmax(probs, axis=-1)]
    for _ in range(MEAN_SHIFTS):
        value = value + _shift(probs, points - value[:, None])
    return value


def _shift(probs: Float[Array, "b n"], offset: Float[Array, "b n"]) -> Float[Array, "b"]:
    weight = probs * jnp.maximum(1.0 - jnp.abs(offset) / NEIGHBOURHOOD, 0.0)
    return jnp.sum(weight * offset, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1e-12)


def expected(probs: Float[Array, "b n"], points: np.ndarray) -> Float[Array, "b"]:
    """Mean of the distribution over the grid's points."""
    total = jnp.maximum(jnp.sum(probs, axis=-1), 1e-12)
    return probs @ jnp.asarray(points, jnp.float32) / total


def mass_within(
    probs: Float[Array, "b n"], points: np.ndarray, centre: Float[Array, "b"], reach: float
) -> Float[Array, "b"]:
    """Probability within ``reach`` degrees of ``centre``, cells cut where they cross the limit."""
    cell = 360.0 / len(points)
    distance = jnp.abs(wrap(jnp.asarray(points, jnp.float32) - centre[:, None]))
    share = jnp.clip((reach + cell / 2 - distance) / cell, 0.0, 1.0)
    return jnp.sum(probs * share, axis=-1) / jnp.maximum(jnp.sum(probs, axis=-1), 1e-12)


def decode_classes(logits: dict[str, Array]) -> dict[str, Array]:
    """Answers from the three class heads of the paper."""
    azimuth = jax.nn.softmax(merge_ends(logits["azimuth_logits"]), axis=-1)
    elevation = jax.nn.softmax(logits["elevation_logits"], axis=-1)
    distance = jax.nn.softmax(logits["distance_logits"], axis=-1)
    angle = circular_peak(azimuth[:, :-1], AZIMUTH_POINTS)
    absent = (azimuth[:, -1] + elevation[:, -1] + distance[:, -1]) / 3
    return {
        "azimuth": angle,
        "elevation": linear_peak(elevation[:, :-1], ELEVATION.centres),
        "distance": expected(distance[:, :-1], DISTANCE.centres),
        "speech_probability": 1.0 - absent,
        "confidence": mass_within(azimuth[:, :-1], AZIMUTH_POINTS, angle, CONFIDENT_WITHIN),
        "azimuth_probs": azimuth[:, :-1] / jnp.maximum(1 - azimuth[:, -1:], 1e-12),
        "elevation_probs": elevation[:, :-1] / jnp.maximum(1 - elevation[:, -1:], 1e-12),
        "token": logits["token"],
    }


def peak_direction(
    sphere: Float[Array, "b a e"], azimuths: np.ndarray
) -> tuple[Float[Array, "b"], Float[Array, "b e"]]:
    """Azimuth in degrees of the strongest direction, and the elevation weights [b, e] near it.

    Azimuth is found first, elevation among the cells near it: a planar array's posterior has one
    peak above and one below, and their azimuths must add up rather than compete.
    """
    azimuth = circular_peak(sphere.sum(axis=2), azimuths)
    near = jnp.abs(wrap(jnp.asarray(azimuths, jnp.float32) - azimuth[:, None])) <= NEIGHBOURHOOD
    return azimuth, jnp.einsum("bae,ba->be", sphere, near.astype(sphere.dtype))


def decode_sphere(
    logits: dict[str, Array], azimuths: np.ndarray, elevations: np.ndarray, temperature: float
) -> dict[str, Array]:
    """Answers from the joint posterior over the sphere and the zoom; distance from its class head.

    The posterior gives confidence and the coarse direction that the zoom looked about; the mean of
    the zoom's distribution is the answer.
    """
    probs = jax.nn.softmax(logits["sphere_logits"] / temperature, axis=-1)
    sphere = probs[:, :-1].reshape(probs.shape[0], len(azimuths), len(elevations))
    sphere = sphere / jnp.maximum(1.0 - probs[:, -1], 1e-12)[:, None, None]
    azimuth_probs = sphere.sum(axis=2)
    _, column = peak_direction(sphere, azimuths)
    azimuth, elevation = jnp.moveaxis(logits["zoom_answer"], -1, 0)
    distance = jax.nn.softmax(logits["distance_logits"], axis=-1)[:, :-1]
    return {
        "azimuth": azimuth,
        "elevation": elevation,
        "distance": expected(distance, DISTANCE.centres),
        "speech_probability": 1.0 - probs[:, -1],
        "confidence": mass_within(azimuth_probs, azimuths, azimuth, CONFIDENT_WITHIN),
        "azimuth_probs": azimuth_probs,
        "elevation_probs": column / jnp.maximum(column.sum(axis=-1, keepdims=True), 1e-12),
        "token": logits["token"],
    }

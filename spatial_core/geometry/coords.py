# SPDX-License-Identifier: Apache-2.0
"""Directions and positions: azimuth, elevation, distance and Cartesian metres.

One frame for the whole project: x, y horizontal and z up, right-handed, metres. Azimuth runs
counter-clockwise (seen from above) from +x in (-180, 180] degrees, elevation from the horizontal
plane upwards in [-90, 90] degrees. Everything is numpy float64 in and out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def wrap_degrees(angle: ArrayLike) -> FloatArray:
    """The same angle in (-180, 180] degrees, any shape; scalars give a 0-d value."""
    wrapped = 180.0 - np.mod(180.0 - np.asarray(angle, np.float64), 360.0)
    # np.mod of a tiny negative number rounds up to 360 itself, which would give the open end.
    return np.where(wrapped <= -180.0, 180.0, wrapped)[()]


def to_spherical(xyz: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cartesian [..., 3] in metres to (azimuth deg, elevation deg, distance m), each [...].

    The origin itself has no direction: it answers (0, 0, 0). On the z axis the azimuth is 0.
    """
    xyz = np.asarray(xyz, np.float64)
    if xyz.shape[-1:] != (3,):
        raise ValueError(f"positions need a last axis of 3 (x, y, z), got shape {xyz.shape}")
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    horizontal = np.hypot(x, y)
    azimuth = np.where(horizontal > 0, np.degrees(np.arctan2(y, x)), 0.0)
    elevation = np.degrees(np.arctan2(z, horizontal))
    return wrap_degrees(azimuth), elevation, np.hypot(horizontal, z)


def to_cartesian(azimuth: ArrayLike, elevation: ArrayLike, distance: ArrayLike = 1.0) -> FloatArray:
    """Azimuth and elevation in degrees, distance in metres (broadcast together) to [..., 3]."""
    azimuth, elevation, distance = np.broadcast_arrays(
        np.radians(np.asarray(azimuth, np.float64)),
        np.radians(np.asarray(elevation, np.float64)),
        np.asarray(distance, np.float64),
    )
    horizontal = np.cos(elevation)
    unit = np.stack(
        [horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation)], -1
    )
    return unit * distance[..., None]


def great_circle(
    azimuth_a: ArrayLike, elevation_a: ArrayLike, azimuth_b: ArrayLike, elevation_b: ArrayLike
) -> FloatArray:
    """Angle between two directions in degrees, [0, 180]; inputs in degrees, broadcast.

    Uses atan2 of cross and dot product: the arc cosine loses half the digits near 0 and 180.
    """
    a = to_cartesian(azimuth_a, elevation_a)
    b = to_cartesian(azimuth_b, elevation_b)
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(cross, np.sum(a * b, axis=-1)))


def azimuth_error(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Absolute difference of two azimuths in degrees the short way round, [0, 180]."""
    return np.abs(wrap_degrees(np.asarray(a, np.float64) - np.asarray(b, np.float64)))


def rotate_z(xyz: ArrayLike, degrees: ArrayLike) -> FloatArray:
    """Turn [..., 3] about the vertical axis: every azimuth grows by `degrees` (broadcast [...])."""
    xyz = np.asarray(xyz, np.float64)
    angle = np.radians(np.asarray(degrees, np.float64))
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = xyz[..., 0], xyz[..., 1]
    rotated = np.broadcast_arrays(cos * x - sin * y, sin * x + cos * y, xyz[..., 2])
    return np.stack(rotated, -1)

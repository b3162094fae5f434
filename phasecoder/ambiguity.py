# SPDX-License-Identifier: Apache-2.0
"""Directions that an array's shape cannot tell apart, said instead of guessed.

Delays between microphones in one plane are the same for a sound and its mirror image behind the
plane; on one line they are the same all around the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.bins import ELEVATION
from spatial_core.geometry.coords import to_cartesian, to_spherical

# A plane this close to horizontal (its normal's elevation) mixes up and down, not left and right.
_UPRIGHT_NORMAL = 80.0

Degrees = NDArray[np.float64]


@dataclass(frozen=True)
class Ambiguity:
    """What an array cannot tell apart.

    kind: 'none'; 'up-down' (flat and horizontal); 'mirror' (flat, otherwise); 'cone' (linear).
    normal: unit vector [3] of the mirror plane; for 'cone' the vertical plane through the line.
    axis: unit vector [3] along the line ('cone').
    """

    kind: str
    normal: NDArray[np.float64]
    axis: NDArray[np.float64]
    num_mics: int

    @classmethod
    def of(cls, array: MicArray) -> Ambiguity:
        """The ambiguity of an array's shape."""
        axes = array.axes
        if array.shape == "linear":
            sideways = np.cross([0.0, 0.0, 1.0], axes[0])
            length = np.linalg.norm(sideways)
            # A vertical line tells elevation only; any vertical mirror plane is as good.
            normal = sideways / length if length > 1e-6 else np.array([0.0, 1.0, 0.0])
            return cls("cone", normal, axes[0], array.num_mics)
        if array.shape == "planar":
            elevation = float(to_spherical(axes[2])[1])
            kind = "up-down" if abs(elevation) > _UPRIGHT_NORMAL else "mirror"
            return cls(kind, axes[2], axes[0], array.num_mics)
        return cls("none", axes[2], axes[0], array.num_mics)

    def alternative(self, azimuth: ArrayLike, elevation: ArrayLike) -> tuple[Degrees, Degrees]:
        """The mirrored direction, degrees; the direction itself where nothing is ambiguous."""
        if self.kind == "none":
            return np.asarray(azimuth, np.float64), np.asarray(elevation, np.float64)
        direction = to_cartesian(azimuth, elevation)
        mirrored = direction - 2.0 * (direction @ self.normal)[..., None] * self.normal
        return to_spherical(mirrored)[:2]

    def fold(
        self, azimuth: Degrees, elevation: Degrees, weight: Degrees
    ) -> tuple[Degrees, Degrees]:
        """All directions on one side of the mirror, so that windows do not jump between the two.

        The side is above for 'up-down' (elevation becomes a magnitude), otherwise the one with
        more weight.
        """
        if self.kind == "none":
            return azimuth, elevation
        side = to_cartesian(azimuth, elevation) @ self.normal
        sign = 1.0
        if self.kind != "up-down" and np.sum(weight * np.sign(side)) < 0:
            sign = -1.0
        other_azimuth, other_elevation = self.alternative(azimuth, elevation)
        wrong = sign * side < 0
        folded = np.where(wrong, other_elevation, elevation)
        if self.kind == "up-down":
            folded = np.abs(folded)
        return np.where(wrong, other_azimuth, azimuth), folded

    def elevation_size(self, probs: NDArray[np.floating[Any]]) -> Degrees:
        """Size of the elevation in degrees [n] from a posterior [n, 17] over `bins.ELEVATION`.

        Above and below are added up first: their peaks are one sound, and the mean of the two would
        be the horizon. The answer is the mean of the strongest cell and its neighbours.
        """
        middle = ELEVATION.points // 2
        probs = np.asarray(probs, np.float64)
        size = probs[:, middle:].copy()
        size[:, 1:] += probs[:, :middle][:, ::-1]
        centres = ELEVATION.centres[middle:]
        near = np.abs(np.argmax(size, axis=1)[:, None] - np.arange(len(centres))) <= 1
        weight = size * near
        return weight @ centres / np.maximum(weight.sum(axis=1), 1e-12)

    def cone_angle(self, azimuth: float, elevation: float) -> float | None:
        """Angle to the line in degrees, [0, 180]; None for other shapes."""
        if self.kind != "cone":
            return None
        cosine = float(to_cartesian(azimuth, elevation) @ self.axis)
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    def note(self) -> str | None:
        """One sentence for the reader of an estimate; None where nothing is ambiguous."""
        if self.kind == "none":
            return None
        who = "three microphones always lie" if self.num_mics == 3 else "all microphones lie"
        if self.kind == "up-down":
            return (
                f"{who} in one (horizontal) plane: up and down sound alike, so elevation is given "
                "as +-, its size without its sign, and rough below some 30 degrees: seen from near "
                "its own plane the array has hardly any height, and delays hardly change with elevation"
            )
        if self.kind == "mirror":
            azimuth, elevation, _ = to_spherical(self.normal)
            return (
                f"{who} in one plane (normal at azimuth {azimuth:.0f}, elevation {elevation:.0f}): "
                "a sound and its mirror image behind that plane sound alike, so both directions are "
                "given"
            )
        if abs(self.axis[2]) > np.sin(np.radians(_UPRIGHT_NORMAL)):
            return (
                "all microphones lie on one vertical line: only elevation can be measured, every "
                "azimuth sounds alike, so the azimuth given means nothing"
            )
        azimuth, elevation, _ = to_spherical(self.axis)
        return (
            f"all microphones lie on one line (azimuth {azimuth:.0f}, elevation {elevation:.0f}): "
            "only the angle to that line can be measured, so elevation is left out and the azimuth "
            "and its mirror image are equally possible"
        )

# SPDX-License-Identifier: Apache-2.0
"""Class grids of the three heads: azimuth, elevation and distance (PhaseCoder, appendix B)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatial_core.errors import InputError
from spatial_core.geometry.coords import wrap_degrees


@dataclass(frozen=True)
class ClassGrid:
    """`points` equally spaced values from low to high, both ends included, plus "no speech".

    circular: low and high are the same direction (azimuth -180 and 180): values are wrapped first,
    and both end classes decode to the same angle.
    """

    name: str
    low: float
    high: float
    points: int
    circular: bool = False

    def __post_init__(self) -> None:
        if self.points < 2 or not self.low < self.high:
            raise InputError(
                f"class grid {self.name!r} needs low < high and at least 2 points, "
                f"got {self.low}..{self.high} with {self.points}"
            )
        if self.circular and (self.low, self.high) != (-180.0, 180.0):
            raise InputError(f"circular grid {self.name!r} must run from -180 to 180 degrees")

    @property
    def centres(self) -> NDArray[np.float64]:
        """Class centres [points], in the unit of the quantity."""
        return np.linspace(self.low, self.high, self.points)

    @property
    def step(self) -> float:
        """Distance between neighbouring centres."""
        return (self.high - self.low) / (self.points - 1)

    @property
    def num_classes(self) -> int:
        """Classes of the head: the points and "no speech"."""
        return self.points + 1

    @property
    def none_index(self) -> int:
        """Index of the "no speech" class: the last one."""
        return self.points

    def encode(self, value: ArrayLike, present: ArrayLike = True) -> NDArray[np.int32]:
        """Nearest class of each value, `none_index` where `present` is False; shapes broadcast.

        Values beyond the ends take the end class. Of two equally near classes the lower is taken.
        Raises InputError for a value that is present and not finite.
        """
        value, present = np.broadcast_arrays(
            np.asarray(value, np.float64), np.asarray(present, bool)
        )
        if not np.all(np.isfinite(value[present])):
            raise InputError(f"{self.name} labels must be finite where speech is present")
        value = np.where(present, value, self.low)
        if self.circular:
            value = wrap_degrees(value)
        nearest = np.ceil((value - self.low) / self.step - 0.5)
        index = np.clip(nearest, 0, self.points - 1)
        return np.where(present, index, self.none_index).astype(np.int32)[()]

    def decode(self, index: ArrayLike) -> NDArray[np.float64]:
        """Centre of each class; NaN for "no speech". Raises InputError outside 0..none_index."""
        index = np.asarray(index)
        if np.any((index < 0) | (index > self.none_index)):
            raise InputError(f"{self.name} class must be in 0..{self.none_index}")
        centres = wrap_degrees(self.centres) if self.circular else self.centres
        return np.append(centres, np.nan)[index]


AZIMUTH = ClassGrid("azimuth", -180.0, 180.0, 37, circular=True)
ELEVATION = ClassGrid("elevation", -90.0, 90.0, 17)
DISTANCE = ClassGrid("distance", 0.1, 6.0, 12)

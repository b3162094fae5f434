# SPDX-License-Identifier: Apache-2.0
"""Sixteen ways to turn and mirror a sound field without touching its samples, to train on each.

Axes are exchanged and reversed: x and y with each other, and each of x, y, z in sign. A scene stays a
possible one, in a room that is turned or mirrored with it. Channels of an Ambisonic recording and maps
of its features change places or signs, exactly. Source: Wang et al. 2023 ("audio channel swapping",
doi.org/10.1109/TASLP.2023.3256088).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sciphi.records import SceneTruth, SourceTruth
from spatial_core.geometry.coords import to_cartesian, to_spherical

# Places of x, y and z among the last three of W, Y, Z, X.
_X, _Y, _Z = 2, 0, 1


@dataclass(frozen=True)
class Swap:
    """x' = sign_x * (y if exchange else x), y' = sign_y * (x if exchange else y), z' = sign_z * z."""

    exchange: bool
    sign_x: int
    sign_y: int
    sign_z: int

    @property
    def _order(self) -> list[int]:
        order = [0, 1, 2]
        order[_X], order[_Y] = (_Y, _X) if self.exchange else (_X, _Y)
        return order

    @property
    def _signs(self) -> NDArray[np.float32]:
        signs = np.ones(3, np.float32)
        signs[[_X, _Y, _Z]] = self.sign_x, self.sign_y, self.sign_z
        return signs

    def channels(self, foa: NDArray[np.floating]) -> NDArray[np.floating]:
        """Ambisonic channels [4, t], ACN, after the swap."""
        return np.concatenate([foa[:1], self._signs[:, None] * foa[1:][self._order]])

    def features(self, maps: NDArray[np.floating]) -> NDArray[np.floating]:
        """Spatial features [7, f, 64] after the swap: levels do not know signs, intensities do."""
        levels, intensity = maps[1:4][self._order], maps[4:7][self._order]
        turned = self._signs[:, None, None].astype(maps.dtype) * intensity
        return np.concatenate([maps[:1], levels, turned])

    def truth(self, truth: SceneTruth) -> SceneTruth:
        """The truth after the swap."""
        return replace(truth, sources=tuple(self._source(source) for source in truth.sources))

    def _source(self, source: SourceTruth) -> SourceTruth:
        x, y, z = to_cartesian(source.azimuth, source.elevation)
        if self.exchange:
            x, y = y, x
        turned = np.array([self.sign_x * x, self.sign_y * y, self.sign_z * z])
        azimuth, elevation, _ = to_spherical(turned)
        return replace(source, azimuth=float(azimuth), elevation=float(elevation))


SWAPS = tuple(
    Swap(exchange, x, y, z)
    for exchange in (False, True)
    for x in (1, -1)
    for y in (1, -1)
    for z in (1, -1)
)
"""All sixteen; the first changes nothing."""

# SPDX-License-Identifier: Apache-2.0
"""First-order directivity of microphones and sources, as four numbers.

A pattern (w, y, z, x) has the gain w + y u_y + z u_z + x u_x for the unit vector u towards where the
sound comes from (of a source: towards where it goes), in the room's frame: the order of Ambisonic
channels (ACN), with SN3D's gains of one along the axes. The same at all frequencies.
"""

from __future__ import annotations

import numpy as np

from spatial_core.errors import InputError


def omni(count: int) -> np.ndarray:
    """Patterns float32 [count, 4] that hear all directions alike."""
    return np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))


def cardioid(orientation: np.ndarray, omni_share: float = 0.5) -> np.ndarray:
    """Patterns float32 [..., 4] looking along `orientation` [..., 3], of gain 1 there.

    omni_share s gives s + (1 - s) cos(angle): 0.5 a cardioid, 0.37 a supercardioid, 0.25 a
    hypercardioid, 0 a figure of eight, 1 an omni. Raises InputError for a share outside 0..1 and
    for an orientation without a direction.
    """
    orientation = np.asarray(orientation, np.float64)
    length = np.linalg.norm(orientation, axis=-1, keepdims=True)
    if not 0 <= omni_share <= 1:
        raise InputError(f"omni_share={omni_share}: a share lies within 0..1")
    if orientation.shape[-1:] != (3,) or not np.all(np.isfinite(length) & (length > 0)):
        raise InputError(
            f"orientation {orientation.tolist()}: give vectors (x, y, z) of some length"
        )
    unit = orientation / length
    pattern = np.empty((*orientation.shape[:-1], 4), np.float32)
    pattern[..., 0] = omni_share
    pattern[..., 1:] = (1 - omni_share) * unit[..., [1, 2, 0]]
    return pattern


def ambisonic(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions [4, 3] and patterns [4, 4] of a first-order Ambisonic receiver (ACN, SN3D).

    Four channels in one point: W, Y, Z, X.
    """
    position = np.asarray(position, np.float64)
    if position.shape != (3,):
        raise InputError(f"an Ambisonic receiver is one point (x, y, z), not {position.tolist()}")
    return np.tile(position, (4, 1)), np.eye(4, dtype=np.float32)

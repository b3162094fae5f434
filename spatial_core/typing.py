# SPDX-License-Identifier: Apache-2.0
"""Array aliases and the axis letters used in every signature.

b batch, m microphones, t samples, f frames, k frequency bins, d width, n tokens, a azimuths, e
elevations, g grid directions, s time segments.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Bool, Complex, Float, Int

Params = dict[str, Any]
Batch = dict[str, Any]

__all__ = ["Array", "Batch", "Bool", "Complex", "Float", "Int", "Params"]

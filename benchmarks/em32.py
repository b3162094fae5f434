# SPDX-License-Identifier: Apache-2.0
"""The Eigenmike em32: 32 capsules on a rigid sphere."""

from __future__ import annotations

EM32_RADIUS = 0.042
# (colatitude, azimuth) of the em32's capsules in degrees, as its maker lists them.
# fmt: off
EM32 = (
    (69, 0), (90, 32), (111, 0), (90, 328), (32, 0), (55, 45), (90, 69), (125, 45),
    (148, 0), (125, 315), (90, 291), (55, 315), (21, 91), (58, 90), (121, 90), (159, 89),
    (69, 180), (90, 212), (111, 180), (90, 148), (32, 180), (55, 225), (90, 249), (125, 225),
    (148, 180), (125, 135), (90, 111), (55, 135), (21, 269), (58, 270), (122, 270), (159, 271),
)
# fmt: on

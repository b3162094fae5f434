# SPDX-License-Identifier: Apache-2.0
"""Directions in words: the 26 zones of Sci-Phi, and a grid three times as fine for its ablation.

Angles are the Ambisonic ones: azimuth (-180, 180] degrees counter-clockwise, 0 in front (+x), 90 to the
left (+y); elevation [-90, 90] degrees, up positive.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, wrap_degrees

ABOVE, BELOW = "above", "below"
POLES = {ABOVE: 90.0, BELOW: -90.0}
_SECTORS = (
    "front",
    "front-left",
    "left",
    "back-left",
    "back",
    "back-right",
    "right",
    "front-right",
)
_LEVELS = {0: "horizontal", 1: "upper", -1: "lower"}


@dataclass(frozen=True)
class Place:
    """A zone's parts: the number of its sector (None at a pole), of its level, and its centre, degrees.

    Sectors count counter-clockwise from the front; levels from 0, the horizontal one, up positive.
    """

    sector: int | None
    level: int
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class ZoneGrid:
    """Zones of `step` degrees: sectors and levels centred on multiples of it, and the two poles.

    step 45 gives the 26 zones: horizontal within 22.5 degrees, upper and lower up to 67.5, above and below
    beyond; 15 gives 266. A direction on a border belongs to the sector further counter-clockwise and to the
    level nearer to the horizon. Raises InputError for another step: zones need a name.
    """

    step: int = 45

    def __post_init__(self) -> None:
        if self.step not in (45, 15):
            raise InputError(f"zones of {self.step} degrees have no names: take 45 or 15")

    @property
    def names(self) -> tuple[str, ...]:
        """All zones: level by level from the horizontal one outwards, each counter-clockwise, poles last."""
        return tuple(_places(self.step))

    def zone_of(self, azimuth: float, elevation: float) -> str:
        """The zone of a direction in degrees. Raises InputError for what is no direction."""
        if not (math.isfinite(azimuth) and -90 <= elevation <= 90):
            raise InputError(
                f"azimuth {azimuth}, elevation {elevation}: need finite degrees, -90 <= elevation <= 90"
            )
        half = self.step / 2
        level = int(
            math.copysign(math.ceil(max(0.0, abs(elevation) - half) / self.step), elevation)
        )
        if abs(level) * self.step >= 90:
            return ABOVE if elevation > 0 else BELOW
        sector = math.floor((float(wrap_degrees(azimuth)) + half) / self.step) % (360 // self.step)
        return _name(self.step, sector, level)

    def place(self, zone: str) -> Place:
        """Sector, level and centre of a zone. Raises InputError for another name."""
        found = _places(self.step).get(zone)
        if found is None:
            raise InputError(
                f"{zone!r} is none of the {len(self.names)} zones of {self.step} degrees, "
                f"such as {self.names[0]!r}"
            )
        return found

    def centre(self, zone: str) -> tuple[float, float]:
        """Azimuth and elevation of a zone's centre, degrees; azimuth 0 at the poles."""
        place = self.place(zone)
        return place.azimuth, place.elevation

    def read(self, text: str) -> str | None:
        """The zone that a text means, however it is written (`Horizontal front right`); None if none."""
        return _spellings(self.step).get(_plain(text))


ZONES_26, ZONES_15 = ZoneGrid(45), ZoneGrid(15)


def grid_of(zone: str) -> ZoneGrid:
    """The grid that a zone is of (the poles are in both: the coarse one). InputError for no zone."""
    if zone in _places(15) and zone not in _places(45):
        return ZONES_15
    ZONES_26.place(zone)
    return ZONES_26


def read_zone(text: str) -> str | None:
    """The zone of either grid that a text means; None if none."""
    return ZONES_26.read(text) or ZONES_15.read(text)


def centre_of(zone: str) -> tuple[float, float]:
    """Azimuth and elevation of the centre of a zone of either grid, degrees."""
    return grid_of(zone).centre(zone)


def coarse(zone: str) -> str:
    """The one of the 26 zones that holds the centre of a zone of either grid: no centre is on a border."""
    return ZONES_26.zone_of(*centre_of(zone))


def zone_error(zone: str, other: str) -> float:
    """Angle between the centres of two zones in degrees, 0 to 180."""
    return float(great_circle(*centre_of(zone), *centre_of(other)))


def _name(step: int, sector: int, level: int) -> str:
    if step == 45:
        return f"{_LEVELS[level]} {_SECTORS[sector]}"
    return f"azimuth {wrap_degrees(sector * step):.0f} elevation {level * step}"


@cache
def _places(step: int) -> dict[str, Place]:
    most = (90 - 1) // step
    levels = [0, *(sign * n for n in range(1, most + 1) for sign in (1, -1))]
    found = {
        _name(step, sector, level): Place(
            sector, level, float(wrap_degrees(sector * step)), float(level * step)
        )
        for level in levels
        for sector in range(360 // step)
    }
    for name, elevation in POLES.items():
        found[name] = Place(None, int(math.copysign(most + 1, elevation)), 0.0, elevation)
    return found


@cache
def _spellings(step: int) -> dict[str, str]:
    """Every spelling that can mean only one zone, plain, to the zone."""
    found = {_plain(name): name for name in _places(step)}
    for name in _places(step):
        words = _plain(name).split()
        if step == 45 and len(words) == 3:  # "right front" is "front right"
            found[" ".join((words[0], words[2], words[1]))] = name
    return found


def _plain(text: str) -> str:
    """Lower case, any separators as one space, numbers without plus, degree sign and leading zeros."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "minus", text.casefold().replace("−", "-"))
    words = re.sub(r"[\s_\-+°=,]+|\bdeg(?:rees)?\b", " ", text).replace("minus", "-").split()
    return " ".join(re.sub(r"^(-?)0+(?=\d)", r"\1", word) for word in words)

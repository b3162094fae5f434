# SPDX-License-Identifier: Apache-2.0
"""Talkers of an answer, in words; one who is named twice is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spatial_core.geometry.coords import great_circle, wrap_degrees

CONVENTION = (
    "you stand at the centre of the array and look along +y; azimuth is counter-clockwise, seen from above: "
    "0 is right (+x), 90 in front, 180 left, 270 behind"
)
# One step of the answers' lists in azimuth and elevation at once, and one of distance.
SAME_DEGREES, SAME_METRES = 14.5, 0.65
_AHEAD = 5.0
_SIDES = (
    "right",
    "front right",
    "front",
    "front left",
    "left",
    "behind left",
    "behind",
    "behind right",
)


@dataclass(frozen=True)
class Spoken:
    """A talker in an answer; None for what it does not say or says unusably.

    azimuth: degrees as in answers, 0 right, 90 front, 180 left, 270 behind; elevation up from the
    horizontal; distance in metres.
    """

    azimuth: float | None = None
    elevation: float | None = None
    distance: float | None = None
    words: str | None = None

    def __str__(self) -> str:
        """`a talker 45 degrees to the left (azimuth 135), 2.1 m away: 'Good morning.'`"""
        parts = []
        if self.azimuth is not None:
            parts.append(f"{_direction(self.azimuth)} (azimuth {self.azimuth:.0f})")
        if self.elevation:
            parts.append(
                f"{abs(self.elevation):.0f} degrees {'up' if self.elevation > 0 else 'down'}"
            )
        if self.distance is not None:
            parts.append(f"{self.distance:.1f} m away")
        place = ", ".join(parts)
        text = f"a talker {place}" if place else "a talker somewhere"
        return f"{text}: {self.words!r}" if self.words else text

    @property
    def side(self) -> str | None:
        """Direction in a word or two, None without an azimuth."""
        return None if self.azimuth is None else _SIDES[round(self.azimuth / 45) % 8]


def _direction(azimuth: float) -> str:
    """`45 degrees to the left`, seen from whoever looks along +y."""
    turn = float(wrap_degrees(azimuth - 90.0))  # positive: left
    size = abs(turn)
    if size <= _AHEAD:
        return "straight ahead"
    if size >= 180 - _AHEAD:
        return "straight behind you"
    side = f"{size:.0f} degrees to the {'left' if turn > 0 else 'right'}"
    return side if size <= 90 + _AHEAD else f"{side}, behind you"


def once(talkers: Sequence[Spoken]) -> tuple[Spoken, ...]:
    """The talkers without those in the place of one before, unless both are said to say other words.

    The same place: the directions are within a step of the answers' lists, and the distances.
    """
    kept: list[Spoken] = []
    for talker in talkers:
        twin = next((n for n, one in enumerate(kept) if _same(one, talker)), None)
        if twin is None:
            kept.append(talker)
        elif kept[twin].words is None:
            kept[twin] = Spoken(*_place(kept[twin]), talker.words)
    return tuple(kept)


def _place(talker: Spoken) -> tuple[float | None, float | None, float | None]:
    return talker.azimuth, talker.elevation, talker.distance


def _same(one: Spoken, other: Spoken) -> bool:
    if one.azimuth is None or other.azimuth is None:
        return False
    if one.words and other.words and _plain(one.words) != _plain(other.words):
        return False
    away = great_circle(one.azimuth, one.elevation or 0.0, other.azimuth, other.elevation or 0.0)
    if float(away) > SAME_DEGREES:
        return False
    if one.distance is None or other.distance is None:
        return True
    return abs(one.distance - other.distance) <= SAME_METRES


def _plain(words: str) -> str:
    return "".join(c for c in words.casefold() if c.isalnum())

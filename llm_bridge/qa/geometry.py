# SPDX-License-Identifier: Apache-2.0
"""What is true of the talkers of a clip: sides, angles between them, nearer and further.

The listener stands at the array's centroid and looks along +y: +x is right, -x left, +y front, -y behind.
Every predicate works on many clips at once and answers YES, NO or UNSURE. UNSURE is a case that is too
near a boundary for a fair question (see `Margins`); no question is made of it. A talker who is not there
answers NO. "left", "right", "front" and "back" are half spaces, so a talker at 45 degrees is both right
and in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_bridge.qa.formats import TALKERS, TalkerLike
from spatial_core.errors import InputError
from spatial_core.geometry.bins import DISTANCE
from spatial_core.geometry.coords import azimuth_error, to_cartesian

YES, NO, UNSURE = np.int8(1), np.int8(-1), np.int8(0)
SIDES = ("left", "right", "front", "back")

Verdict = NDArray[np.int8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """How far from a boundary the truth must be for a question; degrees and metres.

    side: of the direction from the plane between left and right or front and back.
    separation: of the angle between two talkers from the angle asked for.
    lateral: of two talkers' angles to the left-right plane ("more to the left").
    distance: of a distance from the one asked for, and of two talkers' distances from each other.
    here_azimuth, here_distance: a talker no further off than both is at the place asked for;
    there_azimuth, there_distance: one further off than either is elsewhere.
    steep: above or below this elevation the azimuth says little; azimuths are not asked for.
    """

    side: float = 10.0
    separation: float = 10.0
    lateral: float = 20.0
    distance: float = 0.5
    here_azimuth: float = 10.0
    here_distance: float = 0.3
    there_azimuth: float = 30.0
    there_distance: float = 1.0
    steep: float = 70.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value < np.inf:
                raise InputError(f"margin {name} must be 0 or more, got {value}")
        if self.there_azimuth < self.here_azimuth or self.there_distance < self.here_distance:
            raise InputError(
                "a place's 'there' margins must not be smaller than its 'here' margins"
            )


@dataclass(frozen=True)
class Scenes:
    """Talkers of n clips as arrays [n, 2] in the order they are heard; what is absent is 0."""

    present: NDArray[np.bool_]
    worded: NDArray[np.bool_]
    azimuth: Floats
    elevation: Floats
    distance: Floats

    @classmethod
    def of(cls, clips: Sequence[Sequence[TalkerLike]]) -> Scenes:
        """Check and stack the clips' talkers. Raises InputError naming the clip."""
        shape = (len(clips), TALKERS)
        present, worded = np.zeros(shape, bool), np.zeros(shape, bool)
        places = np.zeros((3, *shape))
        for n, talkers in enumerate(clips):
            _check(n, talkers)
            for slot, talker in enumerate(talkers):
                present[n, slot] = True
                worded[n, slot] = bool(talker.transcript.strip())
                places[:, n, slot] = talker.azimuth, talker.elevation, talker.distance
        return cls(present, worded, *places)

    def __len__(self) -> int:
        return len(self.present)

    @property
    def count(self) -> NDArray[np.int64]:
        """Talkers of each clip [n]."""
        return self.present[:, 0].astype(np.int64) + self.present[:, 1]

    @property
    def both(self) -> NDArray[np.bool_]:
        """Clips with two talkers [n]."""
        return self.present[:, 0] & self.present[:, 1]


def _check(n: int, talkers: Sequence[TalkerLike]) -> None:
    if len(talkers) > TALKERS:
        raise InputError(
            f"clip {n}: questions are about {TALKERS} talkers at most, got {len(talkers)}"
        )
    if len(talkers) == TALKERS and talkers[1].start < talkers[0].start:
        raise InputError(f"clip {n}: talkers must be in the order they are heard")
    for talker in talkers:
        place = (talker.azimuth, talker.elevation, talker.distance)
        if not np.all(np.isfinite(place)) or talker.distance < 0 or abs(talker.elevation) > 90:
            raise InputError(
                f"clip {n}: a talker's azimuth and elevation (degrees) and distance (metres) must be "
                f"finite, elevation in [-90, 90], distance 0 or more, got {place}"
            )


def side_angle(scenes: Scenes, side: str) -> Floats:
    """Degrees from the plane between a side and its opposite, [-90, 90], positive on that side, [n, 2].

    Of the direction, not of the azimuth: overhead is neither left nor right.
    """
    if side not in SIDES:
        raise InputError(f"a side is one of {', '.join(SIDES)}, got {side!r}")
    axis = 0 if side in ("left", "right") else 1
    sign = 1.0 if side in ("right", "front") else -1.0
    unit = to_cartesian(scenes.azimuth, scenes.elevation)[..., axis]
    return np.degrees(np.arcsin(np.clip(sign * unit, -1.0, 1.0)))


def on_side(scenes: Scenes, side: str, margins: Margins) -> Verdict:
    """Is each talker on the side, [n, 2]."""
    return _absent_no(scenes, _beyond(side_angle(scenes, side), margins.side))


def nearer_than(scenes: Scenes, metres: ArrayLike, margins: Margins) -> Verdict:
    """Is each talker nearer than so many metres (broadcast with [n, 2]), [n, 2]."""
    return _absent_no(scenes, _beyond(np.asarray(metres) - scenes.distance, margins.distance))


def further_than(scenes: Scenes, metres: ArrayLike, margins: Margins) -> Verdict:
    """Is each talker further than so many metres (broadcast with [n, 2]), [n, 2]."""
    return _absent_no(scenes, _beyond(scenes.distance - np.asarray(metres), margins.distance))


def at_place(
    scenes: Scenes, azimuth: ArrayLike | None, metres: ArrayLike, margins: Margins
) -> Verdict:
    """Is each talker at a distance, and at an azimuth unless that is None, [n, 2].

    Distances count as the answers' list has them: whoever is over 6 m off is at 6 m.
    """
    listed = np.clip(scenes.distance, DISTANCE.low, DISTANCE.high)
    off = np.abs(listed - np.asarray(metres))
    here, there = off <= margins.here_distance, off >= margins.there_distance
    if azimuth is not None:
        angle = azimuth_error(scenes.azimuth, azimuth)
        clear = np.abs(scenes.elevation) <= margins.steep
        here &= (angle <= margins.here_azimuth) & clear
        there |= (angle >= margins.there_azimuth) & clear
    return _absent_no(scenes, np.select([here, there], [YES, NO], UNSURE))


def apart(scenes: Scenes) -> Floats:
    """Difference of the two talkers' azimuths the short way round, degrees [0, 180], [n]."""
    return azimuth_error(scenes.azimuth[:, 0], scenes.azimuth[:, 1])


def within(scenes: Scenes, degrees: ArrayLike, margins: Margins) -> Verdict:
    """Are there two talkers whose azimuths differ by less than so many degrees, [n]."""
    return _of_two(scenes, _separation(scenes, np.asarray(degrees) - apart(scenes), margins))


def outside(scenes: Scenes, degrees: ArrayLike, margins: Margins) -> Verdict:
    """Are there two talkers whose azimuths differ by more than so many degrees, [n]."""
    return _of_two(scenes, _separation(scenes, apart(scenes) - np.asarray(degrees), margins))


def first_nearer(scenes: Scenes, margins: Margins) -> Verdict:
    """Are there two talkers, and is the first the nearer one, [n]."""
    return _of_two(scenes, _beyond(scenes.distance[:, 1] - scenes.distance[:, 0], margins.distance))


def first_more(scenes: Scenes, side: str, margins: Margins) -> Verdict:
    """Are there two talkers, and is the first more to the side, [n]: the larger `side_angle`."""
    angle = side_angle(scenes, side)
    return _of_two(scenes, _beyond(angle[:, 0] - angle[:, 1], margins.lateral))


def _separation(scenes: Scenes, surplus: Floats, margins: Margins) -> Verdict:
    clear = np.all(np.abs(scenes.elevation) <= margins.steep, axis=1)
    return np.where(clear, _beyond(surplus, margins.separation), UNSURE)


def _beyond(surplus: Floats, margin: float) -> Verdict:
    """YES from the margin upwards, NO from minus the margin downwards. Margin 0: 0 itself is unsure."""
    yes, no = surplus >= margin, surplus <= -margin
    return np.select([yes & ~no, no & ~yes], [YES, NO], UNSURE)


def _absent_no(scenes: Scenes, verdict: Verdict) -> Verdict:
    return np.where(scenes.present, verdict, NO)


def _of_two(scenes: Scenes, verdict: Verdict) -> Verdict:
    return np.where(scenes.both, verdict, NO)

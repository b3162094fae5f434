# SPDX-License-Identifier: Apache-2.0
"""The typed description of a scene: the room, the background and every source.

Values lie on the steps of the text form (times, RT60 and distances 0.1; levels and C50 1 dB; volume
100 m^3, at least 100): what is given is rounded to them, so that text and description say the same. None is
a value that is not known: a description that was read from an answer may lack any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from sciphi.zones import ZONES_26, ZoneGrid, centre_of, grid_of
from spatial_core.errors import InputError

if TYPE_CHECKING:
    from sciphi.records import SceneTruth, SourceTruth

Order = Literal["loudness", "zone", "distance", "name", "onset"]
ORDERS: tuple[Order, ...] = get_args(Order)
NO_BACKGROUND = "not present"
UNKNOWN = "Unknown"
VOLUME_STEP = 100.0  # m^3
MOST = 1_000_000.0  # of any unit; more is no measurement
MOST_LEVEL = 999  # dB, either way
# A confidence under these is said: of held-out scenes the shipped model counts those under the first right
# in half of the cases, others in four of five; zones under the second are right in two of five, others in seven of ten.
DOUBTFUL_COUNT, DOUBTFUL_ZONE = 0.7, 0.3
_TRANSCRIPT = re.compile(r"\s*\bwith transcript\s*(?P<words>.*)$", re.IGNORECASE | re.DOTALL)
_QUOTES = "'\"‘’“”`"


@dataclass(frozen=True)
class Source:
    """One sound: its label, when (s), where (a zone, metres) and how (dB at the microphone, C50 in dB).

    confidence: the model's probability of the zone that it says, None if that is not known; it is no part
    of what is described. Raises InputError for an empty label, a negative number that cannot be one, an end before its start, or
    a zone that is none. White space in labels becomes one space, and `:(` loses its colon: it opens the values.
    """

    label: str
    onset: float | None
    offset: float | None
    zone: str | None
    distance: float | None
    loudness: float | None
    c50: float | None
    confidence: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _set(self, "label", clean_label(self.label, "a source"))
        for name in ("onset", "offset", "distance"):
            _set(self, name, _tenths(getattr(self, name), f"{name} of {self.label!r}"))
        for name in ("loudness", "c50"):
            _set(self, name, _decibels(getattr(self, name), f"{name} of {self.label!r}"))
        if self.zone is not None:
            grid_of(self.zone)
        if (self.onset is None) != (self.offset is None):
            raise InputError(f"{self.label!r} has only one of onset and offset: give both or None")
        if self.onset is not None and self.offset is not None and self.offset < self.onset:
            raise InputError(
                f"{self.label!r} ends at {self.offset} s, before its start {self.onset} s"
            )

    @property
    def name(self) -> str:
        """The label without the words that are said: `English female speech`."""
        return _TRANSCRIPT.sub("", self.label) or self.label

    @property
    def transcript(self) -> str | None:
        """The words that are said, without quotes; None if the label has none."""
        found = _TRANSCRIPT.search(self.label)
        return None if found is None else _unquoted(found["words"].strip())

    @property
    def doubtful(self) -> bool:
        """Whether the model itself is not sure of the zone."""
        return self.confidence is not None and self.confidence < DOUBTFUL_ZONE

    @property
    def direction(self) -> tuple[float, float] | None:
        """Azimuth and elevation of the zone's centre, degrees; None if the zone is not known."""
        return None if self.zone is None else centre_of(self.zone)


@dataclass(frozen=True)
class Background:
    """The diffuse sound behind everything: its label (`Unknown` if it is not known) and its loudness, dB.

    Raises InputError for an empty label and for `not present`; semicolons become commas.
    """

    label: str
    loudness: float | None

    def __post_init__(self) -> None:
        label = clean_label(self.label, "the background").replace(";", ",")
        if label.casefold() == NO_BACKGROUND:
            raise InputError(f"a background called {label!r} means none: give None for it")
        _set(self, "label", label)
        _set(self, "loudness", _decibels(self.loudness, "loudness of the background"))


@dataclass(frozen=True)
class SceneDescription:
    """A scene in words and numbers: room volume (m^3), RT60 (s), background and sources.

    count_confidence: the model's probability of the number of sources that it says, None if not known.
    """

    room_volume: float | None
    rt60: float | None
    background: Background | None
    sources: tuple[Source, ...] = ()
    count_confidence: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _set(self, "room_volume", _hundreds(self.room_volume))
        _set(self, "rt60", _tenths(self.rt60, "rt60"))
        _set(self, "sources", tuple(self.sources))

    @property
    def doubtful(self) -> bool:
        """Whether the model itself is not sure of the number of sources."""
        return self.count_confidence is not None and self.count_confidence < DOUBTFUL_COUNT

    def ordered(self, order: Order = "loudness") -> SceneDescription:
        """With the sources in one of the five orders; see `ORDERS`."""
        return replace(self, sources=order_sources(self.sources, order))


def order_sources(sources: tuple[Source, ...], order: Order) -> tuple[Source, ...]:
    """Sources by decreasing loudness, by zone, growing distance, name or onset.

    Ties go by loudness, then onset, then name; a value that is not known comes last. Zones count level by
    level from the horizontal one, each counter-clockwise from the front. Raises InputError for another order.
    """
    if order not in ORDERS:
        raise InputError(f"order {order!r} is unknown: choose among {', '.join(ORDERS)}")
    first = _KEYS[order]
    rest = [_KEYS[name] for name in ("loudness", "onset", "name")]
    return tuple(sorted(sources, key=lambda source: [key(source) for key in (first, *rest)]))


def describe_truth(
    truth: SceneTruth, grid: ZoneGrid = ZONES_26, order: Order = "loudness"
) -> SceneDescription:
    """The description that a scene deserves: its truth in words, rounded, its sources in an order."""
    background = None
    if truth.background is not None:
        background = Background(truth.background, truth.background_loudness)
    return SceneDescription(
        room_volume=truth.volume,
        rt60=truth.rt60,
        background=background,
        sources=tuple(describe_source(source, grid) for source in truth.sources),
    ).ordered(order)


def describe_source(source: SourceTruth, grid: ZoneGrid = ZONES_26) -> Source:
    """One source of a truth in words, rounded."""
    return Source(
        label=with_transcript(source.label, source.transcript),
        onset=source.onset,
        offset=source.offset,
        zone=grid.zone_of(source.azimuth, source.elevation),
        distance=source.distance,
        loudness=source.loudness,
        c50=source.c50,
    )


def with_transcript(label: str, transcript: str | None) -> str:
    """`English female speech with transcript 'Hello.'`; the label itself if it has its words already."""
    if transcript is None or _TRANSCRIPT.search(label):
        return label
    return f"{label} with transcript '{transcript}'"


def clean_label(label: str, whose: str) -> str:
    """A label as the text form can carry it. Raises InputError if nothing is left of it."""
    printable = "".join(c if c.isprintable() else " " for c in label)
    label = " ".join(re.sub(r"(:\s*)+\(", " (", printable).split())
    if not label:
        raise InputError(f"{whose} needs a label; without one say what kind of sound it is")
    return label


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)


def _rounded(value: float, step: float) -> int:
    """How many steps; halves go up, whatever the sign."""
    return math.floor(value / step + 0.5)


def _tenths(value: float | None, what: str) -> float | None:
    if value is None:
        return None
    if not (math.isfinite(value) and 0 <= value <= MOST):
        raise InputError(f"{what} is {value}: need a number from 0 to {MOST:.0f}, or None")
    # Through the decimal digits: 0.1 * n would not give the float that they are read as.
    return math.floor(round(value * 10, 6) + 0.5) / 10


def _decibels(value: float | None, what: str) -> int | None:
    if value is None:
        return None
    if not (math.isfinite(value) and abs(value) <= MOST_LEVEL):
        raise InputError(f"{what} is {value} dB: need a number of at most {MOST_LEVEL}, or None")
    return _rounded(value, 1.0)


def _hundreds(value: float | None) -> int | None:
    if value is None:
        return None
    if not (math.isfinite(value) and 0 < value <= MOST):
        raise InputError(f"room_volume is {value} m^3: need a number above 0, or None")
    return max(1, _rounded(value, VOLUME_STEP)) * int(VOLUME_STEP)


def _unquoted(words: str) -> str:
    """Without one pair of quotes, or the one that an answer did not close."""
    if words[:1] in _QUOTES:
        words = words[1:]
        return words[:-1] if words[-1:] and words[-1] in _QUOTES else words
    return words


def _last(value: float | None) -> float:
    return math.inf if value is None else value


def _zone_key(source: Source) -> tuple[float, int, float]:
    if source.zone is None:
        return (math.inf, 0, 0)
    place = grid_of(source.zone).place(source.zone)
    return (abs(place.level), -place.level, _last(place.sector))


_KEYS: dict[str, Callable[[Source], object]] = {
    "loudness": lambda source: math.inf if source.loudness is None else -source.loudness,
    "zone": _zone_key,
    "distance": lambda source: _last(source.distance),
    "name": lambda source: source.label.casefold(),
    "onset": lambda source: _last(source.onset),
}

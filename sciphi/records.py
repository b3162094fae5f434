# SPDX-License-Identifier: Apache-2.0
"""A first-order Ambisonics scene and what is known of it, exactly.

Truths hold measured and simulated values as they are; who writes or reads a description quantises.
Angles are degrees in the microphone's own frame: azimuth (-180, 180] counter-clockwise from +x, its
front (+y is left), elevation [-90, 90] up. Times are seconds from the start of the audio, levels dB.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError

FOA_RATE = 24_000
"""Samples a second of all Ambisonic audio inside; its channels are ACN (W, Y, Z, X) in SN3D."""
KINDS = ("speech", "event")


@dataclass(frozen=True)
class SourceTruth:
    """One sounding source.

    label: what a description calls it ("English female speech", "a dog barking"), without the
    transcript. kind: "speech" or "event". category: its class for sound event detection.
    transcript: what is said; None for events, and where it is not known.
    onset, offset: seconds from which and until which its direct sound is heard at the microphone.
    azimuth, elevation: degrees. distance: metres. loudness: A-weighted level at the microphone (of
    W, with the room's response), dB re full scale (RMS of 1), mean power from onset to offset.
    c50: clarity of W's room response in dB, never above `MAX_C50`.

    Raises InputError for an unknown kind, values that are not finite or outside their range.
    """

    label: str
    kind: str
    category: str
    transcript: str | None
    onset: float
    offset: float
    azimuth: float
    elevation: float
    distance: float
    loudness: float
    c50: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"a source is {' or '.join(KINDS)}, not {self.kind!r}")
        if not self.label.strip():
            raise InputError("a source has an empty label: say what sounds")
        _check_finite(
            "a source",
            self,
            ("onset", "offset", "azimuth", "elevation", "distance", "loudness", "c50"),
        )
        if not 0 <= self.onset < self.offset:
            raise InputError(
                f"source {self.label!r} sounds from {self.onset} to {self.offset} s: need 0 <= "
                "onset < offset"
            )
        if not (-180 < self.azimuth <= 180 and abs(self.elevation) <= 90 and self.distance >= 0):
            raise InputError(
                f"source {self.label!r} at azimuth {self.azimuth}, elevation {self.elevation}, "
                f"distance {self.distance}: need (-180, 180] and [-90, 90] degrees, 0 m or more"
            )

    def to_json(self) -> dict[str, Any]:
        """JSON values by field name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SourceTruth:
        """The source that `to_json` wrote; InputError for anything else."""
        return cls(**_fields(cls, content))


MAX_C50 = 60.0
"""dB that a response without reverberation has: nothing real is clearer."""


@dataclass(frozen=True)
class SceneTruth:
    """All that is known of a scene.

    volume: cubic metres. rt60: seconds, measured on the room's responses. background: what sounds
    from everywhere ("rain"), None where nothing does. background_loudness: A-weighted level of it
    (of W) in dB re full scale, None without background. sources: in the order of their onsets.
    """

    volume: float
    rt60: float
    background: str | None
    background_loudness: float | None
    sources: tuple[SourceTruth, ...]

    def __post_init__(self) -> None:
        _check_finite("a scene", self, ("volume", "rt60"))
        if self.volume <= 0 or self.rt60 < 0:
            raise InputError(
                f"a scene has a volume of {self.volume} m^3 and a reverberation time of "
                f"{self.rt60} s: need more than 0, and 0 or more"
            )
        if (self.background is None) != (self.background_loudness is None):
            raise InputError("background and background_loudness go together: give both or neither")
        if self.background_loudness is not None:
            _check_finite("a scene", self, ("background_loudness",))

    def to_json(self) -> dict[str, Any]:
        """JSON values by field name; sources as a list."""
        content = dataclasses.asdict(self)
        return {**content, "sources": [source.to_json() for source in self.sources]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SceneTruth:
        """The scene that `to_json` wrote; InputError for anything else."""
        fields = _fields(cls, content)
        if not isinstance(fields["sources"], list):
            raise InputError("sources of a scene are a list")
        sources = tuple(SourceTruth.from_json(source) for source in fields["sources"])
        return cls(**{**fields, "sources": sources})


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene's audio and truth.

    key: its name, unique in a set. foa: float32 [4, t] at `FOA_RATE`, ACN (W, Y, Z, X), SN3D, within
    -1..1. seed: what it was made from; 0 for recordings.
    """

    key: str
    foa: NDArray[np.float32]
    truth: SceneTruth
    seed: int = 0

    def __post_init__(self) -> None:
        if self.foa.ndim != 2 or self.foa.shape[0] != 4 or self.foa.dtype != np.float32:
            raise InputError(
                f"a scene's audio is float32 [4, t], not {self.foa.dtype} {list(self.foa.shape)}"
            )

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.foa.shape[1] / FOA_RATE


def _fields(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, all there and of their types; InputError if not."""
    if not isinstance(content, Mapping):
        raise InputError(f"expected a JSON object of a {cls.__name__}, got {content!r:.80}")
    wanted = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    missing, unknown = wanted.keys() - content.keys(), content.keys() - wanted.keys()
    if missing or unknown:
        raise InputError(
            f"a {cls.__name__} has exactly the fields {list(wanted)}; missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}"
        )
    for name, type_name in wanted.items():
        value = content[name]
        if value is None and "None" in type_name:
            continue
        if type_name.startswith("float"):
            good = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            good = not type_name.startswith("str") or isinstance(value, str)
        if not good:
            raise InputError(f"{name} of a {cls.__name__} is {value!r:.80}: need {type_name}")
    return {name: content[name] for name in wanted}


def _check_finite(what: str, item: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(item, name)
        if not math.isfinite(value):
            raise InputError(f"{what}'s {name} is {value}: give a finite number")

# SPDX-License-Identifier: Apache-2.0
"""What each kind of question of Tasks 2 and 4 asks, decided from the geometry of many clips at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_bridge.qa import geometry
from llm_bridge.qa.formats import DISTANCES, distance_of
from llm_bridge.qa.geometry import NO, UNSURE, YES, Margins, Scenes, Verdict
from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH, DISTANCE

# Whom a targeted question means.
FIRST, SECOND, NOBODY, UNCLEAR = 0, 1, 2, 3

Values = Mapping[str, ArrayLike]
# Values of the placeholders that Task 2 may ask: metres and degrees.
ASKED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "distance": tuple(float(value) for value in np.arange(1.0, 5.01, 0.5)),
        "angle": tuple(float(value) for value in np.arange(20.0, 161.0, 10.0)),
    }
)
METRES = np.array([distance_of(text) for text in DISTANCES])  # what "place" and "distance" ask


def talkers_needed(kind: str) -> int:
    """Talkers a kind of Task 2, 4 or 5 speaks of."""
    pair = kind.startswith(("multi", "comparison", "measure")) and kind != "measure_distance"
    return 2 if pair else 1


def yes_no(scenes: Scenes, kind: str, values: Values, margins: Margins) -> Verdict:
    """Answers of a Task 2 kind, [n]; values are scalars or [n] (or [k] for a single scene, giving [k]).

    Questions about one talker are unsure in a clip with two. Whoever is absent makes it no.
    """
    subject, _, name = kind.split("_")
    if subject == "multi":
        if name in ("within", "outside"):
            asked = np.asarray(values["angle"], np.float64)
            compare = geometry.within if name == "within" else geometry.outside
            return compare(scenes, asked, margins)
        nearer = geometry.first_nearer(scenes, margins)
        return nearer if name == "closer" else _flip(scenes, nearer)
    if name in geometry.SIDES:
        each = geometry.on_side(scenes, name, margins)
    else:
        metres = _column(values["distance"])
        if name == "closer":
            each = geometry.nearer_than(scenes, metres, margins)
        else:
            each = geometry.further_than(scenes, metres, margins)
    return np.where(scenes.both, UNSURE, each[:, 0])


def target(scenes: Scenes, kind: str, values: Values, margins: Margins) -> NDArray[np.int64]:
    """Whom a Task 4 kind means, [n]: FIRST, SECOND, NOBODY or UNCLEAR; values as for `yes_no`.

    UNCLEAR: both fit, somebody fits halfway, or the one who fits has no transcript. A comparison needs
    two talkers and means nobody otherwise.
    """
    name = kind.split("_")[-1]
    if kind.startswith("comparison"):
        if name in ("left", "right"):
            more = geometry.first_more(scenes, name, margins)
        else:
            nearer = geometry.first_nearer(scenes, margins)
            more = nearer if name == "closer" else _flip(scenes, nearer)
        found = np.select([~scenes.both, more == YES, more == NO], [NOBODY, FIRST, SECOND], UNCLEAR)
    else:
        each = _each(scenes, kind, name, values, margins)
        first, second = each[:, 0], each[:, 1]
        found = np.select(
            [
                (first == NO) & (second == NO),
                (first == YES) & (second == NO),
                (first == NO) & (second == YES),
            ],
            [NOBODY, FIRST, SECOND],
            UNCLEAR,
        )
    worded = np.broadcast_to(scenes.worded, (len(found), 2))
    mute = ((found == FIRST) & ~worded[:, 0]) | ((found == SECOND) & ~worded[:, 1])
    return np.where(mute, UNCLEAR, found)


def _each(scenes: Scenes, kind: str, name: str, values: Values, margins: Margins) -> Verdict:
    if kind.startswith("area"):
        return geometry.on_side(scenes, name, margins)
    azimuth = _column(values["azimuth"]) if kind == "place" else None
    return geometry.at_place(scenes, azimuth, _column(values["distance"]), margins)


def asked_grid(names: frozenset[str] | set[str]) -> dict[str, NDArray[np.float64]]:
    """Every value that Task 2 may ask, by placeholder, [k] each; one empty question without any."""
    if len(names) > 1:
        raise InputError(f"questions of Task 2 ask one value at most, got {sorted(names)}")
    return {name: np.array(ASKED[name]) for name in names}


def place_values(scenes: Scenes, slot: int, names: frozenset[str] | set[str]) -> dict[str, NDArray]:
    """What a question for the talker of a slot must ask: the nearest listed values, [n] each.

    Azimuths are those of the text, 0..350.
    """
    values = {}
    if "azimuth" in names:
        centre = AZIMUTH.decode(AZIMUTH.encode(scenes.azimuth[:, slot]))
        values["azimuth"] = np.mod(centre, 360.0)
    if "distance" in names:
        values["distance"] = METRES[DISTANCE.encode(scenes.distance[:, slot])]
    return values


def place_grid(names: frozenset[str] | set[str]) -> dict[str, NDArray]:
    """Every combination of listed values that Task 4 may ask, [k] each."""
    if "azimuth" not in names:
        return {"distance": METRES}
    azimuth, distance = np.meshgrid(np.arange(0.0, 360.0, AZIMUTH.step), METRES)
    return {"azimuth": azimuth.ravel(), "distance": distance.ravel()}


def value_texts(values: Mapping[str, float]) -> dict[str, str]:
    """Values as questions write them: 3.5 metres, 60 degrees."""
    return {
        name: f"{value:.1f}" if name == "distance" else f"{value:.0f}"
        for name, value in values.items()
    }


def _flip(scenes: Scenes, verdict: Verdict) -> Verdict:
    """The opposite where there are two talkers; without them it is no either way."""
    return np.where(scenes.both, -verdict, NO)


def _column(values: ArrayLike) -> NDArray[np.float64]:
    """Scalars stay, [n] becomes [n, 1] to meet [n, 2]."""
    return np.asarray(values, np.float64)[..., None]

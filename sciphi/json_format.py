# SPDX-License-Identifier: Apache-2.0
"""The JSON form of a description: the same values as its text, with the units in their names.

Beside them stand the centre of each zone (`azimuth_deg`, `elevation_deg`) and the model's confidences, which
a reader may leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sciphi.schema import Background, SceneDescription, Source
from spatial_core.errors import InputError

_SOURCE = {
    "label": "label",
    "onset": "onset_s",
    "offset": "offset_s",
    "zone": "zone",
    "distance": "distance_m",
    "loudness": "loudness_db",
    "c50": "c50_db",
}
_CONFIDENCE = {"confidence": "zone_confidence"}
_COUNT = {"count_confidence": "count_confidence"}
_CENTRE = ("azimuth_deg", "elevation_deg")
_BACKGROUND = {"label": "label", "loudness": "loudness_db"}
_ROOM = {"room_volume": "room_volume_m3", "rt60": "rt60_s"}


def to_json(description: SceneDescription) -> dict[str, Any]:
    """JSON values; null is what is not known, and for `background` also that there is none."""
    background = description.background
    return {
        **_values(description, _ROOM),
        "background": None if background is None else _values(background, _BACKGROUND),
        "sources": [_source_json(source) for source in description.sources],
        "count_confidence": _share(description.count_confidence),
    }


def _source_json(source: Source) -> dict[str, Any]:
    centre = (None, None) if source.direction is None else source.direction
    return {
        **_values(source, _SOURCE),
        **dict(zip(_CENTRE, centre, strict=True)),
        "zone_confidence": _share(source.confidence),
    }


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def from_json(content: Any) -> SceneDescription:
    """The description that `to_json` wrote. Raises InputError for missing, unknown or wrong values."""
    needed = (*_ROOM.values(), "background", "sources")
    found = _object(content, "a description", needed, tuple(_COUNT.values()))
    background = None
    if found["background"] is not None:
        background = Background(**_read(found["background"], "the background", _BACKGROUND))
    if not isinstance(found["sources"], list):
        raise InputError(f"sources is {found['sources']!r:.80}: need a list")
    sources = [
        Source(**_read(item, f"source {n}", _SOURCE, _CONFIDENCE, _CENTRE))
        for n, item in enumerate(found["sources"], 1)
    ]
    room = {key: found[key] for key in (*_ROOM.values(), *_COUNT.values()) if key in found}
    return SceneDescription(
        **_read(room, "a description", _ROOM, _COUNT),
        background=background,
        sources=tuple(sources),
    )


def _values(item: object, names: Mapping[str, str]) -> dict[str, Any]:
    return {key: getattr(item, name) for name, key in names.items()}


def _object(
    content: Any, what: str, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{what} is {content!r:.80}: need an object with {', '.join(keys)}")
    missing, unknown = set(keys) - set(content), set(content) - {*keys, *optional}
    if missing or unknown:
        raise InputError(
            f"{what} needs exactly {', '.join(keys)}; missing: {', '.join(sorted(missing)) or '-'}; "
            f"unknown: {', '.join(sorted(map(str, unknown))) or '-'}"
        )
    return content


def _read(
    content: Any,
    what: str,
    names: Mapping[str, str],
    optional: Mapping[str, str] = MappingProxyType({}),
    derived: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The values of an object by field, each of its type: texts for label and zone, else numbers.

    optional: fields that may be missing. derived: keys that may be there and follow from the others.
    """
    found = _object(content, what, tuple(names.values()), (*optional.values(), *derived))
    values = {}
    for name, key in {**names, **optional}.items():
        value = found.get(key)
        text = name in ("label", "zone")
        right = isinstance(value, str) if text else type(value) in (int, float)
        if not right and (value is not None or name == "label"):
            raise InputError(
                f"{key} of {what} is {value!r:.80}: need {'a text' if text else 'a number or null'}"
            )
        values[name] = value
    return values

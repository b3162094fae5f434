# SPDX-License-Identifier: Apache-2.0
"""Every source of an answer against every source of the truth, in each of the metrics of a source.

nan stands where a metric does not apply (no words to compare) or a value could not be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_bridge.metrics import plain_words, word_error_rate
from sciphi.schema import Source
from sciphi.similarity import Similarity
from sciphi.zones import ZONES_26, Place, coarse, zone_error
from spatial_core.geometry.coords import great_circle

TUPLE_SCORE_VERSION = 1
"""Of the formulas of What, Where and When, which the paper does not print (docs/sciphi-descriptions.md)."""

SMALLEST_DISTANCE = 0.1  # metres: the step of the text form, so that a ratio has something under it
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Values [p, t] by metric for p sources of an answer and t of the truth."""

    values: dict[str, Floats]
    said: tuple[Source, ...]
    truth: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """How many sources the answer has, and the truth."""
        return len(self.said), len(self.truth)


def compare(
    said: Sequence[Source],
    truth: Sequence[Source],
    similarity: Similarity,
    directions: Sequence[tuple[float, float]] = (),
) -> Pairs:
    """All pairs of an answer's sources and the truth's.

    directions: unrounded (azimuth, elevation) of the true sources in degrees, from which "angle" is taken.
    """
    values: dict[str, Floats] = {}
    for p, source in enumerate(said):
        for t, true in enumerate(truth):
            found = compare_pair(source, true, similarity)
            if directions:
                found["angle"] = direction_error(source.direction, directions[t])
            for key, value in found.items():
                values.setdefault(key, np.full((len(said), len(truth)), np.nan))[p, t] = value
    return Pairs(values, tuple(said), tuple(truth))


def compare_pair(said: Source, truth: Source, similarity: Similarity) -> dict[str, float]:
    """One source of an answer against one of the truth, by metric."""
    label = similarity(said.name, truth.name)
    wer = words_error(said, truth)
    iou = time_iou(said, truth)
    ratio = distance_ratio(said.distance, truth.distance)
    error = float("nan")
    if said.zone is not None and truth.zone is not None:
        error = zone_error(coarse(said.zone), coarse(truth.zone))
    what = label if np.isnan(wer) else (label + 1 - min(wer, 1.0)) / 2
    # What could not be read is worth nothing.
    closeness = [0.0 if np.isnan(part) else part for part in (1 - error / 180, 1 - ratio, iou)]
    where = (closeness[0] + max(0.0, closeness[1])) / 2
    return {
        "tuple": (what * where * closeness[2]) ** (1 / 3),
        "label": label,
        "wer": wer,
        **_directions(said.zone, truth.zone),
        "zone": error,
        "distance": ratio,
        "iou": iou,
        "loudness": _difference(said.loudness, truth.loudness),
        "c50": _difference(said.c50, truth.c50),
    }


def words_error(said: Source, truth: Source) -> float:
    """Word error rate of two transcripts; nan unless both have words."""
    if said.transcript is None or not has_words(truth):
        return float("nan")
    return word_error_rate(truth.transcript or "", said.transcript)


def has_words(source: Source) -> bool:
    """Whether a source says something that can be compared."""
    return source.transcript is not None and bool(plain_words(source.transcript))


def time_iou(said: Source, truth: Source) -> float:
    """Time that both sound over time that one sounds; nan if a time is not known."""
    if said.onset is None or said.offset is None or truth.onset is None or truth.offset is None:
        return float("nan")
    if (said.onset, said.offset) == (truth.onset, truth.offset):
        return 1.0
    common = min(said.offset, truth.offset) - max(said.onset, truth.onset)
    return max(0.0, common) / (max(said.offset, truth.offset) - min(said.onset, truth.onset))


def distance_ratio(said: float | None, truth: float | None) -> float:
    """|said - truth| / truth; nan if one is not known."""
    if said is None or truth is None:
        return float("nan")
    return abs(said - truth) / max(truth, SMALLEST_DISTANCE)


def direction_error(said: tuple[float, float] | None, truth: tuple[float, float]) -> float:
    """Angle in degrees between two directions (azimuth, elevation); nan if what was said is not known."""
    return float("nan") if said is None else float(great_circle(*said, *truth))


def sector(zone: str | None) -> int | None:
    """Number of the sector of a zone on the grid of 26; None above, below and if it is not known."""
    return None if zone is None else _place(zone).sector


def _place(zone: str) -> Place:
    return ZONES_26.place(coarse(zone))


def _directions(said: str | None, truth: str | None) -> dict[str, float]:
    """Right or wrong: all of 26, the sector of 8 (where the truth has one), the level of 5."""
    if truth is None:
        return dict.fromkeys(("xyz", "xy", "z"), float("nan"))
    true = _place(truth)
    if said is None:
        right = {"xyz": 0.0, "xy": 0.0, "z": 0.0}
    else:
        place = _place(said)
        right = {
            "xyz": float(place == true),
            "xy": float(place.sector == true.sector),
            "z": float(place.level == true.level),
        }
    return right if true.sector is not None else {**right, "xy": float("nan")}


def _difference(said: float | None, truth: float | None) -> float:
    return float("nan") if said is None or truth is None else abs(said - truth)

# SPDX-License-Identifier: Apache-2.0
"""Localization and detection together: the DCASE 2024 scores, and direction errors alone.

F20, DOA error and distance errors as in task 3 of DCASE 2024 (Politis et al. 2020, arXiv 2009.02792;
Krause et al. 2024, arXiv 2403.11827): frame by frame (100 ms), within a class, answered and right
sources are paired so that their angles are smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sciphi.adpit import unify
from spatial_core.errors import InputError

DOA_THRESHOLD = 20.0  # degrees
DISTANCE_THRESHOLD = 1.0  # relative


@dataclass(frozen=True)
class Heard:
    """One source in one frame: class, direction (a vector of some length) and metres."""

    frame: int
    name: int
    vector: NDArray[np.floating]
    metres: float


@dataclass(frozen=True)
class SeldScores:
    """The scores of many clips; NaN where nothing was paired.

    f20: 2 TP / (2 TP + 2 misplaced + extra + missed), where a pair within 20 degrees and a relative
    distance error of 1 is a TP and any other pair misplaced. doa_error: degrees over all pairs.
    distance_error: metres; relative_distance_error: of the right distance. recall: pairs among right
    sources. All are means over classes of their value in each ("macro"), or over everything ("micro").
    """

    f20: float
    doa_error: float
    distance_error: float
    relative_distance_error: float
    recall: float


@dataclass
class SeldCounter:
    """Sums over clips, by class."""

    classes: int
    doa_threshold: float = DOA_THRESHOLD
    distance_threshold: float = DISTANCE_THRESHOLD
    sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        # true, misplaced, extra, missed, degrees, metres, relative
        self.sums = np.zeros((7, self.classes))

    def add(self, answered: Sequence[Heard], right: Sequence[Heard]) -> None:
        """Counts one clip. Raises InputError for a class that there is not."""
        keys = sorted({(s.frame, s.name) for s in (*answered, *right)})
        for frame, name in keys:
            if not 0 <= name < self.classes:
                raise InputError(f"class {name} of {self.classes}")
            here = [
                [s for s in all_ if (s.frame, s.name) == (frame, name)]
                for all_ in (answered, right)
            ]
            self._count(name, *here)

    def _count(self, name: int, answered: list[Heard], right: list[Heard]) -> None:
        angles, metres = _errors(answered, right)
        rows, columns = linear_sum_assignment(angles)
        degrees, distance = angles[rows, columns], metres[rows, columns]
        truth = np.array([right[j].metres for j in columns])
        relative = distance / np.maximum(truth, np.finfo(float).eps)
        good = (degrees <= self.doa_threshold) & (relative <= self.distance_threshold)
        self.sums[:, name] += (
            good.sum(),
            (~good).sum(),
            len(answered) - len(rows),
            len(right) - len(rows),
            degrees.sum(),
            distance.sum(),
            relative.sum(),
        )

    def scores(self, average: str = "macro") -> SeldScores:
        """Scores so far. A class that neither sounded nor was answered does not count; the challenge's
        script takes its F20 as 0."""
        if average not in ("macro", "micro"):
            raise InputError(f"average is {average!r}: use macro or micro")
        sums = self.sums[:, self.sums[:4].sum(0) > 0]
        if average == "micro":
            sums = sums.sum(1, keepdims=True)
        true, misplaced, extra, missed, degrees, metres, relative = sums
        pairs = true + misplaced
        with np.errstate(invalid="ignore"):
            f20 = true / (pairs + 0.5 * (extra + missed))
            errors = [total / pairs for total in (degrees, metres, relative)]
            recall = pairs / (pairs + missed)
        return SeldScores(*(_mean(values) for values in (f20, *errors, recall)))


def _mean(values: NDArray) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _errors(answered: list[Heard], right: list[Heard]) -> tuple[NDArray, NDArray]:
    """Degrees and metres between all pairs [answered, right]."""
    shape = (len(answered), len(right))
    if 0 in shape:
        return np.zeros(shape), np.zeros(shape)
    angles = angle_between(
        np.array([s.vector for s in answered])[:, None], np.array([s.vector for s in right])[None]
    )
    metres = np.abs(np.subtract.outer([s.metres for s in answered], [s.metres for s in right]))
    return angles, metres


def angle_between(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Degrees between vectors [..., 3] of some length; 90 for one of none."""
    product = (np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(-1)
    length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = np.divide(product, length, out=np.zeros_like(product), where=length > 0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def heard_in_answer(answer: NDArray[np.floating], threshold: float = 0.5) -> list[Heard]:
    """What a network's answer [n, 3, 4, c] says; see `adpit.unify`."""
    return [Heard(*found) for found in unify(answer, threshold)]


def heard_in_target(target: NDArray[np.floating], count: NDArray[np.integer]) -> list[Heard]:
    """What is right, of labels [n, 3, 4, c] and [n, c] as `seld_labels` makes them."""
    return [
        Heard(
            int(frame),
            int(name),
            target[frame, track, :3, name],
            float(target[frame, track, 3, name]),
        )
        for frame, name in np.argwhere(count > 0)
        for track in range(count[frame, name])
    ]


def clip_direction(answer: NDArray[np.floating]) -> NDArray[np.float64]:
    """The one direction [3] in which an answer [n, 3, 4, c] hears most: the sum of all its vectors.

    Needs no threshold, so that a clip with one source always has an answer, as chance has.
    """
    return np.asarray(answer[:, :, :3], np.float64).sum((0, 1, 3))

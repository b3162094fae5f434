# SPDX-License-Identifier: Apache-2.0
"""What SELDNet should answer to a scene: who sounds where in each 100 ms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sciphi.adpit import TRACKS
from sciphi.records import SceneTruth, SourceTruth
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian

TOKEN_SECONDS = 0.1
# Classes of the DCASE 2024 task, in the order of its baseline's answers.
DCASE_CLASSES = (
    "female speech",
    "male speech",
    "clapping",
    "telephone",
    "laughter",
    "domestic sounds",
    "footsteps",
    "door",
    "music",
    "musical instrument",
    "water tap",
    "bell",
    "knock",
)


def class_of(source: SourceTruth, classes: Sequence[str]) -> int:
    """Class of a source: its category, else its kind ("speech", "event"), else the only class there is.

    InputError for a source that is of none.
    """
    for name in (source.category, source.kind):
        if name in classes:
            return list(classes).index(name)
    if len(classes) == 1:
        return 0
    raise InputError(
        f"source {source.label!r} of category {source.category!r} is in none of the classes "
        f"{', '.join(classes)}: add its category, or use speech and event"
    )


def active(source: SourceTruth, tokens: int) -> NDArray[np.bool_]:
    """Tokens [n] in whose middle a source sounds."""
    middle = (np.arange(tokens) + 0.5) * TOKEN_SECONDS
    return (source.onset <= middle) & (middle < source.offset)


def seld_labels(
    truth: SceneTruth, classes: Sequence[str], tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Targets [n, 3, 4, c] and counts [n, c] as `adpit_loss` reads them.

    Of more than three sources of a class at a time the first three count, as in the baseline.
    """
    target = np.zeros((tokens, TRACKS, 4, len(classes)), np.float32)
    count = np.zeros((tokens, len(classes)), np.int32)
    for source in truth.sources:
        name = class_of(source, classes)
        sounds = np.flatnonzero(active(source, tokens) & (count[:, name] < TRACKS))
        where = np.append(to_cartesian(source.azimuth, source.elevation), source.distance)
        target[sounds, count[sounds, name], :, name] = where
        count[sounds, name] += 1
    return target, count

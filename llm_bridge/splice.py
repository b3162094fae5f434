# SPDX-License-Identifier: Apache-2.0
"""New conversations out of exported ones: the first talker of one, then the second of another.

A spatial token knows nothing but its own window, so conversations may be cut between their talkers and
joined anew. (A mono encoder that attends to its whole clip, as Whisper does, still tells of the rest of
the clip that it heard.) From n clips with two talkers come n x n pairs of places. Without them a model learns its
few thousand pairs by heart instead of how two places compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_bridge.qa.formats import TALKERS
from llm_bridge.tokens.record import Talker
from spatial_core.data.records import HOP, SAMPLE_RATE

SECONDS = HOP / SAMPLE_RATE  # of a token

Heard = tuple[
    NDArray[np.float16], NDArray[np.float16]
]  # spatial and mono tokens of a clip [k, ...]


def pairs(
    talkers: Sequence[Sequence[Talker]], count: int, rng: np.random.Generator, longest: int
) -> NDArray[np.int64]:
    """(clip of the first talker, clip of the second) of up to `count` new conversations, [n, 2].

    Drawn from the clips with two talkers; those that would last longer than `longest` tokens are left out.
    """
    usable = np.flatnonzero([len(each) == TALKERS for each in talkers])
    drawn = rng.choice(usable, (count if len(usable) else 0, 2))
    ends = [talkers_of(talkers[i], talkers[j])[1].end for i, j in drawn]
    return drawn[np.asarray(ends) <= longest * SECONDS] if ends else drawn


def middle(talkers: Sequence[Talker]) -> int:
    """The token at which the pause between two talkers is half over."""
    return round((talkers[0].end + talkers[1].start) / 2 / SECONDS)


def talkers_of(first: Sequence[Talker], second: Sequence[Talker]) -> tuple[Talker, Talker]:
    """The first talker of one conversation and the second of another, at their new times."""
    shift = (middle(first) - middle(second)) * SECONDS
    late = second[1]
    return first[0], dataclasses.replace(late, start=late.start + shift, end=late.end + shift)


def joined(
    first: Heard,
    second: Heard,
    first_talkers: Sequence[Talker],
    second_talkers: Sequence[Talker],
    longest: int,
) -> Heard:
    """What is heard until the middle of one conversation and from that of another, `longest` tokens at most."""
    end, start = middle(first_talkers), middle(second_talkers)
    spatial, mono = (
        np.concatenate([early[:end], late[start:]])[:longest]
        for early, late in zip(first, second, strict=True)
    )
    return spatial, mono

# SPDX-License-Identifier: Apache-2.0
"""A recording of any length as windows of the length that a describer hears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sciphi.input_format import CHANNELS
from sciphi.records import FOA_RATE

MIN_REST = 0.25
"""Seconds: a rest at the end of a recording that is as long gets a window, laid against the end."""


@dataclass(frozen=True, eq=False)
class Window:
    """What a describer hears at once: foa float32 [4, n] from `start` to `end` seconds of the recording.

    Shorter recordings are padded with zeros at their end, which `end` does not count.
    """

    start: float
    end: float
    foa: NDArray[np.float32]


def windows(
    blocks: Iterable[NDArray[np.float32]],
    size: int,
    hop: int,
    first: int = 0,
    last: int | None = None,
) -> Iterator[Window]:
    """Windows of `size` samples, one every `hop`, each as soon as its sound is there.

    first, last: samples of the recording to keep to. A rest at the end gets a window that ends with it, so
    that nothing is left unheard; one under 0.25 s is left. What is shorter than a window is padded.
    """
    held = np.zeros((CHANNELS, 0), np.float32)
    at = upcoming = first  # where `held` begins; where the next window does
    seen = told = 0
    for block in blocks:
        begin, seen = seen, seen + block.shape[1]
        end = seen if last is None else min(seen, last)
        held = np.concatenate([held, block[:, max(0, first - begin) : max(0, end - begin)]], axis=1)
        while at + held.shape[1] >= upcoming + size:
            # The samples of the last window stay: the rest at the end may reach back into it.
            held, at = held[:, upcoming - at :], upcoming
            yield _window(held[:, :size], at, size)
            told, upcoming = at + size, at + hop
        if last is not None and seen >= last:
            break
    end = at + held.shape[1]
    if not told and held.shape[1]:
        yield _window(held, at, size)
    elif told and end - told >= MIN_REST * FOA_RATE:
        yield _window(held[:, -size:], end - size, size)


def _window(foa: NDArray[np.float32], start: int, size: int) -> Window:
    # A constant offset is no sound, and the lowest bands would hear it.
    centred = foa - foa.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    padded = np.pad(centred, ((0, 0), (0, size - foa.shape[1])))
    return Window(start / FOA_RATE, (start + foa.shape[1]) / FOA_RATE, padded)

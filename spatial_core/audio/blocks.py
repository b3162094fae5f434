# SPDX-License-Identifier: Apache-2.0
"""Sound in blocks [c, t], in the order of time: cut, scaled and resampled without seams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from spatial_core.audio.io import MAX_RATE, MIN_RATE
from spatial_core.errors import InputError


def checked_rate(rate: int | None, name: str) -> int:
    """A sample rate in Hz that the caller of `name=...` has to give; InputError if it is unusable."""
    if rate is None:
        raise InputError(f"audio given as an array needs {name}=... in Hz")
    if not MIN_RATE <= rate <= MAX_RATE or int(rate) != rate:
        raise InputError(
            f"{name} is {rate}: give it in Hz, {MIN_RATE} to {MAX_RATE}, a whole number"
        )
    return int(rate)


def float_samples(audio: NDArray[Any]) -> NDArray[np.float32]:
    """The samples as float32; signed integers are scaled by their full scale to [-1, 1).

    Raises InputError for other kinds of values.
    """
    if np.issubdtype(audio.dtype, np.signedinteger):
        return (audio / -float(np.iinfo(audio.dtype).min)).astype(np.float32)
    if not np.issubdtype(audio.dtype, np.floating):
        raise InputError(f"audio must be float or signed integer, got {audio.dtype}")
    return audio.astype(np.float32, copy=False)


def pieces(samples: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    """[c, t] cut into blocks of `size` samples; the last one holds the rest."""
    for first in range(0, samples.shape[1], size):
        yield samples[:, first : first + size]


def resampled(
    blocks: Iterable[NDArray[np.float32]], rate: int, target: int
) -> Iterator[NDArray[np.float32]]:
    """The same sound at `target` Hz, block by block; one filter for all channels keeps their delays."""
    if rate == target:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    channels = 0
    for block in blocks:
        if stream is None:
            channels = block.shape[0]
            stream = soxr.ResampleStream(rate, target, channels, dtype="float32")
        yield np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(block.T)).T)
    if stream is not None:
        tail = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
        yield np.ascontiguousarray(tail.T)


def regular(blocks: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in blocks of `size`, however they came; the last one may be shorter."""
    held: list[NDArray[np.float32]] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += block.shape[1]
        while count >= size:
            joined = np.concatenate(held, axis=1)
            yield joined[:, :size]
            held, count = [joined[:, size:]], count - size
    if count:
        yield np.concatenate(held, axis=1)

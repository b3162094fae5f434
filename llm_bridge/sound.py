# SPDX-License-Identifier: Apache-2.0
"""A recording that can be asked about: read and found usable before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_bridge.layout import MAX_SECONDS, MAX_SOFT, token_count
from phasecoder.api import MicsInput, array_notes, fault_notes
from phasecoder.recording import AudioInput, open_recording
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording, or a part of it, that was read and found usable: samples [m, t] at 16 kHz."""

    samples: NDArray[np.float32]
    array: MicArray
    notes: tuple[str, ...]
    source: str


def read_sound(
    audio: AudioInput,
    mics: MicsInput,
    sample_rate: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> Sound:
    """A recording, or `seconds` of it from `start` on; arguments and errors as in `ask`."""
    array = load_array(mics)
    first, last = _span(start, seconds)
    recording = open_recording(audio, array, sample_rate)
    if isinstance(audio, str | Path | np.ndarray):  # a live source would be waited for
        recording.look_ahead()
    blocks: list[NDArray[np.float32]] = []
    taken = 0  # recording.samples counts what was looked ahead, too
    for block in recording:
        blocks.append(block)
        taken += block.shape[1]
        if taken > last:
            break
    notes = [*recording.finish(), *array_notes(array)]
    notes += fault_notes(recording, array, mics, audio)
    samples = np.concatenate(blocks, axis=1)[:, first:last]
    count = token_count(samples.shape[1])
    if count == 0:
        raise InputError(f"{recording.name} ends before start={start:g} s")
    if count > MAX_SOFT:
        raise InputError(
            f"{recording.name} is longer than {MAX_SECONDS:.0f} s, all that the language model hears "
            "at once: choose a part, such as start=0, seconds=30 (--start 0 --seconds 30)"
        )
    return Sound(samples, array, tuple(dict.fromkeys(notes)), recording.name)


def _span(start: float, seconds: float | None) -> tuple[int, int]:
    """First and last sample wanted; without an end, some more than may be heard."""
    if not 0 <= start < np.inf or (seconds is not None and not 0 < seconds <= MAX_SECONDS):
        raise InputError(
            f"start={start}, seconds={seconds}: start at 0 s or later, and take up to "
            f"{MAX_SECONDS:.0f} s"
        )
    first = round(start * SAMPLE_RATE)
    length = (MAX_SOFT + 1) * HOP if seconds is None else max(1, round(seconds * SAMPLE_RATE))
    return first, first + length

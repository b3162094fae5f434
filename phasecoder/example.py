# SPDX-License-Identifier: Apache-2.0
"""A recording to try the tools with: two people in a simulated living room, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.seeds import generator
from spatial_core.data.sources import SpeechSource, speech_source
from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.coords import azimuth_error, to_cartesian, wrap_degrees
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rooms import RoomConfig, sample_room

ROOM = RoomConfig(min_dimensions=(5, 4, 2.5), max_dimensions=(6, 5, 2.8), max_rt60=0.4)
TALK_SECONDS, PAUSE_SECONDS = 2.5, 0.5
_LEAST_SECONDS, _DRAWS = 1.8, 50
_APART = 60.0  # degrees at least
_PEAK = 0.4
_AUDIBLE = 8000  # samples at the end of a voice that must hold speech


@dataclass(frozen=True)
class Talk:
    """Who talks when and where: seconds of the recording, degrees and metres in the array's frame."""

    start: float
    end: float
    azimuth: float
    elevation: float
    distance: float


@dataclass(frozen=True, eq=False)
class Example:
    """audio float32 [m, t] at 16 kHz, and its truth."""

    audio: NDArray[np.float32]
    talks: tuple[Talk, ...]


def make_example(array: MicArray, seed: int = 0) -> Example:
    """Two held-out voices of the embedded corpus around `array`, which stands in the middle of the room.

    A pure function of the array and the seed. Raises InputError for an impossible seed.
    """
    rng = generator(seed, "test", "talk", 0)
    room = sample_room(rng, ROOM)
    middle = np.array(room.dimensions) * (0.5, 0.5, 0.4)
    voices = speech_source("embedded", "test")
    parts, talks, at = [], [], 0
    for number, azimuth in enumerate(_azimuths(rng)):
        elevation, distance = float(rng.uniform(5, 20)), float(rng.uniform(1.3, 1.8))
        voice = _voice(rng, voices)
        place = middle + to_cartesian(azimuth, elevation, distance)
        rirs = FastSimulator().simulate(room, place, middle + array.centred, number)
        pause = round(PAUSE_SECONDS * SAMPLE_RATE)
        dry = np.pad(voice, (pause, pause))
        wet = scipy.signal.fftconvolve(dry[None], rirs, axes=1)[:, : len(dry)]
        parts.append(_PEAK / np.abs(wet).max() * wet)
        start, end = at + pause, at + pause + len(voice)
        talks.append(
            Talk(start / SAMPLE_RATE, end / SAMPLE_RATE, azimuth, elevation, round(distance, 2))
        )
        at += len(dry)
    audio = np.concatenate(parts, axis=1)
    audio += 1e-3 * rng.standard_normal(audio.shape)
    return Example(audio.astype(np.float32), tuple(talks))


def _voice(rng: np.random.Generator, voices: SpeechSource) -> NDArray[np.float32]:
    """The first drawn that is long enough to be followed, [t]."""
    longest = np.zeros(0, np.float32)
    for _ in range(_DRAWS):
        voice = np.trim_zeros(voices.crop(rng, round(TALK_SECONDS * SAMPLE_RATE), _AUDIBLE))
        longest = max(longest, voice, key=len)
        if len(longest) >= _LEAST_SECONDS * SAMPLE_RATE:
            break
    return longest


def _azimuths(rng: np.random.Generator) -> Iterator[float]:
    """Whole degrees of two directions that are well apart."""
    first = float(rng.integers(-179, 181))
    yield first
    other = first
    while azimuth_error(first, other) < _APART:
        other = float(wrap_degrees(rng.integers(-179, 181)))
    yield other

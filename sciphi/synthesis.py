# SPDX-License-Identifier: Apache-2.0
"""From dry sounds and room responses to what the microphone hears, at the level that is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from sciphi.material import Sound
from sciphi.records import FOA_RATE
from sciphi.rooms import FoaRoom
from spatial_core.audio import levels
from spatial_core.sim.rooms import SPEED_OF_SOUND

_CROSSFADE = 6000  # samples, a quarter of a second
_BOOST_DB = 6.0
_MOST_OF_ONE = 0.5
LOWEST_HZ = 60.0
"""Below it images add up to more than a room has; small microphones hear little there."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A dry sound [t] that starts `start` seconds into the scene at a place of the room."""

    sound: Sound
    spoken: bool
    dry: NDArray[np.float32]
    place: int
    start: float


def heard_source(
    placed: Placed, room: FoaRoom, samples: int, level: float
) -> tuple[NDArray[np.float32], int, int, float]:
    """A source as the microphone hears it [4, samples], the samples from and until which, and its level.

    These are the first and the last (exclusive) of its direct sound; reverberation goes on. Between
    them W's A-weighted level is `level` dB, or less if the source alone would pass half of full scale.
    """
    first = round(placed.start * FOA_RATE)
    delay = round(room.distance[placed.place] / SPEED_OF_SOUND * FOA_RATE)
    rirs = room.rirs[placed.place]
    size = scipy.fft.next_fast_len(len(placed.dry) + rirs.shape[1] - 1, real=True)
    spectrum = scipy.fft.rfft(placed.dry, size) * scipy.fft.rfft(rirs, size)
    wet = scipy.fft.irfft(spectrum, size)
    start, stop = first + delay, min(first + delay + len(placed.dry), samples)
    gain = level - level_of(wet[0, delay : delay + stop - start])
    excess = max(gain + 20 * math.log10(float(np.abs(wet).max()) / _MOST_OF_ONE), 0.0)
    wet *= 10 ** ((gain - excess) / 20)
    out = np.zeros((4, samples), np.float32)
    length = min(wet.shape[1], samples - first)
    out[:, first : first + length] = wet[:, :length]
    return out, start, stop, level - excess


def background_of(
    rng: np.random.Generator,
    clip: NDArray[np.float32],
    room: FoaRoom,
    samples: int,
    level: float,
) -> NDArray[np.float32]:
    """An ambient clip [t] from all places of the room at once, [4, samples], W at `level` dB(A).

    Every place plays the clip as an endless loop from a moment of its own, so that the places are not
    one wave, and as loud as its distance makes up for, so that no near one stands out. A loop begun d
    samples later is the same loop through a response d samples later: all places together are one
    circular convolution with the sum of their shifted responses.
    """
    size = scipy.fft.next_fast_len(max(samples, room.rirs.shape[-1]), real=True)
    loop = endless(random_filter(rng, clip), size)
    together = np.zeros((4, size), np.float32)
    taps = room.rirs.shape[-1]
    for rirs, distance in zip(room.rirs, room.distance):
        shift = int(rng.integers(size))
        until_end = min(taps, size - shift)
        gain = np.float32(distance)
        together[:, shift : shift + until_end] += gain * rirs[:, :until_end]
        together[:, : taps - until_end] += gain * rirs[:, until_end:]
    wet = scipy.fft.irfft(scipy.fft.rfft(loop) * scipy.fft.rfft(together), size)[:, :samples]
    return wet * np.float32(10 ** ((level - level_of(wet[0])) / 20))


def endless(clip: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The clip repeated to `size` samples that go on at their start, all seams crossfaded."""
    fade = min(_CROSSFADE, len(clip) // 3)
    step = len(clip) - fade
    up = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    faded = clip.copy()
    if fade:
        faded[:fade] *= up
        faded[-fade:] *= up[::-1]
    times = math.ceil((size + fade) / step)
    row = np.zeros((times + 1) * step + fade, np.float32)
    for n in range(times + 1):
        row[n * step : n * step + len(clip)] += faded
    row = row[fade:]  # the first fade has nothing to meet
    loop = row[:size].copy()
    if fade:
        loop[:fade] = loop[:fade] * up + row[size : size + fade] * up[::-1]
    return loop


def level_of(signal: NDArray[np.float32]) -> float:
    """A-weighted level in dB re full scale of [t]; at least -200."""
    return max(float(levels.a_weighted_db(signal, FOA_RATE)), -200.0)


def random_filter(rng: np.random.Generator, dry: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sound [t] through a random equaliser: one wide peak or dip, and perhaps narrowed at its ends.

    What lies below `LOWEST_HZ` is always taken off.
    """
    sections = [scipy.signal.butter(2, LOWEST_HZ, "high", fs=FOA_RATE, output="sos")]
    log_hertz = rng.uniform(np.log(150), np.log(6000))
    sections.append(_peaking(log_hertz, rng.uniform(-_BOOST_DB, _BOOST_DB)))
    if rng.uniform() < 0.3:
        sections.append(_first_order(rng.uniform(80, 250), "high"))
    if rng.uniform() < 0.3:
        sections.append(_first_order(rng.uniform(4000, 11_000), "low"))
    return scipy.signal.sosfilt(np.concatenate(sections), dry).astype(np.float32)


def _first_order(hertz: float, kind: str) -> NDArray[np.float64]:
    return scipy.signal.butter(1, hertz, kind, fs=FOA_RATE, output="sos")


def _peaking(log_hertz: float, gain_db: float, quality: float = 0.7) -> NDArray[np.float64]:
    """A peaking equaliser [1, 6]: Bristow-Johnson's cookbook."""
    amplitude = 10 ** (gain_db / 40)
    omega = 2 * np.pi * np.exp(log_hertz) / FOA_RATE
    alpha = np.sin(omega) / (2 * quality)
    top = np.array([1 + alpha * amplitude, -2 * np.cos(omega), 1 - alpha * amplitude])
    bottom = np.array([1 + alpha / amplitude, -2 * np.cos(omega), 1 - alpha / amplitude])
    return np.concatenate([top, bottom])[None] / bottom[0]

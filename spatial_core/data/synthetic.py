# SPDX-License-Identifier: Apache-2.0
"""Stationary noises made from a formula: white, pink, brown, a fan and mains hum, and babble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from spatial_core.errors import InputError

SAMPLE_RATE = 16000
RMS = 0.1


class Talkers(Protocol):
    """What babble is mixed from."""

    def crop(self, rng: np.random.Generator, samples: int, active: int) -> np.ndarray:
        """float32 [samples] of speech."""


def _shaped(rng: np.random.Generator, samples: int, gain: np.ndarray) -> np.ndarray:
    """Gaussian noise with the amplitude `gain` [samples // 2 + 1] over frequency."""
    spectrum = rng.standard_normal(len(gain)) + 1j * rng.standard_normal(len(gain))
    return np.fft.irfft(spectrum * gain, samples)


def _power_law(exponent: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Noise whose power falls as frequency ** -exponent above 50 Hz, and with nothing at 0 Hz."""

    def make(rng: np.random.Generator, samples: int) -> np.ndarray:
        frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE)
        gain = np.maximum(frequency, 50.0) ** (-exponent / 2.0)
        gain[0] = 0.0
        return _shaped(rng, samples, gain)

    return make


def _fan(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Broadband air noise with a soft roll-off and a few blade-rate tones."""
    frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE)
    corner = rng.uniform(300.0, 1500.0)
    air = _shaped(rng, samples, 1.0 / (1.0 + (frequency / corner) ** 2))
    return air / air.std() + rng.uniform(0.1, 0.6) * _tones(rng, samples, rng.uniform(60, 240), 6)


def _hum(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Mains hum: harmonics of 50 or 60 Hz over a little white noise."""
    tones = _tones(rng, samples, float(rng.choice([50.0, 60.0])), 20)
    return tones + 0.1 * rng.standard_normal(samples)


def _tones(rng: np.random.Generator, samples: int, fundamental: float, count: int) -> np.ndarray:
    order = np.arange(1, count + 1)[:, None]
    phase = rng.uniform(0.0, 2.0 * np.pi, (count, 1))
    level = rng.uniform(0.2, 1.0, (count, 1)) / order**0.7
    time = np.arange(samples) / SAMPLE_RATE
    tones = (level * np.sin(2.0 * np.pi * fundamental * order * time + phase)).sum(axis=0)
    return tones / np.sqrt((level**2).sum() / 2.0)


_MAKERS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "white": _power_law(0.0),
    "pink": _power_law(1.0),
    "brown": _power_law(2.0),
    "fan": _fan,
    "hum": _hum,
}


class SyntheticNoise:
    """A NoiseSource of formulas: each crop is one of `kinds`, at an RMS of 0.1.

    With `talkers` (a SpeechSource, best the training split's) there is a class "babble" too: six of
    them at once.
    """

    def __init__(
        self,
        kinds: tuple[str, ...] = ("white", "pink", "brown", "fan", "hum"),
        talkers: Talkers | None = None,
    ) -> None:
        unknown = sorted(set(kinds) - set(_MAKERS))
        if unknown or not kinds:
            raise InputError(f"noise kinds {unknown or kinds}: choose among {', '.join(_MAKERS)}")
        self._kinds = kinds
        self._talkers = talkers

    @property
    def classes(self) -> tuple[str, ...]:
        return (*self._kinds, "babble") if self._talkers is not None else self._kinds

    @property
    def fingerprint(self) -> str:
        return "synthetic:" + ",".join(self.classes)

    def crop(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Draw float32 [samples] at 16 kHz."""
        kind = self.classes[rng.integers(len(self.classes))]
        if kind == "babble" and self._talkers is not None:
            active = min(samples, 4000)
            voices = [self._talkers.crop(rng, samples, active) for _ in range(6)]
            noise = np.sum([voice / max(voice.std(), 1e-6) for voice in voices], axis=0)
        else:
            noise = _MAKERS[kind](rng, samples)
        return (noise * (RMS / np.sqrt(np.mean(noise**2)))).astype(np.float32)

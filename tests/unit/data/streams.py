# SPDX-License-Identifier: Apache-2.0
"""Small sources, scenes and simulators for the tests of streams: fast, and bad on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spatial_core.data.pipeline import SceneStream
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rooms import RoomConfig, RoomSpec
from spatial_core.sim.scene import SceneConfig

TAPS = 600


class WhiteSpeech:
    """White noise under a speaker's name; with `bad`, that share of its crops is spoiled."""

    speakers = ("white",)

    def __init__(self, bad: float = 0.0, how: str = "nan") -> None:
        self.bad, self.how = bad, how

    def crop(self, rng: np.random.Generator, samples: int, active: int) -> np.ndarray:
        spoil = rng.random() < self.bad
        crop = rng.standard_normal(samples, dtype=np.float32)
        if spoil and self.how == "raise":
            raise OSError("unreadable clip")
        if spoil:
            crop[:] = {"nan": np.nan, "silent": 0.0}[self.how]
        return crop


class WhiteNoise:
    """White noise as a distractor."""

    classes = ("white",)

    def crop(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        return rng.standard_normal(samples, dtype=np.float32)


@dataclass(frozen=True)
class FaultySimulator:
    """Fails in a `share` of the rooms, which are always the same: raises, returns NaN or zeros."""

    share: float
    how: str = "raise"
    inner: FastSimulator = field(default_factory=lambda: FastSimulator(taps=TAPS, threads=1))

    @property
    def taps(self) -> int:
        return self.inner.taps

    @property
    def lead(self) -> int:
        return self.inner.lead

    def simulate(
        self, room: RoomSpec, source: np.ndarray, mics: np.ndarray, seed: int
    ) -> np.ndarray:
        rirs = self.inner.simulate(room, source, mics, seed)
        if room.dimensions[0] * 1e4 % 1 >= self.share:
            return rirs
        if self.how == "raise":
            raise RuntimeError("simulator gave up")
        return np.full_like(rirs, {"nan": np.nan, "zero": 0.0}[self.how])

    def simulate_batch(
        self,
        rooms: Sequence[RoomSpec],
        sources: np.ndarray,
        mics: np.ndarray,
        mask: np.ndarray,
        seeds: Sequence[int] | np.ndarray,
    ) -> np.ndarray:
        out = np.zeros((len(rooms), mics.shape[1], self.taps), np.float32)
        for b, room in enumerate(rooms):
            out[b, mask[b]] = self.simulate(room, sources[b], mics[b, mask[b]], int(seeds[b]))
        return out


def small_scene(**changes: object) -> SceneConfig:
    """Small absorbing rooms, so that a simulation takes well under a millisecond."""
    room = RoomConfig(max_dimensions=(4.0, 4.0, 2.6), min_rt60=0.0, max_rt60=2.0)
    return SceneConfig(**{"room": room, **changes})  # type: ignore[arg-type]


def small_stream(**changes: object) -> SceneStream:
    """A stream of 24 examples a batch, of rooms of 4, that takes milliseconds."""
    settings: dict[str, object] = {
        "scene": small_scene(),
        "simulator": FastSimulator(taps=TAPS, threads=1),
        "speech": WhiteSpeech(),
        "noise": WhiteNoise(),
        "batch_size": 24,
        "seed": 7,
        "threads": 1,
    }
    return SceneStream(**{**settings, **changes})  # type: ignore[arg-type]

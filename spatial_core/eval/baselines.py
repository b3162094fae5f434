# SPDX-License-Identifier: Apache-2.0
"""Localizers that need no training: pyroomacoustics' SRP-PHAT and NormMUSIC, and our own SRP-PHAT.

All search the whole sphere in the far field, so that elevation is estimated and distance is nan. None
knows what speech is: speech_probability is 1. Their confidence rises with certainty but is a mere
score, not a calibrated probability.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.eval.steered import SPEED_OF_SOUND, SteeredResponse, spectra
from spatial_core.geometry.coords import wrap_degrees

__all__ = ["Localizer", "PyroomNormMusic", "PyroomSrpPhat", "SteeredResponse"]


class Localizer(Protocol):
    """Anything that answers a batch with directions."""

    def predict(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """azimuth, elevation (degrees), distance (m, nan where not estimated), speech_probability
        and confidence (that the azimuth error is at most 10 degrees) in 0..1, each float32 [b].

        Optional: azimuth_probs [b, n] over azimuth_grid [n] (degrees), token [b, 256].
        """


@dataclass(frozen=True)
class _Pyroom(abc.ABC):
    """What both pyroomacoustics methods share: frames, grid, band and conventions.

    directions: points of the Fibonacci grid on the sphere. nfft: length of the Hann frames (hop
    nfft / 2). band: frequencies used (Hz).
    """

    directions: int = 2562
    nfft: int = 512
    band: tuple[float, float] = (300.0, 7000.0)

    def predict(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Prediction of each example, one after the other; float32 [b] each."""
        rows = [
            self._locate(audio[mask], positions[mask])
            for audio, positions, mask in zip(
                batch["audio"], batch["mic_positions"], np.asarray(batch["mic_mask"], bool)
            )
        ]
        azimuth, elevation, confidence = np.array(rows, np.float64).reshape(-1, 3).T
        return {
            "azimuth": wrap_degrees(azimuth).astype(np.float32),
            "elevation": elevation.astype(np.float32),
            "distance": np.full(len(rows), np.nan, np.float32),
            "speech_probability": np.ones(len(rows), np.float32),
            "confidence": np.clip(confidence, 0.0, 1.0).astype(np.float32),
        }

    def locate(self, audio: np.ndarray, positions: np.ndarray) -> Any:
        """The pyroomacoustics object after it has located one clip: audio [m, t], positions [m, 3].

        Its `grid` holds the directions (azimuth and *colatitude* in radians) and their values.
        """
        located = self._method()(
            np.asarray(positions, np.float64).T,
            SAMPLE_RATE,
            self.nfft,
            c=SPEED_OF_SOUND,
            num_src=1,
            dim=3,
            n_grid=self.directions,
        )
        # pyroomacoustics takes [m, bins, frames].
        x = spectra(np.asarray(audio), self.nfft).swapaxes(-1, -2)
        located.locate_sources(x, freq_range=list(self.band))
        return located

    def _locate(self, audio: np.ndarray, positions: np.ndarray) -> tuple[float, float, float]:
        located = self.locate(audio, positions)
        # Colatitude is the angle from straight up: 0 above, 90 degrees on the horizon.
        azimuth = float(np.degrees(located.azimuth_recon[0]))
        elevation = 90.0 - float(np.degrees(located.colatitude_recon[0]))
        peak = float(located.grid.values.max())
        return azimuth, elevation, self._confidence(peak, len(positions))

    @abc.abstractmethod
    def _method(self) -> Any:
        """The pyroomacoustics class."""

    @abc.abstractmethod
    def _confidence(self, peak: float, num_mics: int) -> float:
        """A score that rises with the height of the peak, 1 for a perfect plane wave."""


@dataclass(frozen=True)
class PyroomSrpPhat(_Pyroom):
    """pyroomacoustics.doa.SRP: steered response power with phase transform.

    confidence: the mean coherence of the microphone pairs at the peak.
    """

    def _method(self) -> Any:
        import pyroomacoustics

        return pyroomacoustics.doa.SRP

    def _confidence(self, peak: float, num_mics: int) -> float:
        # Its value is (2 * sum over pairs + number of microphones) / number of pairs.
        pairs = num_mics * (num_mics - 1) / 2
        return (peak - num_mics / pairs) / 2


@dataclass(frozen=True)
class PyroomNormMusic(_Pyroom):
    """pyroomacoustics.doa.NormMUSIC: MUSIC with each frequency's spectrum scaled to a maximum of 1.

    confidence: the mean of these scaled spectra at the peak, 1 where all frequencies agree.
    """

    def _method(self) -> Any:
        import pyroomacoustics

        return pyroomacoustics.doa.NormMUSIC

    def _confidence(self, peak: float, num_mics: int) -> float:
        return peak

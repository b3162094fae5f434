# SPDX-License-Identifier: Apache-2.0
"""Plane waves with exact delays, and a model that finds their direction without a network."""

from __future__ import annotations

import itertools

import numpy as np

from spatial_core.geometry.arrays import load_array
from spatial_core.geometry.coords import to_cartesian, to_spherical

RATE = 16000


class PlaneWave:
    """Delays of all pairs by cross-correlation, then least squares for the direction."""

    name = "plane-wave fit"

    def __init__(self, speech: float = 1.0) -> None:
        self.speech = speech
        self.seen: list[tuple[int, ...]] = []

    def predict(self, batch):
        self.seen.append(batch["audio"].shape)
        rows = [self._one(*item) for item in zip(*(batch[k] for k in _INPUTS))]
        azimuth, elevation = np.array(rows).T
        return {
            "azimuth": azimuth,
            "elevation": elevation,
            "distance": np.full(len(rows), 1.5),
            "confidence": np.full(len(rows), 0.9),
            "speech_probability": np.full(len(rows), self.speech),
        }

    @staticmethod
    def _one(audio, positions, mask):
        x, r = audio[mask], positions[mask]
        if not x.any():
            return 0.0, 0.0
        pairs = list(itertools.combinations(range(len(x)), 2))
        spectra = np.fft.rfft(x, 8192)
        delays = []
        for i, j in pairs:
            correlation = np.fft.irfft(spectra[i] * spectra[j].conj(), 8 * 8192)
            lag = int(np.argmax(correlation))
            lag -= len(correlation) if lag > len(correlation) // 2 else 0
            delays.append(lag / (8 * RATE))  # arrival at i minus arrival at j
        baseline = np.array([r[j] - r[i] for i, j in pairs])
        direction, *_ = np.linalg.lstsq(baseline, 343.0 * np.array(delays), rcond=1e-6)
        # Flat arrays leave the component along the normal open: give it what is missing, below.
        missing = max(0.0, 1.0 - float(direction @ direction))
        normal = np.linalg.svd(r - r.mean(0))[2][-1]
        if np.linalg.matrix_rank(baseline, tol=1e-3) < 3:
            direction = direction - np.sqrt(missing) * normal * np.sign(
                normal[np.argmax(abs(normal))]
            )
        azimuth, elevation, _ = to_spherical(direction)
        return float(azimuth), float(elevation)


_INPUTS = ("audio", "mic_positions", "mic_mask")


def plane_wave(array, azimuth, elevation=0.0, seconds=1.0, rate=RATE, seed=0):
    """Low-passed noise from a direction [m, t], delayed exactly in the frequency domain."""
    array = load_array(array)
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(rng.normal(size=samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    spectrum *= np.clip((6000.0 - frequency) / 1000.0, 0, 1)
    lead = array.centred @ to_cartesian(azimuth, elevation) / 343.0
    shifted = spectrum * np.exp(2j * np.pi * frequency * lead[:, None])
    return (0.1 * np.fft.irfft(shifted, samples)).astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Analytic batches: plane waves with exact fractional delays, no simulator involved."""

from __future__ import annotations

import numpy as np

RATE, WINDOW, SPEED = 16000, 4000, 343.0


def plane_wave(positions: np.ndarray, azimuth: float, elevation: float, rng) -> np.ndarray:
    """Band-limited noise as a plane wave at positions [m, 3]: [m, WINDOW], exact delays by phase."""
    pad = 256
    size = WINDOW + 2 * pad
    source = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    source[(frequency < 100) | (frequency > 7500)] = 0
    az, el = np.radians(azimuth), np.radians(elevation)
    towards = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    delay = -(positions @ towards) / SPEED  # a microphone nearer to the source hears earlier
    delayed = source * np.exp(-2j * np.pi * frequency * delay[:, None])
    audio = np.fft.irfft(delayed, size)[:, pad : pad + WINDOW]
    return audio / audio.std()


def _positions(rng, count: int) -> np.ndarray:
    """Points in a 10 cm cube about their centroid; nearly flat draws would have a mirror image."""
    while True:
        positions = 0.05 * rng.uniform(-1, 1, (count, 3))
        positions -= positions.mean(axis=0)
        if count < 4 or np.linalg.svd(positions, compute_uv=False)[2] > 0.02:
            return positions


def free_field(size: int = 8, max_mics: int = 8, noise: float = 0.05, seed: int = 0, mics=None):
    """A batch of plane waves at random volumetric arrays (5 cm), `mics` microphones or 4..max_mics."""
    rng = np.random.default_rng(seed)
    batch = {
        "audio": np.zeros((size, max_mics, WINDOW), np.float32),
        "mic_positions": np.zeros((size, max_mics, 3), np.float32),
        "mic_mask": np.zeros((size, max_mics), bool),
        "azimuth": rng.uniform(-180, 180, size).astype(np.float32),
        "elevation": np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, size))).astype(np.float32),
        "distance": rng.uniform(1, 4, size).astype(np.float32),
        "speech": np.ones(size, bool),
        "rt60": rng.uniform(0.1, 0.8, size).astype(np.float32),
        "snr_db": rng.uniform(-5, 15, size).astype(np.float32),
        "num_mics": np.zeros(size, np.int32),
        "example_id": np.arange(size, dtype=np.int64),
    }
    for i in range(size):
        count = mics or int(rng.integers(4, max_mics + 1))
        positions = _positions(rng, count)
        clean = plane_wave(positions, batch["azimuth"][i], batch["elevation"][i], rng)
        noisy = clean + noise * rng.standard_normal(clean.shape)
        batch["audio"][i, :count] = 0.05 * noisy
        batch["mic_positions"][i, :count] = positions
        batch["mic_mask"][i, :count] = True
        batch["num_mics"][i] = count
    return batch

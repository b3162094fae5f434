# SPDX-License-Identifier: Apache-2.0
"""The short-time Fourier transform that both encoders read (PhaseCoder section 3.1)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.typing import Array, Complex, Float

SAMPLE_RATE = 16_000
WINDOW = 4_000  # samples of one PhaseCoder input, 250 ms
HOP = 2_560  # samples between spatial tokens, 160 ms
FRAME_LENGTH = 256
FRAME_HOP = 128
NUM_BINS = FRAME_LENGTH // 2 + 1


def num_frames(samples: int, hop: int = FRAME_HOP) -> int:
    """Frames of a signal padded by half a frame on both sides, the last partial frame kept."""
    return -(-samples // hop) + 1


@functools.cache
def _hann(length: int) -> np.ndarray:
    """Periodic Hann window scaled so that a full-scale sinusoid's bin reads half its amplitude."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return (window / window.sum()).astype(np.float32)


def stft(audio: Float[Array, "*b t"]) -> Complex[Array, "*b f k"]:
    """Spectrogram with 256-sample Hann frames and a hop of 128.

    Equals ``scipy.signal.stft(x, nperseg=256)`` (zero boundary, padded): 4,000 samples give 33
    frames because half a frame of zeros stands on each side and the last partial frame is kept.
    Half-overlapping frames are two neighbouring hop-sized blocks, so framing needs no gather.
    """
    samples = audio.shape[-1]
    frames = num_frames(samples)
    total = (frames + 1) * FRAME_HOP
    pad = [(0, 0)] * (audio.ndim - 1) + [(FRAME_HOP, total - FRAME_HOP - samples)]
    blocks = jnp.pad(audio, pad).reshape(*audio.shape[:-1], frames + 1, FRAME_HOP)
    framed = jnp.concatenate([blocks[..., :-1, :], blocks[..., 1:, :]], axis=-1)
    return jnp.fft.rfft(framed * _hann(FRAME_LENGTH))


def unit_phase(spectrum: Complex[Array, "..."], floor: float = 1e-7) -> Complex[Array, "..."]:
    """Spectrum with its magnitude removed (the phase transform); bins below ``floor`` go to 0."""
    return spectrum * jax.lax.rsqrt(jnp.real(spectrum * jnp.conj(spectrum)) + floor**2)

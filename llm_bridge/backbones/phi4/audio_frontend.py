# SPDX-License-Identifier: Apache-2.0
"""Log-mel front end of Phi-4-multimodal's audio encoder: 16 kHz waveform to 80 bands each 10 ms.

The mathematics is that of `Phi4MultimodalFeatureExtractor` of Hugging Face transformers (Apache-2.0,
copyright 2024 Microsoft): frames of 25 ms without padding around the clip, pre-emphasis 0.97 in each
frame, whose first sample counts as its own predecessor, 16-bit scale, symmetric Hamming window, power of a
512-point FFT, 80 triangles on Kaldi's mel scale up to 7690 Hz, natural logarithm floored at 1. Frame f
covers samples 160 f .. 160 f + 399; a token is eight frames, 80 ms.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.typing import Array, Float

BANDS = 80
FRAME = 400
"""Samples under the window: 25 ms."""
FRAME_HOP = 160
"""Samples between frames: 10 ms."""
FRAMES_PER_TOKEN = 8
TOKEN_HOP = FRAMES_PER_TOKEN * FRAME_HOP
"""Samples between tokens: 80 ms."""
_FFT = 512
_LOWEST, _HIGHEST = 0.0, 7690.0
_EMPHASIS = 0.97
_FULL_SCALE = 32768.0


@functools.lru_cache(maxsize=1)
def filterbank() -> np.ndarray:
    """Triangles [257 FFT bins, 80 bands] with peak 1, their sides straight in mel, not in hertz (Kaldi)."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log(1.0 + np.asarray(hertz, np.float64) / 700.0)

    edges = np.linspace(mel(_LOWEST), mel(_HIGHEST), BANDS + 2)
    bins = mel(np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT))[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def frame_count(samples: Any) -> Any:
    """Whole frames of a clip of so many samples (a number or an array of them), at least 400."""
    return (samples - FRAME) // FRAME_HOP + 1


def token_count(samples: int) -> int:
    """Tokens of a clip: one for each 80 ms that it begins with 25 ms of sound at least."""
    return 0 if samples < FRAME else -(-int(frame_count(samples)) // FRAMES_PER_TOKEN)


def log_mel(audio: Float[Array, "b t"]) -> Float[Array, "b f 80"]:
    """Natural-log mel powers of audio in full scale +-1; f = (t - 400) // 160 + 1 whole frames."""
    frames = int(frame_count(audio.shape[-1]))
    # From iota, not from a table: the indices of 30 s would be a constant of some megabytes.
    index = jnp.arange(frames)[:, None] * FRAME_HOP + jnp.arange(FRAME)[None, :]
    framed = jnp.asarray(audio, jnp.float32)[:, index]
    before = jnp.concatenate([framed[..., :1], framed[..., :-1]], axis=-1)
    emphasised = (framed - _EMPHASIS * before) * _FULL_SCALE
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    spectrum = jnp.fft.rfft(emphasised * jnp.asarray(window, jnp.float32), n=_FFT)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # The logarithm of a quiet band needs the full precision that accelerators skip by default.
    mel = jnp.matmul(power, filterbank(), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, 1.0))

# SPDX-License-Identifier: Apache-2.0
"""Log-mel front end of Gemma 3n's audio encoder: 16 kHz waveform to one frame of 128 bands each 10 ms.

The mathematics is that of `Gemma3nAudioFeatureExtractor` of Hugging Face transformers (Apache-2.0,
copyright 2025 Google LLC): 32 ms periodic Hann window, pre-emphasis 0.97 in each frame as HTK does
it, magnitude (not power) of a 1024-point FFT, 128 triangles on the HTK mel scale from 125 to 7600 Hz,
natural logarithm floored at 1e-5. Frame f covers samples 160 f .. 160 f + 511 and one more that only
lengthens the clip; token k (of 16 frames) starts at sample 2560 k, 160 k ms.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.typing import Array, Bool, Float, Int

BANDS = 128
FRAME = 512
"""Samples under the window: 32 ms."""
FRAME_HOP = 160
"""Samples between frames: 10 ms."""
FRAMES_PER_TOKEN = HOP // FRAME_HOP
MAX_SAMPLES = 30 * SAMPLE_RATE
"""The longest clip that the encoder was trained on: 30 s."""
_READ = FRAME + 1
_FFT = 1024
_LOWEST, _HIGHEST = 125.0, 7600.0
_EMPHASIS = 0.97
_FLOOR = 1e-5


@functools.lru_cache(maxsize=1)
def filterbank() -> np.ndarray:
    """Triangles [513 FFT bins, 128 bands] with peak 1, centres equally spaced in mel (HTK)."""
    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (_LOWEST, _HIGHEST))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, BANDS + 2) / 2595.0) - 1.0)
    bins = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
    width = np.diff(edges)
    slope = edges[None, :] - bins[:, None]
    rising, falling = -slope[:, :-2] / width[:-1], slope[:, 2:] / width[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(audio: Float[Array, "b t"]) -> Float[Array, "b f 128"]:
    """Natural-log mel magnitudes of audio in full scale +-1; f = (t - 513) // 160 + 1 whole frames."""
    frames = (audio.shape[-1] - _READ) // FRAME_HOP + 1
    if frames < 1:
        return jnp.zeros((audio.shape[0], 0, BANDS), jnp.float32)
    # From iota, not from a table: the indices of 30 s would be a constant of some megabytes.
    index = jnp.arange(frames)[:, None] * FRAME_HOP + jnp.arange(FRAME)[None, :]
    framed = jnp.asarray(audio, jnp.float32)[:, index]
    first = framed[..., :1] * (1.0 - _EMPHASIS)
    emphasised = jnp.concatenate([first, framed[..., 1:] - _EMPHASIS * framed[..., :-1]], axis=-1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    spectrum = jnp.abs(jnp.fft.rfft(emphasised * jnp.asarray(window, jnp.float32), n=_FFT))
    # The logarithm of a quiet band needs the full precision that accelerators skip by default.
    mel = jnp.matmul(spectrum, filterbank(), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, _FLOOR))


def frames_inside(samples: Int[Array, "b"], frames: int) -> Bool[Array, "b f"]:
    """Which frames start inside a clip of so many samples."""
    return jnp.arange(frames)[None, :] * FRAME_HOP < samples[:, None]


def token_count(samples: int) -> int:
    """Tokens of a clip: one for each 160 ms that it begins, 188 for 30 s."""
    return -(-samples // HOP)


def padded_length(samples: int) -> int:
    """Samples, with silence after the clip, from which all its tokens can be computed.

    The last token looks 112 ms ahead: with less silence its value would depend on what else is in the
    batch. At 30 s there is none, as in the original, which pads to 30 s and never further.
    """
    length = token_count(samples) * HOP + _READ - FRAME_HOP
    return min(length, MAX_SAMPLES) if samples <= MAX_SAMPLES else length

# SPDX-License-Identifier: Apache-2.0
"""What SELDNet hears: the feature maps of the DCASE 2024 baseline (4 log-mel spectra, 3 intensities)."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

from sciphi.records import FOA_RATE
from spatial_core.errors import InputError
from spatial_core.typing import Float

HOP = 480  # samples between frames, 20 ms
FRAME_RATE = FOA_RATE / HOP  # frames a second
FFT = 1024
MELS = 64
MAPS = 7  # log-mel of W, Y, Z, X; intensity along y, z, x
TOP_DB = 80.0
_EPSILON = 1e-8
_POWER_FLOOR = 1e-10


def seld_features(foa: Float[Any, "*b 4 t"]) -> Float[Any, "*b 7 f 64"]:
    """Feature maps float32 of Ambisonic audio (ACN, SN3D, 24 kHz), f = t // 480 frames.

    Frame k is centred on sample 480 k, with zeros before the start. Maps 0-3: mel power of W, Y, Z, X
    in dB, at most 80 dB below the clip's loudest value of that channel. Maps 4-6: active intensity
    Re(conj(W) [Y, Z, X]) / (1e-8 + |W|^2 + (|Y|^2 + |Z|^2 + |X|^2) / 3) summed over the mel filters,
    pointing to the source. numpy or, given a jax array, jax. Raises InputError for another number of
    channels or less than one frame.
    """
    if foa.ndim < 2 or foa.shape[-2] != 4 or foa.shape[-1] < HOP:
        raise InputError(
            f"features need Ambisonic audio [..., 4, t] of at least {HOP} samples, got {list(foa.shape)}"
        )
    xp = _namespace(foa)
    spectra = _spectra(foa, xp)
    power = xp.real(spectra) ** 2 + xp.imag(spectra) ** 2
    weights = mel_weights()
    level = 10.0 * xp.log10(xp.maximum(power @ weights, _POWER_FLOOR))
    level = xp.maximum(level, level.max(axis=(-2, -1), keepdims=True) - TOP_DB)
    first, others = spectra[..., :1, :, :], spectra[..., 1:, :, :]
    energy = _EPSILON + power[..., :1, :, :] + power[..., 1:, :, :].sum(-3, keepdims=True) / 3.0
    active = xp.real(first) * xp.real(others) + xp.imag(first) * xp.imag(others)
    return xp.concatenate([level, (active / energy) @ weights], axis=-3).astype(np.float32)


def _namespace(array: Any) -> types.ModuleType:
    if isinstance(array, np.ndarray):
        return np
    import jax.numpy

    return jax.numpy


def _spectra(foa: Any, xp: types.ModuleType) -> Any:
    """Complex [..., 4, f, 513], up to a phase that all channels of a bin share.

    The window of 960 samples is two neighbouring blocks of a hop, so framing needs no gather; where in
    the 1,024 points of the transform they stand turns that phase only.
    """
    frames = foa.shape[-1] // HOP
    # The baseline adds its epsilon to the samples.
    audio = foa[..., : frames * HOP].astype(np.float32) + np.float32(_EPSILON)
    blocks = audio.reshape(*audio.shape[:-1], frames, HOP)
    before = xp.concatenate([xp.zeros_like(blocks[..., :1, :]), blocks[..., :-1, :]], axis=-2)
    return xp.fft.rfft(xp.concatenate([before, blocks], axis=-1) * _window(), n=FFT)


@functools.cache
def _window() -> np.ndarray:
    """Periodic Hann window of 960 samples."""
    phase = 2 * np.pi * np.arange(2 * HOP) / (2 * HOP)
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@functools.cache
def mel_weights() -> np.ndarray:
    """Triangles float32 [513, 64] of unit area on Slaney's scale, 0 to 12 kHz.

    The scale of Slaney's Auditory Toolbox (1998): linear to 1 kHz with 15 mels, then logarithmic with
    27 mels per factor of 6.4.
    """
    top = 15 + 27 * np.log(FOA_RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.arange(FFT // 2 + 1)[:, None] * FOA_RATE / FFT
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return triangles.astype(np.float32)

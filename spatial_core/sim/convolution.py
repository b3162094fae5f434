# SPDX-License-Identifier: Apache-2.0
"""Room responses convolved with dry signals, only the window that is needed."""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.fft

from spatial_core.data.records import WINDOW
from spatial_core.sim import mixing

# RIR lengths are rounded up to this many samples: few FFT sizes, whose plans stay cached.
_LENGTH_STEP = 1000


class Convolver:
    """Overlap-save convolution of RIRs with dry signals, the last WINDOW samples only.

    Responses are cut into blocks no longer than the window, which keeps transforms short for the
    crops that share a response. Two microphones are one complex signal: a real signal times it leaves
    them its real and its imaginary part. Transforms are done in place and buffers reused: the
    page faults of fresh ones cost as much as the transforms. A result depends on the responses and
    the dry signal alone, bit for bit.
    """

    def __init__(self, num_mics: int, taps: int) -> None:
        pairs, parts = -(-num_mics // 2), -(-taps // WINDOW)
        longest = _size(WINDOW)
        self._spectra = np.empty(parts * pairs * longest, np.complex64)
        self._wet = np.empty(pairs * longest, np.complex64)
        self._dry = np.empty(parts * longest, np.complex64)
        self._window = np.empty((num_mics, WINDOW), np.float32)
        self._responses = np.empty((0, 0, 0), np.complex64)
        self._mics = self._block = 0

    def load(self, rirs: np.ndarray) -> None:
        """Transforms the RIRs [m, taps], as far as they sound, for the calls that follow."""
        rirs = np.ascontiguousarray(rirs, np.float32)
        length = math.ceil(mixing.sounding(rirs) / _LENGTH_STEP) * _LENGTH_STEP
        length = min(length, rirs.shape[1])
        parts = -(-length // WINDOW)
        self._mics, self._block = len(rirs), -(-length // parts)
        size = _size(self._block)
        shape = (parts, -(-len(rirs) // 2), size)
        blocks = self._spectra[: math.prod(shape)].reshape(shape)
        mixing.pack(rirs, length, self._block, blocks.view(np.float32))
        self._responses = scipy.fft.fft(blocks, overwrite_x=True)

    def __call__(self, dry: np.ndarray) -> np.ndarray:
        """Reverberant window [m, WINDOW] of dry [taps - 1 + WINDOW]; the next call overwrites it."""
        dry = np.ascontiguousarray(dry, np.float32)
        parts, pairs, size = self._responses.shape
        # Four short transforms side by side are faster than a long one.
        dealt = np.empty((parts, 4, size // 4), np.float32)
        mixing.deal(dry, self._block, self._block - 1 + WINDOW, dealt)
        spectra = self._dry[: parts * size].reshape(parts, size)
        mixing.join(scipy.fft.rfft(dealt), _turns(size), spectra)
        wet = self._wet[: pairs * size].reshape(pairs, size)
        mixing.multiply(
            self._responses.view(np.float32), spectra.view(np.float32), wet.view(np.float32)
        )
        wet = scipy.fft.ifft(wet, overwrite_x=True)
        # Circular wrap-around spoils the samples before the window.
        window = self._window[: self._mics]
        mixing.unpack(wet.view(np.float32), self._block - 1, window)
        return window


def _size(block: int) -> int:
    """Length of the transforms for blocks of this many samples, a multiple of 8."""
    return 8 * scipy.fft.next_fast_len(-(-(block - 1 + WINDOW) // 8))


@functools.cache
def _turns(size: int) -> np.ndarray:
    """exp(-2 pi i j k / size) for j = 1..3 and k = 0..size / 8, complex64."""
    turns = np.outer(np.arange(1, 4), np.arange(size // 8 + 1)) / size
    return np.exp(-2j * np.pi * turns).astype(np.complex64)

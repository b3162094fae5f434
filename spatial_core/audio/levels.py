# SPDX-License-Identifier: Apache-2.0
"""Levels, signal-to-noise ratios and the acoustic measures of a room impulse response (RIR)."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from spatial_core.errors import InputError

EARLY_SECONDS = 0.050  # C50: what comes within 50 ms helps speech
DIRECT_SECONDS = 0.0025  # DRR: half width of the window around the direct sound
# Decay ranges in dB below the start, best first: T30, T20 and T10 (ISO 3382-1, section 5.3.3).
_DECAY_RANGES = ((-5.0, -35.0), (-5.0, -25.0), (-5.0, -15.0))
_HEADROOM = 10.0  # dB that the response must go on below the fitted range


def rms_db(x: ArrayLike) -> NDArray[np.float64]:
    """Level of [..., t] in dB relative to full scale 1 (RMS), [...]; silence is -inf."""
    power = np.mean(np.square(np.asarray(x, np.float64)), axis=-1)
    return _decibel(power, 1.0)


def a_weighting_db(hertz: ArrayLike) -> NDArray[np.float64]:
    """A-weighting in dB at frequencies in Hz; -inf at 0 (IEC 61672-1:2013, equation E.6, 0 at 1 kHz)."""
    squares = np.square(np.asarray(hertz, np.float64))
    low, low_mid, high_mid, high = (
        each**2 for each in (20.598997, 107.65265, 737.86223, 12194.217)
    )
    response = high * squares**2 / ((squares + low) * (squares + high))
    response /= np.sqrt((squares + low_mid) * (squares + high_mid))
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(response) + 2.0


def a_weighted_db(x: ArrayLike, rate: float) -> NDArray[np.float64]:
    """A-weighted level of [..., t] at `rate` Hz in dB relative to full scale 1 (RMS), [...]."""
    x = np.asarray(x)
    size = scipy.fft.next_fast_len(x.shape[-1], real=True)
    spectrum = scipy.fft.rfft(x, size)
    weights = 10.0 ** (a_weighting_db(scipy.fft.rfftfreq(size, 1 / rate)) / 10.0)
    # Of a real signal each bin but the first and, if the length is even, the last stands for two.
    weights[1 : (size + 1) // 2] *= 2
    power = np.square(np.abs(spectrum)) @ weights / size / x.shape[-1]
    return _decibel(power, 1.0)


def gain_for_snr(signal: ArrayLike, noise: ArrayLike, snr_db: float) -> float:
    """Factor for `noise` that puts `signal` snr_db above it (energy over all their values).

    signal and noise: any shapes, usually [m, t]. Raises InputError when either is silent.
    """
    signal_power = float(np.mean(np.square(np.asarray(signal, np.float64))))
    noise_power = float(np.mean(np.square(np.asarray(noise, np.float64))))
    for name, power in (("signal", signal_power), ("noise", noise_power)):
        if not power > 0:
            raise InputError(f"the {name} is silent: no gain gives an SNR of {snr_db:g} dB")
    return float(np.sqrt(signal_power / noise_power) * 10.0 ** (-snr_db / 20.0))


def edc(rir: ArrayLike) -> NDArray[np.float64]:
    """Energy decay curve of [..., t] in dB, 0 at the start, -inf after the end of the response.

    Schroeder's backward integration (J. Acoust. Soc. Am. 37, 409, 1965).
    """
    energy = np.square(np.asarray(rir, np.float64))
    remaining = np.cumsum(energy[..., ::-1], axis=-1)[..., ::-1]
    return _decibel(remaining, remaining[..., :1])


def measure_rt60(rir: ArrayLike, rate: float) -> NDArray[np.float64]:
    """Reverberation time in seconds of [..., t] at `rate` Hz, [...].

    A line is fitted to the decay curve from -5 to -35 dB (T30); where the response is too short for
    that, to -25 (T20) or -15 dB (T10). A response without a tail answers 0, a silent one NaN.
    """
    rir = np.asarray(rir, np.float64)
    flat = rir.reshape(-1, rir.shape[-1])
    times = np.array([_rt60_of_curve(curve, rate) for curve in edc(flat)])
    return times.reshape(rir.shape[:-1])[()]


def c50(rir: ArrayLike, rate: float, direct: ArrayLike | None = None) -> NDArray[np.float64]:
    """Clarity of [..., t] in dB: energy to 50 ms after the direct sound over what follows.

    direct: the sample [...] at which the direct sound arrives, where it is known; by default that of
    the strongest sample.
    """
    rir = np.asarray(rir, np.float64)
    arrival = _direct_index(rir) if direct is None else np.asarray(direct)
    since = np.arange(rir.shape[-1]) - arrival[..., None]
    return _energy_ratio(rir, since < round(EARLY_SECONDS * rate))


def drr(rir: ArrayLike, rate: float) -> NDArray[np.float64]:
    """Direct-to-reverberant ratio of [..., t] in dB: +-2.5 ms around the peak over all the rest."""
    rir = np.asarray(rir, np.float64)
    since = np.arange(rir.shape[-1]) - _direct_index(rir)[..., None]
    return _energy_ratio(rir, np.abs(since) <= round(DIRECT_SECONDS * rate))


def _decibel(power: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """10 log10(power / reference); -inf for no power, NaN for no reference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10.0 * np.log10(np.divide(power, reference))


def _rt60_of_curve(curve: NDArray[np.float64], rate: float) -> float:
    """Reverberation time of one decay curve [t] in dB."""
    if not np.isfinite(curve[0]):
        return float("nan")
    last = int(np.flatnonzero(np.isfinite(curve))[-1])
    time = 0.0
    for upper, lower in _DECAY_RANGES:
        start = int(np.argmax(curve <= upper))
        stop = int(np.argmax(curve < lower)) or last + 1
        if stop - start < 3:
            # The curve falls through the range at once: there is no tail to fit.
            return (stop - start) / rate
        slope, level = np.polyfit(np.arange(start, stop), curve[start:stop], 1)
        time = -60.0 / slope / rate
        # A response cut off early bends its curve down: fit only where it goes on well below.
        if slope * last + level < lower - _HEADROOM:
            break
    return float(time)


def _direct_index(rir: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index [...] of the strongest sample of [..., t], taken as the direct sound."""
    return np.argmax(np.abs(rir), axis=-1)


def _energy_ratio(rir: NDArray[np.float64], first: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Energy where `first` is True over energy elsewhere, in dB; +inf when there is none."""
    energy = np.square(rir)
    return _decibel(np.sum(energy * first, -1), np.sum(energy * ~first, -1))

# SPDX-License-Identifier: Apache-2.0
"""A describer that measures one source by physics, and sound fields for it to hear."""

from __future__ import annotations

import numpy as np

from sciphi.records import FOA_RATE
from sciphi.schema import SceneDescription, Source
from sciphi.text_format import to_text
from sciphi.zones import ZONES_26
from spatial_core.audio.ambisonics import INTERNAL, convert, encode_plane_wave, intensity_direction
from spatial_core.geometry.coords import to_cartesian


class Ear:
    """Direction by the intensity vector, level of W, times where W is within 30 dB of its loudest.

    A stand-in for a trained model: its answers are independent of all that is tested here. label may be a
    function of the window. seen: the windows that it was shown.
    """

    name = "ear"

    def __init__(self, label="noise", seconds=2.0):
        self.label, self.seconds, self.seen = label, seconds, []

    def describe(self, foas):
        self.seen += list(foas)
        return [self._tell(foa) for foa in foas]

    def _tell(self, foa):
        assert foa.shape == (4, round(self.seconds * FOA_RATE)) and foa.dtype == np.float32
        frame = FOA_RATE // 10
        power = np.mean(foa[0].reshape(-1, frame) ** 2, axis=1)
        loud = np.flatnonzero(power > power.max() * 1e-3)
        azimuth, elevation = intensity_direction(foa)
        sound = Source(
            self.label(foa) if callable(self.label) else self.label,
            onset=loud[0] / 10,
            offset=(loud[-1] + 1) / 10,
            zone=ZONES_26.zone_of(float(azimuth), float(elevation)),
            distance=1.5,
            loudness=10 * np.log10(power[loud].mean()),
            c50=20,
        )
        return to_text(SceneDescription(200, 0.3, None, (sound,)))


def noise_from(
    azimuth,
    elevation,
    seconds=2.0,
    rate=48000,
    fmt=INTERNAL,
    level=0.1,
    seed=0,
    highest=8000,
):
    """A plane wave of noise [4, t] below `highest` Hz with W at RMS `level` in SN3D, in a format."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.normal(size=round(seconds * rate)))
    spectrum[np.fft.rfftfreq(round(seconds * rate), 1 / rate) > highest] = 0
    mono = np.fft.irfft(spectrum, round(seconds * rate))
    mono *= level / np.sqrt(np.mean(mono**2))
    foa = encode_plane_wave(azimuth, elevation)[:, None] * mono
    return convert(foa, INTERNAL, fmt).astype(np.float32)


def capsules_from(azimuth, elevation, seconds=2.0, rate=24000, level=0.1):
    """The same wave at a tetrahedral microphone's capsules [4, t]: cardioids 1.47 cm from its centre.

    A capsule at angle g from the source hears (1 + cos g) / 2, earlier by 1.47 cm cos g / c. The noise ends
    at 3.5 kHz, above which directions alias.
    """
    mono = noise_from(0, 0, seconds, rate, level=level, highest=3500)[0]
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    cosine = corners @ to_cartesian(azimuth, elevation)
    hertz = np.fft.rfftfreq(mono.size, 1 / rate)
    delays = np.exp(2j * np.pi * hertz * 0.0147 / 343.0 * cosine[:, None])
    spectra = np.fft.rfft(mono) * delays * (1 + cosine[:, None]) / 2
    return np.fft.irfft(spectra, mono.size).astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Absorption of sound by air."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spatial_core.errors import InputError
from spatial_core.sim.rooms import OCTAVES_HZ, octave_bands


@dataclass(frozen=True)
class Air:
    """Air of a temperature in degrees Celsius and a relative humidity in percent, at 101.325 kPa."""

    temperature: float = 20.0
    humidity: float = 50.0

    def __post_init__(self) -> None:
        if not (-20 <= self.temperature <= 50 and 10 <= self.humidity <= 100):
            raise InputError(
                f"air of {self.temperature} degrees C and {self.humidity}% humidity: choose -20..50 "
                "degrees and 10..100%"
            )

    def absorption(self, frequency: np.ndarray) -> np.ndarray:
        """Energy absorption in 1/m at frequencies in Hz: ISO 9613-1:1993, equations 3 to 5, B.3."""
        kelvin = self.temperature + 273.15
        ratio = kelvin / 293.15
        saturation = 10 ** (-6.8346 * (273.16 / kelvin) ** 1.261 + 4.6151)
        water = self.humidity * saturation  # molar concentration in percent
        oxygen = 24 + 4.04e4 * water * (0.02 + water) / (0.391 + water)
        nitrogen = ratio**-0.5 * (9 + 280 * water * math.exp(-4.170 * (ratio ** (-1 / 3) - 1)))
        squares = np.asarray(frequency, float) ** 2
        relaxation = 0.01275 * math.exp(-2239.1 / kelvin) / (oxygen + squares / oxygen)
        relaxation += 0.1068 * math.exp(-3352.0 / kelvin) / (nitrogen + squares / nitrogen)
        decibels = 8.686 * squares * (1.84e-11 * ratio**0.5 + ratio**-2.5 * relaxation)
        return decibels * math.log(10) / 10

    def band_absorption(self) -> tuple[float, ...]:
        """The same, in 1/m, in the four bands of the simulators."""
        return tuple(octave_bands(self.absorption(np.array(OCTAVES_HZ))).tolist())

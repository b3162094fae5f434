# SPDX-License-Identifier: Apache-2.0
"""Ambisonic formats against published gains, rotation and directions against geometry, A-format."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spatial_core.audio import ambisonics
from spatial_core.audio.ambisonics import INTERNAL, AmbisonicFormat
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, to_cartesian, to_spherical

RATE = 24_000
FUMA = AmbisonicFormat("FuMa", "FuMa")
DIRECTIONS = [(0.0, 0.0), (90.0, 0.0), (-135.0, 0.0), (30.0, 60.0), (-100.0, -45.0), (0.0, 90.0)]


def test_plane_waves_have_the_published_gains() -> None:
    """Furse-Malham: W 0.7071, X cos A cos E, Y sin A cos E, Z sin E (Malham's table of 1999). AmbiX:
    W, Y, Z, X with SN3D (Nachbar et al. 2011); N3D is sqrt(2n + 1) times SN3D, so 1.7321."""
    azimuth, elevation = math.radians(30), math.radians(20)
    x, y = math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation)
    z = math.sin(elevation)
    for fmt, expected in (
        (FUMA, [0.70710678, x, y, z]),
        (INTERNAL, [1, y, z, x]),
        (AmbisonicFormat("ACN", "N3D"), [1, 1.7320508 * y, 1.7320508 * z, 1.7320508 * x]),
        (AmbisonicFormat("FuMa", "SN3D"), [1, x, y, z]),
    ):
        np.testing.assert_allclose(ambisonics.encode_plane_wave(30, 20, fmt), expected, rtol=1e-7)


@pytest.mark.parametrize("order", ambisonics.ORDERS)
@pytest.mark.parametrize("norm", ambisonics.NORMS)
def test_conversion_gives_what_encoding_gives_and_goes_back(order: str, norm: str) -> None:
    fmt = AmbisonicFormat(order, norm)
    signal = np.random.default_rng(0).standard_normal((2, 50))
    here = ambisonics.encode_plane_wave(-70, 33)[:, None] * signal[:, None]
    there = ambisonics.encode_plane_wave(-70, 33, fmt)[:, None] * signal[:, None]
    np.testing.assert_allclose(ambisonics.convert(here, INTERNAL, fmt), there, rtol=1e-12)
    np.testing.assert_allclose(ambisonics.convert(there, fmt, INTERNAL), here, rtol=1e-12)
    assert ambisonics.convert(here.astype(np.float32), INTERNAL, fmt).dtype == np.float32


def test_n3d_is_orthonormal_over_the_sphere() -> None:
    """The definition of N3D: the mean product of two channels over all directions is 1 or 0."""
    rng = np.random.default_rng(1)
    unit = rng.standard_normal((200_000, 3))
    azimuth, elevation, _ = to_spherical(unit)
    gains = ambisonics.encode_plane_wave(azimuth, elevation, AmbisonicFormat("ACN", "N3D"))
    # 200,000 random directions: a standard error of 0.002
    np.testing.assert_allclose(gains.T @ gains / len(gains), np.eye(4), atol=0.01)


def test_formats_by_name() -> None:
    assert AmbisonicFormat.parse("acn/sn3d") == AmbisonicFormat.parse("AmbiX") == INTERNAL
    assert AmbisonicFormat.parse("FuMa") == FUMA == AmbisonicFormat.parse("fuma/fuma")
    assert AmbisonicFormat.parse("FuMa/N3D") == AmbisonicFormat("FuMa", "N3D")
    assert AmbisonicFormat.parse(str(FUMA)) == FUMA
    for wrong in ("WXYZ", "", "ACN", "ACN/maxN", "SN3D/ACN"):
        with pytest.raises(InputError, match="choose"):
            AmbisonicFormat.parse(wrong)


@pytest.mark.parametrize("channels", [3, 5])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(InputError, match="four channels"):
        ambisonics.convert(np.zeros((channels, 9)), FUMA, INTERNAL)
    with pytest.raises(InputError, match="four channels"):
        ambisonics.rotate(np.zeros((channels, 9)), 10)
    with pytest.raises(InputError, match="FLU, FRD, BLD, BRU"):
        ambisonics.a_to_b(np.zeros((channels, 9)), RATE)


def test_turning_moves_the_front_as_it_says() -> None:
    front = ambisonics.encode_plane_wave(0, 0)[:, None] * np.ones(8)
    left = ambisonics.encode_plane_wave(90, 0)[:, None] * np.ones(8)
    for foa, turn, expected in (
        (front, {"yaw": 40}, (40, 0)),
        (front, {"pitch": 25}, (0, 25)),
        (left, {"roll": 30}, (90, 30)),
        (front, {"yaw": 90, "pitch": 30}, (90, 30)),
    ):
        found = ambisonics.intensity_direction(ambisonics.rotate(foa, **turn))
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_turned_scene_is_the_scene_encoded_from_turned_directions() -> None:
    rng = np.random.default_rng(2)
    signals = rng.standard_normal((3, 100))
    units = to_cartesian([10, 100, -60], [5, -40, 70])
    turn = (rng.uniform(-180, 180), rng.uniform(-90, 90), rng.uniform(-180, 180))

    def encoded(where: NDArray[np.float64], fmt: AmbisonicFormat) -> NDArray[np.float64]:
        azimuth, elevation, _ = to_spherical(where)
        return ambisonics.encode_plane_wave(azimuth, elevation, fmt).T @ signals

    for fmt in (INTERNAL, FUMA):
        turned = ambisonics.rotate(encoded(units, fmt), *turn, fmt=fmt)
        expected = encoded(units @ ambisonics.rotation(*turn).T, fmt)
        np.testing.assert_allclose(turned, expected, atol=1e-12)


def test_intensity_points_at_the_source_frame_by_frame() -> None:
    rng = np.random.default_rng(3)
    parts = [
        ambisonics.encode_plane_wave(*direction)[:, None] * rng.standard_normal(480)
        for direction in DIRECTIONS
    ]
    found = ambisonics.intensity_direction(np.concatenate(parts, axis=1), frame=480)
    np.testing.assert_allclose(great_circle(*found, *np.array(DIRECTIONS).T), 0, atol=1e-6)


def test_diffuseness_is_0_for_a_wave_and_1_for_many() -> None:
    rng = np.random.default_rng(4)
    wave = ambisonics.encode_plane_wave(20, -10)[:, None] * rng.standard_normal(1000)
    assert ambisonics.diffuseness(wave) == pytest.approx(0, abs=1e-12)
    azimuth, elevation, _ = to_spherical(rng.standard_normal((400, 3)))
    gains = ambisonics.encode_plane_wave(azimuth, elevation)
    field = gains.T @ rng.standard_normal((400, 20_000))
    # 400 directions add up to a flow of some 1/sqrt(400)
    assert ambisonics.diffuseness(field) > 0.9


def capsules(azimuth: float, elevation: float, radius: float, signal: NDArray) -> NDArray:
    """What cardioids on an open sphere hear of a plane wave: exact delays in the frequency domain."""
    facing = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    cosine = facing @ to_cartesian(azimuth, elevation)
    hertz = np.fft.rfftfreq(signal.size, 1 / RATE)
    early = np.exp(2j * np.pi * hertz * radius / 343.0 * cosine[:, None])
    return np.fft.irfft(0.5 * (1 + cosine[:, None]) * early * np.fft.rfft(signal), signal.size)


def low_noise(hertz: float, seed: int = 5) -> NDArray[np.float64]:
    """Noise up to a frequency, with silence around it."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(RATE))
    spectrum[np.fft.rfftfreq(RATE, 1 / RATE) > hertz] = 0
    return np.fft.irfft(spectrum) * np.hanning(RATE)


@pytest.mark.parametrize(("azimuth", "elevation"), DIRECTIONS)
def test_a_format_of_coincident_capsules_is_exact(azimuth: float, elevation: float) -> None:
    signal = low_noise(8000)
    foa = ambisonics.a_to_b(capsules(azimuth, elevation, 0.0, signal), RATE, compensate=False)
    expected = ambisonics.encode_plane_wave(azimuth, elevation)[:, None] * signal
    np.testing.assert_allclose(foa, expected, atol=1e-6)


@pytest.mark.parametrize(("azimuth", "elevation"), DIRECTIONS)
def test_a_format_of_a_real_radius_is_flat_once_compensated(
    azimuth: float, elevation: float
) -> None:
    """Up to 1.5 kHz (kr 0.4). Four capsules let some of the second and third order through: the
    second stands 90 degrees out of phase to W, so it is no part of gains and active intensity, the
    third is the 2% that the gains are allowed."""
    signal = low_noise(1500)
    heard = capsules(azimuth, elevation, 0.0147, signal)
    foa = ambisonics.a_to_b(heard, RATE, radius=0.0147)
    raw = ambisonics.a_to_b(heard, RATE, compensate=False)
    gains = foa @ signal / (signal @ signal)
    np.testing.assert_allclose(gains, ambisonics.encode_plane_wave(azimuth, elevation), atol=0.02)
    peak = np.abs(signal).max()
    assert np.abs(foa[0] - signal).max() < 0.015 * peak  # of the third order alone
    assert np.abs(raw[0] - signal).max() > 0.05 * peak
    assert great_circle(*ambisonics.intensity_direction(foa), azimuth, elevation) < 2.0


@pytest.mark.parametrize(
    "change", [{"radius": 0}, {"radius": 2.0}, {"omni_share": 0}, {"omni_share": 1}, {"rate": 0}]
)
def test_impossible_microphones_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="microphone of radius"):
        ambisonics.a_to_b(np.zeros((4, 100)), **{"rate": RATE, **change})

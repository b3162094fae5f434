# SPDX-License-Identifier: Apache-2.0
"""A measured room response through Sci-Phi: 32 capsules to Ambisonics, turned, convolved, described.

    python benchmarks/sciphi_measured.py --response=em32_rir.wav --direction=76.5,-17

The response is that of an Eigenmike em32, a rigid sphere of 4.2 cm radius. Its capsules are encoded by
least squares over spherical harmonics up to order 4, of which the first order is kept; how far the
intensity vector of the direct sound is from the known direction says how good that is. Turning the
field about the microphone gives other directions in the same room. --model= skips the describing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.signal
import scipy.special
from absl import app, flags
from em32 import EM32, EM32_RADIUS

from sciphi.api import describe
from sciphi.convention_check import BandPowers, xyz_over_w
from sciphi.records import FOA_RATE
from sciphi.zones import ZONES_26, zone_error
from spatial_core.audio.ambisonics import SPEED_OF_SOUND, intensity_direction, rotate
from spatial_core.audio.io import load_audio, resample, write_wav
from spatial_core.geometry.coords import great_circle, to_cartesian

_RESPONSE = flags.DEFINE_string(
    "response", None, "A measured response, 32 channels.", required=True
)
_DIRECTION = flags.DEFINE_list("direction", ["76.5", "-17"], "Its azimuth, elevation.")
_MODEL = flags.DEFINE_string("model", "shipped", "A trained model's folder; empty: only encode.")
_CLIPS = flags.DEFINE_integer(
    "clips", 32, "Recordings to describe, each in a direction of its own."
)
_OUT = flags.DEFINE_string("out", "runs/sciphi_measured", "Folder for figures and examples.")

ORDER = 4
MAX_BOOST_DB = 20.0


def encode(capsules: np.ndarray, rate: int) -> np.ndarray:
    """ACN/SN3D [4, t] of the signals [32, t] of a rigid sphere's capsules.

    A plane wave makes sum_n i^n b_n(kr) sum_m Y_nm(capsule) Y_nm(source) on the sphere, with
    b_n = j_n - j_n' / h_n' h_n (Rafaely, "Fundamentals of spherical array processing", 2015, section 2.5).
    """
    colatitude, turn = np.asarray(EM32, float).T
    fit = np.linalg.pinv(_harmonics(turn, 90.0 - colatitude))[:4]
    samples = capsules.shape[1]
    size = scipy.fft.next_fast_len(2 * samples, real=True)
    spectrum = fit @ scipy.fft.rfft(capsules, size)
    kr = np.maximum(scipy.fft.rfftfreq(size, 1 / rate), 20.0) * 2 * np.pi * EM32_RADIUS
    foa = np.stack(
        [spectrum[0] * _inverse(0, kr / SPEED_OF_SOUND)]
        + [spectrum[n] * _inverse(1, kr / SPEED_OF_SOUND) / np.sqrt(3) for n in (1, 2, 3)]
    )
    return scipy.fft.irfft(foa, size)[:, :samples].astype(np.float32)


def _inverse(n: int, kr: np.ndarray) -> np.ndarray:
    """1 / (i^n b_n), with its gain limited."""

    def hankel(derivative: bool) -> np.ndarray:
        # Of the second kind: numpy's transform has waves as exp(+i w t).
        return scipy.special.spherical_jn(n, kr, derivative) - 1j * scipy.special.spherical_yn(
            n, kr, derivative
        )

    slope = scipy.special.spherical_jn(n, kr, True)
    radial = 1j**n * (scipy.special.spherical_jn(n, kr) - slope / hankel(True) * hankel(False))
    size = np.abs(radial)
    return np.conj(radial) / size / np.maximum(size, 10 ** (-MAX_BOOST_DB / 20))


def _harmonics(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Orthonormal (N3D) harmonics [k, 25] up to order 4: W, Y, Z, X first, real; any basis above."""
    x, y, z = to_cartesian(azimuth, elevation).T
    columns = [np.ones_like(x), *(np.sqrt(3) * axis for axis in (y, z, x))]
    theta, phi = np.radians(90.0 - elevation), np.radians(azimuth)
    for n in range(2, ORDER + 1):
        columns += [scipy.special.sph_harm_y(n, m, theta, phi) for m in range(-n, n + 1)]
    return np.stack(columns, axis=1)


def accuracy(response: np.ndarray, rate: int, truth: tuple[float, float]) -> dict[str, float]:
    """Angle in degrees from the intensity vector of the direct sound (5 ms) to the truth, by band."""
    start = int(np.argmax(np.abs(response[0])))
    found = {}
    for low, high in ((200, 1000), (500, 2000), (1000, 4000), (200, 4000)):
        sos = scipy.signal.butter(4, (low, high), "bandpass", fs=rate, output="sos")
        band = scipy.signal.sosfiltfilt(sos, response, axis=1)
        direct = band[:, max(0, start - rate // 1000) : start + rate // 250]
        azimuth, elevation = intensity_direction(direct)
        angle = great_circle(azimuth, elevation, *truth)
        found[f"{low}-{high} Hz"] = round(float(angle), 1)
    return found


def clip(
    rng: np.random.Generator, sounds, response: np.ndarray, seconds: float
) -> tuple[str, np.ndarray]:
    """Label and Ambisonics [4, t] at 24 kHz of a sound that begins at random, with faint noise."""
    number = int(rng.integers(len(sounds.items)))
    dry = sounds.audio(number)[: round((seconds - 1) * FOA_RATE)]
    wet = scipy.signal.fftconvolve(dry[None], response, axes=1)
    foa = np.zeros((4, round(seconds * FOA_RATE)))
    first = int(rng.integers(foa.shape[1] - wet.shape[1] + 1))
    foa[:, first : first + wet.shape[1]] = wet
    level = 10 ** (rng.uniform(-38, -24) / 20) / np.sqrt(np.mean(wet[0] ** 2))
    foa = level * foa + rng.normal(size=foa.shape) * 10 ** (-80 / 20)
    return sounds.items[number].label, foa.astype(np.float32)


def main(argv: list[str]) -> None:
    """Encode, measure, describe; writes OUT/sciphi_measured.json and one recording."""
    del argv
    recorded = load_audio(_RESPONSE.value, sample_rate=None)
    azimuth, elevation = map(float, _DIRECTION.value)
    foa = encode(recorded.samples, recorded.sample_rate)
    powers = BandPowers(recorded.sample_rate)
    powers.add(foa)
    results: dict = {
        "angle to the known direction": accuracy(foa, recorded.sample_rate, (azimuth, elevation)),
        "power of XYZ over W, dB": round(xyz_over_w(powers), 2),
    }
    print(json.dumps(results), flush=True)
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    response = resample(foa, recorded.sample_rate, FOA_RATE)
    if _MODEL.value:
        results["described"] = described(response, azimuth, elevation, folder)
        print(json.dumps(results["described"]), flush=True)
    (folder / "sciphi_measured.json").write_text(json.dumps(results, indent=2) + "\n")


def described(response: np.ndarray, azimuth: float, elevation: float, folder: Path) -> dict:
    """Share of recordings with one source, and with its zone right, over directions and sounds."""
    from sciphi.material import open_events, open_speech
    from sciphi.trained import load_describer

    model = load_describer(None if _MODEL.value == "shipped" else _MODEL.value)
    kinds = {
        "speech": open_speech("embedded", "test", 8.0),
        "events": open_events("embedded", "test"),
    }
    rows = {}
    for kind, sounds in kinds.items():
        counts, errors, named = [], [], []
        for index in range(_CLIPS.value):
            rng = np.random.default_rng([index])
            yaw = float(rng.uniform(-180, 180))
            label, audio = clip(rng, sounds, rotate(response, yaw), model.seconds)
            if index == 0:
                write_wav(folder / f"{kind}.wav", audio, FOA_RATE)
            result = describe(audio, "ACN", "SN3D", FOA_RATE, model=model)
            sources = result.description.sources
            counts.append(len(sources))
            truth = ZONES_26.zone_of(azimuth + yaw, elevation)
            if sources and sources[0].zone:
                errors.append(zone_error(sources[0].zone, truth))
                named.append(sources[0].name == label)
        rows[kind] = {
            "recordings": _CLIPS.value,
            "one source": float(np.mean(np.array(counts) == 1)),
            "zone right": float(np.mean(np.array(errors) == 0)),
            "zone error, degrees": float(np.mean(errors)),
            "label right": float(np.mean(named)),
        }
    return rows


if __name__ == "__main__":
    app.run(main)

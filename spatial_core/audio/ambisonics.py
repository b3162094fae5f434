# SPDX-License-Identifier: Apache-2.0
"""First-order Ambisonics: channel orders and gains, encoding, rotation, A-format, directions.

Azimuth is counter-clockwise from +x, the front (+y is left), elevation up, both in degrees. A plane
wave from a direction has the gains (w, y, z, x) of that direction and the same signal in all channels.
Every function that depends on the order and the gains of the channels says which, or takes them as an
`AmbisonicFormat`: nothing is guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.special
from numpy.typing import ArrayLike, NDArray

from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian, to_spherical

SPEED_OF_SOUND = 343.0
ORDERS = {"ACN": "WYZX", "FuMa": "WXYZ"}
"""Channels of the first order by name of their order: ACN (AmbiX, DCASE), Furse-Malham (B-format)."""
# Gains of a plane wave along an axis: of W, and of X, Y and Z. SN3D: Daniel 2000; N3D is
# orthonormal over the sphere (sqrt(2 n + 1) times SN3D); Furse-Malham has W 3 dB down and, in the
# first order, maxN = SN3D (Malham 2003, "Higher order Ambisonic systems"; AmbiX: Nachbar et al. 2011).
NORMS = {"SN3D": (1.0, 1.0), "N3D": (1.0, math.sqrt(3.0)), "FuMa": (math.sqrt(0.5), 1.0)}
CAPSULES = ("FLU", "FRD", "BLD", "BRU")
"""A-format: front left up, front right down, back left down, back right up (AMBEO, H3-VR, SPS200)."""
RADIUS = 0.0147
"""Metres from the centre to a capsule: 1.47 cm, usual of small tetrahedral microphones."""
_CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


@dataclass(frozen=True)
class AmbisonicFormat:
    """Order of the channels ("ACN" or "FuMa") and their gains ("SN3D", "N3D" or "FuMa").

    Raises InputError for any other name.
    """

    order: str = "ACN"
    norm: str = "SN3D"

    def __post_init__(self) -> None:
        for what, value, known in (("order", self.order, ORDERS), ("norm", self.norm, NORMS)):
            if value not in known:
                raise InputError(
                    f"Ambisonic {what} {value!r} is unknown: choose {' or '.join(known)}. AmbiX and "
                    "DCASE files are ACN with SN3D, older B-format is FuMa with FuMa"
                )

    @classmethod
    def parse(cls, text: str) -> AmbisonicFormat:
        """The format of "ACN/SN3D" (also "AmbiX") or "FuMa/FuMa" (also "FuMa"), in any case."""
        short = {"ambix": "ACN/SN3D", "fuma": "FuMa/FuMa"}
        order, _, norm = short.get(text.strip().lower(), text).partition("/")
        names = {name.lower(): name for name in (*ORDERS, *NORMS)}
        return cls(*(names.get(part.strip().lower(), part.strip()) for part in (order, norm)))

    def __str__(self) -> str:
        return f"{self.order}/{self.norm}"

    @property
    def channels(self) -> str:
        """The channels in their order, as in "WYZX"."""
        return ORDERS[self.order]

    @property
    def gains(self) -> NDArray[np.float64]:
        """Gains [4] of the channels, in their order, where SN3D has 1."""
        of_w, of_axes = NORMS[self.norm]
        return np.array([of_w if channel == "W" else of_axes for channel in self.channels])


INTERNAL = AmbisonicFormat("ACN", "SN3D")
"""What everything here works in."""


def convert(foa: ArrayLike, source: AmbisonicFormat, target: AmbisonicFormat) -> NDArray:
    """The same sound field [..., 4, t] in another format; floats keep their type."""
    foa = _channels(foa)
    rows = [source.channels.index(channel) for channel in target.channels]
    factor = (target.gains / source.gains[rows]).astype(foa.dtype)
    return foa[..., rows, :] * factor[:, None]


def encode_plane_wave(
    azimuth: ArrayLike, elevation: ArrayLike, target: AmbisonicFormat = INTERNAL
) -> NDArray[np.float64]:
    """Gains [..., 4] of plane waves from these directions in degrees [...]."""
    return _pattern(to_cartesian(azimuth, elevation), target)


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> NDArray[np.float64]:
    """Matrix [3, 3] that turns (x, y, z): by roll, then by pitch, then by yaw, degrees.

    yaw moves what is in front to the left (every azimuth grows by it), pitch moves the front up,
    roll moves the left up.
    """
    (cy, sy), (cp, sp), (cr, sr) = (
        (math.cos(math.radians(angle)), math.sin(math.radians(angle)))
        for angle in (yaw, pitch, roll)
    )
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return about_z @ about_y @ about_x


def rotate(
    foa: ArrayLike,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    fmt: AmbisonicFormat = INTERNAL,
) -> NDArray:
    """The scene [..., 4, t] turned about the microphone as by `rotation`; floats keep their type."""
    foa = _channels(foa)
    rows = [fmt.channels.index(channel) for channel in "XYZ"]
    turned = foa.copy()
    matrix = rotation(yaw, pitch, roll).astype(foa.dtype)
    turned[..., rows, :] = np.matmul(matrix, foa[..., rows, :])
    return turned


def intensity(foa: ArrayLike, frame: int | None = None) -> NDArray[np.float64]:
    """Mean active intensity [..., 3] (x, y, z) of ACN/SN3D audio [..., 4, t], pointing to the source.

    frame: samples of which each mean is taken, giving [..., f, 3]; what is left over is dropped.
    """
    w, y, z, x = _framed(foa, frame)
    return np.stack([np.mean(w * each, axis=-1) for each in (x, y, z)], axis=-1)


def intensity_direction(
    foa: ArrayLike, frame: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth and elevation in degrees, [...] or [..., f], of the active intensity (ACN/SN3D).

    For one plane wave that is its direction; reverberation and further sources pull it. Silence
    answers 0, 0.
    """
    azimuth, elevation, _ = to_spherical(intensity(foa, frame))
    return azimuth, elevation


def to_stereo(foa: ArrayLike) -> NDArray[np.float32]:
    """ACN/SN3D audio [4, t] for two ears or loudspeakers: cardioids to the left and the right, [2, t]."""
    w, y = np.asarray(_channels(foa), np.float32)[:2]
    return (np.stack([w + y, w - y]) / 2).astype(np.float32)


def diffuseness(foa: ArrayLike, frame: int | None = None) -> NDArray[np.float64]:
    """1 - |mean intensity| / mean energy of ACN/SN3D audio: 0 for a plane wave, 1 for a diffuse field.

    Merimaa and Pulkki, "Spatial impulse response rendering I", JAES 53 (2005), equation 13. NaN for
    silence.
    """
    w, y, z, x = _framed(foa, frame)
    energy = np.mean(w**2 + x**2 + y**2 + z**2, axis=-1) / 2
    flow = np.linalg.norm(intensity(foa, frame), axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - flow / energy


def a_to_b(
    capsules: ArrayLike,
    rate: float,
    radius: float = RADIUS,
    omni_share: float = 0.5,
    compensate: bool = True,
    max_boost_db: float = 15.0,
) -> NDArray[np.float32]:
    """ACN/SN3D float32 [4, t] from a tetrahedral microphone's capsules [4, t] in the order of `CAPSULES`.

    radius: metres from the centre to a capsule. omni_share: of the capsules' pattern, 0.5 a cardioid
    (see sim/receivers.py). compensate: take off what the distance between the capsules does to W and
    to X, Y, Z (the capsules' radial functions on an open sphere, boosted by at most max_boost_db), which
    flattens both below c / (2 pi radius), some 3.7 kHz for 1.47 cm; above, directions alias. Without
    it the capsules count as being in one point.

    Raises InputError for other than four channels, and settings that no microphone has.
    """
    signals = np.asarray(capsules)
    if signals.ndim != 2 or signals.shape[0] != 4:
        raise InputError(
            f"A-format is four capsules [4, t] in the order {', '.join(CAPSULES)}, got shape "
            f"{list(signals.shape)}"
        )
    if not (0 < omni_share < 1 and 0 < radius <= 0.1 and rate > 0):
        raise InputError(
            f"a microphone of radius {radius} m with an omni share of {omni_share} at {rate} Hz: "
            "need up to 0.1 m, a share between 0 and 1, and a rate above 0"
        )
    signals = signals.astype(np.float32)
    of_w = signals.sum(axis=0) / np.float32(4 * omni_share)
    scale = np.float32(math.sqrt(3) / (4 * (1 - omni_share)))
    x, y, z = scale * (_CORNERS.T.astype(np.float32) @ signals)
    foa = np.stack([of_w, y, z, x])
    if not compensate:
        return foa
    samples = foa.shape[1]
    size = scipy.fft.next_fast_len(samples + round(0.05 * rate), real=True)
    spectrum = scipy.fft.rfft(foa, size)
    filters = _compensation(scipy.fft.rfftfreq(size, 1 / rate), radius, omni_share, max_boost_db)
    return scipy.fft.irfft(spectrum * filters.astype(np.complex64), size)[:, :samples]


def _compensation(
    hertz: NDArray[np.float64], radius: float, omni_share: float, max_boost_db: float
) -> NDArray[np.complex128]:
    """Filters [4, k] of W, Y, Z, X.

    A capsule at angle g from the wave hears (s + (1 - s) cos g) exp(i k r cos g), whose order n is
    i^n (2n + 1) b_n P_n(cos g) with b_n = s j_n(kr) - i (1 - s) j_n'(kr) (Rafaely, "Fundamentals of
    spherical array processing", 2015, section 4.2). The filters are 1 over what orders 0 and 1
    become, 1 at frequency 0.
    """
    kr = 2 * np.pi * hertz * radius / SPEED_OF_SOUND
    rows = []
    for n in (0, 1):
        bessel = scipy.special.spherical_jn(n, kr)
        slope = scipy.special.spherical_jn(n, kr, derivative=True)
        response = 1j**n * (2 * n + 1) * (omni_share * bessel - 1j * (1 - omni_share) * slope)
        response /= omni_share if n == 0 else 1 - omni_share
        least = 10 ** (-max_boost_db / 20)
        size = np.maximum(np.abs(response), least)
        rows.append(np.conj(response) / np.abs(response) / size)
    return np.stack([rows[0], rows[1], rows[1], rows[1]])


def _pattern(unit: NDArray[np.float64], target: AmbisonicFormat) -> NDArray[np.float64]:
    """Gains [..., 4] for unit vectors [..., 3]."""
    parts = {"W": np.ones(unit.shape[:-1]), **dict(zip("XYZ", np.moveaxis(unit, -1, 0)))}
    return np.stack([parts[channel] for channel in target.channels], axis=-1) * target.gains


def _channels(foa: ArrayLike) -> NDArray:
    """[..., 4, t] as floats; InputError for another number of channels."""
    foa = np.asarray(foa)
    if foa.ndim < 2 or foa.shape[-2] != 4:
        raise InputError(
            f"first-order Ambisonics has four channels, [..., 4, t]; got shape {list(foa.shape)}"
        )
    return foa if np.issubdtype(foa.dtype, np.floating) else foa.astype(np.float64)


def _framed(foa: ArrayLike, frame: int | None) -> tuple[NDArray[np.float64], ...]:
    """The four channels [..., t], or [..., f, frame], as float64."""
    foa = _channels(foa).astype(np.float64)
    if frame is not None:
        if not 0 < frame <= foa.shape[-1]:
            raise InputError(f"frames of {frame} samples: choose 1 to {foa.shape[-1]}")
        count = foa.shape[-1] // frame
        foa = foa[..., : count * frame].reshape(*foa.shape[:-1], count, frame)
        foa = np.moveaxis(foa, -3, 0)
    else:
        foa = np.moveaxis(foa, -2, 0)
    return tuple(foa)

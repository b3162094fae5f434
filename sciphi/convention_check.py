# SPDX-License-Identifier: Apache-2.0
"""Whether four channels can be what they are said to be, by a law that every sound field obeys.

A plane wave gives W, X, Y, Z the amplitudes 1, cos(el) cos(az), cos(el) sin(az), sin(el) in SN3D: the
power of X, Y and Z together is that of W. Sums of waves keep that over a band of frequencies, be they few
or diffuse. N3D read as SN3D breaks it by 4.8 dB, FuMa read as SN3D by 3.0 dB, another channel in the
place of W by anything. Which of X, Y, Z is which, no law tells. Real microphones obey it between the
lows, where XYZ are mostly noise, and the highs, where the capsules are too far apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spatial_core.audio.checks import name_channels

LOW, HIGH = 300.0, 3000.0
TOLERANCE = 2.2
"""dB; what FuMa in the place of SN3D makes is 3."""
# What the power of XYZ over W becomes, in dB, when a file in one normalisation is read as another.
_OVER_W = {"SN3D": 0.0, "N3D": 4.77, "FuMa": 3.01}
_FAR = 6.5
_SURE = 0.6  # dB: a normalisation that explains the powers as well as that


@dataclass
class BandPowers:
    """Mean products of channels [4, 4] from 300 to 3000 Hz, gathered block by block at `rate` Hz."""

    rate: int
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros((4, 4)))

    def add(self, block: NDArray[np.float32]) -> None:
        """One more block [4, t]; a few samples alone say nothing of a band and are left out."""
        if block.shape[1] < self.rate // 20:
            return
        spectrum = np.fft.rfft(block * np.hanning(block.shape[1]).astype(np.float32))
        hertz = np.fft.rfftfreq(block.shape[1], 1 / self.rate)
        band = spectrum[:, (hertz >= LOW) & (hertz <= HIGH)]
        self.products += np.real(band @ band.conj().T) / block.shape[1]

    @property
    def powers(self) -> NDArray[np.float64]:
        """Each channel's power in the band [4]."""
        return np.diag(self.products)


def xyz_over_w(inside: BandPowers) -> float:
    """Power of X, Y, Z over that of W in SN3D, dB: 0 in a sound field; NaN without sound."""
    powers = inside.powers
    if not powers[0] > 0 or not powers[1:].sum() > 0:
        return float("nan")
    return float(10 * np.log10(powers[1:].sum() / powers[0]))


def convention_hints(given: BandPowers, inside: BandPowers, norm: str | None) -> list[str]:
    """What is doubtful about the convention that was stated; empty where nothing is.

    given: the channels as they came. inside: the same in SN3D, W first. norm: as stated, None for capsules.
    """
    ratio = xyz_over_w(inside)
    if np.isnan(ratio) or abs(ratio) <= TOLERANCE:
        return []
    if norm is None:
        return [
            f"X, Y and Z together come out {_apart(ratio)} W, where every sound field makes them equal: are "
            "these four capsules, in the order that is expected, and no B-format?"
        ]
    start = (
        f"X, Y and Z together are {_apart(ratio)} W, where every sound field makes them equal in {norm} as "
        "stated"
    )
    powers = inside.powers
    likely = min(_OVER_W, key=lambda other: abs(ratio - (_OVER_W[other] - _OVER_W[norm])))
    off = abs(ratio - (_OVER_W[likely] - _OVER_W[norm]))
    if _like_capsules(given):
        capsules = "capsules (A-format; a_format='ambeo', --a-format ambeo)"
        if likely != norm and off <= _SURE:  # a single source can stand where both fit
            return [f"{start}: a file in {likely} looks like that, and so may {capsules}"]
        return [f"{start}: these look like {capsules}"]
    first = _other_w(given)
    if abs(ratio) > _FAR and first is not None:
        return [f"{start}: {name_channels([first])} looks like W; check the order of the channels"]
    if max(powers[1:]) > powers[0] * 10 ** (_FAR / 10):
        return [f"{start}: W is the loudest channel of any sound field; check the order"]
    if likely == norm or off > 1.2:
        return [f"{start}: check order and normalisation; much noise also does this"]
    return [f"{start}: a file in {likely} looks like that; directions and loudness suffer if it is"]


def _apart(ratio: float) -> str:
    return f"{abs(ratio):.1f} dB {'over' if ratio > 0 else 'under'}"


def _like_capsules(given: BandPowers) -> bool:
    """Whether the power of the sum of the channels is three times their powers' sum, within 0.6 dB.

    Cardioids of a regular tetrahedron hear (1 + u d_i) / 2 of a wave from u: their sum is 2, the sum of
    their squares 4/3, whatever u.
    """
    each = given.powers.sum()
    return bool(abs(10 * np.log10(given.products.sum() / (3 * each))) < 0.6)


def _other_w(given: BandPowers) -> int | None:
    """The one channel, not the first, whose power is that of the three others within 1 dB."""
    powers = given.powers
    total = powers.sum()
    apart = np.abs(10 * np.log10((total - powers) / np.maximum(powers, 1e-30)))
    fitting = np.flatnonzero(apart <= 1.0)
    return int(fitting[0]) if len(fitting) == 1 and fitting[0] != 0 else None

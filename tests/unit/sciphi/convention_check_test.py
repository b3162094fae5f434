# SPDX-License-Identifier: Apache-2.0
"""The power of X, Y, Z is that of W in SN3D in any sound field: who says otherwise is told so."""

from __future__ import annotations

import numpy as np
import pytest

from sciphi.convention_check import BandPowers, convention_hints, xyz_over_w
from spatial_core.audio.ambisonics import INTERNAL, AmbisonicFormat, convert
from tests.unit.sciphi.ear import capsules_from, noise_from

RATE = 24000


def field(kind, fmt=INTERNAL):
    """One wave, a few, or a diffuse field [4, t]."""
    rng = np.random.default_rng(1)
    count = {"one": 1, "few": 3, "diffuse": 64}[kind]
    z = rng.uniform(-1, 1, count)
    places = zip(rng.uniform(-180, 180, count), np.degrees(np.arcsin(z)))
    waves = (noise_from(a, e, 1.0, RATE, seed=i) for i, (a, e) in enumerate(places))
    return convert(sum(waves), INTERNAL, fmt)


def hints(audio, order="ACN", norm="SN3D"):
    given, inside = BandPowers(RATE), BandPowers(RATE)
    given.add(audio)
    inside.add(convert(audio, AmbisonicFormat(order, norm), INTERNAL))
    return convention_hints(given, inside, norm)


@pytest.mark.parametrize("kind", ["one", "few", "diffuse"])
def test_every_sound_field_obeys(kind):
    powers = BandPowers(RATE)
    powers.add(field(kind))
    # Waves of 1 s of noise are not quite without correlation.
    assert abs(xyz_over_w(powers)) < 0.4
    for order in ("ACN", "FuMa"):
        for norm in ("SN3D", "N3D", "FuMa"):
            assert hints(field(kind, AmbisonicFormat(order, norm)), order, norm) == []


@pytest.mark.parametrize("kind", ["one", "few", "diffuse"])
@pytest.mark.parametrize(
    ("real", "said"), [("N3D", "SN3D"), ("FuMa", "SN3D"), ("SN3D", "N3D"), ("SN3D", "FuMa")]
)
def test_another_normalisation_is_recognised(kind, real, said):
    (hint,) = hints(field(kind, AmbisonicFormat("ACN", real)), "ACN", said)
    assert f"a file in {real} looks like that" in hint and f"in {said} as stated" in hint


def test_w_in_another_place_is_recognised():
    x, w, y, z = noise_from(-100, 20, 1.0, RATE)[[3, 0, 1, 2]]
    (hint,) = hints(np.stack([z, y, x, w]))
    assert "channel 4 looks like W" in hint


def test_capsules_are_recognised():
    capsules = capsules_from(-30, 10, 1.0) + capsules_from(120, -50, 1.0)[:, ::-1]
    (hint,) = hints(capsules)
    assert "a_format='ambeo'" in hint


def test_silence_says_nothing():
    assert hints(np.zeros((4, RATE), np.float32)) == []

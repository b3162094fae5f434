# SPDX-License-Identifier: Apache-2.0
"""Recordings that cannot be localised are refused, doubtful ones warned of, good ones pass."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_core.audio.checks import check_channels
from spatial_core.audio.io import resample
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import preset

ARRAY = preset("square_4")


def good() -> np.ndarray:
    return (0.05 * np.random.default_rng(0).standard_normal((4, 16_000))).astype(np.float32)


def test_a_good_recording_has_no_warnings() -> None:
    assert check_channels(good(), ARRAY, "room.wav") == []
    assert check_channels(good(), None, "room.wav") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x[:1], "1 channel"),
        (lambda x: x[:3], "3 channels.*4 microphones"),
        (lambda x: x * 0, "is zero"),
        (lambda x: x * 0 + 0.25, "constant"),
        (lambda x: resample(np.repeat(x[:, :1], 48_000, axis=1), 48_000, 16_000), "constant"),
        (lambda x: np.where(x > 0.15, np.nan, x), "channels 1, 2, 3 and 4 hold NaN"),
        (lambda x: x * np.array([[0], [1], [0], [0]]), "only channel 2 carries sound"),
        (lambda x: x[:, :0], "shape"),
        (lambda x: x[0], "shape"),
    ],
)
def test_unusable_recordings_are_refused(change, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_channels(change(good()), ARRAY, "room.wav")


def test_dead_channels_are_named() -> None:
    x = good()
    x[2] = 0
    x[3] *= 1e-4
    assert check_channels(x, ARRAY) == [
        "dead: channels 3 and 4, silent while the others carry sound"
    ]


def test_copies_are_named_up_to_a_gain() -> None:
    x = good()
    x[3] = 0.5 * x[0]
    assert check_channels(x, ARRAY) == ["identical: channels 1 and 4 are copies of one signal"]
    x[3] += 0.01 * x[1]
    assert check_channels(x, ARRAY) == []


def test_clipping_is_named_only_above_a_thousandth() -> None:
    x = good()
    x[1, ::1100] = 1.0
    assert check_channels(x, ARRAY) == []
    x[1, ::100] = -1.0
    (warning,) = check_channels(x, ARRAY)
    assert warning.startswith("clipped: channel 2")


def test_very_low_level_is_warned_of() -> None:
    (warning,) = check_channels(good() * 1e-3, ARRAY)
    assert "very low level" in warning


def test_a_dc_offset_does_not_hide_the_sound() -> None:
    assert check_channels(good() + 0.3, ARRAY) == []

# SPDX-License-Identifier: Apache-2.0
"""The batch schema: what it refuses, and the operations on batches."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_core.audio import stft
from spatial_core.data import records
from spatial_core.errors import InputError


def make_batch(size: int = 3, mics: int = 4, padded: int = 5) -> records.Batch:
    rng = np.random.default_rng(size + mics)
    batch = records.empty_batch(size, padded)
    batch["audio"][:, :mics] = rng.normal(size=(size, mics, records.WINDOW)) * 0.05
    batch["mic_positions"][:, :mics] = rng.normal(size=(size, mics, 3)) * 0.05
    batch["mic_mask"][:, :mics] = True
    batch["num_mics"][:] = mics
    batch["speech"][:] = True
    batch["azimuth"][:] = 180.0
    batch["distance"][:] = 1.0
    batch["example_id"][:] = np.arange(size)
    return batch


def test_constants_agree_with_the_transform():
    ours = (records.SAMPLE_RATE, records.WINDOW, records.HOP)
    assert ours == (stft.SAMPLE_RATE, stft.WINDOW, stft.HOP)


def test_good_batch_passes():
    records.check_batch(make_batch(), num_mics=5)
    assert records.find_bad_examples(make_batch()) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("rt60"), "missing \\['rt60'\\]"),
        (lambda b: b.update(colour=np.zeros(3)), "unknown \\['colour'\\]"),
        (lambda b: b.update(audio=b["audio"].astype(np.float64)), "audio must be float32"),
        (lambda b: b.update(audio=b["audio"][0]), "\\[b, m, t\\]"),
        (lambda b: b.update(mic_mask=b["mic_mask"][:, :2]), "mic_mask must be bool \\[3, 5\\]"),
        (lambda b: b["num_mics"].fill(5), "num_mics differs"),
        (lambda b: b["audio"].fill(1), "masked microphones must be zero"),
        (lambda b: b["azimuth"].fill(-180), "example 0 has -180"),
        (lambda b: b["elevation"].fill(91), "elevation in"),
        (lambda b: b["distance"].fill(np.inf), "distance be at least 0"),
        (lambda b: b["speech"].fill(False), "without speech must have azimuth"),
    ],
)
def test_refuses_what_breaks_the_schema(change, message):
    batch = make_batch()
    change(batch)
    with pytest.raises(InputError, match=message):
        records.check_batch(batch)


def test_refuses_another_padding():
    with pytest.raises(InputError, match="padded to 5 microphones, but 8"):
        records.check_batch(make_batch(), num_mics=8)


def test_finds_bad_examples_with_their_reason():
    batch = make_batch(size=6)
    batch["audio"][0, 1, 7] = np.nan
    batch["audio"][1, 0, 0] = np.inf
    batch["audio"][2] = 0
    batch["rt60"][3] = np.nan
    batch["audio"][4], batch["speech"][4] = 0, False
    batch["snr_db"][5] = np.inf
    reasons = records.find_bad_examples(batch)
    assert set(reasons) == {0, 1, 2, 3}
    assert "audio" in reasons[0] and "audio" in reasons[1]
    assert "silent" in reasons[2] and "rt60" in reasons[3]


def test_concatenate_pads_to_the_largest_and_keeps_order():
    small, large = make_batch(2, 3, 3), make_batch(3, 6, 7)
    joined = records.concatenate([small, large])
    records.check_batch(joined, num_mics=7)
    np.testing.assert_array_equal(joined["audio"][:2, :3], small["audio"])
    np.testing.assert_array_equal(records.take(joined, slice(2, 5))["audio"], large["audio"])
    assert joined["num_mics"].tolist() == [3, 3, 6, 6, 6]


def test_padding_never_drops_a_microphone():
    with pytest.raises(InputError, match="does not fit"):
        records.pad_microphones(make_batch(padded=5), 4)

# SPDX-License-Identifier: Apache-2.0
"""The stream: what an example may depend on, what neighbours share, and what happens to bad data."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spatial_core.data import records
from spatial_core.data.budget import DataBudgetError
from spatial_core.data.pipeline import SceneStream
from spatial_core.data.seeds import generator
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import preset
from spatial_core.sim import kernels, mixing
from tests.unit.data import streams
from tests.unit.data.streams import small_scene, small_stream


def assert_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def digest(batch: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


def test_batch_follows_the_schema():
    stream = small_stream(max_mics=10)
    batch = stream.batch(2)
    records.check_batch(batch, num_mics=10)
    assert batch["audio"].shape == (24, 10, records.WINDOW)
    assert batch["example_id"].tolist() == list(range(48, 72))
    assert stream.skipped == 0


@pytest.mark.parametrize("crops_per_rir", [1, 4, 5])
def test_hosts_together_see_the_global_batch_bit_for_bit(crops_per_rir):
    """5 crops a room divide neither the batch nor any share of it."""
    whole = small_stream(crops_per_rir=crops_per_rir).batch(3)
    for hosts in (1, 2, 4):
        shares = [
            small_stream(crops_per_rir=crops_per_rir).batch(3, host, hosts) for host in range(hosts)
        ]
        assert all(len(share["audio"]) == 24 // hosts for share in shares)
        assert_same(records.concatenate(shares), whole)


def test_example_depends_on_its_index_alone():
    whole = small_stream().batch(1)
    again = small_stream(threads=3)
    again.batch(0)
    assert_same(again.batch(1), whole)
    thirds = [small_stream(batch_size=8).batch(step) for step in (5, 4, 3)]
    assert_same(records.concatenate(thirds[::-1]), whole)
    assert_same(small_stream().examples(29, 30), records.take(whole, slice(5, 6)))


def test_one_stream_may_be_used_by_several_threads():
    stream = small_stream()
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(stream.batch, [0, 1, 2, 3] * 2))
    for step in range(4):
        assert_same(batches[step], batches[step + 4])
        assert_same(batches[step], small_stream().batch(step))


def test_kernels_compile_once_whatever_the_scenes_are():
    small_stream().batch(0)
    small_stream(scene=small_scene(min_mics=3, max_mics=3, distractor=False), max_mics=3).batch(0)
    for kernel in (kernels.add_images, mixing.mix, mixing.power):
        assert len(kernel.signatures) == 1


def test_another_process_makes_the_same_batch():
    code = (
        "import hashlib\n"
        "from tests.unit.data.streams import small_stream\n"
        "b = small_stream().batch(4)\n"
        "print(hashlib.sha256(b''.join(b[n].tobytes() for n in sorted(b))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(small_stream().batch(4))


def test_iterate_resumes_by_the_step_alone():
    stream = small_stream(threads=2)
    expected = [stream.batch(step) for step in range(5)]
    iterator = stream.iterate()
    for step in range(3):
        assert_same(next(iterator), expected[step])
    iterator.close()
    resumed = small_stream().iterate(start_step=3)
    for step in (3, 4):
        assert_same(next(resumed), expected[step])
    resumed.close()
    shared = small_stream().iterate(2, host=1, hosts=2)
    assert_same(next(shared), records.take(expected[2], slice(12, 24)))
    shared.close()


def test_crops_of_a_group_share_the_room_and_nothing_else():
    batch = small_stream(scene=small_scene(speech_dropout=0.0)).batch(0)
    for name in ("mic_positions", "azimuth", "elevation", "distance", "rt60", "num_mics"):
        grouped = batch[name].reshape(6, 4, -1)
        assert (grouped == grouped[:, :1]).all(), name
    assert len(np.unique(batch["azimuth"])) == 6
    assert len(np.unique(batch["audio"][:, 0, 0])) == 24
    assert len(np.unique(batch["snr_db"][np.isfinite(batch["snr_db"])])) > 18


def test_splits_and_seeds_never_share_a_room():
    rooms = [
        set(small_stream(split=split, seed=seed).batch(0)["mic_positions"][:, 0, 0].tolist())
        for split, seed in (("train", 7), ("validation", 7), ("test", 7), ("train", 8))
    ]
    for i, one in enumerate(rooms):
        for other in rooms[i + 1 :]:
            assert not one & other


def test_seed_addresses_do_not_collide():
    draws = {
        generator(seed, split, purpose, index, attempt).integers(2**63)
        for seed in (0, 1, 2**32, 2**63)
        for split in ("train", "test")
        for purpose in ("group", "crop")
        for index in (0, 1, 2**32, 2**32 + 1)
        for attempt in (0, 1)
    }
    assert len(draws) == 4 * 2 * 2 * 4 * 2


def test_statistics_follow_the_recipe():
    batch = small_stream(batch_size=1200, crops_per_rir=2).batch(0)
    assert batch["speech"].mean() == pytest.approx(0.95, abs=0.02)  # 3 standard errors
    with_speech = batch["speech"]
    no_distractor = np.isposinf(batch["snr_db"][with_speech])
    assert no_distractor.mean() == pytest.approx(0.05, abs=0.02)
    snr = batch["snr_db"][with_speech][~no_distractor]
    assert -5 <= snr.min() < -4.5 and 14.5 < snr.max() <= 15
    assert snr.mean() == pytest.approx(5, abs=0.6)
    counts = np.bincount(batch["num_mics"], minlength=9)[3:]
    assert counts.min() > 0.11 * 1200 and counts.sum() == 1200
    energy = np.einsum("bmt,bmt->b", batch["audio"], batch["audio"], dtype=np.float64)
    level = 10 * np.log10(energy / batch["num_mics"] / records.WINDOW / 0.05**2)
    assert -10.01 <= level.min() < -9.5 and 9.5 < level.max() <= 10.01


def test_clean_scenes_need_no_noise_source():
    class Broken:
        def crop(self, rng, samples):
            raise AssertionError("must not be read")

    stream = small_stream(scene=small_scene(distractor=False), noise=Broken())
    assert np.isposinf(stream.batch(0)["snr_db"]).all()
    assert stream.skipped == 0


def test_one_device_for_all_scenes():
    batch = small_stream(array="respeaker_4mic", max_mics=4).batch(0)
    np.testing.assert_allclose(
        batch["mic_positions"],
        np.broadcast_to(preset("respeaker_4mic").centred, (24, 4, 3)),
        atol=1e-6,
    )


@pytest.mark.parametrize("how", ["nan", "silent", "raise"])
def test_bad_crops_are_replaced_counted_and_the_same_everywhere(how):
    def faulty() -> SceneStream:
        return small_stream(speech=streams.WhiteSpeech(bad=0.2, how=how))

    stream = faulty()
    whole = stream.batch(0)
    assert 1 <= stream.skipped <= 15
    assert records.find_bad_examples(whole) == {}
    records.check_batch(whole)
    assert whole["example_id"].tolist() == list(range(24))
    again = stream.skipped
    stream.batch(0)
    assert stream.skipped == again, "the same record counts once"
    shares = [faulty().batch(0, host, 4) for host in range(4)]
    assert_same(records.concatenate(shares), whole)
    assert all("of train, seed 7" in key for key in stream.bad_records)


def test_good_examples_do_not_change_because_others_are_bad():
    good, bad = small_stream(), small_stream(speech=streams.WhiteSpeech(bad=0.2))
    one, other = good.batch(0), bad.batch(0)
    same = (one["audio"] == other["audio"]).all(axis=(1, 2))
    replaced = {int(key.split()[1]) for key in bad.bad_records}
    assert set(np.flatnonzero(~same)) == replaced and len(replaced) < 12


@pytest.mark.parametrize("how", ["raise", "nan", "zero"])
def test_rooms_that_fail_are_replaced_whole(how):
    def faulty() -> SceneStream:
        return small_stream(simulator=streams.FaultySimulator(0.4, how))

    stream = faulty()
    whole = stream.batch(0)
    assert stream.skipped >= 1 and all(key.startswith("group") for key in stream.bad_records)
    assert records.find_bad_examples(whole) == {}
    shares = [faulty().batch(0, host, 4) for host in range(4)]
    assert_same(records.concatenate(shares), whole)
    if how == "raise":
        assert "simulator gave up" in next(iter(stream.bad_records.values()))


def test_budget_stops_the_stream_and_names_the_keys(caplog):
    stream = small_stream(speech=streams.WhiteSpeech(bad=0.3), max_bad_records=2)
    with pytest.raises(DataBudgetError, match=r"max_bad_records = 2.*example \d+ of train, seed 7"):
        for step in range(10):
            stream.batch(step)
    assert "not finite" in caplog.text
    iterator = small_stream(speech=streams.WhiteSpeech(bad=0.3), max_bad_records=0).iterate()
    with pytest.raises(DataBudgetError):
        for _ in range(10):
            next(iterator)


def test_a_fault_of_the_whole_set_up_is_said_at_once():
    with pytest.raises(DataBudgetError, match=r"8 in a row are bad.*unreadable clip"):
        small_stream(speech=streams.WhiteSpeech(bad=1.0, how="raise")).batch(0)
    with pytest.raises(DataBudgetError, match=r"8 in a row are bad.*simulator gave up"):
        small_stream(simulator=streams.FaultySimulator(1.0)).batch(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"crops_per_rir": -1}, "crops_per_rir is -1"),
        ({"split": "dev"}, "choose among train, validation, test"),
        ({"max_mics": 4}, "raise max_mics"),
        ({"simulator": "slow"}, "choose among fast, jax, pyroomacoustics"),
        ({"max_bad_records": -1}, "max_bad_records is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_refuses_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        small_stream(**changes)


def test_refuses_shares_that_cannot_be():
    with pytest.raises(InputError, match="numbered from 0"):
        small_stream().batch(0, 2, 2)
    with pytest.raises(InputError, match="24 cannot be shared equally by 5"):
        small_stream().iterate(hosts=5)
    with pytest.raises(InputError, match="step is -1"):
        small_stream().batch(-1)


def test_jax_simulator_gives_every_host_its_share_bit_for_bit():
    whole = small_stream(simulator="jax", batch_size=12).batch(1)
    records.check_batch(whole, num_mics=whole["audio"].shape[1])
    shares = [small_stream(simulator="jax", batch_size=12).batch(1, host, 2) for host in range(2)]
    assert_same(records.concatenate(shares), whole)
    fast = small_stream(simulator="fast", batch_size=12).batch(1)
    for name in ("azimuth", "mic_positions", "snr_db", "speech"):
        np.testing.assert_array_equal(fast[name], whole[name])
    # The same scenes from another simulator: early sound agrees, the late field is another draw.
    likeness = [np.corrcoef(a[0], b[0])[0, 1] for a, b in zip(fast["audio"], whole["audio"])]
    assert np.median(likeness) > 0.8

# SPDX-License-Identifier: Apache-2.0
"""The bank: accuracy of its records, resumption, and what happens when a file is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spatial_core.data import bank_manifest, bank_record, records
from spatial_core.data.bank import BankConfig, BankStream, generate_bank
from spatial_core.data.budget import DataBudgetError
from spatial_core.errors import InputError
from spatial_core.sim.fast import FastSimulator
from tests.unit.data import streams

ROOT = Path(__file__).parents[3]


def small_config(**changes: object) -> BankConfig:
    settings: dict[str, object] = {
        "scene": streams.small_scene(),
        "simulator": FastSimulator(taps=streams.TAPS, threads=1),
        "count": 20,
        "shard_size": 8,
        "seed": 5,
        "threads": 1,
    }
    return BankConfig(**{**settings, **changes})  # type: ignore[arg-type]


def small_stream(directory: Path, **changes: object) -> BankStream:
    settings: dict[str, object] = {
        "directory": directory,
        "speech": streams.WhiteSpeech(),
        "noise": streams.WhiteNoise(),
        "batch_size": 16,
        "seed": 7,
        "threads": 1,
    }
    return BankStream(**{**settings, **changes})  # type: ignore[arg-type]


def quiet(_: str) -> None:
    pass


def checksums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole_bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    generate_bank(small_config(), folder, progress=quiet)
    return folder


@pytest.fixture
def bank(whole_bank, tmp_path) -> Path:
    return Path(shutil.copytree(whole_bank, tmp_path / "bank"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


def test_record_error_is_below_minus_60_db():
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(4000) / 300)
    rirs = (rng.standard_normal((2, 5, 4000)) * decay).astype(np.float32)
    rirs[1] *= 1e-6  # a far source: each source has a scale of its own
    labels, stored = bank_record.decode(bank_record.encode({"yaw": 3.25}, rirs))
    assert labels == {"yaw": 3.25}
    assert stored.dtype == np.float32 and stored.shape[2] < 4000
    read = np.zeros_like(rirs)
    read[..., : stored.shape[2]] = stored
    error = np.square(read - rirs, dtype=np.float64).sum(axis=2)
    energy = np.square(rirs, dtype=np.float64).sum(axis=2)
    assert (10 * np.log10(error / energy)).max() < -65


@pytest.mark.parametrize("place", [0, 5, 9, 14, 18, 25, -1])
def test_every_flipped_byte_of_a_record_is_noticed(place):
    data = bytearray(bank_record.encode({"a": 1}, np.ones((1, 2, 30), np.float32)))
    data[place] ^= 0x01
    with pytest.raises(bank_record.CorruptRecord):
        bank_record.decode(bytes(data))
    with pytest.raises(bank_record.CorruptRecord):
        bank_record.decode(bytes(data[:place]))


@pytest.mark.parametrize("shape", [(1, 1, 30), (1, 2, 29)])
def test_a_record_that_is_larger_than_its_place_is_refused(shape):
    """It is written by compiled code, which checks no index."""
    data = bank_record.encode({}, np.ones((1, 2, 30), np.float32))
    record, around = bank_record.Record([memoryview(data)]), np.zeros((1, 4, 40), np.float32)
    with pytest.raises(bank_record.CorruptRecord, match="2 microphones and 30 taps"):
        record.fill(around[:, : shape[1], : shape[2]])
    assert not around.any()


def test_bank_holds_what_the_simulator_makes(bank):
    """The first epoch reads all 20 rooms once; they are those of a stream with the bank's seed."""
    batch = small_stream(bank, batch_size=80).batch(0)
    records.check_batch(batch, num_mics=8)
    simulated = streams.small_stream(seed=5, batch_size=80).batch(0)
    ours = {row.tobytes() for row in batch["mic_positions"]}
    assert ours == {row.tobytes() for row in simulated["mic_positions"]}
    assert len(ours) == 20


def test_crops_agree_with_those_simulated_on_the_fly(bank):
    """The same room with the same crop, apart from 16-bit rounding."""
    stream = small_stream(bank, batch_size=4, scene=small_config().scene)
    batch = stream.batch(0)
    position = int(stream._open().groups._record(0, 0))
    fly = streams.small_stream(seed=5).examples(4 * position, 4 * position + 4)
    np.testing.assert_array_equal(fly["mic_positions"], batch["mic_positions"])
    with_speech = batch["speech"] & fly["speech"]
    np.testing.assert_array_equal(fly["azimuth"][with_speech], batch["azimuth"][with_speech])
    np.testing.assert_allclose(fly["rt60"], batch["rt60"], atol=2e-3)
    # Other seeds give other crops, but a crop of either has its direct sound and no more without it.
    np.testing.assert_array_equal(batch["direct"].any(axis=1), batch["speech"])


def test_order_changes_every_epoch_and_hosts_agree(bank):
    stream = small_stream(
        bank, batch_size=80, scene=replace(small_config().scene, speech_dropout=0.0)
    )
    first, second = (stream.batch(step)["azimuth"][::4] for step in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) and first.tolist() != second.tolist()
    whole = small_stream(bank).batch(3)
    for hosts in (2, 4):
        shares = [small_stream(bank).batch(3, host, hosts) for host in range(hosts)]
        joined = records.concatenate(shares)
        for name in whole:
            np.testing.assert_array_equal(joined[name], whole[name], err_msg=name)
    iterator = small_stream(bank).iterate(start_step=3)
    np.testing.assert_array_equal(next(iterator)["audio"], whole["audio"])
    iterator.close()  # type: ignore[attr-defined]


def test_bytes_do_not_depend_on_threads_or_on_interruption(whole_bank, tmp_path):
    expected = checksums(whole_bank)
    generate_bank(small_config(threads=3), tmp_path / "threads", progress=quiet)
    assert checksums(tmp_path / "threads") == expected

    shutil.copytree(whole_bank, tmp_path / "part")
    manifest = bank_manifest.load(tmp_path / "part")
    first = bank_manifest.shard_name(0, 3)
    bank_manifest.save(replace(manifest, shards={first: manifest.shards[first]}), tmp_path / "part")
    (tmp_path / "part" / bank_manifest.shard_name(1, 3)).write_bytes(b"half a shard")
    (tmp_path / "part" / bank_manifest.shard_name(2, 3)).unlink()
    with pytest.raises(InputError, match="unfinished: 1 of 3 shards"):
        small_stream(tmp_path / "part").batch(0)
    generate_bank(small_config(), tmp_path / "part", progress=quiet)
    assert checksums(tmp_path / "part") == expected


def test_a_killed_generator_resumes_to_the_same_bytes(whole_bank, tmp_path):
    """Killed while it writes the second of three shards."""
    code = (
        "import os, signal, sys\n"
        "from spatial_core.data import bank, bank_record\n"
        "from tests.unit.data.bank_test import small_config\n"
        "made, encode = [], bank_record.encode\n"
        "def encode_or_die(*arguments):\n"
        "    made.append(1)\n"
        "    if len(made) == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(*arguments)\n"
        "bank_record.encode = encode_or_die\n"
        "bank._SLICE = 2\n"
        "bank.generate_bank(small_config(), sys.argv[1])\n"
    )
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob("rirs-*"))) == 1 and len(list(folder.glob(".rirs-*.tmp"))) == 1
    said: list[str] = []
    generate_bank(small_config(), folder, progress=said.append)
    assert "8 of them kept" in said[-1]
    assert checksums(folder) == checksums(whole_bank)


def test_damaged_shard_is_found_and_made_again(bank, whole_bank):
    shard = bank / bank_manifest.shard_name(1, 3)
    flip(shard, shard.stat().st_size // 2)
    assert bank_manifest.verify_bank(bank) == [f"{shard.name} differs from its checksum"]
    said: list[str] = []
    generate_bank(small_config(), bank, progress=said.append)
    assert "made again" in said[0] and "12 of them kept" in said[-1]
    assert checksums(bank) == checksums(whole_bank)
    assert bank_manifest.verify_bank(bank) == []


def test_flipped_byte_is_replaced_counted_and_the_same_on_all_hosts(bank, caplog):
    good = small_stream(bank, batch_size=80).batch(0)
    shard = bank / bank_manifest.shard_name(1, 3)
    flip(shard, shard.stat().st_size // 2)
    stream = small_stream(bank, batch_size=80)
    batch = stream.batch(0)
    assert stream.skipped == 1
    (key,) = stream.bad_records
    assert key.startswith("record ") and key.endswith(f" of {shard.name}") and key in caplog.text
    changed = (batch["mic_positions"] != good["mic_positions"]).any(axis=(1, 2))
    assert changed.sum() == 4, "one group of four crops has another room"
    assert records.find_bad_examples(batch) == {}
    stream.batch(1)
    assert stream.skipped == 1, "the same record in the next epoch counts once"
    shares = [small_stream(bank, batch_size=80).batch(0, host, 4) for host in range(4)]
    np.testing.assert_array_equal(records.concatenate(shares)["audio"], batch["audio"])
    with pytest.raises(DataBudgetError, match=f"more than max_bad_records = 0.*{key}"):
        small_stream(bank, batch_size=80, max_bad_records=0).batch(0)


def test_shards_that_cannot_be_opened_are_refused(bank):
    shard = bank / bank_manifest.shard_name(1, 3)
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is damaged"):
        small_stream(bank).batch(0)
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        small_stream(bank).batch(0)


def test_manifest_that_is_missing_or_wrong_is_refused(bank, tmp_path):
    with pytest.raises(InputError, match="holds no room response bank"):
        small_stream(tmp_path / "nowhere").batch(0)
    path = bank / bank_manifest.NAME
    text = path.read_text()
    content = json.loads(text)

    def refused(message: str, changed: str) -> None:
        path.write_text(changed)
        with pytest.raises(InputError, match=message):
            small_stream(bank).batch(0)

    refused("not valid JSON", text[:100])
    refused("not the manifest", json.dumps({**content, "format": "other"}))
    refused("version 99", json.dumps({**content, "version": 99}))
    refused("was edited", text.replace('"seed": 5', '"seed": 6'))
    refused("lacks or garbles", json.dumps({k: v for k, v in content.items() if k != "taps"}))
    outside = {"../../etc/passwd": next(iter(content["shards"].values()))}
    refused("other shards", json.dumps({**content, "shards": outside}))


def test_another_configuration_is_refused_with_what_differs(bank):
    with pytest.raises(InputError, match="seed: 5 -> 6"):
        generate_bank(small_config(seed=6), bank, progress=quiet)
    with pytest.raises(InputError, match=r"scene.min_mics: 3 -> 4"):
        generate_bank(small_config(scene=streams.small_scene(min_mics=4)), bank, progress=quiet)
    with pytest.raises(InputError, match="holds a bank already"):
        generate_bank(small_config(), bank, resume=False, progress=quiet)


def test_stream_may_choose_levels_but_not_rooms(bank):
    clean = small_stream(bank, scene=streams.small_scene(distractor=False), noise=None).batch(0)
    assert np.isposinf(clean["snr_db"]).all()
    silent = small_stream(bank, scene=streams.small_scene(speech_dropout=1.0)).batch(0)
    assert not silent["speech"].any()
    with pytest.raises(InputError, match=r"max_rt60: None -> 0.4"):
        small_stream(bank, scene=streams.small_scene(max_rt60=0.4)).batch(0)
    with pytest.raises(InputError, match="split 'train', the stream's is 'test'"):
        small_stream(bank, split="test").batch(0)
    with pytest.raises(InputError, match="raise max_mics"):
        small_stream(bank, max_mics=4).batch(0)


def test_bank_without_distractors_or_with_one_device(tmp_path):
    config = small_config(
        scene=streams.small_scene(distractor=False), array="square_4", count=3, shard_size=3
    )
    generate_bank(config, tmp_path, progress=quiet)
    batch = small_stream(tmp_path).batch(0)
    assert (batch["num_mics"] == 4).all() and np.isposinf(batch["snr_db"]).all()
    with pytest.raises(InputError, match="made without distractors"):
        small_stream(tmp_path, scene=replace(config.scene, distractor=True)).batch(0)


def test_scenes_that_fail_are_replaced_and_named_in_the_manifest(tmp_path):
    faulty = streams.FaultySimulator(0.2)
    manifest = generate_bank(small_config(simulator=faulty), tmp_path, progress=quiet)
    replaced = [key for shard in manifest.shards.values() for key in shard.replaced]
    assert replaced and all(key.startswith("group") for key in replaced)
    with pytest.raises(DataBudgetError, match="simulator gave up"):
        config = small_config(simulator=faulty, max_bad_records=0)
        generate_bank(config, tmp_path / "strict", progress=quiet)

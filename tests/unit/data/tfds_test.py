# SPDX-License-Identifier: Apache-2.0
"""Banks and the corpus through tfds.data_source: what our own readers give, and without TensorFlow."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from spatial_core.corpus import embedded, tfds_corpus
from spatial_core.data import bank_manifest, bank_record, shards, tfds_bank
from spatial_core.data.bank import generate_bank
from spatial_core.errors import InputError
from spatial_core.sim.scene import SceneSpec
from tests.unit.data.bank_test import flip, quiet, small_config

REGISTERED = (tfds_bank.RirBank, tfds_corpus.EmbeddedSpeech, tfds_corpus.EmbeddedSounds)


@pytest.fixture(autouse=True)
def without_tensorflow() -> Iterator[None]:
    """Some packages look whether it is there; nothing may load it."""
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    generate_bank(small_config(), folder, progress=quiet)
    return folder


def rooms(folder: Path | list[Path], **settings: object) -> object:
    return tfds.data_source("rir_bank", builder_kwargs={"folder": folder, **settings})


def test_rooms_are_those_of_our_reader_in_any_order(bank):
    found = rooms(bank)["train"]
    manifest = bank_manifest.load(bank)
    readers = [
        shards.open_shard(bank / name, manifest.shards[name], "again")
        for name in sorted(manifest.shards)
    ]
    assert len(found) == 20
    for index in (13, 0, 19, 7, 8):
        labels, rirs = bank_record.decode(readers[index // 8].read([index % 8])[0])
        example = found[index]
        spec = SceneSpec.from_dict(labels)
        assert example["rirs"].dtype == np.float32
        np.testing.assert_array_equal(example["rirs"], rirs)
        np.testing.assert_array_equal(example["mic_positions"], spec.mic_positions())
        assert json.loads(example["scene"]) == labels
        if spec.speech:
            place = {name: example[name] for name in ("azimuth", "elevation", "distance")}
            assert {**place, "speech": True} == spec.labels()
    several = found.__getitems__([3, 17])
    np.testing.assert_array_equal(several[1]["rirs"], found[17]["rirs"])


def test_parts_of_splits_copies_and_grain_see_the_same(bank):
    whole = rooms(bank)["train"]
    part = tfds.data_source(
        "rir_bank", split="train[25%:75%]", builder_kwargs={"folder": str(bank)}
    )
    assert len(part) == 10
    np.testing.assert_array_equal(part[4]["rirs"], whole[9]["rirs"])
    copied = copy.deepcopy(whole)  # as it is sent to another process
    np.testing.assert_array_equal(copied[2]["rirs"], whole[2]["rirs"])
    shuffled = grain.MapDataset.source(whole).shuffle(seed=1)
    azimuths = sorted(example["azimuth"] for example in shuffled)
    assert azimuths == sorted(example["azimuth"] for example in whole)
    raw = tfds.data_source(
        "rir_bank",
        split="train",
        builder_kwargs={"folder": bank},
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    )
    np.testing.assert_array_equal(tfds_bank.decode_room(raw[5])["rirs"], whole[5]["rirs"])


def test_nothing_is_written_for_a_bank(bank, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in bank.iterdir()}
    found = tfds.data_source(
        "rir_bank", split="train", builder_kwargs={"folder": bank}, data_dir=tmp_path
    )
    assert len(found) == 20 and list(tmp_path.iterdir()) == []
    assert {path.name: path.stat().st_mtime_ns for path in bank.iterdir()} == before


def test_the_banks_of_several_splits_are_one_data_set(bank, tmp_path):
    generate_bank(small_config(count=3, split="test"), tmp_path / "test", progress=quiet)
    found = rooms([bank, tmp_path / "test"])
    assert {split: len(source) for split, source in found.items()} == {"train": 20, "test": 3}
    with pytest.raises(InputError, match="a split is there twice"):
        rooms([bank, bank])


def test_what_cannot_be_read_is_refused(bank, tmp_path):
    with pytest.raises(InputError, match="holds no room response bank"):
        rooms(tmp_path)
    with pytest.raises(InputError, match="these shards are array_record"):
        rooms(bank, file_format="parquet")
    damaged = Path(shutil.copytree(bank, tmp_path / "damaged"))
    shard = damaged / bank_manifest.shard_name(1, 3)
    flip(shard, shard.stat().st_size // 2)
    found = rooms(damaged)["train"]
    with pytest.raises(RuntimeError, match="hash mismatch"):
        [found[index] for index in range(8, 16)]
    with pytest.raises(InputError, match="a room is damaged"):
        tfds_bank.decode_room(b"RIRB")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InputError, match="has 1000 bytes"):
        rooms(damaged)
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        rooms(damaged)


def test_the_corpus_is_that_of_the_package(tmp_path):
    found = tfds.data_source("embedded_sounds", data_dir=tmp_path)
    for split, source in found.items():
        ours = embedded.sounds(split)
        assert len(source) == len(ours) > 20
        for index in (len(ours) - 1, 0, 7):
            example = source[index]
            assert example["audio"].dtype == np.int16
            np.testing.assert_array_equal(example["audio"], ours[index].samples)
            assert example["key"].decode() == ours[index].key
            assert example["label"].decode() == ours[index].label


@pytest.mark.slow
def test_the_speech_is_that_of_the_package(tmp_path):
    found = tfds.data_source("embedded_speech", split="test", data_dir=tmp_path)
    ours = embedded.sentences("test")
    assert len(found) == len(ours)
    for index in range(0, len(ours), 5):
        example = found[index]
        np.testing.assert_array_equal(example["audio"], ours[index].samples)
        texts = [example[name].decode() for name in ("key", "voice", "text")]
        assert texts == [ours[index].key, ours[index].voice, ours[index].text]

# SPDX-License-Identifier: Apache-2.0
"""Mapped shards against ArrayRecord's own reader, and what is said of files that are none."""

from __future__ import annotations

import itertools
import math
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from spatial_core.data import bank_record, shards
from spatial_core.data.mapped import MappedShard
from spatial_core.data.shards import Shard
from spatial_core.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shard]:
    """Records that end in, at and just beyond the 64 KiB blocks of the file."""
    rng = np.random.default_rng(0)
    sizes = [0, 1, 127, 128, 16383, 65_000, 65_512, 65_536, 200_001, *range(65_440, 65_480)]
    path = tmp_path_factory.mktemp("mapped") / "records.arrayrecord"
    return path, shards.write_shard(path, [rng.bytes(size) for size in sizes])


def test_records_are_those_of_the_array_record_reader(written):
    path, shard = written
    reader, mapped = shards.open_shard(path, shard, "again"), MappedShard(path)
    assert len(mapped) == shard.records
    for number in range(shard.records):
        assert b"".join(mapped.record(number)) == reader.read([number])[0]


def test_records_are_views_of_the_mapping(written):
    pieces = MappedShard(written[0]).record(8)
    assert len(pieces) >= 4  # 200 kB
    assert len({id(piece.obj) for piece in pieces}) == 1 and all(p.readonly for p in pieces)


def test_more_shards_are_mapped_than_files_may_be_open(written):
    path, shard = written
    open_now = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 16, limits[1]))
    try:
        mapped = [shards.map_shard(path, shard, "again") for _ in range(open_now + 100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) <= open_now
    first = b"".join(mapped[0].record(8))
    assert len(first) == 200_001 and b"".join(mapped[-1].record(8)) == first


def test_a_mapping_ends_with_its_last_view(written, tmp_path):
    path = tmp_path / "of its own.arrayrecord"
    path.write_bytes(written[0].read_bytes())

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    mapped = MappedShard(path)
    piece = np.frombuffer(mapped.record(3)[0], np.uint8)
    before = piece.copy()
    del mapped
    assert mappings() == 1
    np.testing.assert_array_equal(piece, before)
    del piece
    assert mappings() == 0


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.arrayrecord"
    path.touch()
    with pytest.raises(InputError, match="is damaged"):
        shards.map_shard(path, Shard(1, 0, ""), "again")


@pytest.mark.parametrize("cut", [1, 65_536, 65_536 + 40])
def test_a_file_that_is_cut_is_refused(written, tmp_path, cut):
    path, shard = written
    short = tmp_path / "short.arrayrecord"
    short.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="is damaged"):
        shards.map_shard(short, shard, "again")


def test_compressed_records_are_refused(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "packed.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd")
    writer.write(bytes(100_000))
    writer.close()
    with pytest.raises(ValueError, match=r"compressed|one uncompressed"):
        MappedShard(path).record(0)


def test_pieces_of_a_record_widen_as_numpy_does():
    rng = np.random.default_rng(1)
    # Over all exponents of float16 and its subnormal numbers.
    rirs = (rng.standard_normal((2, 3, 701)) * 2.0 ** rng.integers(-30, 3, (2, 3, 701))).astype(
        "f4"
    )
    data = memoryview(bank_record.encode({"room": 1}, rirs))
    labels, whole = bank_record.decode(bytes(data))
    cuts = [0, 5, 40, 61, 62, 1001, 4002, len(data)]
    record = bank_record.Record([data[a:b] for a, b in itertools.pairwise(cuts)])
    out = np.full((2, 4, 900), 7, np.float32)
    record.fill(out)
    sources, mics, stored = record.shape
    np.testing.assert_array_equal(out[:, :mics, :stored], whole)
    assert record.labels == labels == {"room": 1}
    assert (out[:, mics:] == 7).all() and (out[:, :, stored:] == 7).all()
    halves = np.frombuffer(data[-2 * whole.size :], "<f2").reshape(whole.shape)
    for source in range(sources):
        scale = whole[source].max() / halves[source].astype(np.float64).max()
        assert math.frexp(scale)[0] == 0.5  # a power of two: nothing else is rounded
        np.testing.assert_array_equal(whole[source], halves[source].astype(np.float64) * scale)

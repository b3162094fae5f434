# SPDX-License-Identifier: Apache-2.0
"""Making folders of shards: one function for every engine, on disk or in a bucket."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spatial_core.data import making, on_hosts, shards
from spatial_core.data.bank import generate_bank
from spatial_core.data.budget import BadRecords, DataBudgetError
from spatial_core.data.making import Made, ShardWork
from spatial_core.io import places
from tests.integration.fake_bucket import Files
from tests.unit.data.bank_test import checksums, quiet, small_config


class Numbers:
    """Record i is the number i in words of one byte; every tenth had to be replaced."""

    def __init__(self, threads: int | None = None) -> None:
        del threads

    def records(self, indices: range, bad: BadRecords, made: Made) -> Iterator[bytes]:
        for index in indices:
            if index % 10 == 9:
                bad.add(f"number {index}", "ends in 9")
            yield b"x" * (index + 1)
            made(1)


WORK = ShardWork("numbers", "numbers", 25, 10, Numbers, max_bad_records=2)


def saved(folder: Path):
    """What saves a manifest, here only the names and entries."""

    def save(done: making.Shards) -> None:
        shards.write_json(folder / "manifest.json", {n: vars(s) for n, s in sorted(done.items())})

    return save


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    making.make_here(WORK, folder, {}, saved(folder), quiet)
    return folder


def test_shards_made_alone_and_in_any_order_are_those_of_one_run(whole, tmp_path):
    there = making.make_here(WORK, whole, {}, saved(whole), quiet)
    for number in (2, 0, 1):
        shard = making.make_shard(WORK, Numbers(), number, tmp_path)
        name = WORK.name(number)
        assert shard == there[name] and shards.shard_fault(tmp_path, name, shard) is None
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert [len(WORK.indices(number)) for number in range(WORK.num_shards)] == [10, 10, 5]
    assert there[WORK.name(1)].replaced == ("number 19",)


def test_two_hosts_make_the_bytes_of_one_and_go_on_alone(whole, tmp_path):
    """Threads stand in for the processes; host 1 begins late and finds a damaged shard of its own."""
    making.make_here(WORK, tmp_path, {}, saved(tmp_path), quiet)
    (tmp_path / WORK.name(0)).unlink()
    (tmp_path / WORK.name(1)).write_bytes(b"damaged")
    said: list[str] = []
    there = making.make_here(WORK, whole, {}, saved(whole), quiet)
    made = {}

    def host(number: int) -> None:
        engine = on_hosts.engine(number, 2, "this run")
        time.sleep(0.5 * number)
        made[number] = engine(WORK, tmp_path, there, saved(tmp_path), said.append)

    threads = [threading.Thread(target=host, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == there and checksums(tmp_path) == checksums(whole)
    assert any(line.startswith("host 1: ") for line in said) and "25 numbers by 2 hosts" in said[-1]


def test_what_another_run_left_is_not_taken_before_its_maker_has_looked(whole, tmp_path):
    """A damaged shard of the right size, noted by a run that was killed: host 1 begins late and replaces it."""
    there = making.make_here(WORK, tmp_path, {}, saved(tmp_path), quiet)
    name = WORK.name(1)
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / name).write_bytes(damaged)
    making.note(tmp_path, name, there[name], "an earlier run")
    ended = {}

    def host(number: int) -> None:
        on_hosts.engine(number, 2, "this run")(WORK, tmp_path, there, saved(tmp_path), quiet)
        ended[number] = checksums(tmp_path)

    first = threading.Thread(target=host, args=(0,))
    first.start()
    first.join(2.0)
    assert first.is_alive()
    host(1)
    first.join()
    assert ended[0] == checksums(whole)


def test_hosts_share_the_budget_of_bad_records(tmp_path):
    alone = on_hosts.engine(0, 1, "this run")
    with pytest.raises(DataBudgetError, match="max_bad_records = 1"):
        alone(replace(WORK, max_bad_records=1), tmp_path, {}, saved(tmp_path), quiet)


def test_what_a_stopped_pipeline_left_is_taken_over_and_tidied_up(whole, tmp_path):
    """Entries beside shards, one of them of a damaged shard, and a file that was being written."""
    for number in (0, 2):
        making.note(
            tmp_path, WORK.name(number), making.make_shard(WORK, Numbers(), number, tmp_path)
        )
    (tmp_path / f".{WORK.name(1)}.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / f".{WORK.name(1)}.json").write_text("{")
    (tmp_path / WORK.name(2)).write_bytes(b"damaged")
    assert making.noted(WORK, tmp_path).keys() == {WORK.name(0), WORK.name(2)}
    said: list[str] = []
    making.make_here(WORK, tmp_path, {}, saved(tmp_path), said.append)
    assert "made again" in said[0] and "10 of them kept" in said[-1]
    assert checksums(tmp_path) == checksums(whole)


def test_files_of_others_are_left_alone(whole, tmp_path):
    others = [".numbers-notes.txt.json", ".numbers-00000-of-00099.arrayrecord.json", "numbers.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    making.make_here(WORK, tmp_path, {}, saved(tmp_path), quiet)
    assert {path.name for path in tmp_path.iterdir()} - set(checksums(whole)) == set(others)


def test_the_budget_is_that_of_the_whole_folder(tmp_path):
    """Each shard alone is within it."""
    strict = replace(WORK, max_bad_records=1)
    with pytest.raises(DataBudgetError, match=r"2 bad records .* number 19"):
        making.make_here(strict, tmp_path, {}, saved(tmp_path), quiet)


def test_nothing_is_left_of_a_shard_that_fails(tmp_path):
    def failing() -> Iterator[bytes]:
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(tmp_path / "a.arrayrecord", failing())
    assert list(tmp_path.iterdir()) == []


def test_a_bank_in_a_bucket_has_the_bytes_of_one_here(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_BUCKETS", str(tmp_path))
    monkeypatch.setattr("etils.epath.backend.fsspec_backend._get_filesystem", lambda name: Files())
    (tmp_path / "a-bucket").mkdir()
    config = small_config(count=5, shard_size=3)
    generate_bank(config, tmp_path / "here", progress=quiet)
    said: list[str] = []
    for _ in range(2):  # the second finds it whole
        generate_bank(config, "gs://a-bucket/bank", progress=said.append)
    assert "5 of them kept" in said[-1]
    assert checksums(tmp_path / "a-bucket" / "bank") == checksums(tmp_path / "here")
    folder = places.place("gs://a-bucket/bank")
    size = (tmp_path / "a-bucket" / "bank" / "manifest.json").stat().st_size
    assert places.size(folder / "manifest.json") == size


def test_work_can_be_sent_to_another_machine(monkeypatch, tmp_path):
    """What is sent is the configuration: some kilobytes, nothing that was opened."""
    sent: list[int] = []

    def engine(work, folder, there, save, progress):
        sent.append(len(pickle.dumps(work)))
        return there

    generate_bank(small_config(array="square_4"), tmp_path, engine=engine)
    assert 0 < sent[0] < 20_000

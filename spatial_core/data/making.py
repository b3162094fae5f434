# SPDX-License-Identifier: Apache-2.0
"""Folders of shards, and who makes them: one function makes shard n, whichever engine calls it.

`make_here` calls it in this process, spatial_core/data/on_beam.py on the workers of a Beam pipeline.
Shards and manifest are the same bytes, and either goes on where the other stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spatial_core.data import shards
from spatial_core.data.budget import BadRecords, DataBudgetError
from spatial_core.data.shards import Progress, Report, Shard
from spatial_core.io import places

_READERS = 32
"""Files of a bucket that are asked for at once."""

Made = Callable[[int], None]
Shards = Mapping[str, Shard]


class ShardMaker(Protocol):
    """Opened material that records are made of. May be shared by threads."""

    def records(self, indices: range, bad: BadRecords, made: Made) -> Iterator[bytes]:
        """The records of these numbers in order: a pure function of them and of the configuration.

        bad: counts what had to be replaced. made: is told how many more are ready.
        """


@dataclass(frozen=True)
class ShardWork:
    """What a folder of shards holds and how it is made; can be sent to another machine.

    what: the records in a word, such as "rooms". prefix: of the files' names. open: gives the maker,
    for a number of threads (None: as configured), which the bytes do not depend on. max_bad_records:
    of the whole folder.
    """

    what: str
    prefix: str
    count: int
    shard_size: int
    open: Callable[[int | None], ShardMaker]
    max_bad_records: int = 0

    @property
    def num_shards(self) -> int:
        """Files of the whole folder."""
        return math.ceil(self.count / self.shard_size)

    def name(self, number: int) -> str:
        """File name of shard `number`."""
        return f"{self.prefix}-{number:05d}-of-{self.num_shards:05d}.arrayrecord"

    def indices(self, number: int) -> range:
        """The records of shard `number`."""
        first = number * self.shard_size
        return range(first, min(first + self.shard_size, self.count))


Engine = Callable[[ShardWork, Path, Shards, Callable[[Shards], None], Progress], Shards]
"""(work, folder, shards of its manifest, what saves a manifest with these, progress) -> all shards."""


def make_shard(
    work: ShardWork, maker: ShardMaker, number: int, folder: Path, made: Made | None = None
) -> Shard:
    """Make shard `number` in the folder, and its entry of the manifest: a pure function of the work."""
    bad = BadRecords(work.max_bad_records)
    records = maker.records(work.indices(number), bad, made or _unheard)
    shard = shards.write_shard(folder / work.name(number), records)
    return dataclasses.replace(shard, replaced=tuple(sorted(bad.reasons)))


def make_here(
    work: ShardWork,
    folder: Path,
    there: Shards,
    save: Callable[[Shards], None],
    progress: Progress,
) -> Shards:
    """The engine that makes one shard after the other in this process; whole ones are kept."""
    save(there)
    done = {**there, **noted(work, folder)}
    report = Report(work.count, work.what, progress)
    maker: ShardMaker | None = None
    for number in range(work.num_shards):
        name = work.name(number)
        if name in done:
            fault = shards.shard_fault(folder, name, done[name])
            if fault is None:
                report.kept(len(work.indices(number)))
                continue
            progress(f"{fault}: made again")
        maker = maker or work.open(None)
        done[name] = make_shard(work, maker, number, folder, report.made)
        save(done)
        require_budget(work, done)
    finish(work, folder, done, save)
    report.done(folder)
    return done


def require_budget(work: ShardWork, done: Shards) -> None:
    """DataBudgetError if more records of the folder were replaced than the work allows."""
    replaced = [key for shard in done.values() for key in shard.replaced]
    if len(replaced) > work.max_bad_records:
        raise DataBudgetError(
            f"{len(replaced)} bad records are more than max_bad_records = {work.max_bad_records} "
            f"allows. Among them: {'; '.join(replaced[-5:])}. Repair the data, or raise "
            "max_bad_records, and give the same command again"
        )


def finish(work: ShardWork, folder: Path, done: Shards, save: Callable[[Shards], None]) -> None:
    """Save the manifest of a whole folder, and remove what else was written on the way."""
    save(done)
    names = {work.name(number) for number in range(work.num_shards)}
    left = [
        path
        for path in folder.iterdir()
        if path.name.startswith(f".{work.prefix}-") and _shard_of(path.name) in names
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda path: path.unlink(missing_ok=True), left))


def note(folder: Path, name: str, shard: Shard, run: str = "") -> None:
    """Write the entry of a shard beside it, where no one else writes the manifest.

    run: in which run it was made or checked, for who waits for it there.
    """
    by = {"run": run} if run else {}
    shards.write_json(folder / _note_name(name), dataclasses.asdict(shard) | by)


def noted(work: ShardWork, folder: Path) -> dict[str, Shard]:
    """The entries that `note` left, by name of the shard; they are newer than the manifest's."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = [name for name in map(work.name, range(work.num_shards)) if _note_name(name) in found]
    with ThreadPoolExecutor(_READERS) as pool:
        entries = list(pool.map(functools.partial(read_note, folder), names))
    return {name: entry for name, entry in zip(names, entries, strict=True) if entry is not None}


def read_note(folder: Path, name: str, run: str = "") -> Shard | None:
    """The entry that `note` left of one shard; None if there is none that can be read.

    run: entries of other runs are none.
    """
    try:
        content = json.loads((folder / _note_name(name)).read_text(encoding="utf-8"))
        if run and content.get("run") != run:
            return None
        return Shard(
            int(content["records"]),
            int(content["bytes"]),
            str(content["sha256"]),
            tuple(map(str, content["replaced"])),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def folder_of(out_dir: str | Path) -> Path:
    """The folder, made if it is missing; it may be in a bucket."""
    folder = places.place(out_dir)
    if not places.is_remote(folder):  # a bucket has no folders
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _note_name(name: str) -> str:
    return f".{name}.json"


def _shard_of(name: str) -> str:
    """'.SHARD.json', '.SHARD.0123456789ab.tmp' or '.SHARD.json.0123456789ab.tmp' -> 'SHARD'."""
    stem = name[1:]
    return (stem.rsplit(".", 2)[0] if stem.endswith(".tmp") else stem).removesuffix(".json")


def _unheard(count: int) -> None:
    """Nobody asks how far a shard is."""

# SPDX-License-Identifier: Apache-2.0
"""Scene sets on disk: a folder of ArrayRecord shards and a manifest, made once and read at random.

An export that was interrupted and resumed has the bytes of one made in one go on the same machine.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sciphi.records import FOA_RATE, Scene, SceneTruth
from sciphi.scene_record import decode, decode_truth, encode
from sciphi.scenes import FoaSceneConfig, FoaScenes
from spatial_core.config import resolved
from spatial_core.data import making, shards
from spatial_core.data.budget import BadRecords
from spatial_core.data.layouts import check_split
from spatial_core.data.making import Engine, Made, Shards, ShardWork
from spatial_core.data.shards import Progress, Shard, json_digest, parse_shards
from spatial_core.errors import InputError
from spatial_core.io import places

NAME = "manifest.json"
PREFIX = "scenes"
FORMAT = "sciphi scene set"
VERSION = 1
MAX_SHARDS = 10**5
_PLAIN = ("rate", "order", "norm", "seconds", "seed", "split", "count", "categories", "config")
_BYTES_PER_SECOND = 90e3
_CPU_PER_SECOND = 0.013
_AGAIN = "export the scenes again with the same settings, which keeps what is whole"


@dataclass(frozen=True)
class Manifest:
    """What a scene set was made from, and its finished shards by name.

    rate, order, norm, seconds: of the audio. categories: classes of sources that may occur. config:
    JSON values, all that the bytes depend on.
    """

    rate: int
    order: str
    norm: str
    seconds: float
    seed: int
    split: str
    count: int
    categories: tuple[str, ...]
    config: Mapping[str, Any]
    num_shards: int
    shards: Mapping[str, Shard]

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self.shards) == self.num_shards

    def require_complete(self, folder: Path) -> None:
        """InputError unless every shard is finished."""
        if not self.complete:
            raise InputError(
                f"{folder} is unfinished: {len(self.shards)} of {self.num_shards} shards. Run the "
                "same export again to finish it"
            )

    @property
    def digest(self) -> str:
        """SHA-256 that names the content."""
        content = self.to_json()
        return json_digest({key: content[key] for key in (*_PLAIN, "shards")})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = dataclasses.asdict(self)
        content["categories"] = list(self.categories)
        content["shards"] = {name: content["shards"][name] for name in sorted(self.shards)}
        plain = {key: content[key] for key in _PLAIN}
        return {
            "format": FORMAT,
            "version": VERSION,
            "config_sha256": json_digest(plain),
            **content,
        }


@dataclass(frozen=True, kw_only=True)
class SceneSetConfig:
    """What `export_scenes` writes: for each split a set of `count` scenes in the folder of its name.

    counts: scenes by split ("train", "validation", "test"). seed: of all. shard_size: scenes of one
    file. threads: that simulate.
    """

    scenes: FoaSceneConfig = field(default_factory=FoaSceneConfig)
    counts: dict[str, int] = field(default_factory=lambda: {"train": 3000})
    seed: int = 0
    shard_size: int = 128
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.counts:
            raise InputError("SceneSetConfig.counts is empty: name a split and how many scenes")
        for split, count in self.counts.items():
            if check_split(split) == "all" or count < 1:
                raise InputError(
                    f"counts[{split!r}] is {count}: give 1 scene or more of train, validation or test"
                )
        if self.shard_size < 1 or self.threads < 1:
            raise InputError(
                f"shard_size={self.shard_size}, threads={self.threads}: give 1 or more of each"
            )


def export_scenes(
    config: SceneSetConfig,
    directory: str | Path,
    progress: Progress = print,
    engine: Engine = making.make_here,
) -> dict[str, Manifest]:
    """Write every split's scenes into `directory`/split, or finish that: whole shards are kept.

    progress: called with a line of text every few seconds. engine: what calls `making.make_shard` for
    each shard; directory may be in a bucket. Raises InputError before anything is written when material
    is missing, or a folder holds scenes of another configuration.
    """
    root = places.place(directory)
    opened = {split: FoaScenes(config.scenes, config.seed, split) for split in config.counts}
    plans = {split: _plan(config, scenes, root / split) for split, scenes in opened.items()}
    return {
        split: _export(plans[split], root / split, config, progress, engine) for split in opened
    }


def estimate(config: FoaSceneConfig, count: int) -> tuple[float, float]:
    """About how many bytes and seconds of one processor core `count` scenes take."""
    return count * config.seconds * _BYTES_PER_SECOND, count * config.seconds * _CPU_PER_SECOND


def found(config: SceneSetConfig, directory: str | Path) -> dict[str, str]:
    """For each split how much of it is in its folder, in words."""
    words = {}
    for split in config.counts:
        words[split] = "fresh"
        folder = places.place(directory) / split
        if (folder / NAME).exists():
            manifest = load(folder)
            words[split] = f"{len(manifest.shards)} of its {manifest.num_shards} shards are there"
    return words


class SceneSet:
    """The scenes of an exported folder: `len(set)`, `set[i]`, iteration; safe for threads.

    verify: read every shard against its SHA-256 first. Raises InputError: no manifest, an edited or
    unfinished one, a shard that is missing or damaged.
    """

    def __init__(self, directory: str | Path, verify: bool = True) -> None:
        self.directory = Path(directory)
        self.manifest = load(self.directory)
        self.manifest.require_complete(self.directory)
        entries = dict(sorted(self.manifest.shards.items()))
        faults = [
            fault
            for name, shard in entries.items()
            if verify and (fault := shards.shard_fault(self.directory, name, shard))
        ]
        if faults:
            raise InputError(f"{self.directory}: {'; '.join(faults[:3])}: {_AGAIN}")
        self._readers = [
            shards.open_shard(self.directory / name, shard, _AGAIN)
            for name, shard in entries.items()
        ]
        self._locks = [threading.Lock() for _ in entries]
        self._edges = np.cumsum([shard.records for shard in entries.values()])

    @property
    def digest(self) -> str:
        """SHA-256 that names this set's content."""
        return self.manifest.digest

    @property
    def seconds(self) -> float:
        """Length of every scene."""
        return self.manifest.seconds

    @property
    def categories(self) -> tuple[str, ...]:
        """Classes of sources that may occur, sorted."""
        return self.manifest.categories

    def __len__(self) -> int:
        return self.manifest.count

    def __getitem__(self, index: int) -> Scene:
        """Scene `index`; InputError if it is damaged."""
        return decode(self._bytes(index))

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(len(self)))

    def truth(self, index: int) -> SceneTruth:
        """The truth of a scene, without unpacking its audio."""
        return decode_truth(self._bytes(index))[1]

    def key(self, index: int) -> str:
        """The name of a scene."""
        return decode_truth(self._bytes(index))[0]

    def _bytes(self, index: int) -> bytes:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._edges, index, side="right"))
        place = index - (int(self._edges[shard - 1]) if shard else 0)
        with self._locks[shard]:
            return bytes(self._readers[shard].read([place])[0])


def load(folder: Path) -> Manifest:
    """Read a set's manifest; InputError when there is none, or not one that this version reads."""
    path = folder / NAME
    content = shards.read_manifest(path, "scene set", FORMAT, VERSION, "export the scenes again")
    try:
        plain = {key: content[key] for key in _PLAIN}
        if content["config_sha256"] != json_digest(plain):
            raise InputError(
                f"{path} was edited: what it says no longer fits its checksum, so it cannot tell what "
                "the shards hold. Restore it, or export the scenes again"
            )
        entries = parse_shards(content["shards"])
        count = int(content["num_shards"])
        names = {_shard_name(number, count) for number in range(min(count, MAX_SHARDS))}
        if not entries.keys() <= names:
            raise InputError(f"{path} names other shards than a scene set has: export it again")
        plain["categories"] = tuple(plain["categories"])
        return Manifest(**plain, num_shards=count, shards=entries)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} lacks or garbles a part: {error}. {_AGAIN}") from error


def _shard_name(number: int, count: int) -> str:
    return f"{PREFIX}-{number:05d}-of-{count:05d}.arrayrecord"


def _plan(config: SceneSetConfig, scenes: FoaScenes, folder: Path) -> Manifest:
    """The manifest to start from: the folder's own if it is of this configuration, else a new one."""
    count = config.counts[scenes.split]
    wanted = Manifest(
        rate=FOA_RATE,
        order="ACN",
        norm="SN3D",
        seconds=config.scenes.seconds,
        seed=config.seed,
        split=scenes.split,
        count=count,
        categories=scenes.categories,
        config={
            "scenes": resolved.describe(config.scenes),
            "material": scenes.fingerprints,
            "shard_size": config.shard_size,
        },
        num_shards=math.ceil(count / config.shard_size),
        shards={},
    )
    if wanted.num_shards > MAX_SHARDS:
        raise InputError(f"{wanted.num_shards} shards are too many: raise shard_size")
    if not (folder / NAME).exists():
        return wanted
    there = load(folder)
    ours, theirs = (
        {key: each.to_json()[key] for key in (*_PLAIN, "num_shards")} for each in (there, wanted)
    )
    different = list(resolved.differences(ours, theirs))
    if different:
        raise InputError(
            f"{folder} holds scenes of another configuration; choose another folder, or delete it.\n"
            "  " + "\n  ".join(different)
        )
    return there


def _export(
    manifest: Manifest, folder: Path, config: SceneSetConfig, progress: Progress, engine: Engine
) -> Manifest:
    work = ShardWork(
        what=f"scenes of {manifest.split}",
        prefix=PREFIX,
        count=manifest.count,
        shard_size=config.shard_size,
        open=partial(_SceneMaker, config, manifest.split),
    )
    making.folder_of(folder)

    def save(done: Shards) -> None:
        shards.write_json(folder / NAME, replace(manifest, shards=done).to_json())

    return replace(manifest, shards=engine(work, folder, manifest.shards, save, progress))


class _SceneMaker:
    """Simulates the scenes of a split; threads: None for what the configuration says."""

    def __init__(self, config: SceneSetConfig, split: str, threads: int | None = None) -> None:
        self._scenes = FoaScenes(config.scenes, config.seed, split)
        self._threads = threads or config.threads

    def records(self, indices: range, bad: BadRecords, made: Made) -> Iterator[bytes]:
        """The records in order; each thread makes the scenes of one room after the other."""
        del bad  # a scene that cannot be made is an error
        rooms: dict[int, list[int]] = {}
        for index in indices:
            rooms.setdefault(index // self._scenes.config.scenes_per_room, []).append(index)

        def of_room(members: list[int]) -> list[bytes]:
            return [encode(self._scenes(index)) for index in members]

        with ThreadPoolExecutor(self._threads) as pool:
            waiting = list(rooms.values())[::-1]
            ahead: deque[Future[list[bytes]]] = deque()
            while waiting or ahead:
                while waiting and len(ahead) < 2 * self._threads:
                    ahead.append(pool.submit(of_room, waiting.pop()))
                records = ahead.popleft().result()
                yield from records
                made(len(records))

# SPDX-License-Identifier: Apache-2.0
"""A bank of room responses on disk: simulate once, train many times.

A bank is a folder of ArrayRecord shards `rirs-00000-of-00016.arrayrecord` (one record per group:
the scene and its responses, see bank_record.py) and a `manifest.json` that says what they were made
from and holds the SHA-256 of each (bank_manifest.py). Record i is a pure function of (seed, split,
i): a bank whose making was interrupted and resumed has the bytes of one made in one go.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numba
import numpy as np

from spatial_core.data import bank_manifest, bank_record, making, shards
from spatial_core.data.bank_manifest import Manifest
from spatial_core.data.budget import BadRecords
from spatial_core.data.groups import Groups, GroupSource, SimulatedGroups, first_good
from spatial_core.data.making import Engine, Made, Shards, ShardWork
from spatial_core.data.pipeline import CropStream, build_simulator
from spatial_core.data.seeds import generator
from spatial_core.data.shards import Progress
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array
from spatial_core.io import places
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.scene import SceneConfig, SceneSpec

_AGAIN = "make the bank again, which keeps what is whole"
_SLICE = 32
"""Groups simulated between two writes, for each thread."""


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """What a bank is made of.

    scene: what scenes are drawn from (its dropouts and levels are drawn again by every stream).
    array: as in SceneStream. count: groups, one record each: some 100 kB with 8 microphones and a
    distractor. seed, split: as in SceneStream. shard_size: records of one file. simulator: "fast",
    "jax", "pyroomacoustics" or a RirSimulator. threads: None for one per processor. max_bad_records:
    scenes that may fail to simulate, and are replaced.
    """

    scene: SceneConfig = field(default_factory=SceneConfig)
    array: MicArray | str | Path | None = None
    count: int = 100_000
    seed: int = 0
    split: str = "train"
    shard_size: int = 4096
    simulator: str | RirSimulator = "fast"
    threads: int | None = None
    max_bad_records: int = 100

    def __post_init__(self) -> None:
        generator(self.seed, self.split, "group", 0)  # refuses an impossible seed or split now
        build_simulator(self.simulator)
        for name in ("count", "shard_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give 1 or more")
        if self.num_shards > bank_manifest.MAX_SHARDS:
            raise InputError(f"{self.num_shards} shards are too many: raise shard_size")
        if self.array is not None:
            array = load_array(self.array)
            object.__setattr__(self, "array", array)
            object.__setattr__(self, "scene", replace(self.scene, array=array))

    @property
    def num_shards(self) -> int:
        """Files of the whole bank."""
        return math.ceil(self.count / self.shard_size)


def generate_bank(
    config: BankConfig,
    out_dir: str | Path,
    resume: bool = True,
    progress: Progress = print,
    engine: Engine = making.make_here,
) -> Manifest:
    """Make a bank, or finish one: shards that are there and whole are kept.

    progress: called with a line of text every few seconds. engine: what calls `making.make_shard` for
    each shard; out_dir may be in a bucket. Raises InputError when out_dir holds a bank of another
    configuration, or any bank and `resume` is False; DataBudgetError when too many scenes fail.
    """
    folder = places.place(out_dir)
    manifest = _start(config, folder, build_simulator(config.simulator), resume)
    work = ShardWork(
        what="rooms",
        prefix=bank_manifest.PREFIX,
        count=config.count,
        shard_size=config.shard_size,
        open=partial(_BankMaker, config),
        max_bad_records=config.max_bad_records,
    )
    making.folder_of(folder)

    def save(done: Shards) -> None:
        bank_manifest.save(replace(manifest, shards=done), folder)

    return replace(manifest, shards=engine(work, folder, manifest.shards, save, progress))


def _start(config: BankConfig, folder: Path, simulator: RirSimulator, resume: bool) -> Manifest:
    wanted = bank_manifest.describe(
        config.scene, simulator, config.count, config.seed, config.split, config.shard_size
    )
    if not (folder / bank_manifest.NAME).exists():
        return Manifest(wanted, simulator.taps, simulator.lead, config.num_shards, {})
    if not resume:
        raise InputError(f"{folder} holds a bank already: choose another folder, or resume it")
    manifest = bank_manifest.load(folder)
    manifest.require_same(wanted, folder)
    return manifest


class _BankMaker:
    """Simulates the rooms of a bank; threads: None for what the configuration says."""

    def __init__(self, config: BankConfig, threads: int | None = None) -> None:
        self._config = config
        self._simulator = build_simulator(config.simulator)
        self._threads = threads or config.threads or numba.get_num_threads()

    def records(self, indices: range, bad: BadRecords, made: Made) -> Iterator[bytes]:
        """The records of these rooms, made in parts side by side."""
        config, threads = self._config, self._threads
        scene = config.scene
        source = SimulatedGroups(
            scene, self._simulator, config.seed, config.split, scene.padded_mics, bad
        )
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(indices), _SLICE * threads):
                block = indices[start : start + _SLICE * threads]
                parts = [block[i : i + _SLICE] for i in range(0, len(block), _SLICE)]
                for records in pool.map(lambda part: _records(source.groups(part)), parts):
                    yield from records
                made(len(block))


def _records(groups: Groups) -> list[bytes]:
    noise = groups.noise_rirs
    encoded = []
    for row, spec in enumerate(groups.specs):
        rirs = [groups.rirs[row, : spec.num_mics]]
        if noise is not None:
            rirs.append(noise[row, : spec.num_mics])
        encoded.append(bank_record.encode(spec.to_dict(), np.stack(rirs)))
    return encoded


class BankGroups:
    """Groups read from a bank, in another order every epoch. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        seed: int,
        num_mics: int,
        distractor: bool,
        bad: BadRecords,
    ) -> None:
        self.taps = manifest.taps
        self._seed, self._split = seed, manifest.split
        self._num_mics = num_mics
        self._distractor = distractor
        self._bad = bad
        self._names = sorted(manifest.shards)
        self._shards = [
            shards.map_shard(folder / name, manifest.shards[name], _AGAIN) for name in self._names
        ]
        self._edges = np.cumsum([manifest.shards[name].records for name in self._names])
        self._orders: dict[int, np.ndarray] = {}
        self._order_lock = threading.Lock()

    def groups(self, indices: Sequence[int]) -> Groups:
        """Group g is record g of a shuffled bank; a damaged record is replaced by another one."""
        sources = 2 if self._distractor else 1
        rirs = np.zeros((sources, len(indices), self._num_mics, self.taps), np.float32)
        made = [self._group(index, rirs[:, row : row + 1]) for row, index in enumerate(indices)]
        return Groups([one.specs[0] for one in made], rirs[0], rirs[1] if sources > 1 else None)

    def _group(self, index: int, out: np.ndarray) -> Groups:
        """One group, in out [sources, 1, m, taps]."""

        def read(attempt: int) -> Groups:
            if attempt:
                out[:] = 0  # what was filled of a record that is bad
            return self._read(self._record(index, attempt), out)

        return first_good(
            read,
            lambda attempt: self._key(self._record(index, attempt)),
            self._bad,
        )

    def _record(self, index: int, attempt: int) -> int:
        count = int(self._edges[-1])
        if attempt:
            rng = generator(self._seed, self._split, "replacement", index, attempt)
            return int(rng.integers(count))
        epoch, place = divmod(index, count)
        return int(self._order(epoch, count)[place])

    def _order(self, epoch: int, count: int) -> np.ndarray:
        """The permutation of an epoch; batches are near each other, so two epochs are kept."""
        with self._order_lock:
            if epoch not in self._orders:
                while len(self._orders) > 1:
                    del self._orders[min(self._orders)]
                rng = generator(self._seed, self._split, "order", epoch)
                self._orders[epoch] = rng.permutation(count)
            return self._orders[epoch]

    def _locate(self, record: int) -> tuple[int, int]:
        """Shard and the record's place in it."""
        shard = int(np.searchsorted(self._edges, record, side="right"))
        return shard, record - (int(self._edges[shard - 1]) if shard else 0)

    def _key(self, record: int) -> str:
        shard, place = self._locate(record)
        return f"record {place} of {self._names[shard]}"

    def _read(self, number: int, out: np.ndarray) -> Groups:
        shard, place = self._locate(number)
        record = bank_record.Record(self._shards[shard].record(place))
        spec = SceneSpec.from_dict(record.labels)
        record.fill(out[:, 0])
        if self._distractor:
            return Groups([spec], out[0], out[1])
        return Groups([replace(spec, distractor_source=None)], out[0], None)


@dataclass(frozen=True, kw_only=True)
class BankStream(CropStream):
    """A stream whose rooms come from a bank; otherwise as SceneStream.

    directory: the bank's folder. scene: dropouts, levels and noise of the crops, and whether the
    bank's distractors are used; None for what the bank was made with. Everything that shapes a room
    response must be the bank's. Group g is record g of the bank in an order drawn for each epoch.
    """

    directory: str | Path
    scene: SceneConfig | None = None

    def _open_groups(self, bad: BadRecords) -> tuple[SceneConfig, GroupSource]:
        folder = Path(self.directory)
        manifest = bank_manifest.load(folder)
        manifest.require_complete(folder)
        if manifest.split != self.split:
            raise InputError(
                f"{folder} is a bank of the split {manifest.split!r}, the stream's is {self.split!r}"
            )
        scene = manifest.scene if self.scene is None else self.scene
        manifest.require_rooms_of(scene, folder)
        if scene.padded_mics > self.max_mics:
            raise InputError(
                f"{folder} has scenes of up to {scene.padded_mics} microphones, but the batch has "
                f"room for max_mics = {self.max_mics}: raise max_mics of the stream"
            )
        groups = BankGroups(folder, manifest, self.seed, self.max_mics, scene.distractor, bad)
        return scene, groups

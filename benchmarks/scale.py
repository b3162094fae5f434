# SPDX-License-Identifier: Apache-2.0
"""What data at scale costs: bytes and processor time of a room, a scene, a clip; made and read again.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --rounds=5

Times are the process's own, so that other work on the machine does not count, and those of one thread.
Rooms are of experiments/rir_bank.gin, scenes of sciphi/scenes.gin with the paper's 10 s and four sources,
clips (of the spatial tokens) of experiments/export_tokens.gin. Each round makes one shard with the function
that workers call, and reads it in random order; printed is the median of the rounds (lowest to highest).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from launch import configurables
from llm_bridge.tokens.export import export_tokens
from llm_bridge.tokens.token_set import TokenSet
from sciphi.scene_set import SceneSet, export_scenes
from spatial_core.config import gin_setup
from spatial_core.data import making
from spatial_core.data.bank import BankStream, generate_bank
from spatial_core.data.making import ShardMaker, ShardWork
from spatial_core.data.pipeline import SceneStream

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Shards of each kind.")
_ROOMS = flags.DEFINE_integer("rooms", 96, "Rooms of a shard.")
_SCENES = flags.DEFINE_integer("scenes", 32, "Scenes of a shard.")
_CLIPS = flags.DEFINE_integer("clips", 16, "Clips of a shard.")
_CROPS = 4
"""Examples of a room in gin/data/paper_bank.gin."""


class Timed:
    """An engine that makes one shard after the other and notes time and bytes of each."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.bytes: list[float] = []

    def __call__(self, work: ShardWork, folder: Path, there: Any, save: Any, progress: Any) -> Any:
        """As `making.Engine`."""
        maker: ShardMaker = work.open(1)
        # The first shard is made twice: what compiles or is decoded once does not count.
        making.make_shard(work, maker, 0, folder)
        done = dict(there)
        for number in range(work.num_shards):
            start = time.process_time()
            shard = making.make_shard(work, maker, number, folder)
            self.seconds.append((time.process_time() - start) / shard.records)
            self.bytes.append(shard.bytes / shard.records)
            done[work.name(number)] = shard
        making.finish(work, folder, done, save)
        return done


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Median (lowest to highest)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return " ".join(
        [
            f"{scale * middle:,.{digits}f}",
            f"({scale * low:,.{digits}f} to {scale * high:,.{digits}f})",
        ]
    )


def reading(read: Callable[[int], object], count: int) -> list[float]:
    """Processor seconds of reading one of `count`, in random order, for each round."""
    read(0)
    seconds = []
    for number in range(_ROUNDS.value):
        order = np.random.default_rng(number).permutation(count)
        start = time.process_time()
        for index in order:
            read(int(index))
        seconds.append((time.process_time() - start) / count)
    return seconds


def batches(stream: Any) -> list[float]:
    """Processor seconds of an example, for each round."""
    stream.batch(0)
    seconds = []
    for step in range(1, _ROUNDS.value + 1):
        start = time.process_time()
        stream.batch(step)
        seconds.append((time.process_time() - start) / stream.batch_size)
    return seconds


def build(name: str, *files: str, **settings: object) -> Any:
    """What gin makes of experiment files and settings."""
    bindings = [f"{key.replace('__', '.')} = {value!r}" for key, value in settings.items()]
    gin_setup.parse(list(files), bindings, roots=[name])
    return gin_setup.build(name)


def rooms(folder: Path) -> None:
    """A bank, and examples from it and on the fly."""
    count = _ROUNDS.value * _ROOMS.value
    config = build(
        "BankConfig",
        "experiments/rir_bank.gin",
        BankConfig__count=count,
        BankConfig__shard_size=_ROOMS.value,
    )
    engine = Timed()
    generate_bank(config, folder, progress=str, engine=engine)
    shared = {"batch_size": 256, "crops_per_rir": _CROPS, "max_mics": 8, "threads": 1}
    bank = BankStream(directory=folder, **shared)
    fly = SceneStream(scene=config.scene, **shared)
    print(f"| room | {spread(engine.bytes, 1e-3)} kB | {spread(engine.seconds, 1e3, 2)} ms | |")
    print(f"| example from a bank, {_CROPS} of a room | | | {spread(batches(bank), 1e3, 2)} ms |")
    print(f"| the same on the fly | | | {spread(batches(fly), 1e3, 2)} ms |")


def scenes(folder: Path) -> None:
    """A scene set of the paper's length."""
    config = build(
        "SceneSetConfig",
        "experiments/sciphi_scenes.gin",
        SECONDS=10.0,
        MAX_SOURCES=4,
        FoaSceneConfig__scenes_per_room=16,
        SceneSetConfig__counts={"train": _ROUNDS.value * _SCENES.value},
        SceneSetConfig__shard_size=_SCENES.value,
    )
    engine = Timed()
    export_scenes(config, folder, str, engine)
    found = SceneSet(folder / "train")
    read = reading(lambda index: found[index].foa, len(found))
    cells = [f"{spread(engine.bytes, 1e-3, 0)} kB", f"{spread(engine.seconds, 1e3)} ms"]
    print(f"| scene of 10 s | {' | '.join(cells)} | {spread(read, 1e3)} ms |")


def clips(folder: Path) -> None:
    """A token set of conversations of at most 15 s."""
    config = build(
        "ExportConfig",
        "experiments/export_tokens.gin",
        ConversationConfig__max_seconds=15.0,
        **{"train/ConversationSource__count": _ROUNDS.value * _CLIPS.value},
    )
    sources = {"train": config.sources["train"]}
    engine = Timed()
    small = type(config)(sources=sources, shard_size=_CLIPS.value, threads=1)
    export_tokens(small, folder, str, engine)
    found = TokenSet(folder / "train")
    read = reading(lambda index: found[index].tokens, len(found))
    cells = [f"{spread(engine.bytes, 1e-3, 0)} kB", f"{spread(engine.seconds, 1e3, 0)} ms"]
    print(f"| tokens of a conversation | {' | '.join(cells)} | {spread(read, 1e3, 2)} ms |")


def main(argv: list[str]) -> None:
    """Print a Markdown table."""
    del argv
    jax.config.update("jax_platforms", "cpu")
    configurables.register_all()
    print("| what | bytes | made | read |\n|---|---|---|---|", flush=True)
    for part in (rooms, scenes, clips):
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))


if __name__ == "__main__":
    app.run(main)

# SPDX-License-Identifier: Apache-2.0
"""Export spatial tokens: run the encoder once over conversations or recordings, and keep its answers.

A token set is a folder of ArrayRecord shards `tokens-00000-of-00008.arrayrecord` (records as in
record.py) and a `manifest.json` (manifest.py). An export that was interrupted and resumed has the
bytes of one made in one go on the same machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llm_bridge.tokens import manifest as manifests
from llm_bridge.tokens.clips import Clips, Source
from llm_bridge.tokens.encode import encode_clips, encoder_digest
from llm_bridge.tokens.manifest import Manifest
from phasecoder.pretrained import load
from spatial_core.data import making
from spatial_core.data.budget import BadRecords
from spatial_core.data.making import Engine, Made, Shards, ShardWork
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.data.shards import Progress
from spatial_core.errors import InputError
from spatial_core.io import places

TOKEN_WIDTH = 256
_BLOCK_SECONDS = 96.0
"""Audio encoded at once: some 600 windows, enough for full batches and little memory."""


_BYTES_PER_SECOND = 33e3
_CPU_PER_SECOND = 0.05


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What tokens are made of.

    sources: name -> ConversationSource or RecordingSource; each is written as a token set of its
    own into the folder of that name. encoder: directory of a released encoder or of a training run,
    the name of a shipped one, or None for the default. shard_size: records of one file. threads:
    that simulate beside the encoder, None for one per processor.
    """

    sources: dict[str, Source]
    encoder: str | Path | None = None
    shard_size: int = 256
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("ExportConfig.sources is empty: name a ConversationSource")
        for name in self.sources:
            if not name or name in (".", "..") or Path(name).name != name:
                raise InputError(f"the token set's name {name!r} is not the name of a folder")
        for field in ("shard_size", "threads"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(f"{field} is {value}: give 1 or more")


def export_tokens(
    config: ExportConfig,
    directory: str | Path,
    progress: Progress = print,
    engine: Engine = making.make_here,
) -> dict[str, Manifest]:
    """Export every source into `directory`/name, or finish that: whole shards are kept.

    progress: called with a line of text every few seconds. engine: what calls `making.make_shard` for
    each shard; directory may be in a bucket. Raises InputError before anything is written when a source
    cannot be read, or a folder holds tokens of another configuration.
    """
    encoder = load(config.encoder)
    opened = {name: source.open() for name, source in config.sources.items()}
    folders = {name: places.place(directory) / name for name in opened}
    name_and_digest = {"name": encoder.name, "digest": encoder_digest(encoder)}
    plans = {
        name: _plan(clips, name_and_digest, config.shard_size, folders[name])
        for name, clips in opened.items()
    }
    return {
        name: _export(name, plans[name], folders[name], config, progress, engine) for name in opened
    }


def estimate(clips: Clips) -> tuple[float, float]:
    """About how many bytes and seconds of one processor core an export takes.

    From 6 s conversations of 8 microphones with the encoder that ships; clips are seldom as long as
    they may be.
    """
    seconds = 0.9 * clips.longest * clips.count
    return seconds * _BYTES_PER_SECOND, seconds * _CPU_PER_SECOND


def found(config: ExportConfig, directory: str | Path) -> dict[str, str]:
    """For each set how much of it is in its folder, in words."""
    words = {}
    for name in config.sources:
        words[name] = "fresh"
        folder = places.place(directory) / name
        if (folder / manifests.NAME).exists():
            manifest = manifests.load(folder)
            words[name] = f"{len(manifest.shards)} of its {manifest.num_shards} shards are there"
    return words


def _plan(clips: Clips, encoder: dict[str, str], shard_size: int, folder: Path) -> Manifest:
    """The manifest to start from: the folder's own if it is of this configuration, else a new one."""
    wanted = Manifest(
        encoder=encoder,
        hop=HOP,
        window=WINDOW,
        sample_rate=SAMPLE_RATE,
        width=TOKEN_WIDTH,
        seed=clips.seed,
        split=clips.split,
        count=clips.count,
        labelled=clips.labelled,
        config={**clips.describe(), "shard_size": shard_size},
        num_shards=math.ceil(clips.count / shard_size),
        shards={},
    )
    if wanted.num_shards > manifests.MAX_SHARDS:
        raise InputError(f"{wanted.num_shards} shards are too many: raise shard_size")
    if not (folder / manifests.NAME).exists():
        return wanted
    found = manifests.load(folder)
    found.require_same(wanted, folder)
    return found


def _export(
    name: str,
    manifest: Manifest,
    folder: Path,
    config: ExportConfig,
    progress: Progress,
    engine: Engine,
) -> Manifest:
    work = ShardWork(
        what="clips",
        prefix=manifests.PREFIX,
        count=manifest.count,
        shard_size=config.shard_size,
        open=partial(_TokenMaker, config, name),
    )
    making.folder_of(folder)

    def save(done: Shards) -> None:
        manifests.save(replace(manifest, shards=done), folder)

    return replace(manifest, shards=engine(work, folder, manifest.shards, save, progress))


class _TokenMaker:
    """Encodes the clips of a source; threads that simulate: None for what the configuration says."""

    def __init__(self, config: ExportConfig, name: str, threads: int | None = None) -> None:
        self._encoder = load(config.encoder)
        self._clips = config.sources[name].open()
        self._threads = threads or config.threads or os.cpu_count() or 1

    def records(self, indices: range, bad: BadRecords, made: Made) -> Iterator[bytes]:
        """The records in order; the next clips are made while the encoder is at work."""
        del bad  # a clip that cannot be made is an error
        clips = self._clips
        size = max(2, int(_BLOCK_SECONDS / clips.longest))
        blocks = [indices[start : start + size] for start in range(0, len(indices), size)]
        with ThreadPoolExecutor(self._threads) as pool:
            ahead = [pool.submit(clips.clip, index) for index in blocks[0]]
            for number, block in enumerate(blocks):
                ready = [future.result() for future in ahead]
                following = blocks[number + 1] if number + 1 < len(blocks) else ()
                ahead = [pool.submit(clips.clip, index) for index in following]
                for record in encode_clips(self._encoder, ready):
                    yield record.encode()
                made(len(block))

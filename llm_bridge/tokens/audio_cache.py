# SPDX-License-Identifier: Apache-2.0
"""The frozen mono audio encoder's output for a token set, computed once and mapped from disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spatial_core.data.records import HOP
from spatial_core.data.shards import (
    Progress,
    Report,
    Shard,
    describe_shard,
    parse_shards,
    shard_fault,
    write_json,
)
from spatial_core.errors import InputError

AudioEncoder = Callable[[NDArray[np.float32]], NDArray[np.float32]]

NAME = "manifest.json"
FORMAT = "llm_bridge audio features"
VERSION = 1
# What can be heard, a field of a record -> its word in the name of the features' folder.
SOURCES = {"audio": "dry", "mixed": "mixed"}
SHARD_SIZE = 256
_LARGEST = float(np.finfo(np.float16).max)


class Sounds(Protocol):
    """What features are made of: a `TokenSet`, or any other set of records with mono audio."""

    @property
    def directory(self) -> Path:
        """Where it lies."""

    @property
    def digest(self) -> str:
        """SHA-256 that names its content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """A record, whose attribute named as the source is float32 [t] at 16 kHz."""


@dataclass(frozen=True)
class _Manifest:
    """What the features are of, their width, each record's vectors, and the finished files."""

    encoder: dict[str, str]
    tokens: str
    source: str
    shard_size: int
    width: int
    counts: list[int]
    shards: dict[str, Shard]

    @property
    def key(self) -> dict[str, Any]:
        """What must agree for the features to be used."""
        return {"encoder": self.encoder, "tokens": self.tokens, "source": self.source}


class AudioCache:
    """float16 [n, a] for every record of a token set: `len(cache)`, `cache[i]`, `cache.width`.

    tokens: the set. make_encoder: gives the encoder, float32 [t] at 16 kHz -> [ceil(t / hop), a]; it is
    called only when something is missing, so a finished cache costs no weights. name, digest: which
    encoder it is (the checksum of its weights, or whatever else tells it from others). source: "audio"
    (dry voices) or "mixed" (mean of the channels). hop: samples from vector to vector. directory: by default a folder of the set's own,
    audio-NAME-dry or audio-NAME-mixed.

    What was interrupted is finished; files that differ from their checksum are made again. Raises
    InputError when the folder holds features of another encoder or token set, or the encoder gives
    another shape or numbers beyond float16.
    """

    def __init__(
        self,
        tokens: Sounds,
        make_encoder: Callable[[], AudioEncoder],
        *,
        name: str,
        digest: str,
        source: str = "audio",
        hop: int = HOP,
        directory: str | Path | None = None,
        progress: Progress = print,
    ) -> None:
        if source not in SOURCES:
            raise InputError(f"source is {source!r}: choose among {', '.join(SOURCES)}")
        folder = f"audio-{re.sub('[^A-Za-z0-9.]+', '-', name)}-{SOURCES[source]}"
        self.directory = tokens.directory / folder if directory is None else Path(directory)
        self.source = source
        fresh = _Manifest(
            {"name": name, "digest": digest}, tokens.digest, source, SHARD_SIZE, 0, [], {}
        )
        found = _load(self.directory)
        if found is not None and found.key != fresh.key:
            raise InputError(
                f"{self.directory} holds other features: {_words(found)}; wanted are {_words(fresh)}. "
                "Delete it, or choose another directory"
            )
        self._manifest = _filled(
            tokens, make_encoder, found or fresh, source, hop, self.directory, progress
        )
        self._maps = [
            np.memmap(self.directory / shard, np.float16, "r").reshape(-1, self.width)
            for shard in sorted(self._manifest.shards)
        ]
        self._size = self._manifest.shard_size

    def __len__(self) -> int:
        return len(self._manifest.counts)

    @property
    def width(self) -> int:
        """Of a vector, a."""
        return self._manifest.width

    def __getitem__(self, index: int) -> NDArray[np.float16]:
        """Features [n, a] of record `index`, read-only."""
        index = range(len(self))[index]
        shard, place = divmod(index, self._size)
        counts = self._manifest.counts[shard * self._size : shard * self._size + place + 1]
        end = sum(counts)
        return np.asarray(self._maps[shard][end - counts[-1] : end])


def _filled(
    tokens: Sounds,
    make_encoder: Callable[[], AudioEncoder],
    manifest: _Manifest,
    source: str,
    hop: int,
    folder: Path,
    progress: Progress,
) -> _Manifest:
    """The manifest with every shard made."""
    size = manifest.shard_size
    total = -(-len(tokens) // size)
    report = Report(len(tokens), "clips", progress)
    encoder: AudioEncoder | None = None
    counts, shards, width = list(manifest.counts), dict(manifest.shards), manifest.width
    for number in range(total):
        name = f"features-{number:05d}-of-{total:05d}.f16"
        indices = range(number * size, min((number + 1) * size, len(tokens)))
        if name in shards:
            fault = shard_fault(folder, name, shards[name])
            if fault is None:
                report.kept(len(indices))
                continue
            progress(f"{fault}: made again")
        folder.mkdir(parents=True, exist_ok=True)
        encoder = encoder or make_encoder()
        made, width = _write(folder / name, tokens, indices, encoder, source, hop, width, report)
        counts[indices.start : indices.stop] = made
        shards[name] = describe_shard(folder / name, len(indices))
        manifest = dataclasses.replace(manifest, width=width, counts=counts, shards=shards)
        write_json(
            folder / NAME, {"format": FORMAT, "version": VERSION, **dataclasses.asdict(manifest)}
        )
    if encoder is not None:
        report.done(folder)
    return manifest


def _write(
    path: Path,
    tokens: Sounds,
    indices: range,
    encoder: AudioEncoder,
    source: str,
    hop: int,
    width: int,
    report: Report,
) -> tuple[list[int], int]:
    """One file, whole or not at all: the vectors of each record, and their width."""
    # Each of several processes makes what it does not find: they must not write into one file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    made = []
    try:
        with temporary.open("wb") as file:
            for index in indices:
                features = _features(encoder, getattr(tokens[index], source), hop, width, index)
                width = features.shape[1]
                made.append(len(features))
                file.write(features.tobytes())
                report.made(1)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds features already
            path.parent.rmdir()
        raise
    os.replace(temporary, path)
    return made, width


def _features(
    encoder: AudioEncoder, audio: NDArray[np.float32], hop: int, width: int, index: int
) -> NDArray[np.float16]:
    features = np.asarray(encoder(audio))
    count = -(-len(audio) // hop)
    if features.ndim != 2 or len(features) != count or width not in (0, features.shape[1]):
        raise InputError(
            f"record {index}: the audio encoder gave {features.shape} for {len(audio)} samples, "
            f"expected [{count}, {width or 'a'}]: one vector per {hop} samples"
        )
    largest = float(np.abs(features).max(initial=0.0))
    if not largest <= _LARGEST:
        raise InputError(f"record {index}: the audio encoder gave {largest}, which float16 lacks")
    return features.astype(np.float16)


def _load(folder: Path) -> _Manifest | None:
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        fields = {field.name: content[field.name] for field in dataclasses.fields(_Manifest)}
        fields["shards"] = parse_shards(content["shards"])
        return _Manifest(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not the manifest of audio features, or a damaged one ({error}): delete "
            f"{folder}, and it is made again"
        ) from error


def _words(manifest: _Manifest) -> str:
    encoder = manifest.encoder
    return (
        f"{manifest.source} of tokens {manifest.tokens[:12]}.. by {encoder['name']!r} "
        f"(digest {encoder['digest'][:12]}..)"
    )

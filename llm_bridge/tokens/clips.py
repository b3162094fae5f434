# SPDX-License-Identifier: Apache-2.0
"""What tokens are made of: simulated conversations, or recordings of an array."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_bridge.conversations import ConversationConfig, Conversations
from llm_bridge.tokens.record import Clip as Clip
from spatial_core.audio.io import load_audio, stream_audio
from spatial_core.config import resolved
from spatial_core.data.layouts import audio_files
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.seeds import generator
from spatial_core.data.shards import digest
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array

MAX_SECONDS = 30
"""Longest clip: 188 tokens, the language model's limit for audio."""


class Clips(Protocol):
    """An opened source. `clip` is a pure function of its index and may be called by several threads."""

    @property
    def count(self) -> int:
        """Clips there are."""

    @property
    def seed(self) -> int:
        """Seed that they were drawn with, 0 for recordings."""

    @property
    def split(self) -> str:
        """Split that they were drawn from, "recordings" for recordings."""

    @property
    def labelled(self) -> bool:
        """Whether their talkers are known."""

    @property
    def longest(self) -> float:
        """Upper limit of their length in seconds."""

    def describe(self) -> dict[str, Any]:
        """JSON values: all that the clips depend on."""

    def clip(self, index: int) -> Clip:
        """Clip `index`."""


@dataclass(frozen=True, kw_only=True)
class ConversationSource:
    """`count` conversations of a seed and a split ("train", "validation" or "test")."""

    conversation: ConversationConfig = field(default_factory=ConversationConfig)
    count: int = 2000
    seed: int = 0
    split: str = "train"

    def __post_init__(self) -> None:
        generator(self.seed, self.split, "talk", 0)  # refuses an impossible seed or split now
        if self.count < 1:
            raise InputError(f"count is {self.count}: give 1 conversation or more")

    def open(self) -> Clips:
        """The conversations; InputError for unknown speech."""
        return _ConversationClips(self)


@dataclass(frozen=True, kw_only=True)
class RecordingSource:
    """Recordings of one array.

    paths: a folder (all audio files below it), a file, or a list of files; 16 kHz or resampled.
    array: a preset's name, a JSON file or a MicArray, one microphone per channel.
    long_clips: "split" cuts a recording of over 30 s into pieces of 30 s ("name@030s" starts at
    30 s; the last one is shorter), "refuse" is an error.
    """

    paths: str | Path | Sequence[str | Path]
    array: str | Path | MicArray
    long_clips: str = "split"

    def __post_init__(self) -> None:
        if self.long_clips not in ("split", "refuse"):
            raise InputError(f"long_clips is {self.long_clips!r}: choose 'split' or 'refuse'")

    def open(self) -> Clips:
        """The recordings; InputError for one that is empty, has other channels, or is too long."""
        return _RecordingClips(self)


Source = ConversationSource | RecordingSource


class _ConversationClips:
    labelled = True

    def __init__(self, source: ConversationSource) -> None:
        self.count, self.seed, self.split = source.count, source.seed, source.split
        self.longest = source.conversation.max_seconds
        self._source = source
        self._conversations = Conversations(source.conversation, source.seed, source.split)

    def describe(self) -> dict[str, Any]:
        described = resolved.describe(self._source.conversation)
        if isinstance(described["simulator"], dict):
            described["simulator"].pop("threads", None)
        described["utterances"] = self._conversations.utterances.fingerprint
        return {"conversation": described}

    def clip(self, index: int) -> Clip:
        return self._conversations(index)


@dataclass(frozen=True)
class _Piece:
    """Samples start..end (at 16 kHz) of a recording."""

    path: Path
    key: str
    start: int
    end: int


class _RecordingClips:
    labelled = False
    seed = 0
    split = "recordings"

    def __init__(self, source: RecordingSource) -> None:
        self._array = load_array(source.array)
        paths = _listed(source.paths)
        names = [path.stem for path in paths]
        # Two folders may hold files of one name.
        keys = names if len(set(names)) == len(names) else [path.as_posix() for path in paths]
        self._pieces = [
            piece
            for path, key in zip(paths, keys)
            for piece in self._cut(path, key, source.long_clips)
        ]
        self.count = len(self._pieces)
        self.longest = max(piece.end - piece.start for piece in self._pieces) / SAMPLE_RATE
        self._paths = paths
        self._lock = threading.Lock()
        self._held: tuple[Path, NDArray[np.float32]] | None = None

    def _cut(self, path: Path, key: str, long_clips: str) -> list[_Piece]:
        with stream_audio(path) as stream:
            channels, samples = stream.num_channels, round(stream.seconds * SAMPLE_RATE)
        self._array.require_channels(channels, str(path))
        if samples < 1:
            raise InputError(f"{path} is empty (no samples): there is nothing to encode; remove it")
        limit = MAX_SECONDS * SAMPLE_RATE
        if samples <= limit:
            return [_Piece(path, key, 0, samples)]
        if long_clips == "refuse":
            raise InputError(
                f"{path} lasts {samples / SAMPLE_RATE:.1f} s, a clip at most {MAX_SECONDS} s: cut "
                "it, or set long_clips = 'split'"
            )
        return [
            _Piece(path, f"{key}@{start // SAMPLE_RATE:03d}s", start, min(start + limit, samples))
            for start in range(0, samples, limit)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "recordings": {piece.key: [piece.start, piece.end] for piece in self._pieces},
            "files": [digest(path) for path in self._paths],
            "array": resolved.describe(self._array),
        }

    def clip(self, index: int) -> Clip:
        piece = self._pieces[index]
        channels = self._samples(piece.path)[:, piece.start : piece.end]
        # What the file's header promises and a resampler gives may differ by a sample.
        short = piece.end - piece.start - channels.shape[1]
        channels = np.pad(channels, ((0, 0), (0, max(0, short))))
        mono = channels.mean(axis=0)
        return Clip(piece.key, channels, self._array, (), mono, mono, 0, 0.0)

    def _samples(self, path: Path) -> NDArray[np.float32]:
        with self._lock:
            if self._held is None or self._held[0] != path:
                self._held = (path, load_audio(path).samples)
            return self._held[1]


def _listed(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(paths, str | Path):
        listed = [Path(path) for path in paths]
        if not listed:
            raise InputError("RecordingSource.paths is empty: name a folder or files")
        return listed
    path = Path(paths)
    return audio_files(path) if path.is_dir() else [path]

# SPDX-License-Identifier: Apache-2.0
"""Whole utterances with their transcripts: the corpus in the package, and LibriSpeech's layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from spatial_core.corpus import embedded
from spatial_core.data import layouts
from spatial_core.data.pcm import SAMPLE_RATE, decode_mono
from spatial_core.data.sources import DEFAULT_FRACTIONS, SourceSpec
from spatial_core.errors import InputError

_MAX_MANIFEST_BYTES = 1 << 30


@dataclass(frozen=True)
class Utterance:
    """What one speaker says. samples: length at 16 kHz (to a few samples where the file has another rate)."""

    key: str
    speaker: str
    text: str
    samples: int


class Utterances(Protocol):
    """The utterances of a split. May be shared by threads."""

    @property
    def items(self) -> Sequence[Utterance]:
        """All of them, in an order that is the same on every machine."""

    @property
    def fingerprint(self) -> str:
        """Digest of keys, speakers, texts and lengths."""

    def audio(self, index: int) -> NDArray[np.float32]:
        """The samples [t] of one at 16 kHz, full scale 1."""


class EmbeddedUtterances:
    """The synthetic speech that ships with the package; speakers and sentences are disjoint by split."""

    def __init__(self, split: str = "train") -> None:
        sentences = embedded.sentences(layouts.check_split(split))
        self.items = tuple(
            Utterance(each.key, each.voice, each.text, len(each.samples)) for each in sentences
        )
        self.fingerprint = _fingerprint(self.items)
        self._samples = [each.samples for each in sentences]

    def audio(self, index: int) -> NDArray[np.float32]:
        """The samples [t] of one at 16 kHz, full scale 1."""
        return self._samples[index].astype(np.float32) / np.float32(32768)


class LibriSpeechUtterances:
    """A folder in LibriSpeech's layout with transcripts; speakers are disjoint by split.

    Transcripts come from LibriSpeech-PC's manifests (*.json at the folder's top, a JSON object with
    `audio_filepath` and `text` a line: with capitals and punctuation), else from the *.trans.txt
    beside the audio, whose capitals are written as a sentence in lower case. Utterances without one
    are left out (`skipped` counts them). Files are decoded when they are heard.

    Sources: Panayotov et al. 2015, openslr.org/12; Meister et al. 2023, openslr.org/145.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    ) -> None:
        clips = layouts.librispeech(root, split, split_fractions)
        texts = _punctuated(Path(root).expanduser())
        if not texts:
            texts = _plain({clip.path.parent for clip in clips})
        said = [clip for clip in clips if texts.get(clip.path.stem)]
        if not said:
            raise InputError(
                f"{root}: none of the {len(clips)} utterances of split {split!r} has a transcript; "
                "expected SPEAKER-CHAPTER.trans.txt beside the audio, or LibriSpeech-PC's *.json "
                "at the top of the folder"
            )
        self.skipped = len(clips) - len(said)
        self.items = tuple(
            Utterance(clip.path.stem, clip.label, texts[clip.path.stem], _samples(clip.path))
            for clip in said
        )
        self.fingerprint = _fingerprint(self.items)
        self._paths = [clip.path for clip in said]

    def audio(self, index: int) -> NDArray[np.float32]:
        """The samples [t] of one at 16 kHz, full scale 1."""
        return decode_mono(self._paths[index]).astype(np.float32) / np.float32(32768)


def load_utterances(spec: str | SourceSpec, split: str = "train") -> Utterances:
    """Utterances of "embedded" or "librispeech:/folder"."""
    if isinstance(spec, str):
        spec = SourceSpec.parse(spec)
    if spec.kind == "embedded":
        return EmbeddedUtterances(split)
    if spec.kind == "librispeech" and spec.root:
        return LibriSpeechUtterances(spec.root, split)
    raise InputError(
        f"utterances of {spec.kind!r} are unknown; use embedded or librispeech:/folder"
    )


def _fingerprint(items: Sequence[Utterance]) -> str:
    text = json.dumps([[each.key, each.speaker, each.text, each.samples] for each in items])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _samples(path: Path) -> int:
    """Length at 16 kHz, from the file's header."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(
            f"{path}: cannot be decoded ({error}); replace or remove the file"
        ) from error
    return round(info.duration * SAMPLE_RATE)


def _punctuated(folder: Path) -> dict[str, str]:
    """Stem of each file -> its text, from LibriSpeech-PC's manifests."""
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes: it is not a manifest")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                texts[Path(entry["audio_filepath"]).stem] = str(entry["text"]).strip()
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: expected a JSON object with audio_filepath and text, "
                    f"as LibriSpeech-PC's manifests have ({error}); move other files away"
                ) from error
    return texts


def _plain(folders: set[Path]) -> dict[str, str]:
    """Stem of each file -> its text, from LibriSpeech's own lists."""
    texts: dict[str, str] = {}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.trans.txt")):
            for line in path.read_text(encoding="utf-8").splitlines():
                key, _, text = line.strip().partition(" ")
                texts[key] = text.strip().capitalize() if text.isupper() else text.strip()
    return texts

# SPDX-License-Identifier: Apache-2.0
"""What sounds in scenes: speech with transcripts, sound events and backgrounds with captions.

Speakers, sentences and clips are disjoint by split. Everything is mono at `FOA_RATE`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sciphi.records import FOA_RATE
from spatial_core.corpus import embedded
from spatial_core.data import layouts
from spatial_core.data.pcm import FRAME, audible_frames, decode_mono, to_int16
from spatial_core.data.sources import DEFAULT_FRACTIONS, SourceSpec
from spatial_core.data.utterances import EmbeddedUtterances, LibriSpeechUtterances
from spatial_core.errors import InputError

USES = ("event", "background", "both")
_BELOW_DB = 35.0  # quieter frames at a clip's ends are no part of what is heard
_KEPT_CLIPS = 512
_MOST_SECONDS = 30.0


@dataclass(frozen=True)
class Sound:
    """One clip: label and category as in `SourceTruth`; group: its speaker or class."""

    key: str
    label: str
    category: str
    group: str
    transcript: str | None = None


@dataclass(frozen=True)
class Caption:
    """What a class of sounds is called, its class for detection, and what it is used as."""

    caption: str
    category: str
    use: str = "event"


class Sounds:
    """The clips of one use in one split. May be shared by threads.

    read: the samples of a clip by number, int16 [t] at `FOA_RATE`; the last ones are kept.
    """

    def __init__(self, items: Sequence[Sound], read: Sequence[Callable[[], NDArray]]) -> None:
        self.items = tuple(items)
        self._read = tuple(read)
        self._kept: OrderedDict[int, NDArray[np.int16]] = OrderedDict()
        self._lock = threading.Lock()
        self.groups: dict[str, list[int]] = {}
        for number, item in enumerate(self.items):
            self.groups.setdefault(item.group, []).append(number)

    @property
    def fingerprint(self) -> str:
        """Digest of names, labels and transcripts."""
        parts = [[s.key, s.label, s.category, s.group, s.transcript] for s in self.items]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def audio(self, number: int) -> NDArray[np.float32]:
        """Samples [t] of a clip without silence at its ends, of peak 0.9; empty if it is silent."""
        with self._lock:
            clip = self._kept.pop(number, None)
        if clip is None:
            clip = _trimmed(self._read[number]()[: round(_MOST_SECONDS * FOA_RATE)])
        with self._lock:
            self._kept[number] = clip
            while len(self._kept) > _KEPT_CLIPS:
                self._kept.popitem(last=False)
        return clip.astype(np.float32) / np.float32(32768)


@functools.cache
def captions() -> tuple[dict[str, Caption], dict[str, dict[str, str]]]:
    """Captions of the known classes, and what single clips (by the beginning of their name) differ in."""
    text = (resources.files("sciphi") / "captions.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return {name: Caption(**entry) for name, entry in content["classes"].items()}, content["clips"]


def caption_of(label: str, key: str = "") -> Caption:
    """What a clip is called: its own caption if it has one, else its class's, else the label itself."""
    classes, clips = captions()
    words = label.replace("_", " ").replace("-", " ").strip().lower()
    caption = classes.get(label) or Caption(words or "a sound", words or "sound")
    own = max((name for name in clips if key.startswith(name)), key=len, default=None)
    if own is None:
        return caption
    return Caption(**{**vars(caption), **clips[own]})


def open_speech(specs: str | Sequence[str], split: str, longest: float) -> Sounds:
    """Speech of "embedded" and "librispeech:/folder", with transcripts; of at most `longest` seconds.

    A folder without transcripts gives speech without them, if SPEAKERS.TXT says who is a woman.
    Raises InputError for unknown sources and folders of which nothing can be used.
    """
    items, read = [], []
    for spec in _specs(specs):
        if spec.kind == "embedded":
            found = _embedded_speech(split, longest)
        elif spec.kind == "librispeech" and spec.root:
            found = _librispeech(Path(spec.root).expanduser(), split, longest)
        else:
            raise InputError(
                f"speech of {spec.kind!r} is unknown; use embedded or librispeech:/folder"
            )
        if not found:
            raise InputError(
                f"no speech of {spec.kind} {spec.root} in split {split!r} is as short as "
                f"{longest:g} s: make the scenes longer"
            )
        items += [item for item, _ in found]
        read += [each for _, each in found]
    return Sounds(items, read)


def open_events(specs: str | Sequence[str], split: str, use: str = "event") -> Sounds:
    """Sounds of "embedded", "esc:/folder", "fsd50k:/folder" and "flat:/folder" for a use.

    use: "event" or "background"; see captions.json for which classes are which. Classes that it
    does not name are events, called by their own name.
    """
    items, read = [], []
    for spec in _specs(specs):
        for key, label, reader in _clips(spec, split):
            caption = caption_of(label, key)
            if caption.use in (use, "both"):
                items.append(Sound(key, caption.caption, caption.category, label))
                read.append(reader)
    return Sounds(items, read)


def categories(speech: str | Sequence[str], events: str | Sequence[str]) -> tuple[str, ...]:
    """Classes of the sources of any split, sorted; nothing is decoded."""
    found = {"female speech", "male speech"} if _specs(speech) else set[str]()
    for spec in _specs(events):
        if spec.kind == "embedded":
            files = embedded.read_manifest("noise")["files"]
            names = [(clip["key"], clip["label"]) for entry in files for clip in entry["clips"]]
        else:
            names = [(key, label) for key, label, _ in _clips(spec, "all")]
        known = [caption_of(label, key) for key, label in names]
        found |= {caption.category for caption in known if caption.use in ("event", "both")}
    return tuple(sorted(found))


def _specs(specs: str | Sequence[str]) -> list[SourceSpec]:
    named = [specs] if isinstance(specs, str) else list(specs)
    return [SourceSpec.parse(each) for each in named]


_Read = Callable[[], NDArray]


def _clips(spec: SourceSpec, split: str) -> list[tuple[str, str, _Read]]:
    """Key, class and reader of every clip of a source of sounds."""
    if spec.kind == "embedded":
        return [
            (sound.key, sound.label, functools.partial(_resampled, sound.samples, 16_000))
            for sound in _embedded_sounds(layouts.check_split(split))
        ]
    if spec.kind == "esc" and spec.root:
        clips = layouts.esc(spec.root, split)
    elif spec.kind == "fsd50k" and spec.root:
        clips = layouts.fsd50k(spec.root, split, exclude=("Speech",))
    elif spec.kind == "flat" and spec.root:
        clips = layouts.flat(spec.root, split, DEFAULT_FRACTIONS)
    else:
        raise InputError(
            f"sounds of {spec.kind!r} are unknown; use embedded, esc:/folder, fsd50k:/folder or "
            "flat:/folder"
        )
    return [
        (clip.path.stem, clip.label, functools.partial(decode_mono, clip.path, FOA_RATE))
        for clip in clips
    ]


@functools.lru_cache(maxsize=4)
def _embedded_sounds(split: str) -> tuple[embedded.Sound, ...]:
    """Decoded once: some seconds of work and megabytes."""
    return tuple(embedded.sounds(split))


@functools.lru_cache(maxsize=4)
def _embedded_utterances(split: str) -> EmbeddedUtterances:
    return EmbeddedUtterances(split)


def _embedded_speech(split: str, longest: float) -> list[tuple[Sound, _Read]]:
    files = embedded.read_manifest("speech")["files"]
    sexes = {entry["label"]: entry["sex"] for entry in files}
    utterances = _embedded_utterances(split)
    return [
        (
            _speech(said.key, said.speaker, sexes[said.speaker], said.text),
            functools.partial(_utterance, utterances, number),
        )
        for number, said in enumerate(utterances.items)
        if said.samples <= longest * 16_000
    ]


def _librispeech(root: Path, split: str, longest: float) -> list[tuple[Sound, _Read]]:
    sexes = _sexes(root)
    if any(root.rglob("*.trans.txt")) or any(root.glob("*.json")):
        utterances = LibriSpeechUtterances(root, split)
        return [
            (
                _speech(said.key, said.speaker, sexes.get(said.speaker), said.text),
                functools.partial(_utterance, utterances, number),
            )
            for number, said in enumerate(utterances.items)
            if said.samples <= longest * 16_000
        ]
    clips = layouts.librispeech(root, split, DEFAULT_FRACTIONS)
    known = [clip for clip in clips if clip.label in sexes]
    if not known:
        raise InputError(
            f"{root}: neither transcripts nor a SPEAKERS.TXT that knows its speakers: nothing true "
            "could be said about this speech; add one of them, or leave the folder out"
        )
    return [
        (
            _speech(clip.path.stem, clip.label, sexes[clip.label], None),
            functools.partial(decode_mono, clip.path, FOA_RATE),
        )
        for clip in known
        if _seconds(clip.path) <= longest
    ]


def _seconds(path: Path) -> float:
    """Length of an audio file by its header."""
    return float(soundfile.info(str(path)).duration)


def _sexes(root: Path) -> dict[str, str]:
    """Speaker -> "female" or "male" by LibriSpeech's SPEAKERS.TXT, in the folder or above it."""
    sexes = {}
    for path in (root / "SPEAKERS.TXT", root.parent / "SPEAKERS.TXT"):
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                fields = [field.strip() for field in line.split("|")]
                if not line.startswith(";") and len(fields) >= 2 and fields[1] in ("F", "M"):
                    sexes[fields[0]] = {"F": "female", "M": "male"}[fields[1]]
            break
    return sexes


def _speech(key: str, speaker: str, sex: str | None, text: str | None) -> Sound:
    category = f"{sex} speech" if sex else "speech"
    return Sound(key, f"English {category}", category, speaker, text)


def _utterance(utterances: EmbeddedUtterances | LibriSpeechUtterances, number: int) -> NDArray:
    return _resampled(to_int16(utterances.audio(number)), 16_000)


def _resampled(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """int16 [t] at `FOA_RATE`."""
    wide = soxr.resample(samples.astype(np.float32) / np.float32(32768), rate, FOA_RATE)
    return to_int16(wide)


def _trimmed(clip: NDArray[np.int16]) -> NDArray[np.int16]:
    """The clip between its first and its last audible frame, at peak 0.9; empty if there is none."""
    audible = np.flatnonzero(audible_frames(clip, _BELOW_DB))
    if len(audible) == 0:
        return clip[:0]
    part = clip[audible[0] * FRAME : (audible[-1] + 1) * FRAME].astype(np.float32)
    return to_int16(part * (0.9 / np.abs(part).max()))

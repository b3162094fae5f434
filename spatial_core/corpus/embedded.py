# SPDX-License-Identifier: Apache-2.0
"""Read the speech and the sounds that ship inside the package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import soundfile

from spatial_core.errors import InputError

SAMPLE_RATE = 16000


def read_manifest(part: str) -> dict[str, Any]:
    """The manifest of a part ("speech" or "noise"): its files, clips, splits and licences."""
    source = resources.files("spatial_core.corpus") / part / "manifest.json"
    if not source.is_file():
        raise InputError(
            f"the package holds no {part} corpus (no {source}); install it from a released wheel, "
            "or name a folder such as librispeech:/data/LibriSpeech"
        )
    manifest: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return manifest


def load(part: str, split: str) -> tuple[list[np.ndarray], list[str]]:
    """Decode a split of "speech" or "noise": clips int16 [t] at 16 kHz, and each one's label."""
    decoded = list(_clips(part, split))
    labels = [clip.get("label", entry.get("label", "")) for entry, clip, _ in decoded]
    return [samples for _, _, samples in decoded], labels


@dataclass(frozen=True, eq=False)
class Sentence:
    """One spoken sentence of the corpus: samples int16 [t] at 16 kHz, and what is said."""

    key: str
    voice: str
    text: str
    samples: np.ndarray


def sentences(split: str) -> list[Sentence]:
    """Decode the speech of a split with its transcripts, in the manifest's order."""
    return [
        Sentence(clip["key"], entry["label"], clip["text"], samples)
        for entry, clip, samples in _clips("speech", split)
    ]


@dataclass(frozen=True, eq=False)
class Sound:
    """One sound of the corpus: samples int16 [t] at 16 kHz, and its class."""

    key: str
    label: str
    samples: np.ndarray


def sounds(split: str) -> list[Sound]:
    """Decode the sounds of a split with their names, in the manifest's order."""
    return [
        Sound(clip["key"], clip["label"], samples) for _, clip, samples in _clips("noise", split)
    ]


def _clips(part: str, split: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], np.ndarray]]:
    """Every clip of a split: its file's entry, its own, its samples."""
    folder = resources.files("spatial_core.corpus") / part
    wanted: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for entry in read_manifest(part)["files"]:
        own = [c for c in entry["clips"] if split in ("all", c.get("split", entry.get("split")))]
        if own:
            wanted.append((entry, own))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        decoded = list(pool.map(lambda item: _decode(folder, item[0]), wanted))
    for (entry, own), samples in zip(wanted, decoded, strict=True):
        for clip in own:
            # Copied, so that the clips of other splits in the same file are not kept alive.
            yield entry, clip, samples[clip["start"] : clip["start"] + clip["samples"]].copy()


def _decode(folder: Traversable, entry: dict[str, Any]) -> np.ndarray:
    with resources.as_file(folder / entry["file"]) as path:
        samples, rate = soundfile.read(str(path), dtype="int16")
    last = max(clip["start"] + clip["samples"] for clip in entry["clips"])
    if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) < last:
        raise InputError(f"{entry['file']}: differs from its manifest; install the package again")
    return np.asarray(samples)

# SPDX-License-Identifier: Apache-2.0
"""Read the speech and the sounds that ship inside the package."""

from __future__ import annotations

import json
from importlib import resources
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
    clips: list[np.ndarray] = []
    labels: list[str] = []
    folder = resources.files("spatial_core.corpus") / part
    for entry in read_manifest(part)["files"]:
        wanted = [c for c in entry["clips"] if split in ("all", c.get("split", entry.get("split")))]
        if not wanted:
            continue
        with resources.as_file(folder / entry["file"]) as path:
            samples, rate = soundfile.read(str(path), dtype="int16")
        last = max(clip["start"] + clip["samples"] for clip in entry["clips"])
        if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) < last:
            raise InputError(
                f"{entry['file']}: differs from its manifest; install the package again"
            )
        for clip in wanted:
            clips.append(samples[clip["start"] : clip["start"] + clip["samples"]])
            labels.append(clip.get("label", entry.get("label", "")))
    return clips, labels

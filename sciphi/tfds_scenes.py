# SPDX-License-Identifier: Apache-2.0
"""Scene sets through TensorFlow Datasets (no TensorFlow): importing this registers them.

source = tfds.data_source("sciphi_scenes", split="train", builder_kwargs={"folder": "runs/scenes"})
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sciphi import scene_set
from sciphi.records import SceneTruth, SourceTruth
from sciphi.scene_record import decode
from spatial_core.data.tfds_folder import FolderBuilder, Part, RecordFeatures

_TEXTS = ("label", "kind", "category", "transcript")
_NUMBERS = ("onset", "offset", "azimuth", "elevation", "distance", "loudness", "c50")


class SciphiScenes(FolderBuilder):
    """A workdir of export_scenes, or one set of it.

    foa: float32 [4, t] at 24 kHz, ACN, SN3D. Truths as in `SceneTruth`; sources: arrays with one
    entry for each. What there is not (a transcript, a background) is an empty text and NaN.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _parts(self, folder: Path) -> dict[str, Part]:
        inside = [path.parent for path in sorted(folder.glob(f"*/{scene_set.NAME}"))]
        sets = [folder] if (folder / scene_set.NAME).exists() or not inside else inside
        found = {}
        for each in sets:
            manifest = scene_set.load(each)
            manifest.require_complete(each)
            found[manifest.split] = Part(each, scene_set.PREFIX, manifest.shards)
        return found

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in _TEXTS}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Simulated first-order Ambisonic scenes with their truths.",
            features=RecordFeatures(
                {
                    "key": tfds.features.Text(),
                    "foa": tfds.features.Tensor(shape=(4, None), dtype=np.float32),
                    "volume": np.float64,
                    "rt60": np.float64,
                    "background": tfds.features.Text(),
                    "background_loudness": np.float64,
                    "sources": tfds.features.Sequence(
                        {**texts, **dict.fromkeys(_NUMBERS, np.float64)}
                    ),
                },
                decode_scene,
            ),
        )


def decode_scene(data: bytes) -> dict[str, Any]:
    """The example of a scene's record; InputError if it is damaged."""
    scene = decode(data)
    truth: SceneTruth = scene.truth
    return {
        "key": scene.key.encode(),
        "foa": scene.foa,
        "volume": np.float64(truth.volume),
        "rt60": np.float64(truth.rt60),
        "background": (truth.background or "").encode(),
        "background_loudness": np.float64(
            math.nan if truth.background_loudness is None else truth.background_loudness
        ),
        "sources": _columns(truth.sources),
    }


def _columns(sources: tuple[SourceTruth, ...]) -> dict[str, np.ndarray]:
    rows = [dataclasses.asdict(source) for source in sources]
    texts = {name: [(row[name] or "").encode() for row in rows] for name in _TEXTS}
    return {
        **{name: np.array(values, dtype=object) for name, values in texts.items()},
        **{name: np.array([row[name] for row in rows], np.float64) for name in _NUMBERS},
    }

# SPDX-License-Identifier: Apache-2.0
"""Banks of room responses through TensorFlow Datasets (no TensorFlow): importing this registers them.

source = tfds.data_source("rir_bank", split="train", builder_kwargs={"folder": "/data/bank"})
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from spatial_core.data import bank_manifest, bank_record
from spatial_core.data.tfds_folder import FolderBuilder, Part, RecordFeatures
from spatial_core.errors import InputError
from spatial_core.sim.scene import SceneSpec


class RirBank(FolderBuilder):
    """The rooms of banks; each bank is a split, so a train and a test bank can be given together.

    rirs: float32 [sources, microphones, taps] at 16 kHz, the talker first, then the distractor if the
    bank has them; as many taps as are stored. mic_positions: float64 [m, 3], metres, array frame.
    azimuth, elevation (degrees, array frame), distance (m): of the talker. scene: all of the
    scene as JSON, for `SceneSpec.from_dict`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _parts(self, folder: Path) -> dict[str, Part]:
        manifest = bank_manifest.load(folder)
        manifest.require_complete(folder)
        return {manifest.split: Part(folder, bank_manifest.PREFIX, manifest.shards)}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Simulated room responses of microphone arrays.",
            features=RecordFeatures(
                {
                    "rirs": tfds.features.Tensor(shape=(None, None, None), dtype=np.float32),
                    "mic_positions": tfds.features.Tensor(shape=(None, 3), dtype=np.float64),
                    "azimuth": np.float64,
                    "elevation": np.float64,
                    "distance": np.float64,
                    "scene": tfds.features.Text(),
                },
                decode_room,
            ),
        )


def decode_room(data: bytes) -> dict[str, Any]:
    """The example of a bank's record; InputError if it is damaged."""
    try:
        labels, rirs = bank_record.decode(data)
    except bank_record.CorruptRecord as error:
        raise InputError(f"a room is damaged ({error}): make the bank again") from error
    spec = SceneSpec.from_dict({**labels, "speech": True})
    place = spec.labels()  # whether the talker is heard is the stream's to draw
    return {
        "rirs": rirs,
        "mic_positions": spec.mic_positions(),
        **{name: np.float64(place[name]) for name in ("azimuth", "elevation", "distance")},
        "scene": json.dumps(labels).encode(),
    }

# SPDX-License-Identifier: Apache-2.0
"""The corpus in the package through TensorFlow Datasets (no TensorFlow): importing this registers it.

    source = tfds.data_source("embedded_speech", split="train", data_dir="/data/tfds")

The first call decodes it into `data_dir` (speech 29 MB, sounds 10 MB), later ones read it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from spatial_core.corpus import embedded
from spatial_core.data.seeds import SPLITS

_RATE = {"rate": str(embedded.SAMPLE_RATE)}


class _Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc, unused-ignore]
    """Clips in the order of the package, written as ArrayRecord: other forms need TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, file_format: Any = "array_record", **settings: Any) -> None:
        super().__init__(file_format=file_format, **settings)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}


class EmbeddedSpeech(_Corpus):
    """Synthetic speech with transcripts; voices and sentences are disjoint by split.

    audio: int16 [t] at 16 kHz. Order: that of `spatial_core.corpus.embedded.sentences`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _described(self, "Synthetic speech with transcripts.", ("key", "voice", "text"))

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for said in embedded.sentences(split):
            texts = {"key": said.key, "voice": said.voice, "text": said.text}
            yield said.key, {"audio": said.samples, **texts}


class EmbeddedSounds(_Corpus):
    """Short CC0 sounds with their classes; clips are disjoint by split.

    audio: int16 [t] at 16 kHz. Order: that of `spatial_core.corpus.embedded.sounds`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _described(self, "Short CC0 sounds with their classes.", ("key", "label"))

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for sound in embedded.sounds(split):
            yield sound.key, {"audio": sound.samples, "key": sound.key, "label": sound.label}


def _described(builder: Any, description: str, texts: tuple[str, ...]) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                # PCM as a tensor: features.Audio imports TensorFlow.
                "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
                **{name: tfds.features.Text() for name in texts},
            }
        ),
        metadata=tfds.core.MetadataDict(_RATE),
        disable_shuffling=True,
    )

# SPDX-License-Identifier: Apache-2.0
"""What Sci-Phi's model hears of scenes: spatial features, and the spectral encoder's output for W."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm_bridge.protocol import AudioEncoder, Backbone
from llm_bridge.tokens.audio_cache import AudioCache
from sciphi.features import seld_features
from sciphi.records import FOA_RATE, SceneTruth
from spatial_core.audio.io import resample
from spatial_core.data.records import SAMPLE_RATE

if TYPE_CHECKING:
    from sciphi.scene_set import SceneSet


@dataclass(frozen=True, eq=False)
class Heard:
    """One scene as the model hears it: features float16 [7, f, 64], spectral features [l, a]."""

    features: NDArray[np.float16]
    audio: NDArray[np.float16]
    truth: SceneTruth


def spectral_audio(foa: NDArray[np.float32]) -> NDArray[np.float32]:
    """W of a sound field [4, t] at 24 kHz as mono audio at 16 kHz: what the spectral encoder hears."""
    return resample(foa[0], FOA_RATE, SAMPLE_RATE)


def listen(foa: NDArray[np.float32], encoder: AudioEncoder) -> tuple[NDArray, NDArray]:
    """Spatial features [7, f, 64] and spectral features [l, a] of a sound field [4, t]."""
    return np.asarray(seld_features(foa)), np.asarray(encoder(spectral_audio(foa)))


class HeardScenes:
    """The scenes of an exported folder: `len(heard)`, `heard[i]`; may be shared by threads.

    The spectral encoder runs once; its output is kept beside the scenes.
    """

    def __init__(self, directory: str | Path, backbone: Backbone) -> None:
        from sciphi.seld_task import (
            FeatureScenes,
        )  # simulation, which describing a recording is free of

        self._spatial = FeatureScenes(directory)
        self.scenes = self._spatial.scenes
        name, digest = backbone.audio_identity
        self._audio = AudioCache(
            _Omni(self.scenes),
            backbone.audio_encoder,
            name=name,
            digest=digest,
            source="mixed",
            hop=backbone.audio_hop,
        )

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Heard:
        return Heard(self._spatial.features(index), self._audio[index], self.scenes.truth(index))


class _Omni:
    """The scenes as what the cache of audio features reads."""

    def __init__(self, scenes: SceneSet) -> None:
        self._scenes = scenes
        self.directory: Path = scenes.directory
        self.digest: str = scenes.digest

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> _Omni._Record:
        return _Omni._Record(spectral_audio(self._scenes[index].foa))

    @dataclass(frozen=True)
    class _Record:
        mixed: NDArray[np.float32]

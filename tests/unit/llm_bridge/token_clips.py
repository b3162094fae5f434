# SPDX-License-Identifier: Apache-2.0
"""Clips and encoders that the tests of spatial tokens share."""

from __future__ import annotations

import numpy as np

from llm_bridge.conversations import ConversationConfig
from llm_bridge.tokens.clips import Clip
from llm_bridge.tokens.record import HEADS
from spatial_core.geometry.arrays import load_array
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.scene import SceneConfig

SCENE = SceneConfig(min_mics=4, max_mics=5, distractor=False)
CONVERSATION = ConversationConfig(
    scene=SCENE, max_seconds=6.0, simulator=FastSimulator(taps=8000, threads=1)
)


class LevelEncoder:
    """Stands in for the encoder: a token is 256 times where the window's loudest sample is."""

    name = "level"
    params: dict[str, np.ndarray] = {"scale": np.ones(3, np.float32)}  # noqa: RUF012

    def predict(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        loudest = np.abs(batch["audio"]).max(axis=1).argmax(axis=1)
        sounding = np.abs(batch["audio"]).max(axis=(1, 2)) > 0
        place = np.where(sounding, loudest / 16, -1).astype(np.float32)
        answers = {name: place + number for number, name in enumerate(HEADS)}
        return {"token": np.repeat(place[:, None], 256, axis=1), **answers}


def silent_clip(samples: int, click: int | None = None) -> Clip:
    channels = np.zeros((4, samples), np.float32)
    if click is not None:
        channels[:, click] = 1.0
    mono = channels.mean(axis=0)
    return Clip("clip", channels, load_array("tetrahedron"), (), mono, mono, 0, 0.0)

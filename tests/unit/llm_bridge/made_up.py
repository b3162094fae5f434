# SPDX-License-Identifier: Apache-2.0
"""A few clips whose tokens say plainly where the talkers are, without an encoder."""

from __future__ import annotations

import numpy as np

from llm_bridge.stream import Clips
from llm_bridge.tokens.record import Talker

WORDS = ("The kettle is on.", "Shall we begin?", "Give me a minute.", "The train is late.")


def made_up_clips(count: int, seed: int = 0, soft: int = 8, audio_width: int = 640) -> Clips:
    """Clips of `soft` tokens: the first talker in the first half, the second, if any, behind."""
    rng = np.random.default_rng(seed)
    clips, talkers = [], []
    for i in range(count):
        tokens = np.zeros((soft, 256), np.float16)
        here = []
        for slot in range((2, 1, 2, 2, 0)[i % 5]):
            azimuth, elevation = rng.uniform(-180, 180), rng.uniform(-40, 40)
            distance = rng.uniform(0.5, 5.5)
            half = slice(slot * soft // 2, (slot + 1) * soft // 2)
            angle = np.radians(azimuth) * np.arange(1, 9)
            tokens[half, :16] = np.concatenate([np.cos(angle), np.sin(angle)])
            tokens[half, 16:19] = elevation / 40, distance / 3, 1.0
            words = WORDS[int(rng.integers(len(WORDS)))]
            here.append(
                Talker(slot * 1.0, slot + 0.9, azimuth, elevation, distance, words, f"voice {slot}")
            )
        clips.append(tokens)
        talkers.append(tuple(here))
    audio = [np.zeros((soft, audio_width), np.float16) for _ in clips]
    return Clips(tuple(clips), audio, tuple(talkers))

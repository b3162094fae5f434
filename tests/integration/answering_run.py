# SPDX-License-Identifier: Apache-2.0
"""Answers of the shipped encoder, of the shipped bridge and of a SELD model, as JSON: python ... OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_bridge import trained
from llm_bridge.generate import Asked, Generator
from llm_bridge.layout import make_row
from phasecoder import pretrained

CLIPS, ROWS = 10, 4


def encoder() -> dict[str, Any]:
    """Directions and tokens of noise; what of an answer the first device holds."""
    random = np.random.default_rng(0)
    model = pretrained.load(all_devices=True)
    batch = {
        "audio": 0.05 * random.standard_normal((CLIPS, 4, 4000)).astype(np.float32),
        "mic_positions": 0.05 * random.standard_normal((CLIPS, 4, 3)).astype(np.float32),
        "mic_mask": np.ones((CLIPS, 4), bool),
    }
    answers = {name: np.asarray(value).tolist() for name, value in model.predict(batch).items()}
    batch = {name: array[:8] for name, array in batch.items()}
    return {"answers": answers, "held": _held(model._answer(batch)["token"])}


def bridge() -> dict[str, Any]:
    """What the shipped bridge says of made-up tokens, with its doubt; what the first device holds of the cache."""
    random = np.random.default_rng(1)
    model = trained.load(all_devices=True)
    backbone = model.task.backbone
    asked = []
    for count in (3, 5, 9, 4, 6, 7):
        row = make_row(backbone, "", "Where is the talker?", count)
        tokens = random.standard_normal((count, 256)).astype(np.float32)
        audio = random.standard_normal((count, backbone.audio_width)).astype(np.float32)
        asked.append(Asked(row, tokens, audio))
    answering = Generator(model.task, 16, ROWS)
    told = answering.told(asked, model.params)
    lay: list[list[float]] = []
    go_on = answering._go_on

    def noted(*given: Any) -> Any:
        lay.append([_held(leaf) for leaf in jax.tree.leaves(given[1]) if np.ndim(leaf)])
        return go_on(*given)

    answering._go_on = noted
    list(answering._chunks(asked[:ROWS], model.params))
    return {
        "texts": [one.text for one in told],
        "chances": [[piece[2] for piece in one.pieces] for one in told],
        "held": lay,
    }


def _held(array: jax.Array) -> float:
    """The part of an array that the first device holds."""
    return array.addressable_shards[0].data.size / array.size


if __name__ == "__main__":
    found = {"devices": jax.device_count(), "encoder": encoder(), "bridge": bridge()}
    Path(sys.argv[1]).write_text(json.dumps(found))

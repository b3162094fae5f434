# SPDX-License-Identifier: Apache-2.0
"""A small untrained bridge as a release, an encoder that stands in, and made-up clips as a token set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from llm_bridge.adapters import model_metadata, save_bridge, token_metadata
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.task import BridgeTask
from llm_bridge.tokens import manifest as manifests
from llm_bridge.tokens.encode import encoder_digest
from llm_bridge.tokens.manifest import Manifest, shard_name
from llm_bridge.tokens.record import HEADS, TokenRecord
from spatial_core.data import shards
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from tests.unit.llm_bridge.made_up import made_up_clips

BACKBONE = TinyBackbone(layers=1, width=48, heads=2, kv_heads=1, hidden=64)


class LevelEncoder:
    """A token is 256 times the level of the first microphone; always speech, always at 30 degrees."""

    name = "level"
    params: dict[str, np.ndarray] = {"scale": np.ones(3, np.float32)}  # noqa: RUF012

    def predict(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        level = np.abs(batch["audio"][:, 0]).mean(axis=1).astype(np.float32)
        answers = {name: np.full_like(level, 30.0) for name in HEADS}
        return {"token": np.repeat(level[:, None], 256, axis=1), **answers}


DIGEST = encoder_digest(LevelEncoder())  # type: ignore[arg-type]


def release(folder: Path) -> Path:
    """The bridge's release."""
    params = jax.jit(BridgeTask(BACKBONE, lora=None).init)(jax.random.key(0))
    return save_bridge(
        folder,
        params,
        {**model_metadata(BACKBONE, None), **token_metadata(DIGEST, HOP)},
        step=7,
        backbone=BACKBONE,
        training={"data": {"style": "brief", "source": "audio"}},
    )


def of_another_encoder(released: Path, folder: Path, **changes: int) -> Path:
    """The same release, said to be of another encoder, or with other `changes` to its metadata."""
    shutil.copytree(released, folder)
    path = folder / "bridge.json"
    config = json.loads(path.read_text())
    config["metadata"].update(changes or {"encoder_digest": "f" * 64})
    path.write_text(json.dumps(config))
    return folder


def token_set(folder: Path, count: int = 20, soft: int = 8) -> Path:
    """Made-up clips, whose heads say where the talkers are."""
    clips = made_up_clips(count, soft=soft)
    records = []
    for number, (tokens, talkers) in enumerate(zip(clips.tokens, clips.talkers, strict=True)):
        heads = {name: np.zeros(soft, np.float32) for name in HEADS}
        for slot, talker in enumerate(talkers):
            half = slice(slot * soft // 2, (slot + 1) * soft // 2)
            for name in ("azimuth", "elevation", "distance"):
                heads[name][half] = getattr(talker, name)
            heads["speech_probability"][half] = heads["confidence"][half] = 0.9
        sound = np.zeros(soft * HOP, np.float32)
        seconds = soft * HOP / SAMPLE_RATE
        records.append(
            TokenRecord(f"clip-{number}", tokens, heads, talkers, sound, sound, seconds, "none")
        )
    folder.mkdir(parents=True)
    name = shard_name(0, 1)
    shards.write_shard(folder / name, [record.encode() for record in records])
    manifest = Manifest(
        encoder={"name": "level", "digest": DIGEST},
        hop=HOP,
        window=WINDOW,
        sample_rate=SAMPLE_RATE,
        width=256,
        seed=0,
        split="test",
        count=count,
        labelled=True,
        config={},
        num_shards=1,
        shards={name: shards.describe_shard(folder / name, count)},
    )
    manifests.save(manifest, folder)
    return folder

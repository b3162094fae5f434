# SPDX-License-Identifier: Apache-2.0
"""The language model's half from the command line, small: every step hands its result to the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llm_bridge.adapters import load_bridge
from llm_bridge.tokens.clips import ConversationSource
from llm_bridge.tokens.encode import encoder_digest
from llm_bridge.tokens.token_set import TokenSet
from phasecoder.pretrained import load as load_encoder
from spatial_core.data.records import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "STEPS=4",
    "STAGES=((4, 8000, 2000),)",
    "WEIGHTS=()",
    "RESTARTS=()",
    "QuestionStream.batch_size=4",
    "TrainConfig.validation_batches=1",
    "OptimizerConfig.warmup_steps=0",
    "TinyBackbone.layers=1",
    "TinyBackbone.width=48",
    "TinyBackbone.hidden=64",
)


def run(folder: Path, module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def launch(folder: Path, mode: str, experiment: str, workdir: str, *settings: str) -> str:
    given = [f"--gin.{setting}" for setting in settings]
    words = (f"--run_mode={mode}", f"--gin_file={experiment}", f"--workdir={workdir}")
    return run(folder, "launch.main", *words, *given)


def recorded(folder: Path) -> list[str]:
    """A conversation that no set has, as somebody records it: the files' names."""
    clip = ConversationSource(split="test", count=9).open().clip(8)
    soundfile.write(folder / "room.wav", clip.channels.T, SAMPLE_RATE, subtype="FLOAT")
    positions = np.asarray(clip.array.positions).tolist()
    array = {"name": "mine", "unit": "m", "positions": positions}
    (folder / "array.json").write_text(json.dumps(array))
    return ["room.wav", "--mics", "array.json"]


@pytest.mark.slow
def test_from_tokens_to_an_answer(tmp_path: Path) -> None:
    counts = [f"{name}/ConversationSource.count=6" for name in ("train", "validation", "test")]
    launch(tmp_path, "export_tokens", "experiments/export_tokens.gin", "tokens", *counts)
    assert len(TokenSet(tmp_path / "tokens" / "train")) == 6
    experiment = "experiments/bridge_tiny.gin"
    launch(tmp_path, "train", experiment, "run", "TOKENS='tokens'", *SMALL)
    said = launch(
        tmp_path,
        "eval_bridge",
        "runs/eval_bridge.gin",
        "scored",
        "MODEL='run'",
        "TOKENS='tokens'",
        "QUESTIONS=(4, 4, 0, 0)",
        "BridgeEvalConfig.max_new=14",
    )
    assert "spatial tokens zeroed" in said
    report = json.loads((tmp_path / "scored" / "report.json").read_text())
    assert "run, step 4" in json.dumps(report)

    words = ("release", "run", "released", "--card", "scored/report.md")
    assert "written: released" in run(tmp_path, "llm_bridge.bridge_cli", *words)
    released = load_bridge(tmp_path / "released")
    assert released.step == 4
    assert released.metadata["encoder_digest"] == encoder_digest(load_encoder())
    assert "spatial tokens zeroed" in released.card

    question = "Where is the voice?"
    given = [*recorded(tmp_path), "--model", "released", "--max-new", "14", "--json", question]
    answer = json.loads(run(tmp_path, "llm_bridge.cli", *given))
    assert answer["model_name"] == "released, step 4" and answer["task"] == 1
    # An untrained model says nothing true, but it says something in the vocabulary of answers.
    assert answer["text"]

    # Training goes on from the release: at a rate of zero its parameters are what they were.
    still = ("TrainConfig.init_from='released'", "OptimizerConfig.peak_lr=0.0")
    still = (*still, "OptimizerConfig.end_lr=0.0", "OptimizerConfig.weight_decay=0.0")
    launch(tmp_path, "train", experiment, "further", "TOKENS='tokens'", *SMALL, *still)
    before, after = released.params, load_bridge(tmp_path / "further").params
    np.testing.assert_array_equal(before["model"]["embedding"], after["model"]["embedding"])

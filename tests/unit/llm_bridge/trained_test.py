# SPDX-License-Identifier: Apache-2.0
"""A released bridge whose base model's weights the user brings: what it asks for, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from llm_bridge.adapters import model_metadata, save_bridge, token_metadata
from llm_bridge.api import load_model
from llm_bridge.backbones.gemma3n import backbone as module
from llm_bridge.backbones.gemma3n.backbone import Gemma3nBackbone
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig
from llm_bridge.lora import LoraConfig
from llm_bridge.task import BridgeTask
from llm_bridge.trained import load
from spatial_core.data.records import HOP
from spatial_core.errors import InputError
from tests.unit.llm_bridge.gemma3n_files import AUDIO, CONFIG, google_tree, hugging_face_tensors
from tests.unit.llm_bridge.released import BACKBONE


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_file(hugging_face_tensors(google_tree()), folder / "model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """E4B with all its parts and few parameters, on a machine without settings."""
    sizes = Gemma3nConfig("gemma3n-e4b", CONFIG, AUDIO)
    monkeypatch.setitem(module._PRESETS, "E4B", lambda **changes: sizes)
    monkeypatch.delenv("LLM_BRIDGE_WEIGHTS", raising=False)
    monkeypatch.delenv("LLM_BRIDGE_TOKENIZER", raising=False)
    monkeypatch.setattr(module, "_tokenizer", _ReadsAny)


class _ReadsAny:
    """In place of a vocabulary: knows of its file only whether it should be there."""

    def __init__(self, path: str) -> None:
        if "damaged" in path:
            raise InputError(f"{path} lacks ids that the soft tokens need")


@pytest.fixture
def released(weights: Path, tmp_path: Path) -> Path:
    backbone = Gemma3nBackbone(
        weights=str(weights), tokenizer_file=str(weights / "tokenizer.model"), dtype="float32"
    )
    lora = LoraConfig(rank=2)
    shapes = jax.eval_shape(BridgeTask(backbone, lora).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    metadata = {**model_metadata(backbone, lora), **token_metadata("e" * 64, HOP)}
    return save_bridge(tmp_path / "bridge", params, metadata, step=1, backbone=backbone)


def test_a_release_does_not_know_where_its_base_model_lay(released: Path, weights: Path) -> None:
    assert str(weights) not in (released / "bridge.json").read_text()
    backbone = json.loads((released / "bridge.json").read_text())["backbone"]
    assert backbone["weights"] is None and backbone["tokenizer_file"] is None


def test_its_user_says_where_the_weights_are(
    released: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"Gemma3nBackbone E4B\) do not come with it.*--weights"):
        load(released)
    with pytest.raises(InputError, match="LLM_BRIDGE_WEIGHTS"):
        load_model(released)
    given = load(released, weights=weights)
    monkeypatch.setenv("LLM_BRIDGE_WEIGHTS", str(weights))
    monkeypatch.setenv("LLM_BRIDGE_TOKENIZER", str(weights / "other.model"))
    found = load(released)
    assert found.task.backbone.tokenizer_file == str(weights / "other.model")
    for trained in (given, found):
        table = trained.params["model"]["embedding"]
        assert isinstance(table, jax.Array) and table.shape == (CONFIG.vocabulary, CONFIG.width)
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        load(released, weights="nowhere")
    # The vocabulary is looked at first: weights take minutes to read.
    with pytest.raises(InputError, match="lacks ids that the soft tokens need"):
        load(released, weights="nowhere", tokenizer="damaged.model")


def test_other_weights_are_refused_with_both_digests(released: Path, tmp_path: Path) -> None:
    tensors = hugging_face_tensors(google_tree())
    tensors["model.language_model.layers.3.mlp.up_proj.weight"] *= np.float32(1.01)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"base_digest: '[0-9a-f]{64}' -> '[0-9a-f]{64}'"):
        load(released, weights=tmp_path / "other.safetensors")


def test_a_model_that_brings_its_weights_wants_none() -> None:
    with pytest.raises(InputError, match="tiny, which needs no weights of yours: leave it out"):
        load("tiny", weights="somewhere")


def test_a_release_remembers_in_how_many_words_its_projector_says_a_place(tmp_path: Path) -> None:
    task = BridgeTask(BACKBONE, lora=None, cycle=3)
    params = jax.jit(task.init)(jax.random.key(0))
    metadata = {**task.metadata, **token_metadata("e" * 64, HOP)}
    folder = save_bridge(tmp_path / "bridge", params, metadata, step=1, backbone=BACKBONE)
    trained = load(folder)
    assert trained.task.cycle == 3
    tokens = jax.random.normal(jax.random.key(1), (1, 7, 256))
    said = trained.task.bind(trained.params).projector(tokens)
    turns = task.bind(params).projector.turns(tokens)[0]
    for k in range(7):
        np.testing.assert_allclose(said[0, k], turns[k, k % 3], rtol=1e-5, atol=1e-6)

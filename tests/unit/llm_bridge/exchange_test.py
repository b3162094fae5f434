# SPDX-License-Identifier: Apache-2.0
"""Adapters of a bridge folded into its language model, and carried to peft's files and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_bridge import bridge_cli, trained
from llm_bridge.adapters import load_bridge, model_metadata, save_bridge, token_metadata
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.exchange import Published
from llm_bridge.lora import LoraConfig
from llm_bridge.peft_format import decoder_names, read_peft
from llm_bridge.stream import QuestionStream
from llm_bridge.task import BridgeTask
from llm_bridge.trained import load
from spatial_core.data.records import HOP
from spatial_core.io.export import flatten_tree
from tests.unit.llm_bridge.made_up import made_up_clips
from tests.unit.programs import quick

SHAPES = dict(soft=8, length=96, answer_length=64)


@dataclasses.dataclass(frozen=True)
class PublishedTiny(TinyBackbone):
    """`tiny` as if it had been published: weights that are drawn here, and names at Hugging Face."""

    layers: int = 2
    width: int = 48
    heads: int = 2
    kv_heads: int = 1
    hidden: int = 64
    trainable: str = r"audio/.*"
    hf_model: str = "nobody/tiny"

    def load(self, shardings=None):
        rng = np.random.default_rng(5)
        shapes = jax.eval_shape(BridgeTask(self, None).frozen_shapes)["model"]
        draw = lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32)  # noqa: E731
        return jax.tree.map(draw, shapes)

    def hf_linear(self, path, index):
        return decoder_names(path, index)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(trained.BACKBONES, "PublishedTiny", __name__)


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    """A release whose adapters do something."""
    backbone, lora = PublishedTiny(), LoraConfig(rank=3, alpha=6.0, targets="attention/|gate")
    shapes = jax.eval_shape(BridgeTask(backbone, lora).init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(s.dtype), shapes)
    metadata = {**model_metadata(backbone, lora), **token_metadata("e" * 64, HOP)}
    folder = tmp_path_factory.mktemp("bridges") / "adapted"
    return save_bridge(folder, params, metadata, step=3, backbone=backbone)


def command(*words) -> int:
    return bridge_cli.main([str(word) for word in words])


def loss(folder: Path) -> float:
    found = load(folder)
    task = dataclasses.replace(found.task, **SHAPES)
    stream = QuestionStream(
        tokens="unused", backbone=task.backbone, batch_size=2, style="brief", **SHAPES
    )
    stream._open.append(made_up_clips(5))
    batch = {name: stream.batch(0)[name] for name in task.example_batch(2)}
    compute = quick(lambda params: task.loss(params, batch, jax.random.key(0), False)[0])
    return float(compute(found.params))


def test_merged_adapters_say_the_same_without_being_there(bridge, tmp_path, capsys):
    assert command("merge", bridge, tmp_path / "merged") == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'merged'}\n"
    merged = load_bridge(tmp_path / "merged")
    assert merged.lora is None and merged.metadata["encoder_digest"] == "e" * 64
    names = set(flatten_tree(merged.params))
    assert not any("lora" in name for name in names) and "model/embedding" in names
    # float32 sums in another order.
    assert loss(tmp_path / "merged") == pytest.approx(loss(bridge), rel=1e-5)


def test_adapters_to_peft_and_back_are_the_same(bridge, tmp_path):
    assert command("export-peft", bridge, tmp_path / "peft") == 0
    adapter = read_peft(tmp_path / "peft")
    assert (adapter.rank, adapter.alpha, adapter.base_model) == (3, 6.0, "nobody/tiny")
    assert "model.layers.1.mlp.gate_proj.lora_A.weight" in adapter.tensors
    assert not any("projector" in name for name in adapter.tensors)
    assert command("import-peft", tmp_path / "peft", bridge, tmp_path / "back") == 0
    before, after = load_bridge(bridge), load_bridge(tmp_path / "back")
    assert before.metadata == after.metadata and after.step == 3
    first, second = flatten_tree(before.params), flatten_tree(after.params)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_adapter_of_another_size_takes_the_place_of_the_bridges(bridge, tmp_path):
    """Rank, alpha and maps are those of the folder; the projector stays."""
    other = LoraConfig(rank=2, alpha=2.0, targets="query")
    found = load_bridge(bridge)
    shapes = jax.eval_shape(BridgeTask(PublishedTiny(), other).init, jax.random.key(0))
    params = jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), shapes)
    metadata = {**model_metadata(PublishedTiny(), other), **token_metadata("e" * 64, HOP)}
    source = save_bridge(tmp_path / "other", params, metadata, step=1, backbone=found.backbone)
    assert command("export-peft", source, tmp_path / "peft") == 0
    given = ("import-peft", tmp_path / "peft", bridge, tmp_path / "new")
    assert command(*given) == 2, "the bridge's own targets need more than the folder has"
    assert not (tmp_path / "new").exists()
    assert command(*given, "--targets", "query$") == 0
    new = load_bridge(tmp_path / "new")
    assert new.lora == LoraConfig(2, 2.0, 0.0, "query$")
    flat = flatten_tree(new.params)
    kernel = next(name for name in flat if name.startswith("projector/"))
    assert np.array_equal(flat[kernel], flatten_tree(found.params)[kernel])
    assert np.all(flat["model/layers/attention/query/lora_a"] == 0.5)
    assert np.isfinite(loss(tmp_path / "new"))


def test_mistakes_end_with_code_2_and_one_line(bridge, tmp_path, capsys):
    assert not isinstance(TinyBackbone(), Published)
    for words in (
        ("merge", "tiny", tmp_path / "a"),  # without adapters
        ("export-peft", "tiny", tmp_path / "a"),
        ("import-peft", tmp_path, bridge, tmp_path / "a"),  # no folder of peft
        ("merge", bridge, bridge),  # not a new folder
        ("release", tmp_path, tmp_path / "a"),  # no run
    ):
        assert command(*words) == 2, words
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all(line.startswith("spatial-bridge: error: ") for line in lines)
    assert not (tmp_path / "a").exists()


def test_a_run_is_released(bridge, tmp_path):
    (tmp_path / "results.md").write_text("| MAE | 12 |\n")
    words = ("release", bridge, tmp_path / "copy", "--card", tmp_path / "results.md")
    assert command(*words) == 0
    assert (tmp_path / "copy" / "README.md").read_text().endswith("| MAE | 12 |\n")
    config = json.loads((tmp_path / "copy" / "bridge.json").read_text())
    assert config["step"] == 3 and config["backbone"]["class"] == "PublishedTiny"

# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's weights from small files written as Hugging Face and as Google write them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from llm_bridge.backbones import weight_files
from llm_bridge.backbones.gemma3n import backbone as backbone_module
from llm_bridge.backbones.gemma3n.backbone import Gemma3nBackbone
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig
from llm_bridge.backbones.gemma3n.weights import load_audio, load_text, open_weights, text_digest
from llm_bridge.lora import LoraConfig
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.io.export import flatten_tree
from spatial_core.train.partition import MeshConfig, make_mesh
from tests.unit.llm_bridge.gemma3n_files import (
    AUDIO,
    CONFIG,
    D,
    F,
    google_tree,
    hugging_face_tensors,
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return hugging_face_tensors(google_tree())


@pytest.fixture(scope="module")
def single(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    head = tensors["model.language_model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": head}, path)
    return path


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    first, second = flatten_tree(a), flatten_tree(b)
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_a_file_fills_every_parameter(single: Path, tensors: dict[str, np.ndarray]) -> None:
    params = load_text(single, CONFIG)
    language = "model.language_model."
    assert np.array_equal(params["embedding"], tensors[f"{language}embed_tokens.weight"])
    top = tensors[f"{language}per_layer_model_projection.weight"]
    assert np.array_equal(params["per_layer"]["projection"]["kernel"], top.T)
    down = tensors[f"{language}layers.4.mlp.down_proj.weight"]
    assert np.array_equal(params["dense"]["mlp"]["down"]["kernel"][2], down.T)
    query = tensors[f"{language}layers.7.self_attn.q_proj.weight"]
    assert np.array_equal(params["shared"]["attention"]["query"]["kernel"][2], query.T)
    assert set(params["shared"]["attention"]) == {"query", "query_norm", "out"}
    third = tensors[f"{language}altup_unembed_projections.2.weight"]
    assert np.array_equal(params["altup_out"]["kernel"][2], third.T)
    audio = load_audio(single, AUDIO)
    taps = tensors["model.audio_tower.conformer.1.lconv1d.depthwise_conv1d.weight"]
    assert np.array_equal(audio["layers"]["convolution"]["kernel"][1], taps[:, 0].T)


def test_several_files_and_types_give_the_same(
    single: Path, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    names = sorted(half)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        save_file({name: half[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    config = dataclasses.replace(CONFIG, param_dtype=ml_dtypes.bfloat16)
    params = load_text(tmp_path, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(ml_dtypes.bfloat16)}
    assert same(params, load_text(single, config))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks model-00002-of-00002\.safetensors: the download"):
        load_text(tmp_path, config)
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside its folder"):
        load_text(tmp_path, config)


def test_a_text_only_file_is_read_but_lacks_the_audio_embedder(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    short = {
        name.replace("language_model.", ""): value
        for name, value in tensors.items()
        if "audio" not in name and "vision" not in name
    }
    save_file(
        {**short, "lm_head.weight": short["model.embed_tokens.weight"]}, tmp_path / "m.safetensors"
    )
    with pytest.raises(InputError) as caught:
        load_text(tmp_path / "m.safetensors", CONFIG)
    assert "4 tensors missing" in str(caught.value)
    assert "model.embed_audio.embedding.weight" in str(caught.value)
    assert "unexpected" not in str(caught.value)


def test_google_files_give_the_same(single: Path, tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(tmp_path / "e4b", google_tree())
    assert same(load_text(tmp_path / "e4b", CONFIG), load_text(single, CONFIG))
    assert same(load_audio(tmp_path / "e4b", AUDIO), load_audio(single, AUDIO))
    with pytest.raises(InputError, match="tensors of another shape"):
        load_text(tmp_path / "e4b", dataclasses.replace(CONFIG, hidden=32))
    (tmp_path / "e4b" / "_METADATA").write_text("{")
    with pytest.raises(InputError, match="Orbax"):
        load_text(tmp_path / "e4b", CONFIG)


def test_google_coefficients_are_clipped_as_the_model_uses_them(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    path = "transformer/stacked_layers/attention_type_0/altup"
    tree = {path: {"prediction_coefs": np.full((2, 4, 4, 4), 500.0, np.float32)}}
    ocp.PyTreeCheckpointer().save(tmp_path / "one", tree)
    read = dict(open_weights(tmp_path / "one").tensors(open_weights(tmp_path / "one").shapes))
    assert {float(value.max()) for value in read.values()} == {120.0}


def test_the_report_names_all_that_does_not_fit(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    changed = dict(tensors)
    del changed["model.language_model.norm.weight"]
    changed["model.language_model.layers.0.mlp.up_proj.weight"] = np.zeros((3, D), np.float32)
    changed["model.language_model.layers.10.mlp.up_proj.weight"] = np.zeros((F, D), np.float32)
    changed["stray"] = np.zeros(1, np.float32)
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, CONFIG)
    report = str(caught.value)
    assert "1 tensors missing:\n    model.language_model.norm.weight" in report
    assert "2 tensors unexpected:\n    model.language_model.layers.10.mlp.up_proj.weight" in report
    assert "stray" in report
    assert "layers.0.mlp.up_proj.weight is [3, 16], the model has [24, 16]" in report


def test_damaged_and_absent_files_are_refused(single: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_text(tmp_path / "nowhere", CONFIG)
    with pytest.raises(InputError, match="has neither"):
        load_text(tmp_path, CONFIG)
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(single.read_bytes()[:-100])
    with pytest.raises(InputError, match="may be incomplete"):
        load_text(cut, CONFIG)
    save_file({"model.language_model.norm.weight": np.zeros(4, np.int8)}, cut)
    with pytest.raises(InputError, match="quantised"):
        load_text(cut, CONFIG)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="no index"):
        load_text(tmp_path, CONFIG)


def test_leaves_go_onto_the_shardings_given(single: Path) -> None:
    mesh = make_mesh(MeshConfig())
    host = load_text(single, CONFIG)
    onto = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), host)
    placed = load_text(single, CONFIG, onto)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed))
    assert {leaf.sharding for leaf in jax.tree.leaves(placed)} == {jax.tree.leaves(onto)[0]}
    assert same(placed, host)


def test_a_bridge_has_its_frozen_weights_read_onto_their_devices(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Gemma3nConfig("gemma3n-e4b", CONFIG, AUDIO)
    monkeypatch.setitem(backbone_module._PRESETS, "E4B", lambda **changes: sizes)
    given = []

    class Watched(Gemma3nBackbone):
        def load(self, shardings=None):
            params = super().load(shardings)
            given.extend(jax.tree.leaves(params))
            return params

    task = BridgeTask(Watched(weights=str(single), dtype="float32"), LoraConfig(rank=2))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    frozen = task.load_frozen(jax.tree.map(lambda _: here, task.frozen_shapes()))
    assert given and all(isinstance(leaf, jax.Array) for leaf in given)
    assert same(frozen["model"], load_text(single, CONFIG))


def test_the_digest_knows_every_tensor_by_its_values_not_by_its_files(
    single: Path,
    tensors: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import orbax.checkpoint as ocp

    # Small enough that matrices of this model count as large: 4 rows of each are taken.
    monkeypatch.setattr(weight_files, "_SMALL", 64)
    monkeypatch.setattr(weight_files, "_SAMPLED_ROWS", 4)
    first = text_digest(str(single), CONFIG)
    ocp.PyTreeCheckpointer().save(tmp_path / "e4b", google_tree())
    assert text_digest(str(tmp_path / "e4b"), CONFIG) == first, "the same numbers in other files"

    def changed(name: str, row: int, name_of_file: str) -> str:
        value = tensors[name].copy()
        value[row] += 1
        save_file({**tensors, name: value}, tmp_path / f"{name_of_file}.safetensors")
        return text_digest(str(tmp_path / f"{name_of_file}.safetensors"), CONFIG)

    read = [n for n in tensors if n.startswith(("model.language_model.", "model.embed_audio."))]
    unread = [n for n in read if re.search(r"layers\.[56789]\.self_attn\.[kv]_", n)]
    for number, name in enumerate(sorted(set(read) - set(unread))[::9]):
        assert changed(name, -1, f"{number}") != first, name
    assert changed(unread[0], 0, "unread") == first, "keys that no layer reads"
    assert changed("model.audio_tower.conformer.0.norm.weight", 0, "audio") == first
    # What it does not cover: rows between those that are taken (0, 100, 199 and 299 of 300).
    assert changed("model.language_model.embed_tokens.weight", 50, "between") == first
    short = {name: value for name, value in tensors.items() if "altup" not in name}
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="tensors missing"):
        text_digest(str(tmp_path / "short.safetensors"), CONFIG)

# SPDX-License-Identifier: Apache-2.0
"""Phi-4's files in their three layouts, whole, damaged and on devices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from llm_bridge.backbones.phi4.config import small_text
from llm_bridge.backbones.phi4.weights import (
    SPEECH_FILE,
    audio_digest,
    load_audio,
    load_text,
    text_digest,
)
from llm_bridge.backbones.weight_files import leaves_of
from spatial_core.errors import InputError
from spatial_core.train.partition import MeshConfig, make_mesh
from tests.golden.make_phi4 import AUDIO, MULTIMODAL, published_name, tensor
from tests.unit.llm_bridge.phi4_drawn import (
    audio_params,
    audio_places_of,
    text_params,
    text_places_of,
)

CAMERA = "model.embed_tokens_extend.image_embed.img_processor.embeddings.patch_embedding.weight"


def drawn() -> dict[str, np.ndarray]:
    """All tensors of the small model by transformers' names."""
    places = {**text_places_of(MULTIMODAL)[1], **audio_places_of(AUDIO)[1]}
    return {name: tensor(name, place.shape) for name, place in places.items()}


def published() -> dict[str, np.ndarray]:
    """As Microsoft's files have them, with the camera's parts."""
    found = {published_name(name): value for name, value in drawn().items()}
    vision = "model.embed_tokens_extend.audio_embed.audio_projection.vision.0.weight"
    camera = {
        CAMERA: np.zeros((2, 3), np.float32),
        vision: np.zeros((2, 3), np.float32),
        "model.layers.0.mlp.down_proj.lora_A.vision.weight": np.zeros((2, 3), np.float32),
        "model.layers.0.mlp.down_proj.lora_B.vision.weight": np.zeros((2, 3), np.float32),
    }
    return {**found, **camera}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(published(), tmp_path / "model.safetensors")
    return tmp_path


def same(first: Any, second: Any) -> bool:
    one, other = leaves_of(first), leaves_of(second)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_published_files_fill_every_parameter(folder: Path) -> None:
    names = set(published())
    layer = "model.layers.1.self_attn.qkv_proj"
    encoder = "model.embed_tokens_extend.audio_embed.encoder.encoders.1"
    assert {f"{layer}.base_layer.weight", f"{layer}.lora_A.speech.weight"} <= names
    assert {
        f"{encoder}.feed_forward_in.net.0.linear.bias",
        f"{encoder}.feed_forward_out.net.2.weight",
    } <= names
    assert {f"{encoder}.self_attn.linear_q.weight", f"{encoder}.self_attn.linear_out.bias"} <= names
    text, audio = load_text(folder, MULTIMODAL), load_audio(folder, AUDIO)
    assert same(text, text_params(MULTIMODAL)) and same(audio, audio_params(AUDIO))
    tensors = published()
    qkv = text["layers"]["attention"]["qkv"]
    assert np.array_equal(qkv["kernel"][1], tensors[f"{layer}.base_layer.weight"].T)
    assert np.array_equal(qkv["fixed_a"][1], tensors[f"{layer}.lora_A.speech.weight"].T)
    taps = tensors[f"{encoder}.conv.dw_sep_conv_1d.dw_conv.weight"]
    assert np.array_equal(audio["layers"]["convolution"]["kernel"][1], taps[:, 0].T)


def test_several_files_in_transformers_layout_with_the_adapter_apart_are_the_same(
    folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "saved"
    (mine / SPEECH_FILE).parent.mkdir(parents=True)
    tensors = drawn()
    adapter = {
        "base_model.model." + name.replace(".speech.", "."): tensors.pop(name)
        for name in [n for n in tensors if ".speech." in n]
    }
    save_file(adapter, mine / SPEECH_FILE)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, mine / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (mine / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_text(mine, MULTIMODAL), load_text(folder, MULTIMODAL))
    assert same(load_audio(mine, AUDIO), load_audio(folder, AUDIO))
    # The same values are the same model, however they are filed; others are not.
    assert text_digest(mine, MULTIMODAL) == text_digest(folder, MULTIMODAL)
    assert audio_digest(mine, AUDIO) == audio_digest(folder, AUDIO)
    adapter["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][3, 1] += 1
    save_file(adapter, mine / SPEECH_FILE)
    assert text_digest(mine, MULTIMODAL) != text_digest(folder, MULTIMODAL)
    assert audio_digest(mine, AUDIO) == audio_digest(folder, AUDIO)
    (mine / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks b\.safetensors: the download"):
        load_text(mine, MULTIMODAL)


def test_plain_phi_4_mini_has_neither_ear_nor_adapter(tmp_path: Path) -> None:
    file = tmp_path / "mini.safetensors"
    mini = {n: v for n, v in drawn().items() if "extend" not in n and "lora" not in n}
    mini["lm_head.weight"] = mini["model.embed_tokens.weight"]
    save_file(mini, file)
    config = small_text(speech_lora=None, audio_trained=True)
    params = load_text(file, config)
    whole = text_params(small_text(speech_lora=None))
    assert same(params, {name: part for name, part in whole.items() if name != "audio"})
    with pytest.raises(InputError) as caught:
        load_text(file, MULTIMODAL)
    report = str(caught.value)
    # Four adapters of two matrices in each of two layers, and a projection of four tensors.
    assert "20 tensors missing" in report and "unexpected" not in report
    assert "model.layers.0.mlp.down_proj.lora_A.speech.weight" in report
    with pytest.raises(
        InputError, match=r"tensors missing:\n    model\.embed_tokens_extend\.audio_e"
    ):
        load_audio(file, AUDIO)


def test_the_report_names_all_that_does_not_fit(tmp_path: Path) -> None:
    changed = published()
    del changed["model.norm.weight"]
    changed["model.layers.0.mlp.gate_up_proj.base_layer.weight"] = np.zeros((3, 32), np.float32)
    changed["model.layers.2.input_layernorm.weight"] = np.zeros(32, np.float32)
    changed["stray"] = np.zeros(1, np.float32)
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, MULTIMODAL)
    report = str(caught.value)
    assert "1 tensors missing:\n    model.norm.weight" in report
    assert "2 tensors unexpected:\n    model.layers.2.input_layernorm.weight\n    stray" in report
    assert "gate_up_proj.weight is [3, 32], the model has [96, 32]" in report


def test_damaged_and_absent_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist; give a folder with model\.safe"):
        load_text(tmp_path / "nowhere", MULTIMODAL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has neither .* nor .*: download microsoft/Phi-4-multi"):
        load_text(tmp_path / "empty", MULTIMODAL)
    cut = folder / "model.safetensors"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="may be incomplete"):
        load_text(folder, MULTIMODAL)
    save_file({"model.norm.weight": np.zeros(4, np.int8)}, cut)
    with pytest.raises(InputError, match="quantised"):
        load_text(folder, MULTIMODAL)
    twice = {"model.norm.weight": np.zeros(32, np.float32)}
    save_file({**twice, "model.norm.base_layer.weight": twice["model.norm.weight"]}, cut)
    with pytest.raises(InputError, match=r"model\.norm\.weight is twice there"):
        load_text(folder, MULTIMODAL)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="no index"):
        load_text(folder, MULTIMODAL)


def test_leaves_are_cast_and_go_onto_the_shardings_given(folder: Path) -> None:
    half = dataclasses.replace(MULTIMODAL, param_dtype=ml_dtypes.bfloat16)
    host = load_text(folder, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(host)} == {np.dtype(ml_dtypes.bfloat16)}
    mesh = make_mesh(MeshConfig())
    onto = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), host)
    del onto["norm"]
    placed = load_text(folder, half, onto)
    kinds = {path: type(leaf) for path, leaf in leaves_of(placed).items()}
    assert kinds.pop("norm/scale") is np.ndarray
    assert all(issubclass(kind, jax.Array) for kind in kinds.values())
    assert same(placed, host)

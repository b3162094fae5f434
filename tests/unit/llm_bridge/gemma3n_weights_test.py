# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's weights from small files written as Hugging Face and as Google write them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from llm_bridge.backbones.gemma3n import backbone as backbone_module
from llm_bridge.backbones.gemma3n import weights as weights_module
from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig
from llm_bridge.backbones.gemma3n.backbone import Gemma3nBackbone
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig, small_text
from llm_bridge.backbones.gemma3n.weights import load_audio, load_text, open_weights, text_digest
from llm_bridge.lora import LoraConfig
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.io.export import flatten_tree
from spatial_core.train.partition import MeshConfig, make_mesh
from tests.golden.make_gemma3n_text import numbers

# Two periods, the second with shared keys; 256 rows of the embedding are not in Google's files.
CONFIG = small_text(
    vocabulary=300,
    per_layer_vocabulary=40,
    width=16,
    hidden=24,
    layers=10,
    heads=2,
    kv_heads=1,
    head_width=4,
    per_layer_width=2,
    laurel_rank=3,
    sparse_layers=2,
    audio_width=8,
    audio_vocabulary=5,
    audio_offset=280,
)
AUDIO = Gemma3nAudioConfig(width=8, layers=2, heads=2, channels=(4, 2), kernel=5)
D, F, H, G, C, P, R = 16, 24, 2, 1, 4, 2, 3
BANDS = 128 // 4


def google_tree() -> dict[str, dict[str, np.ndarray]]:
    """A checkpoint in Google's layout: two-level keys, layers stacked by their place in the period."""
    layer: dict[tuple[str, str], tuple[int, ...]] = {
        ("altup", "correct_output_scale"): (D,),
        ("altup", "correction_coefs"): (4, 4),
        ("altup", "prediction_coefs"): (4, 4, 4),
        ("altup/modality_router", "w"): (D, 4),
        ("altup/router_norm_layer", "scale"): (D,),
        ("attn/attn_vec_einsum", "w"): (H, C, D),
        ("attn/kv_einsum", "w"): (2, G, D, C),
        ("attn/q_einsum", "w"): (H, D, C),
        ("attn/query_norm", "scale"): (C,),
        ("attn/key_norm", "scale"): (C,),
        ("laurel_block/linear_left", "w"): (D, R),
        ("laurel_block/linear_right", "w"): (R, D),
        ("mlp/gating_einsum", "w"): (2, F, D),
        ("mlp/linear", "w"): (F, D),
        ("per_layer_mapping/per_layer_input_gate", "w"): (D, P),
        ("per_layer_mapping/per_layer_projection", "w"): (P, D),
        ("per_layer_mapping/post_per_layer_input_norm", "scale"): (D,),
        ("post_attention_norm", "scale"): (D,),
        ("post_ffw_norm", "scale"): (D,),
        ("post_laurel_norm", "scale"): (D,),
        ("pre_attention_norm", "scale"): (D,),
        ("pre_ffw_norm", "scale"): (D,),
    }
    top: dict[tuple[str, str], tuple[int, ...]] = {
        ("transformer/embedder", "input_embedding"): (44, D),
        ("transformer/embedder", "per_layer_embeddings"): (40, 10, P),
        ("transformer/embedder", "audio_input_embedding_extra"): (5, 8),
        ("transformer/embedder/per_layer_model_projection", "w"): (D, 10, P),
        ("transformer/embedder/per_layer_projection_norm", "scale"): (P,),
        ("transformer/embedder/audio_embedding_norm", "scale"): (8,),
        ("transformer/embedder/audio_soft_embedding_norm", "scale"): (8,),
        ("transformer/embedder/audio_input_projection", "w"): (8, D),
        ("transformer/embedder/mm_input_projection", "w"): (8, D),
        ("transformer/final_norm", "scale"): (D,),
        **{(f"transformer/altup_projection_{i}", "w"): (D, D) for i in range(3)},
        **{(f"transformer/altup_unembed_projection_{i}", "w"): (D, D) for i in range(3)},
    }
    for (path, parameter), shape in layer.items():
        for kind in range(5):
            stacked = f"transformer/stacked_layers/attention_type_{kind}/{path}"
            top[stacked, parameter] = (2, *shape)
    front, blocks = "AudioEncoder/encoder/feature", "AudioEncoder/encoder/conformer/stacked_layers"
    top |= {
        (f"{front}/subsampling_0", "w"): (3, 3, 1, 4),
        (f"{front}/subsampling_1", "w"): (3, 3, 4, 2),
        (f"{front}/norm_0", "scale"): (4,),
        (f"{front}/norm_1", "scale"): (2,),
        (f"{front}/input_proj", "w"): (BANDS, 2, 8),
        (f"{blocks}/final_ln", "scale"): (2, 8),
        (f"{blocks}/lconv/ln", "scale"): (2, 8),
        (f"{blocks}/lconv/conv_norm", "scale"): (2, 8),
        (f"{blocks}/lconv/linear_start", "w"): (2, 8, 16),
        (f"{blocks}/lconv/linear_end", "w"): (2, 8, 8),
        (f"{blocks}/lconv/depthwise_conv1d", "w"): (2, 5, 1, 8),
        (f"{blocks}/trans_atten/pre_norm", "scale"): (2, 8),
        (f"{blocks}/trans_atten/post_norm", "scale"): (2, 8),
        (f"{blocks}/trans_atten/post", "w"): (2, 2, 4, 8),
        (f"{blocks}/trans_atten/self_atten", "per_dim_scale"): (2, 4),
        (f"{blocks}/trans_atten/self_atten/query_key_value_projection", "w"): (2, 8, 3, 2, 4),
        (f"{blocks}/trans_atten/self_atten/relative_position_embedding/pos_proj", "w"): (
            2,
            8,
            2,
            4,
        ),
    }
    for end in ("start", "end"):
        base = f"{blocks}/fflayer_{end}"
        top |= {
            (f"{base}/ffn_layer1", "w"): (2, 8, 32),
            (f"{base}/ffn_layer2", "w"): (2, 32, 8),
            (f"{base}/pre_layer_norm", "scale"): (2, 8),
            (f"{base}/post_layer_norm", "scale"): (2, 8),
        }
    tree: dict[str, dict[str, np.ndarray]] = {}
    for (path, parameter), shape in top.items():
        tree.setdefault(path, {})[parameter] = numbers(path + parameter, *shape)
    return tree


def hugging_face_tensors(tree: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The same model as Hugging Face's tensors: each einsum of Google's written as W in y = W x."""
    language, audio = "model.language_model.", "model.audio_tower."
    get: Callable[[str], np.ndarray] = lambda path: next(iter(tree[path].values()))  # noqa: E731
    embedder = tree["transformer/embedder"]
    table = embedder["input_embedding"]
    out = {
        language + "embed_tokens.weight": np.vstack([table, np.tile(table[:1], (256, 1))]),
        language + "embed_tokens_per_layer.weight": embedder["per_layer_embeddings"].reshape(
            40, -1
        ),
        language + "per_layer_model_projection.weight": np.einsum(
            "dlp->lpd", get("transformer/embedder/per_layer_model_projection")
        ).reshape(20, D),
        language + "per_layer_projection_norm.weight": get(
            "transformer/embedder/per_layer_projection_norm"
        ),
        language + "norm.weight": get("transformer/final_norm"),
        "model.embed_audio.embedding.weight": embedder["audio_input_embedding_extra"],
        "model.embed_audio.hard_embedding_norm.weight": get(
            "transformer/embedder/audio_embedding_norm"
        ),
        "model.embed_audio.soft_embedding_norm.weight": get(
            "transformer/embedder/audio_soft_embedding_norm"
        ),
        "model.embed_audio.embedding_projection.weight": get(
            "transformer/embedder/audio_input_projection"
        ).T,
        "model.embed_vision.embedding_projection.weight": np.ones((2, 2), np.float32),
    }
    for i in range(3):
        out[f"{language}altup_projections.{i}.weight"] = get(f"transformer/altup_projection_{i}").T
        out[f"{language}altup_unembed_projections.{i}.weight"] = get(
            f"transformer/altup_unembed_projection_{i}"
        ).T
    for number in range(10):
        layer = {
            path.split("/", 3)[3] + "/" + name: value[number // 5]
            for path, held in tree.items()
            if path.startswith(f"transformer/stacked_layers/attention_type_{number % 5}/")
            for name, value in held.items()
        }
        out |= {f"{language}layers.{number}.{k}": v for k, v in _text_layer(layer).items()}
    front = "AudioEncoder/encoder/feature/"
    base = audio + "subsample_conv_projection."
    for i in range(2):
        out[f"{base}conv_{i}.conv.weight"] = np.einsum("yxio->oiyx", get(f"{front}subsampling_{i}"))
        out[f"{base}conv_{i}.norm.weight"] = get(f"{front}norm_{i}")
    projection = np.einsum("fcd->dfc", get(front + "input_proj"))
    out[base + "input_proj_linear.weight"] = projection.reshape(8, -1)
    for number in range(2):
        blocks = "AudioEncoder/encoder/conformer/stacked_layers/"
        block = {
            path.removeprefix(blocks) + "/" + name: value[number]
            for path, held in tree.items()
            if path.startswith(blocks)
            for name, value in held.items()
        }
        out |= {f"{audio}conformer.{number}.{k}": v for k, v in _audio_layer(block).items()}
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


def _text_layer(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    keys, values = x["attn/kv_einsum/w"]
    gate, up = x["mlp/gating_einsum/w"]
    return {
        "altup.correct_output_scale": x["altup/correct_output_scale"],
        "altup.correction_coefs.weight": x["altup/correction_coefs"].T,
        "altup.prediction_coefs.weight": np.einsum("pij->ijp", x["altup/prediction_coefs"]).reshape(
            16, 4
        ),
        "altup.modality_router.weight": x["altup/modality_router/w"].T,
        "altup.router_norm.weight": x["altup/router_norm_layer/scale"],
        "self_attn.q_proj.weight": np.einsum("hdc->hcd", x["attn/q_einsum/w"]).reshape(H * C, D),
        "self_attn.k_proj.weight": np.einsum("gdc->gcd", keys).reshape(G * C, D),
        "self_attn.v_proj.weight": np.einsum("gdc->gcd", values).reshape(G * C, D),
        "self_attn.o_proj.weight": x["attn/attn_vec_einsum/w"].reshape(H * C, D).T,
        "self_attn.q_norm.weight": x["attn/query_norm/scale"],
        "self_attn.k_norm.weight": x["attn/key_norm/scale"],
        "laurel.linear_left.weight": x["laurel_block/linear_left/w"].T,
        "laurel.linear_right.weight": x["laurel_block/linear_right/w"].T,
        "laurel.post_laurel_norm.weight": x["post_laurel_norm/scale"],
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": x["mlp/linear/w"].T,
        "per_layer_input_gate.weight": x["per_layer_mapping/per_layer_input_gate/w"].T,
        "per_layer_projection.weight": x["per_layer_mapping/per_layer_projection/w"].T,
        "post_per_layer_input_norm.weight": x["per_layer_mapping/post_per_layer_input_norm/scale"],
        "input_layernorm.weight": x["pre_attention_norm/scale"],
        "post_attention_layernorm.weight": x["post_attention_norm/scale"],
        "pre_feedforward_layernorm.weight": x["pre_ffw_norm/scale"],
        "post_feedforward_layernorm.weight": x["post_ffw_norm/scale"],
    }


def _audio_layer(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    attention = "trans_atten/self_atten/"
    mixed = np.einsum("dshc->shcd", x[attention + "query_key_value_projection/w"]).reshape(3, 8, 8)
    position = x[attention + "relative_position_embedding/pos_proj/w"]
    out = {
        "attention.pre_attn_norm.weight": x["trans_atten/pre_norm/scale"],
        "attention.post_norm.weight": x["trans_atten/post_norm/scale"],
        "attention.post.weight": x["trans_atten/post/w"].reshape(8, 8).T,
        "attention.attn.per_dim_scale": x[attention + "per_dim_scale"],
        "attention.attn.relative_position_embedding.pos_proj.weight": position.reshape(8, 8).T,
        "lconv1d.pre_layer_norm.weight": x["lconv/ln/scale"],
        "lconv1d.conv_norm.weight": x["lconv/conv_norm/scale"],
        "lconv1d.linear_start.weight": x["lconv/linear_start/w"].T,
        "lconv1d.linear_end.weight": x["lconv/linear_end/w"].T,
        "lconv1d.depthwise_conv1d.weight": np.einsum("kio->oik", x["lconv/depthwise_conv1d/w"]),
        "norm.weight": x["final_ln/scale"],
    }
    for i, name in enumerate("qkv"):
        out[f"attention.attn.{name}_proj.weight"] = mixed[i]
    for end in ("start", "end"):
        out[f"ffw_layer_{end}.ffw_layer_1.weight"] = x[f"fflayer_{end}/ffn_layer1/w"].T
        out[f"ffw_layer_{end}.ffw_layer_2.weight"] = x[f"fflayer_{end}/ffn_layer2/w"].T
        out[f"ffw_layer_{end}.pre_layer_norm.weight"] = x[f"fflayer_{end}/pre_layer_norm/scale"]
        out[f"ffw_layer_{end}.post_layer_norm.weight"] = x[f"fflayer_{end}/post_layer_norm/scale"]
    return out


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
    monkeypatch.setattr(weights_module, "_SMALL", 64)
    monkeypatch.setattr(weights_module, "_SAMPLED_ROWS", 4)
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

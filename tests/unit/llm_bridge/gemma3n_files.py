# SPDX-License-Identifier: Apache-2.0
"""A small Gemma 3n with every part of the real one, as Google's and as Hugging Face's files hold it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig
from llm_bridge.backbones.gemma3n.config import small_text
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

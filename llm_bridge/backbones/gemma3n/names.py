# SPDX-License-Identifier: Apache-2.0
"""Which tensor of Hugging Face's Gemma 3n each of our parameters is.

Our linear maps are [in, out], theirs [out, in]; ours are stacked over the layers of a kind, theirs one
tensor for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.backbones.weight_files import Place
from spatial_core.errors import InputError

TEXT, EMBEDDER, AUDIO = "model.language_model.", "model.embed_audio.", "model.audio_tower."

# The head is the embedding; a file may have it twice.
HEAD = "lm_head.weight"

_TEXT = {
    "embedding": TEXT + "embed_tokens.weight",
    "per_layer/table": TEXT + "embed_tokens_per_layer.weight",
    "per_layer/projection/kernel": TEXT + "per_layer_model_projection.weight",
    "per_layer/norm/scale": TEXT + "per_layer_projection_norm.weight",
    "altup_in/kernel": TEXT + "altup_projections.{}.weight",
    "altup_out/kernel": TEXT + "altup_unembed_projections.{}.weight",
    "norm/scale": TEXT + "norm.weight",
    "audio_embedder/table": EMBEDDER + "embedding.weight",
    "audio_embedder/hard_norm/scale": EMBEDDER + "hard_embedding_norm.weight",
    "audio_embedder/soft_norm/scale": EMBEDDER + "soft_embedding_norm.weight",
    "audio_embedder/projection/kernel": EMBEDDER + "embedding_projection.weight",
}
_LAYER = {
    "altup/norm/scale": "altup.router_norm.weight",
    "altup/router/kernel": "altup.modality_router.weight",
    "altup/prediction/kernel": "altup.prediction_coefs.weight",
    "altup/correction/kernel": "altup.correction_coefs.weight",
    "altup/output_scale": "altup.correct_output_scale",
    "laurel/left/kernel": "laurel.linear_left.weight",
    "laurel/right/kernel": "laurel.linear_right.weight",
    "laurel/norm/scale": "laurel.post_laurel_norm.weight",
    "attention/query/kernel": "self_attn.q_proj.weight",
    "attention/key/kernel": "self_attn.k_proj.weight",
    "attention/value/kernel": "self_attn.v_proj.weight",
    "attention/out/kernel": "self_attn.o_proj.weight",
    "attention/query_norm/scale": "self_attn.q_norm.weight",
    "attention/key_norm/scale": "self_attn.k_norm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
    "norm_attention/scale": "input_layernorm.weight",
    "norm_attended/scale": "post_attention_layernorm.weight",
    "norm_mlp/scale": "pre_feedforward_layernorm.weight",
    "norm_mapped/scale": "post_feedforward_layernorm.weight",
    "per_layer_gate/kernel": "per_layer_input_gate.weight",
    "per_layer_out/kernel": "per_layer_projection.weight",
    "per_layer_norm/scale": "post_per_layer_input_norm.weight",
}
_AUDIO = {
    "subsample/convolution_0/kernel": "subsample_conv_projection.conv_0.conv.weight",
    "subsample/convolution_0/scale": "subsample_conv_projection.conv_0.norm.weight",
    "subsample/convolution_1/kernel": "subsample_conv_projection.conv_1.conv.weight",
    "subsample/convolution_1/scale": "subsample_conv_projection.conv_1.norm.weight",
    "subsample/project/kernel": "subsample_conv_projection.input_proj_linear.weight",
}
_AUDIO_LAYER = {
    "attention/norm_in/scale": "attention.pre_attn_norm.weight",
    "attention/norm_out/scale": "attention.post_norm.weight",
    "attention/query/kernel": "attention.attn.q_proj.weight",
    "attention/key/kernel": "attention.attn.k_proj.weight",
    "attention/value/kernel": "attention.attn.v_proj.weight",
    "attention/position/kernel": "attention.attn.relative_position_embedding.pos_proj.weight",
    "attention/out/kernel": "attention.post.weight",
    "attention/channel_scale": "attention.attn.per_dim_scale",
    "convolution/norm_in/scale": "lconv1d.pre_layer_norm.weight",
    "convolution/norm_mid/scale": "lconv1d.conv_norm.weight",
    "convolution/start/kernel": "lconv1d.linear_start.weight",
    "convolution/end/kernel": "lconv1d.linear_end.weight",
    "convolution/kernel": "lconv1d.depthwise_conv1d.weight",
    "norm/scale": "norm.weight",
    **{
        f"feed_forward_{end}/{ours}": f"ffw_layer_{end}.{theirs}"
        for end in ("start", "end")
        for ours, theirs in (
            ("norm_in/scale", "pre_layer_norm.weight"),
            ("norm_out/scale", "post_layer_norm.weight"),
            ("expand/kernel", "ffw_layer_1.weight"),
            ("contract/kernel", "ffw_layer_2.weight"),
        )
    },
}
_STACKED = ("altup_in/", "altup_out/")
# What a layer that reads other layers' keys and values may have in a file, unused.
_UNUSED = ("k_proj", "v_proj", "k_norm", "v_norm")


def text_name(config: Gemma3nTextConfig, path: str, index: tuple[int, ...] = ()) -> str:
    """Hugging Face's tensor of a leaf of the text decoder; `index`: its place in the stack.

    ("dense/mlp/up/kernel", (3,)) is layer 13 in E4B, the dense ones beginning with 10. InputError for
    a path that is no leaf of the decoder.
    """
    group, _, inner = path.partition("/")
    if group in config.groups and inner in _LAYER:
        return f"{TEXT}layers.{config.groups[group][index[0]]}.{_LAYER[inner]}"
    if path not in _TEXT:
        raise InputError(f"{path!r} is no parameter of Gemma 3n's text decoder")
    return _TEXT[path].format(*index)


def hf_linear_name(config: Gemma3nTextConfig, path: str, index: tuple[int, ...] = ()) -> str:
    """Hugging Face's module of one of our linear maps, as peft names adapters."""
    return text_name(config, f"{path}/kernel", index).removesuffix(".weight")


def audio_name(path: str, index: tuple[int, ...] = ()) -> str:
    """Hugging Face's tensor of a leaf of the audio encoder."""
    inner = path.removeprefix("layers/")
    if path != inner and inner in _AUDIO_LAYER:
        return f"{AUDIO}conformer.{index[0]}.{_AUDIO_LAYER[inner]}"
    if path not in _AUDIO:
        raise InputError(f"{path!r} is no parameter of Gemma 3n's audio encoder")
    return AUDIO + _AUDIO[path]


def text_places(config: Gemma3nTextConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, Place]:
    """Hugging Face's tensors of a text decoder with leaves of these shapes, by their names."""
    found = {}
    for path, shape in shapes.items():
        stacked = path.partition("/")[0] in config.groups or path.startswith(_STACKED)
        for index, rest in _slices(shape, stacked):
            found[text_name(config, path, index)] = _place(path, index, rest)
    return found


def audio_places(shapes: dict[str, tuple[int, ...]]) -> dict[str, Place]:
    """The same for the audio encoder."""
    found = {}
    for path, shape in shapes.items():
        for index, rest in _slices(shape, path.startswith("layers/")):
            found[audio_name(path, index)] = _place(path, index, rest)
    return found


def unused(config: Gemma3nTextConfig) -> set[str]:
    """Tensors that a file may have and the model does not read."""
    own = {
        f"{TEXT}layers.{layer}.self_attn.{name}.weight"
        for layer in range(config.own_layers, config.layers)
        for name in _UNUSED
    }
    return own | {HEAD}


def _slices(
    shape: tuple[int, ...], stacked: bool
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    if not stacked:
        yield (), shape
    else:
        yield from (((i,), shape[1:]) for i in range(shape[0]))


def _place(path: str, index: tuple[int, ...], shape: tuple[int, ...]) -> Place:
    if path.endswith("convolution/kernel"):
        # Depthwise: theirs [width, 1, taps], ours [taps, width].
        return Place(path, index, (shape[1], 1, shape[0]), (2, 1, 0))
    if path.endswith("kernel") and len(shape) == 4:
        # Theirs [out, in, 3, 3].
        return Place(path, index, (shape[3], shape[2], shape[0], shape[1]), (2, 3, 1, 0))
    if path.endswith("kernel"):
        return Place(path, index, shape[::-1], (1, 0))
    return Place(path, index, shape, tuple(range(len(shape))))

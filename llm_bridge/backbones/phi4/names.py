# SPDX-License-Identifier: Apache-2.0
"""Which tensor of a Phi-4 file each of our parameters is.

Files come in three layouts: Phi-4-mini-instruct (`Phi3ForCausalLM`), Phi-4-multimodal-instruct as
Microsoft published it (weights under `base_layer`, its adapters beside them), and as transformers saves it
(the adapter in a folder of its own). `known_name` gives all of them the names of the last; the names of the
published files are those in `convert_phi4_multimodal_weights_to_hf.py` of Hugging Face transformers
(Apache-2.0). Our linear maps are [in, out], theirs [out, in]; ours are stacked over the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llm_bridge.backbones.weight_files import Place
from spatial_core.errors import InputError

Shape = tuple[int, ...]

EXTENDED = "model.embed_tokens_extend."
ENCODER = EXTENDED + "audio_embed.encoder."
PROJECTION = EXTENDED + "audio_embed."
DECODER = ("model.layers.", "model.norm.", "model.embed_tokens.")

# The camera, its adapter and its projection of sound; and the head, which is the embedding.
_UNUSED = re.compile(
    rf"^{re.escape(EXTENDED)}image_embed\.|\.lora_[AB]\.vision\.|_for_vision_speech\.|^lm_head\.weight$"
)
_RENAMED = (
    (r"\.base_layer\.", "."),
    # A folder of peft has one adapter and does not say which.
    (r"^base_model\.model\.(.*)\.lora_([AB])\.weight$", r"\1.lora_\2.speech.weight"),
    (r"\.audio_projection\.speech\.0\.", ".up_proj_for_speech."),
    (r"\.audio_projection\.speech\.2\.", ".down_proj_for_speech."),
    (r"\.audio_projection\.vision\.[02]\.", ".up_proj_for_vision_speech."),
    (r"\.feed_forward_(in|out)\.net\.0\.linear\.", r".feed_forward_\1.gate_up_proj."),
    (r"\.feed_forward_(in|out)\.net\.2\.", r".feed_forward_\1.down_proj."),
    (r"(audio_embed\.encoder\..*\.self_attn)\.linear_(q|k|v)\.", r"\1.\2_proj."),
    (r"(audio_embed\.encoder\..*\.self_attn)\.linear_out\.", r"\1.o_proj."),
)
_TEXT = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm",
    "audio/up": PROJECTION + "up_proj_for_speech",
    "audio/down": PROJECTION + "down_proj_for_speech",
}
_TEXT_LAYER = {
    "attention_norm": "input_layernorm",
    "attention/qkv": "self_attn.qkv_proj",
    "attention/out": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}
_AUDIO = {
    "mean": "encoder_embedding.global_mean",
    "inverse_deviation": "encoder_embedding.global_invstd",
    "position": "relative_attention_bias_layer.bias_values.weight",
    "subsample/convolution": "embed.conv.0",
    "subsample/depthwise_1": "embed.conv.2",
    "subsample/pointwise_1": "embed.conv.3",
    "subsample/depthwise_2": "embed.conv.5",
    "subsample/pointwise_2": "embed.conv.6",
    "subsample/out": "embed.out",
}
_AUDIO_LAYER = {
    **{
        f"feed_forward_{end}/{ours}": f"feed_forward_{end}.{theirs}"
        for end in ("in", "out")
        for ours, theirs in (
            ("norm", "layer_norm"),
            ("up_gate", "gate_up_proj"),
            ("down", "down_proj"),
        )
    },
    "attention/norm": "layer_norm_att",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "convolution/norm": "conv.layer_norm",
    "convolution/start": "conv.glu.ext_pw_conv_1d",
    "convolution/up_bias": "conv.glu.b1",
    "convolution/gate_bias": "conv.glu.b2",
    "convolution": "conv.dw_sep_conv_1d.dw_conv",
    "convolution/pointwise": "conv.dw_sep_conv_1d.pw_conv",
    "convolution/end": "conv.ext_pw_conv_1d",
    "norm": "layer_norm",
}
_TEXT_STACK, _AUDIO_STACK = "model.layers.", "encoders."
_LEAVES = {
    "kernel": ".weight",
    "scale": ".weight",
    "bias": ".bias",
    "fixed_a": ".lora_A.speech.weight",
    "fixed_b": ".lora_B.speech.weight",
}
_ONE_TAP = ("convolution/start/kernel", "convolution/pointwise/kernel", "convolution/end/kernel")


def known_name(stored: str) -> str | None:
    """The name that transformers has for a tensor of any of the layouts; None for what is not used."""
    for pattern, replacement in _RENAMED:
        stored = re.sub(pattern, replacement, stored)
    return None if _UNUSED.search(stored) else stored


def hf_linear_name(path: str, index: tuple[int, ...] = ()) -> str:
    """Hugging Face's module of one of the decoder's linear maps, as peft names adapters."""
    name = _name(f"{path}/kernel", index, _TEXT, _TEXT_LAYER, _TEXT_STACK)
    return name.removesuffix(".weight")


def text_places(shapes: Mapping[str, Shape]) -> dict[str, Place]:
    """Tensors of a text decoder with leaves of these shapes, by their names."""
    found = {}
    for path, index, shape in _slices(shapes):
        name = _name(path, index, _TEXT, _TEXT_LAYER, _TEXT_STACK)
        found[name] = _place(path, index, shape)
    return found


def audio_places(shapes: Mapping[str, Shape]) -> dict[str, Place]:
    """The same for the audio encoder."""
    found = {}
    for path, index, shape in _slices(shapes):
        name = _name(path, index, _AUDIO, _AUDIO_LAYER, _AUDIO_STACK)
        found[ENCODER + name] = _place(path, index, shape)
    return found


def _name(
    path: str,
    index: tuple[int, ...],
    tops: Mapping[str, str],
    inner: Mapping[str, str],
    stack: str,
) -> str:
    table, prefix = (inner, f"{stack}{index[0]}.") if index else (tops, "")
    path = path.removeprefix("layers/") if index else path
    if path in table:
        return prefix + table[path]
    module, _, leaf = path.rpartition("/")
    if module not in table or leaf not in _LEAVES:
        raise InputError(f"{path!r} is no parameter of Phi-4")
    return prefix + table[module] + _LEAVES[leaf]


def _slices(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, tuple[int, ...], Shape]]:
    """(path, index in the stack, shape of one) of each tensor."""
    for path, shape in shapes.items():
        if path.startswith("layers/"):
            yield from ((path, (i,), shape[1:]) for i in range(shape[0]))
        else:
            yield path, (), shape


def _place(path: str, index: tuple[int, ...], shape: Shape) -> Place:
    if path.endswith(_ONE_TAP):
        # Theirs is a convolution of one tap, [out, in, 1].
        return Place(path, index, (*shape[::-1], 1), (1, 0, 2))
    if path.endswith(("up_bias", "gate_bias")):
        return Place(path, index, (1, *shape, 1), (0, 1, 2))
    if path.endswith("convolution/kernel") and len(shape) == 2:
        # Depthwise: theirs [width, 1, taps], ours [taps, width].
        return Place(path, index, (shape[1], 1, shape[0]), (2, 1, 0))
    if len(shape) == 4:
        # Theirs [out, in, 3, 3].
        return Place(path, index, (shape[3], shape[2], shape[0], shape[1]), (2, 3, 1, 0))
    if path.endswith(("kernel", "fixed_a", "fixed_b")):
        return Place(path, index, shape[::-1], (1, 0))
    return Place(path, index, shape, tuple(range(len(shape))))

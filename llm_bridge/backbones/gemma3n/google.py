# SPDX-License-Identifier: Apache-2.0
"""Google's Orbax checkpoints of Gemma 3n, read as if they were Hugging Face's tensors.

Layers are stacked by their place in a period of five: row i of
`transformer/stacked_layers/attention_type_J/...` is layer 5 i + J. The correspondence is that of
`convert_gemma3n_weights.py` of Hugging Face transformers (Apache-2.0, copyright 2025 Google LLC). Like
it, this leaves out arrays that it does not know, those of the camera among them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from llm_bridge.backbones.gemma3n.config import LAYERS_PER_PERIOD
from llm_bridge.backbones.gemma3n.names import AUDIO, EMBEDDER, TEXT
from spatial_core.errors import InputError

# Rows of Hugging Face's embedding that Google's lacks (camera and audio ids): copies of padding's.
SOFT_ROWS = 256
# AltUp's prediction coefficients are used clipped.
COEFFICIENT_LIMIT = 120.0

# An array, or its shape while only shapes are asked for, to named tensors.
Convert = Callable[[Any], dict[str, Any]]


def is_google_folder(path: Path) -> bool:
    """Whether an Orbax checkpoint of parameters is there."""
    return (path / "_METADATA").is_file() or (path / "manifest.ocdbt").is_file()


class GoogleFolder:
    """Tensors of an Orbax folder by Hugging Face's names."""

    def __init__(self, path: Path):
        self.where = str(path)
        self._path = path.resolve()
        self._arrays: dict[tuple[str, ...], list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for keys, shape in self._metadata():
            abstract = jax.ShapeDtypeStruct(shape, np.float32)
            try:
                named = jax.eval_shape(functools.partial(_convert, keys), abstract)
            except (TypeError, ValueError, IndexError) as error:
                raise InputError(
                    f"{path}: {'/'.join(keys)} has shape {list(shape)}, which is not Gemma 3n's: {error}"
                ) from error
            self.shapes.update({name: part.shape for name, part in named.items()})
            if named:
                self._arrays[keys] = list(named)

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """One array of the folder at a time, in pieces."""
        wanted = set(names)
        for keys, held in self._arrays.items():
            if not wanted.isdisjoint(held):
                for name, values in _convert(keys, self._read(keys)).items():
                    if name in wanted:
                        yield name, values

    def rows(self, wanted: Mapping[str, NDArray[np.intp]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Rows of tensors; their arrays are read whole."""
        for name, values in self.tensors(wanted):
            yield name, values[wanted[name]]

    def _metadata(self) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        import orbax.checkpoint as ocp  # Here: it takes a second, and most users have the other kind.

        try:
            tree = ocp.PyTreeCheckpointer().metadata(self._path).item_metadata.tree
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f"{self.where} cannot be read as an Orbax checkpoint ({error}): the download may be "
                "incomplete; fetch it again"
            ) from error
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return [(tuple(str(part.key) for part in keys), tuple(leaf.shape)) for keys, leaf in leaves]

    def _read(self, keys: tuple[str, ...]) -> NDArray[Any]:
        import orbax.checkpoint as ocp

        item: Any = 0
        how: Any = ocp.RestoreArgs(restore_type=np.ndarray)
        for key in reversed(keys):
            item, how = {key: item}, {key: how}
        restore = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        try:
            found = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
                self._path, args=restore
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.where}: {'/'.join(keys)} cannot be read ({error}); fetch it again"
            ) from error
        for key in keys:
            found = found[key]
        return np.asarray(found)


def _convert(keys: tuple[str, ...], x: Any) -> dict[str, Any]:
    """Hugging Face's tensors in one array; none if it is not of the text or audio model."""
    path = "/".join(keys[:-1]).removeprefix("rlx_networks/policy_network/")
    last, parameter = path.rsplit("/", 1)[-1], keys[-1]
    stacked = re.search(r"transformer/stacked_layers/attention_type_(\d)/(.*)$", path)
    if stacked:
        base, convert = TEXT + "layers.{}.", _LAYER.get(last.lstrip("_")) or _LAYER.get(parameter)
        return _rows(x, base, convert, LAYERS_PER_PERIOD, int(stacked[1]))
    if "/conformer/stacked_layers/" in path:
        inner = path.split("/conformer/stacked_layers/", 1)[1]
        return _rows(x, AUDIO + "conformer.{}.", _conformer(inner, parameter), 1, 0)
    if path.startswith("AudioEncoder/encoder/feature"):
        return _subsample(last, x)
    if path.startswith("transformer"):
        return _top(path, last, parameter, x)
    return {}


def _rows(x: Any, base: str, convert: Convert | None, step: int, first: int) -> dict[str, Any]:
    if convert is None:
        return {}
    return {
        base.format(step * row + first) + name: tensor
        for row in range(x.shape[0])
        for name, tensor in convert(x[row]).items()
    }


def _plain(name: str) -> Convert:
    return lambda x: {name: x}


def _transposed(name: str) -> Convert:
    return lambda x: {name: x.transpose()}


def _keys_values(x: Any) -> dict[str, Any]:
    """[2, g, d, c]."""
    flat = x.transpose(0, 1, 3, 2).reshape(2, -1, x.shape[2])
    return {"self_attn.k_proj.weight": flat[0], "self_attn.v_proj.weight": flat[1]}


def _prediction(x: Any) -> dict[str, Any]:
    """[routes, r, r]."""
    flat = x.reshape(x.shape[0], -1).transpose().clip(-COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)
    return {"altup.prediction_coefs.weight": flat}


_LAYER: dict[str, Convert] = {
    "correct_output_scale": _plain("altup.correct_output_scale"),
    "correction_coefs": _transposed("altup.correction_coefs.weight"),
    "prediction_coefs": _prediction,
    "modality_router": _transposed("altup.modality_router.weight"),
    "router_norm_layer": _plain("altup.router_norm.weight"),
    # [h, c, d], [h, d, c] and [2, hidden, d].
    "attn_vec_einsum": lambda x: {
        "self_attn.o_proj.weight": x.transpose(2, 0, 1).reshape(x.shape[2], -1)
    },
    "q_einsum": lambda x: {"self_attn.q_proj.weight": x.transpose(0, 2, 1).reshape(-1, x.shape[1])},
    "gating_einsum": lambda x: {"mlp.gate_proj.weight": x[0], "mlp.up_proj.weight": x[1]},
    "kv_einsum": _keys_values,
    "query_norm": _plain("self_attn.q_norm.weight"),
    "key_norm": _plain("self_attn.k_norm.weight"),
    "linear": _transposed("mlp.down_proj.weight"),
    "linear_left": _transposed("laurel.linear_left.weight"),
    "linear_right": _transposed("laurel.linear_right.weight"),
    "post_laurel_norm": _plain("laurel.post_laurel_norm.weight"),
    "per_layer_input_gate": _transposed("per_layer_input_gate.weight"),
    "per_layer_projection": _transposed("per_layer_projection.weight"),
    "post_per_layer_input_norm": _plain("post_per_layer_input_norm.weight"),
    "pre_attention_norm": _plain("input_layernorm.weight"),
    "post_attention_norm": _plain("post_attention_layernorm.weight"),
    "pre_ffw_norm": _plain("pre_feedforward_layernorm.weight"),
    "post_ffw_norm": _plain("post_feedforward_layernorm.weight"),
}


def _top(path: str, last: str, parameter: str, x: Any) -> dict[str, Any]:
    """What is not in layers."""
    if parameter == "input_embedding":
        xp = np if isinstance(x, np.ndarray) else jnp
        padding = xp.repeat(x[:1], SOFT_ROWS, axis=0)
        return {TEXT + "embed_tokens.weight": xp.concatenate([x, padding])}
    if parameter == "per_layer_embeddings":
        return {TEXT + "embed_tokens_per_layer.weight": x.reshape(x.shape[0], -1)}
    if parameter == "audio_input_embedding_extra":
        return {EMBEDDER + "embedding.weight": x}
    numbered = re.match(r"altup_(un)?(embed_)?projection_(\d)$", last)
    if numbered:
        kind = "altup_unembed_projections" if numbered[1] else "altup_projections"
        return {f"{TEXT}{kind}.{numbered[3]}.weight": x.transpose()}
    if last == "per_layer_model_projection":
        return {f"{TEXT}{last}.weight": x.reshape(x.shape[0], -1).transpose()}
    if last == "audio_input_projection":
        return {EMBEDDER + "embedding_projection.weight": x.transpose()}
    plain = {
        "per_layer_projection_norm": TEXT + "per_layer_projection_norm.weight",
        "final_norm": TEXT + "norm.weight",
        "audio_embedding_norm": EMBEDDER + "hard_embedding_norm.weight",
        "audio_soft_embedding_norm": EMBEDDER + "soft_embedding_norm.weight",
    }
    return {plain[last]: x} if last in plain else {}


def _projections(x: Any) -> dict[str, Any]:
    """[d, 3, h, c]."""
    flat = x.reshape(x.shape[0], 3, -1).transpose(1, 2, 0)
    return {f"attention.attn.{name}_proj.weight": flat[i] for i, name in enumerate("qkv")}


def _conformer(inner: str, parameter: str) -> Convert | None:
    """The map of an array of the audio encoder's blocks, without its leading axis."""
    last = inner.rsplit("/", 1)[-1]
    for end in ("start", "end"):
        if f"fflayer_{end}" in inner:
            base = f"ffw_layer_{end}."
            layer = re.match(r"ffn_layer([12])$", last)
            if layer:
                return _transposed(f"{base}ffw_layer_{layer[1]}.weight")
            return _plain(f"{base}{last}.weight") if last.endswith("layer_norm") else None
    if last == "final_ln":
        return _plain("norm.weight")
    if "lconv" in inner:
        if last in ("depthwise_conv1d", "linear_start", "linear_end"):
            return _transposed(f"lconv1d.{last}.weight")
        plain = {"conv_norm": "lconv1d.conv_norm.weight", "ln": "lconv1d.pre_layer_norm.weight"}
        return _plain(plain[last]) if last in plain else None
    if "trans_atten" not in inner:
        return None
    if parameter == "per_dim_scale":
        return _plain("attention.attn.per_dim_scale")
    position = "attention.attn.relative_position_embedding.pos_proj.weight"
    attention: dict[str, Convert] = {
        "query_key_value_projection": _projections,
        "pos_proj": lambda x: {position: x.reshape(x.shape[0], -1).transpose()},
        "post": lambda x: {"attention.post.weight": x.transpose(2, 0, 1).reshape(x.shape[2], -1)},
        "post_norm": _plain("attention.post_norm.weight"),
        "pre_norm": _plain("attention.pre_attn_norm.weight"),
    }
    return attention.get(last)


def _subsample(last: str, x: Any) -> dict[str, Any]:
    """The convolutions in front of the conformer."""
    base = AUDIO + "subsample_conv_projection."
    if last == "input_proj":
        flat = x.transpose(2, 0, 1).reshape(x.shape[2], -1)
        return {base + "input_proj_linear.weight": flat}
    numbered = re.match(r"(norm|subsampling)_(\d)$", last)
    if not numbered:
        return {}
    if numbered[1] == "norm":
        return {f"{base}conv_{numbered[2]}.norm.weight": x}
    return {f"{base}conv_{numbered[2]}.conv.weight": x.transpose(3, 2, 0, 1)}

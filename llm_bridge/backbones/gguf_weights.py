# SPDX-License-Identifier: Apache-2.0
"""Weights of GGUF models in the shape that `Decoder` has them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray

from llm_bridge.backbones.decoder import DecoderConfig
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.protocol import SoftTokenIds
from spatial_core.errors import InputError
from spatial_core.typing import Params

# Paths of ours -> names in a GGUF file.
LAYER_NAMES = {
    "attention_norm/scale": "attn_norm",
    "attention/query/kernel": "attn_q",
    "attention/key/kernel": "attn_k",
    "attention/value/kernel": "attn_v",
    "attention/out/kernel": "attn_output",
    "feed_forward_norm/scale": "ffn_norm",
    "gate/kernel": "ffn_gate",
    "up/kernel": "ffn_up",
    "down/kernel": "ffn_down",
}
GEMMA_NAMES = {
    "attention/query_norm/scale": "attn_q_norm",
    "attention/key_norm/scale": "attn_k_norm",
    "attention_post_norm/scale": "post_attention_norm",
    "feed_forward_post_norm/scale": "post_ffw_norm",
}


def half_split(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [h c, in] of rotated projections from pairs (2 i, 2 i + 1) to pairs (i, i + c / 2).

    llama.cpp stores Llama models so that neighbouring channels turn together.
    """
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[-1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def read_decoder(
    file: GgufFile, config: DecoderConfig, ids: SoftTokenIds, shardings: Params | None = None
) -> Params:
    """Parameters of a `Decoder`, all but `audio`, in its type.

    shardings: by leaf; leaves without one are numpy arrays. InputError where the file is of another shape.
    """
    onto = {} if shardings is None else flatten_dict(shardings, sep="/")
    found: dict[str, Any] = {}

    def put(path: str, values: NDArray[np.float32]) -> None:
        ours, on = values.astype(config.param_dtype, copy=False), onto.get(path)
        found[path] = ours if on is None else jax.device_put(ours, on)

    table = file.read("token_embd.weight")
    if table.shape != (config.vocabulary, config.width):
        raise InputError(
            f"{file.path} has embeddings {list(table.shape)}, not "
            f"{[config.vocabulary, config.width]}: it holds another model"
        )
    put("embedding", with_brackets(table, ids))
    put("norm/scale", file.read("output_norm.weight"))
    for path, name in {**LAYER_NAMES, **(GEMMA_NAMES if config.post_norm else {})}.items():
        stack = np.stack([_layer(file, config, i, name) for i in range(config.layers)])
        put(f"layers/{path}", stack)
    return unflatten_dict(found, sep="/")


def _layer(file: GgufFile, config: DecoderConfig, number: int, name: str) -> NDArray[np.float32]:
    """A matrix [in, out] or a norm's scale of one layer."""
    tensor = file.read(f"blk.{number}.{name}.weight")
    if file.metadata["general.architecture"] == "llama" and name in ("attn_q", "attn_k"):
        tensor = half_split(tensor, config.heads if name == "attn_q" else config.kv_heads)
    return tensor.T


def with_brackets(table: NDArray[np.float32], ids: SoftTokenIds) -> NDArray[np.float32]:
    """Embeddings with four different random rows, as large as the others, for the four brackets.

    Ids that were never trained have nearly the same row, so the model could not tell the brackets apart.
    """
    brackets = [ids.bsa, ids.esa, ids.boa, ids.eoa]
    size = np.sqrt(np.mean(np.square(table[:: max(1, len(table) // 1000)])))
    draw = np.random.default_rng(0).normal(size=(len(brackets), table.shape[1]))
    table = table.copy()
    table[brackets] = (size * draw).astype(np.float32)
    return table

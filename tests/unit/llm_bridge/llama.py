# SPDX-License-Identifier: Apache-2.0
"""The tiny Llama of tests/golden/make_peft_llama.py in our decoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.backbones.decoder import Decoder, DecoderConfig
from llm_bridge.lora import LoraConfig, attach
from spatial_core.io.export import unflatten_tree
from spatial_core.nn.functional import Functional
from tests.golden.make_peft_llama import SIZES

CONFIG = DecoderConfig(
    vocabulary=SIZES["vocab_size"],
    width=SIZES["hidden_size"],
    layers=SIZES["num_hidden_layers"],
    heads=SIZES["num_attention_heads"],
    kv_heads=SIZES["num_key_value_heads"],
    head_width=SIZES["hidden_size"] // SIZES["num_attention_heads"],
    hidden=SIZES["intermediate_size"],
    audio_width=6,
    tied=False,
)
LAYERS = {
    "attention/query/kernel": "self_attn.q_proj",
    "attention/key/kernel": "self_attn.k_proj",
    "attention/value/kernel": "self_attn.v_proj",
    "attention/out/kernel": "self_attn.o_proj",
    "gate/kernel": "mlp.gate_proj",
    "up/kernel": "mlp.up_proj",
    "down/kernel": "mlp.down_proj",
    "attention_norm/scale": "input_layernorm",
    "feed_forward_norm/scale": "post_attention_layernorm",
}


def functional(lora: LoraConfig | None = None) -> Functional:
    """The decoder, with adapters if they are described."""

    def build(rngs: nnx.Rngs) -> Decoder:
        model = Decoder(CONFIG, rngs=rngs)
        if lora is not None:
            attach(model, lora, rngs)
        return model

    return Functional(build)


def base_params(tensors: dict[str, np.ndarray]) -> dict:
    """Hugging Face's tensors as the decoder's parameters; the audio map is zero."""
    flat = {
        f"layers/{ours}": np.stack(
            [tensors[f"model.layers.{i}.{theirs}.weight"].T for i in range(CONFIG.layers)]
        )
        for ours, theirs in LAYERS.items()
    }
    flat["embedding"] = tensors["model.embed_tokens.weight"]
    flat["norm/scale"] = tensors["model.norm.weight"]
    flat["head/kernel"] = tensors["lm_head.weight"].T
    flat["audio/out/kernel"] = np.zeros((CONFIG.audio_width, CONFIG.width), np.float32)
    flat["audio/out/bias"] = np.zeros(CONFIG.width, np.float32)
    return unflatten_tree(flat)


def logits(model: Functional, params: dict, ids: np.ndarray, key: jax.Array | None = None):
    """[b, n, v]"""

    @jax.jit
    def run(params, ids):
        decoder = model.bind(params)
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        hidden, _ = decoder(decoder.embed(ids), ids, positions, jnp.ones(ids.shape, bool), key=key)
        return decoder.logits(hidden)

    return run(params, jnp.asarray(ids, jnp.int32))

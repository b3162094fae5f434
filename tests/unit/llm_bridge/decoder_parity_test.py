# SPDX-License-Identifier: Apache-2.0
"""The generic decoder against Hugging Face's Llama and Gemma 3 with random weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.decoder import Decoder, DecoderConfig
from spatial_core.nn.functional import Functional

pytestmark = pytest.mark.slow  # torch takes its time to import

LLAMA = DecoderConfig(
    vocabulary=97,
    width=48,
    layers=3,
    heads=4,
    kv_heads=2,
    head_width=16,
    hidden=80,
    audio_width=10,
    rope_base=100_000.0,
    eps=1e-5,
)
GEMMA = dataclasses.replace(
    LLAMA,
    layers=7,
    activation="gelu",
    rope_base=1e6,
    local_rope_base=1e4,
    local_window=5,
    period=6,
    eps=1e-6,
    query_key_norm=True,
    post_norm=True,
    embed_scale=48**0.5,
)
NAMES = {
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
GEMMA_NAMES = {
    **NAMES,
    "feed_forward_norm/scale": "pre_feedforward_layernorm",
    "attention_post_norm/scale": "post_attention_layernorm",
    "feed_forward_post_norm/scale": "post_feedforward_layernorm",
    "attention/query_norm/scale": "self_attn.q_norm",
    "attention/key_norm/scale": "self_attn.k_norm",
}


def reference(config):
    """transformers' model of the same shape."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "rms_norm_eps": config.eps,
        "tie_word_embeddings": True,
    }

    def turns(base):
        return {"rope_type": "default", "rope_theta": base}

    if config.local_window is None:
        made = transformers.LlamaConfig(**sizes, rope_parameters=turns(config.rope_base))
        return transformers.LlamaForCausalLM(made).eval()
    made = transformers.Gemma3TextConfig(
        **sizes,
        query_pre_attn_scalar=config.head_width,
        sliding_window=config.local_window,
        attn_implementation="eager",
        rope_parameters={
            "sliding_attention": turns(config.local_rope_base),
            "full_attention": turns(config.rope_base),
        },
    )
    return transformers.Gemma3ForCausalLM(made).eval()


def ours(config, weights):
    """Parameters of `Decoder` from the reference's."""
    # Gemma 3 keeps the scale of a norm less one.
    plus = 0.0 if config.local_window is None else 1.0
    layers: dict = {}
    for path, name in (NAMES if config.local_window is None else GEMMA_NAMES).items():
        tensors = [weights[f"model.layers.{i}.{name}.weight"] for i in range(config.layers)]
        *folders, leaf = path.split("/")
        node = layers
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = np.stack([t.T if t.ndim == 2 else t + plus for t in tensors])
    return {
        "embedding": weights["model.embed_tokens.weight"],
        "layers": layers,
        "norm": {"scale": weights["model.norm.weight"] + plus},
    }


@pytest.mark.parametrize("config", [LLAMA, GEMMA], ids=["llama", "gemma3"])
def test_logits_equal_those_of_transformers(config):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = reference(config)
    for name, parameter in model.named_parameters():
        spread = 0.3 if "norm" in name else 0.15
        mean = 1.0 if "norm" in name and config.local_window is None else 0.0
        torch.nn.init.normal_(parameter, mean, spread)
    ids = np.random.default_rng(0).integers(3, 97, (2, 19))
    expected = model(torch.tensor(ids)).logits.detach().numpy()

    functional = Functional(lambda rngs: Decoder(config, rngs=rngs))
    shapes = jax.eval_shape(functional.init, jax.random.key(0))
    params = ours(config, {k: v.detach().numpy() for k, v in model.state_dict().items()})
    params["audio"] = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes["audio"])
    bound = functional.bind(jax.tree.map(jnp.asarray, params))
    positions = jnp.broadcast_to(jnp.arange(19), ids.shape)
    hidden, _ = bound(bound.embed(jnp.asarray(ids)), ids, positions, jnp.ones(ids.shape, bool))
    # Logits reach 4; float32 on both sides.
    np.testing.assert_allclose(bound.logits(hidden), expected, atol=5e-5)

# SPDX-License-Identifier: Apache-2.0
"""Makes peft_llama/: a tiny random Llama with adapters that peft wrote, and its logits.

    python tests/golden/make_peft_llama.py

Needs torch, transformers and peft (the extra `parity`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "peft_llama"
SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rope_theta=10_000.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
RANK, ALPHA = 4, 12


def tiny_llama(seed: int = 0) -> Any:
    """A random LlamaForCausalLM whose layers all matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) / value.shape[-1] ** 0.5)
    return model


def with_adapters(model: Any, seed: int = 1) -> Any:
    """The model in peft's wrapper, with adapters whose B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.1,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, settings).eval()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.copy_(0.3 * torch.randn_like(value))
    return wrapped


def weights(model: Any) -> dict[str, np.ndarray]:
    """Hugging Face's tensors by name."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """[b, n, v]"""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)).logits.numpy()


def main() -> None:
    model = tiny_llama()
    ids = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 9))
    base, plain = weights(model), logits(model, ids)
    wrapped = with_adapters(model)
    wrapped.save_pretrained(FOLDER)
    (FOLDER / "README.md").unlink(missing_ok=True)
    np.savez_compressed(
        FOLDER / "llama.npz",
        ids=ids,
        plain_logits=plain,
        adapted_logits=logits(wrapped, ids),
        **{f"base/{name}": value for name, value in base.items()},
    )


if __name__ == "__main__":
    main()

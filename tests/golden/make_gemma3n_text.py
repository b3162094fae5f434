# SPDX-License-Identifier: Apache-2.0
"""Writes gemma3n_text.npz: what transformers and peft answer for a small random Gemma 3n text decoder.

    PYTHONPATH=. python tests/golden/make_gemma3n_text.py    # torch 2.13.0, transformers 5.23.0, peft 0.21.2

The weights are not in the file: `tensors` draws them on both sides, from the raw bits of PCG64, which
are the same in every version of NumPy.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig, small_text

PATH = Path(__file__).with_name("gemma3n_text.npz")
BATCH, LENGTH, PROMPT, NEW = 2, 24, 16, 20
PADDING = 5
"""Positions on the left that the second row of a padded batch lacks."""
RANK, ALPHA = 4, 8
# Audio ids lie behind the text's, as Gemma3nForCausalLM, without an audio embedder, has none.
MODELS = {
    "shared": small_text(audio_offset=320, layers=10, sparse_layers=2),
    "plain": small_text(audio_offset=320, layers=10, sparse_layers=2, shared_layers=0),
}
FIRST_TEXT_ID = 3


def numbers(name: str, *shape: int) -> np.ndarray:
    """Independent numbers of mean 0 and variance 1 (uniform) that depend on the name only."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return ((raw / 2.0**63 - 1.0) * 3.0**0.5).reshape(shape).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of Hugging Face's model, scaled so that all parts of the model matter."""
    values = numbers(name, *shape)
    if "norm" in name or "output_scale" in name:
        return 1.0 + 0.1 * values
    if "embed" in name and "projection" not in name:
        # The embedding is the head, too: this gives logits of order 1.
        return (0.15 if name.startswith("embed_tokens.") else 0.5) * values
    return values / shape[-1] ** 0.5


def text_ids() -> np.ndarray:
    """[2, 24]; some lie beyond the per-layer vocabulary, none beyond the text."""
    return (FIRST_TEXT_ID + (numbers("ids", BATCH, LENGTH) / 3.0**0.5 + 1) / 2 * 260).astype(
        np.int64
    )


def padded() -> tuple[np.ndarray, np.ndarray]:
    """Ids [2, 24] and which of them are valid; the second row begins later and ends earlier."""
    ids, valid = text_ids(), np.ones((BATCH, LENGTH), bool)
    ids[1, PADDING:] = ids[1, :-PADDING].copy()
    ids[1, :PADDING], valid[1, :PADDING] = 0, False
    return ids, valid


def transformers_config(config: Gemma3nTextConfig) -> Any:
    """Our sizes as transformers' configuration."""
    from transformers import Gemma3nTextConfig as TheirConfig

    sparse = [config.sparsity] * config.sparse_layers
    return TheirConfig(
        vocab_size=config.vocabulary,
        vocab_size_per_layer_input=config.per_layer_vocabulary,
        hidden_size=config.width,
        hidden_size_per_layer_input=config.per_layer_width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_width,
        sliding_window=config.window,
        laurel_rank=config.laurel_rank,
        num_kv_shared_layers=config.shared_layers,
        activation_sparsity_pattern=sparse + [0.0] * (config.layers - len(sparse)),
        attn_implementation="eager",
    )


def transformers_model(config: Gemma3nTextConfig) -> Any:
    """Gemma3nForCausalLM with the drawn weights."""
    import torch
    from transformers import Gemma3nForCausalLM

    model = Gemma3nForCausalLM(transformers_config(config)).eval()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            leaf.copy_(torch.from_numpy(tensor(name.removeprefix("model."), tuple(leaf.shape))))
    return model


def transformers_embedder(config: Gemma3nTextConfig) -> Any:
    """Gemma3nMultimodalEmbedder with the drawn weights."""
    import torch
    from transformers import Gemma3nAudioConfig
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

    audio = Gemma3nAudioConfig(
        hidden_size=config.audio_width,
        vocab_size=config.audio_vocabulary,
        vocab_offset=config.audio_offset,
    )
    embedder = Gemma3nMultimodalEmbedder(audio, transformers_config(config)).eval()
    with torch.no_grad():
        for name, leaf in embedder.named_parameters():
            leaf.copy_(torch.from_numpy(tensor("embed_audio." + name, tuple(leaf.shape))))
    return embedder


def adapted(model: Any) -> tuple[Any, list[str]]:
    """The model in peft's wrapper with drawn adapters in all linear maps, and the maps' names."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.1, target_modules="all-linear", bias="none"
    )
    wrapped = get_peft_model(model, settings).eval()
    names = []
    with torch.no_grad():
        for name, leaf in wrapped.state_dict().items():
            if "lora_" in name:
                module, _, rest = name.removeprefix("base_model.model.model.").partition(".lora_")
                leaf.copy_(torch.from_numpy(adapter(module, rest[0], tuple(leaf.shape))))
                names += [module] if rest[0] == "A" else []
    return wrapped, names


def adapter(module: str, side: str, shape: tuple[int, ...]) -> np.ndarray:
    """peft's lora_A [r, in] or lora_B [out, r] of a linear map."""
    return numbers(f"{module}.lora_{side}", *shape) * (shape[-1] ** -0.5 if side == "A" else 0.1)


def compute(which: str) -> dict[str, np.ndarray]:
    """What the reference answers for one of `MODELS`."""
    import torch

    config = MODELS[which]
    model, embedder = transformers_model(config), transformers_embedder(config)
    ids, (padded_ids, valid) = torch.from_numpy(text_ids()), map(torch.from_numpy, padded())
    soft = torch.from_numpy(4.0 * numbers("soft", BATCH, LENGTH, config.width))
    audio_ids = torch.arange(config.audio_offset, config.audio_offset + config.audio_vocabulary)
    features = torch.from_numpy(3.0 * numbers("features", 1, 7, config.audio_width))
    positions = (valid.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        out = {
            "logits": model(input_ids=ids).logits[:, ::3],
            "padded_logits": model(
                input_ids=padded_ids, attention_mask=valid.long(), position_ids=positions
            ).logits[:, ::3],
            "hard": embedder(input_ids=audio_ids),
            "features": embedder(inputs_embeds=features),
        }
        hidden = model.model(
            inputs_embeds=soft, per_layer_inputs=model.model.get_per_layer_inputs(ids)
        )
        out["soft_logits"] = (
            30.0 * torch.tanh(model.lm_head(hidden.last_hidden_state) / 30.0)[:, ::3]
        )
        settings = {
            "max_new_tokens": NEW,
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        out["greedy"] = model.generate(ids[:, :PROMPT], **settings)[:, PROMPT:]
        out["padded_greedy"] = model.generate(
            padded_ids[:, :PROMPT], attention_mask=valid[:, :PROMPT].long(), **settings
        )[:, PROMPT:]
        wrapped, names = adapted(model)
        out["adapted_logits"] = wrapped(input_ids=ids).logits[:, ::3]
    found = {f"{which}/{name}": np.asarray(value.numpy()) for name, value in out.items()}
    return {**found, f"{which}/adapted": np.array(names)}


def main() -> None:
    """Computes and writes the file."""
    arrays: dict[str, Any] = {}
    for which in MODELS:
        arrays.update(compute(which))
    np.savez_compressed(PATH, **arrays)
    print(PATH, PATH.stat().st_size, {name: value.shape for name, value in arrays.items()})


if __name__ == "__main__":
    main()

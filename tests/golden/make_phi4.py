# SPDX-License-Identifier: Apache-2.0
"""Writes phi4.npz: what transformers and peft answer for small random Phi-4-mini and Phi-4-multimodal.

    PYTHONPATH=. python tests/golden/make_phi4.py    # torch 2.13.0, transformers 5.23.0, peft 0.21.2

The weights are not in the file: `tensor` draws them on both sides, by the names of transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.backbones.phi4.config import Phi4TextConfig, small_audio, small_text
from llm_bridge.backbones.phi4.names import known_name
from tests.golden.make_gemma3n_text import numbers

PATH = Path(__file__).with_name("phi4.npz")
BATCH, LENGTH, PROMPT, NEW, PADDING = 2, 24, 20, 12, 5
# "long": all rows of this file's length are beyond the first context.
MODELS = {
    "short": small_text(speech_lora=None),
    "long": small_text(speech_lora=None, original_positions=16),
}
MULTIMODAL, AUDIO = small_text(), small_audio()
EDGE = (4096, 4100)
"""Lengths on both sides of the published first context, and a few logits of their last positions."""
LAST = 3
SAMPLES = 16_123
FOLDED = 4100
"""Log-mel frames of two pieces of the audio encoder."""
STRIDE = 25
AUDIO_ID, BEFORE, AFTER = 90, 4, 6
TARGETS = r".*model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)"
SPATIAL = {"r": 6, "lora_alpha": 18}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of transformers' model, scaled so that all parts of the model matter."""
    values = numbers(name, *shape)
    if name.endswith("global_mean"):
        return 5.0 + values
    if name.endswith("global_invstd"):
        return 0.3 + 0.1 * values
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.1 * values
    if name.endswith(("bias", "b1", "b2")) or "lora_B" in name:
        return 0.1 * values
    if "bias_values" in name:
        return values
    if "embed_tokens.weight" in name:
        # The embedding is the head, too: this gives logits of order 1.
        return 0.2 * values
    return (values / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def text_ids(length: int = LENGTH, rows: int = BATCH) -> np.ndarray:
    """[rows, length], none of them the id of sound or padding (0)."""
    drawn = (numbers(f"ids {length}", rows, length) / 3.0**0.5 + 1) / 2
    return (1 + drawn * (AUDIO_ID - 2)).astype(np.int64)


def padded() -> tuple[np.ndarray, np.ndarray]:
    """Ids [2, 24] and which of them are valid; the second row begins later and ends earlier."""
    ids, valid = text_ids(), np.ones((BATCH, LENGTH), bool)
    ids[1, PADDING:] = ids[1, :-PADDING].copy()
    ids[1, :PADDING], valid[1, :PADDING] = 0, False
    return ids, valid


def clips() -> np.ndarray:
    """Noise whose level falls by 80 dB over the clip, [2, 16123]."""
    fall = 10.0 ** (-4.0 * np.arange(SAMPLES) / SAMPLES)
    return (0.3 * numbers("clips", BATCH, SAMPLES) * fall).astype(np.float32)


def frames(count: int, rows: int = BATCH) -> np.ndarray:
    """Log-mel frames [rows, count, 80] with the scale of real ones."""
    return (5.0 + 3.0 * numbers(f"frames {count}", rows, count, 80)).astype(np.float32)


def heard_ids(tokens: int) -> np.ndarray:
    """Ids of text around the sound."""
    ids = text_ids(BEFORE + tokens + AFTER)
    ids[:, BEFORE : BEFORE + tokens] = AUDIO_ID
    return ids


def published_name(name: str) -> str:
    """The name of a tensor in Microsoft's files, from that of transformers."""
    for pattern, replacement in (
        (r"\.up_proj_for_speech\.", ".audio_projection.speech.0."),
        (r"\.down_proj_for_speech\.", ".audio_projection.speech.2."),
        (r"(encoder\..*feed_forward_(?:in|out))\.gate_up_proj\.", r"\1.net.0.linear."),
        (r"(encoder\..*feed_forward_(?:in|out))\.down_proj\.", r"\1.net.2."),
        (r"(encoder\..*self_attn)\.([qkv])_proj\.", r"\1.linear_\2."),
        (r"(encoder\..*self_attn)\.o_proj\.", r"\1.linear_out."),
        (r"(^model\.layers.*(?:qkv|o|gate_up|down)_proj)\.weight", r"\1.base_layer.weight"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def rope(config: Phi4TextConfig) -> dict[str, Any]:
    """Of transformers' configuration."""
    return {
        "rope_type": "longrope",
        "rope_theta": config.rope_base,
        "partial_rotary_factor": config.rotary_width / config.head_width,
        "short_factor": list(config.short_factors),
        "long_factor": list(config.long_factors),
        "original_max_position_embeddings": config.original_positions,
    }


def shared_settings(config: Phi4TextConfig) -> dict[str, Any]:
    """Sizes that both classes of transformers have."""
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.eps,
        "max_position_embeddings": config.positions,
        "original_max_position_embeddings": config.original_positions,
        "rope_parameters": rope(config),
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": [0],
        "attn_implementation": "eager",
    }


def draw(model: Any) -> Any:
    """The model with the drawn weights."""
    import torch

    with torch.no_grad():
        for stored, leaf in [*model.named_parameters(), *model.named_buffers()]:
            name = known_name(stored.removeprefix("base_model.model."))
            if name is not None and not name.endswith("inv_freq"):
                leaf.copy_(torch.from_numpy(tensor(name, tuple(leaf.shape))))
    return model.eval()


def mini(config: Phi4TextConfig) -> Any:
    """Phi3ForCausalLM, which Phi-4-mini is."""
    from transformers import Phi3Config, Phi3ForCausalLM

    settings = Phi3Config(**shared_settings(config), sliding_window=None)
    return draw(Phi3ForCausalLM(settings))


def multimodal() -> Any:
    """Phi4MultimodalForCausalLM with two adapters in peft's wrapper, "speech" and "spatial"."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        Phi4MultimodalAudioConfig,
        Phi4MultimodalConfig,
        Phi4MultimodalForCausalLM,
        Phi4MultimodalVisionConfig,
    )

    audio = Phi4MultimodalAudioConfig(
        hidden_size=AUDIO.width,
        intermediate_size=AUDIO.hidden,
        num_blocks=AUDIO.layers,
        num_attention_heads=AUDIO.heads,
        ext_pw_out_channel=AUDIO.width,
        depthwise_separable_out_channel=AUDIO.width,
        nemo_conv_channels=AUDIO.channels,
        bias_max_distance=AUDIO.distance,
        audio_token_id=AUDIO_ID,
    )
    camera = Phi4MultimodalVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    settings = Phi4MultimodalConfig(
        **shared_settings(MULTIMODAL), audio_config=audio, vision_config=camera
    )
    assert MULTIMODAL.speech_lora is not None
    speech = {
        "r": MULTIMODAL.speech_lora.rank,
        "lora_alpha": int(MULTIMODAL.speech_lora.alpha),
    }
    model = Phi4MultimodalForCausalLM(settings)
    wrapped = get_peft_model(
        model, LoraConfig(**speech, target_modules=TARGETS), adapter_name="speech"
    )
    wrapped.add_adapter("spatial", LoraConfig(**SPATIAL, target_modules=TARGETS))
    return draw(wrapped)


def compute_text(which: str) -> dict[str, np.ndarray]:
    """What Phi-4-mini answers."""
    import torch

    model = mini(MODELS[which])
    ids, (padded_ids, valid) = torch.from_numpy(text_ids()), map(torch.from_numpy, padded())
    positions = (valid.long().cumsum(-1) - 1).clamp(min=0)
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        out = {
            "logits": model(input_ids=ids).logits[:, ::3],
            "padded_logits": model(
                input_ids=padded_ids, attention_mask=valid.long(), position_ids=positions
            ).logits[:, ::3],
            "greedy": model.generate(ids[:, :PROMPT], **settings)[:, PROMPT:],
        }
        if which == "short":
            out["padded_greedy"] = model.generate(
                padded_ids[:, :PROMPT], attention_mask=valid[:, :PROMPT].long(), **settings
            )[:, PROMPT:]
            for length in EDGE:
                row = torch.from_numpy(text_ids(length, 1))
                out[f"edge_{length}"] = model(input_ids=row, logits_to_keep=LAST).logits
    return {f"{which}/{name}": value.numpy() for name, value in out.items()}


def compute_multimodal() -> dict[str, np.ndarray]:
    """What Phi-4-multimodal hears and answers."""
    import torch
    from transformers import Phi4MultimodalFeatureExtractor

    extracted = Phi4MultimodalFeatureExtractor()(
        list(clips()), sampling_rate=16_000, return_tensors="pt"
    )
    model = multimodal()
    audio = model.base_model.model.model.embed_tokens_extend.audio_embed
    sizes = extracted["audio_embed_sizes"]
    heard = {
        "audio_input_features": extracted["audio_input_features"],
        "audio_embed_sizes": sizes,
    }
    ids = torch.from_numpy(heard_ids(int(sizes[0])))
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        out = {
            "mel": extracted["audio_input_features"][:, ::4],
            "sizes": sizes,
            "encoded": audio.encoder(extracted["audio_input_features"], None),
            "folded": audio.encoder(torch.from_numpy(frames(FOLDED, 1)), None)[:, ::STRIDE],
        }
        model.set_adapter("speech")
        out["speech_logits"] = model(input_ids=ids, **heard).logits[:, ::3]
        out["speech_greedy"] = model.generate(input_ids=ids, **heard, **settings)[:, ids.shape[1] :]
        model.base_model.set_adapter(["speech", "spatial"])
        out["both_logits"] = model(input_ids=ids, **heard).logits[:, ::3]
    return {name: value.numpy() for name, value in out.items()}


def compute() -> dict[str, np.ndarray]:
    """All that is in the file."""
    found = compute_multimodal()
    for which in MODELS:
        found.update(compute_text(which))
    return found


def main() -> None:
    """Computes and writes the file."""
    arrays: dict[str, Any] = compute()
    np.savez_compressed(PATH, **arrays)
    print(PATH, PATH.stat().st_size, {name: value.shape for name, value in arrays.items()})


if __name__ == "__main__":
    main()

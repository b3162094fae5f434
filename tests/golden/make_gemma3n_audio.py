# SPDX-License-Identifier: Apache-2.0
"""Writes gemma3n_audio.npz: what transformers' Gemma 3n audio classes answer on small random input.

    python tests/golden/make_gemma3n_audio.py        # torch 2.13.0 (CPU), transformers 5.23.0

Contents: `weight/NAME` float16, the whole encoder; `mel/frames` every eighth frame of the log-mel of
`audio_clips()`; `encoder/tokens`, `encoder/padded` for `encoder_input()`. The weights are float16
numbers, so that both sides hold exactly the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("gemma3n_audio.npz")
WIDTH, LAYERS, HEADS, CHANNELS = 32, 2, 4, (8, 4)
SAMPLES = (32000, 12345)
FRAMES = (130, 61)
FRAME_STRIDE = 8


def audio_clips() -> np.ndarray:
    """Noise whose level falls by 80 dB over the clip, [2, 32000]; the second ends earlier."""
    noise = np.random.RandomState(0).randn(len(SAMPLES), max(SAMPLES))
    audio = noise * 0.3 * 10.0 ** (-4.0 * np.arange(max(SAMPLES)) / max(SAMPLES))
    inside = np.arange(max(SAMPLES)) < np.array(SAMPLES)[:, None]
    return (audio * inside).astype(np.float32)


def encoder_input() -> tuple[np.ndarray, np.ndarray]:
    """Frames [2, 130, 128] with the scale of log-mel, and which of them are inside the clips."""
    frames = 2.5 * np.random.RandomState(1).randn(len(FRAMES), max(FRAMES), 128) - 4.0
    return frames.astype(np.float32), np.arange(max(FRAMES)) < np.array(FRAMES)[:, None]


def main() -> None:
    """Computes and writes the file."""
    import torch
    from transformers import Gemma3nAudioConfig
    from transformers.models.gemma3n import feature_extraction_gemma3n, modeling_gemma3n

    config = Gemma3nAudioConfig(
        hidden_size=WIDTH,
        conf_num_hidden_layers=LAYERS,
        conf_num_attention_heads=HEADS,
        sscp_conv_channel_size=CHANNELS,
    )
    encoder = modeling_gemma3n.Gemma3nAudioEncoder(config).eval()
    random = np.random.RandomState(2)
    out: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, leaf in encoder.named_parameters():
            value = random.randn(*leaf.shape)
            if "norm" in name:
                value = 1 + 0.1 * value
            elif "per_dim" in name:
                value = 0.3 * value
            else:
                value = value / np.sqrt(np.prod(leaf.shape[1:]))
            out[f"weight/{name}"] = value.astype(np.float16)
            leaf.copy_(torch.from_numpy(out[f"weight/{name}"].astype(np.float32)))
        frames, inside = encoder_input()
        answer = encoder(torch.from_numpy(frames), torch.from_numpy(~inside))
    out["encoder/tokens"] = answer.last_hidden_state.numpy()
    out["encoder/padded"] = answer.audio_mel_mask.numpy()
    extractor = feature_extraction_gemma3n.Gemma3nAudioFeatureExtractor()
    clips = [clip[:samples] for clip, samples in zip(audio_clips(), SAMPLES, strict=True)]
    features = extractor(clips, padding="max_length", max_length=max(SAMPLES), return_tensors="np")
    out["mel/frames"] = features["input_features"][:, ::FRAME_STRIDE].astype(np.float32)
    out["mel/inside"] = features["input_features_mask"]
    np.savez_compressed(PATH, **out)
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()

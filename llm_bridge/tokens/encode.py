# SPDX-License-Identifier: Apache-2.0
"""Clips into records: all windows of several clips go through the encoder together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_bridge.tokens.record import HEADS, Clip, TokenRecord
from phasecoder.api import spread_microphones
from phasecoder.pretrained import (
    CHANNEL_BUCKETS,
    MAX_MICS,
    SHIPPED,
    Batch,
    Encoder,
    load,
    window_batch,
)
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.errors import InputError
from spatial_core.train.checkpoint import tree_digest


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256 of an encoder's parameters, wherever they were loaded from."""
    return tree_digest(encoder.params)


def shipped_encoder(digest: str) -> Encoder:
    """The encoder of this digest among those that ship; the default one if none has it."""
    for name in SHIPPED.models():
        encoder = load(name)
        if encoder_digest(encoder) == digest:
            return encoder
    return load()


def encode_clips(encoder: Encoder, clips: Sequence[Clip]) -> list[TokenRecord]:
    """A record for each clip.

    A token is that of `Encoder.tokens`: window k starts at 160 k ms, the last ones are padded with
    silence. Of an array of more than 16 microphones, 16 that are spread over it are used.

    Raises InputError for a clip without samples, or an encoder without tokens.
    """
    groups: dict[int, list[int]] = {}
    batches = []
    for number, clip in enumerate(clips):
        batch = _windows(clip)
        batches.append(batch)
        groups.setdefault(batch["audio"].shape[1], []).append(number)
    records: dict[int, TokenRecord] = {}
    for members in groups.values():
        joined = {name: np.concatenate([batches[i][name] for i in members]) for name in batches[0]}
        answer = encoder.predict(joined)
        if "token" not in answer:
            raise InputError(f"model {encoder.name!r} gives no spatial tokens")
        first = 0
        for i in members:
            count = len(batches[i]["audio"])
            rows = slice(first, first + count)
            records[i] = _record(clips[i], {name: value[rows] for name, value in _columns(answer)})
            first += count
    return [records[i] for i in range(len(clips))]


def _columns(answer: Batch) -> list[tuple[str, NDArray[np.float32]]]:
    return [(name, answer[name]) for name in (*HEADS, "token")]


def _windows(clip: Clip) -> Batch:
    """The encoder's input of a clip, padded to a number of microphones that few programs serve."""
    audio, positions = clip.channels, clip.array.centred
    if len(audio) > MAX_MICS:
        chosen = spread_microphones(clip.array)
        audio, positions = audio[chosen], positions[chosen]
    samples = audio.shape[1]
    if samples == 0:
        raise InputError(f"clip {clip.key} is empty (no samples): there is nothing to encode")
    count = -(-samples // HOP)
    padded = np.pad(audio, ((0, 0), (0, (count - 1) * HOP + WINDOW - samples)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP]
    batch = window_batch(frames.transpose(1, 0, 2), positions)
    bucket = min(size for size in CHANNEL_BUCKETS if size >= len(audio))
    short = bucket - len(audio)
    return {
        name: np.pad(value, [(0, 0), (0, short)] + [(0, 0)] * (value.ndim - 2)) if short else value
        for name, value in batch.items()
    }


def _record(clip: Clip, answer: dict[str, NDArray[np.float32]]) -> TokenRecord:
    tokens = answer["token"]
    if not np.isfinite(tokens).all():
        raise InputError(f"clip {clip.key}: the encoder's tokens are not finite; is its audio?")
    return TokenRecord(
        key=clip.key,
        tokens=tokens.astype(np.float16),
        heads={name: np.asarray(answer[name], np.float32) for name in HEADS},
        talkers=clip.talkers,
        audio=clip.audio,
        mixed=clip.mixed,
        seconds=clip.channels.shape[1] / SAMPLE_RATE,
        array=clip.array.name,
        seed=clip.seed,
        rt60=float(clip.rt60),
    )

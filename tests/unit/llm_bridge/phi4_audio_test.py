# SPDX-License-Identifier: Apache-2.0
"""Phi-4-multimodal's ear: log-mel, conformer and both adapters as in transformers and peft; its size."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.phi4 import audio_frontend as frontend
from llm_bridge.backbones.phi4.config import Phi4AudioConfig
from llm_bridge.backbones.weight_files import leaves_of
from tests.golden.make_phi4 import (
    AFTER,
    AUDIO,
    BEFORE,
    FOLDED,
    MULTIMODAL,
    NEW,
    STRIDE,
    clips,
    frames,
    heard_ids,
)
from tests.unit.llm_bridge.phi4_drawn import (
    SPATIAL_LORA,
    audio_model,
    audio_params,
    golden,
    greedy,
    positions_of,
    text_model,
    text_params,
    with_spatial,
)
from tests.unit.programs import quick

# Float32 sums in another order.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@functools.cache
def heard() -> Any:
    return audio_params(AUDIO)


@functools.cache
def encoder() -> Any:
    """Compiled: (params, frames [b, f, 80], lengths [b]) -> tokens."""
    bind = audio_model(AUDIO).bind
    return quick(lambda params, frames, lengths: bind(params)(frames, lengths))  # type: ignore[operator]


def encode(features: Any, lengths: Any) -> np.ndarray:
    return np.asarray(encoder()(heard(), features, np.asarray(lengths)))


def test_log_mel_is_that_of_transformers() -> None:
    found = np.asarray(frontend.log_mel(jnp.asarray(clips())))
    assert found.shape == (2, 99, 80)
    # Over 80 dB of level; torch transforms in float64.
    np.testing.assert_allclose(found[:, ::4], golden()["mel"], atol=1e-3)


def test_a_token_begins_every_80_ms() -> None:
    for samples, tokens in ((399, 0), (400, 1), (1280, 1), (1679, 1), (1680, 2), (160_000, 125)):
        assert frontend.token_count(samples) == tokens
        assert tokens in (-(-samples // frontend.TOKEN_HOP), -(-samples // frontend.TOKEN_HOP) - 1)
    assert golden()["sizes"].tolist() == [frontend.token_count(clips().shape[1])] * 2


def test_encoder_is_that_of_transformers() -> None:
    features = np.asarray(frontend.log_mel(jnp.asarray(clips())))
    found = encode(features, [99, 99])
    np.testing.assert_allclose(found, golden()["encoded"], **TOLERANCE)


def test_a_long_clip_is_folded_as_in_transformers() -> None:
    """513 sub-frames: two pieces, and what fills up the second one is attended to."""
    found = encode(frames(FOLDED, 1), [FOLDED])
    assert found.shape == (1, 513, 32)
    np.testing.assert_allclose(found[:, ::STRIDE], golden()["folded"], **TOLERANCE)


def test_a_clip_is_heard_the_same_whatever_is_beside_it() -> None:
    """Where transformers lets the padding of a batch into attention and convolutions."""
    features = frames(99)
    for length in (57, 8):
        alone = encode(features[:, :length], [length, length])[1]
        noisy = np.where(np.arange(99)[:, None] < length, features[1], 1e3)
        beside = encode(np.stack([features[0], noisy]), [99, length])[1]
        tokens = -(-length // 8)
        np.testing.assert_allclose(beside[:tokens], alone, atol=1e-5)
        assert not beside[tokens:].any()


@pytest.mark.slow
def test_a_folded_clip_is_heard_the_same_whatever_is_beside_it() -> None:
    features = np.concatenate([frames(FOLDED, 1), np.pad(frames(99), ((0, 0), (0, 4001), (0, 0)))])
    found = encode(features, [FOLDED, 99, 99])
    np.testing.assert_allclose(found[:1], encode(frames(FOLDED, 1), [FOLDED]), atol=1e-5)
    np.testing.assert_allclose(found[1:, :13], encode(frames(99), [99, 99]), atol=1e-5)


def test_speech_adapter_alone_and_together_with_a_spatial_one() -> None:
    """Published and trained adapter are active together, as peft runs two at once."""
    known = golden()
    bind = text_model(MULTIMODAL, SPATIAL_LORA).bind
    tokens = golden()["encoded"]
    ids = heard_ids(tokens.shape[1])
    valid = np.ones(ids.shape, bool)

    @quick
    def run(params: Any) -> Any:
        model: Any = bind(params)
        embeds = model.embed(ids).at[:, BEFORE:-AFTER].set(model.embed_audio(tokens))
        hidden, _ = model(embeds, ids, positions_of(valid), valid)
        return model.logits(hidden), greedy(model, embeds, valid, NEW)

    plain = text_params(MULTIMODAL)
    both, _ = run(with_spatial(plain, MULTIMODAL))
    np.testing.assert_allclose(both[:, ::3], known["both_logits"], **TOLERANCE)
    speech, said = run(with_spatial(plain, MULTIMODAL, scale=0.0))
    np.testing.assert_allclose(speech[:, ::3], known["speech_logits"], **TOLERANCE)
    assert np.array_equal(said, known["speech_greedy"])
    assert np.abs(speech - both).max() > 0.1


def test_published_size() -> None:
    """441.2 million weights; mean and deviation of the log-mel are no weights in transformers."""
    shapes = leaves_of(jax.eval_shape(audio_model(Phi4AudioConfig()).init, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in shapes.values()) == 441_238_144 + 2 * 80
    assert shapes["position"].shape == (1000, 16)

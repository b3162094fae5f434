# SPDX-License-Identifier: Apache-2.0
"""The `tiny` backbone: exact text, one token per value, and ears on the grid of spatial tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_bridge.backbones.pieces import (
    SPECIAL,
    PieceTokenizer,
    answer_pieces,
    learn_pieces,
)
from llm_bridge.backbones.tiny import TinyBackbone, stacked_log_mel
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional

ANSWER = (
    "azimuth_degrees_1=120, elevation_degrees_1=090, distance_meters_1=17, "
    "azimuth_degrees_2=none, elevation_degrees_2=none, distance_meters_2=none"
)


@given(st.text())
def test_any_text_comes_back(text):
    tokenizer = PieceTokenizer.shipped()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIAL) <= i < tokenizer.vocab_size for i in ids)


def test_a_location_is_a_field_and_a_value():
    tokenizer = PieceTokenizer.shipped()
    assert len(tokenizer.encode(ANSWER)) == 12
    for value in ("000", "350", "01", "60", "none", "yes", "no"):
        assert len(tokenizer.encode(value)) == 1
    assert len(tokenizer.encode(", transcript_2=none, azimuth_degrees_2=none")) == 3


def test_special_ids_are_not_shown():
    backbone = TinyBackbone()
    ids = [backbone.ids.bsa, *backbone.tokenizer.encode("yes"), *backbone.ids.stop]
    assert backbone.tokenizer.decode(ids) == "yes"


def test_pieces_are_learned_in_order_of_frequency():
    pieces = learn_pieces(["the cat sat", "the cat ran"], 500)
    assert pieces[: len(answer_pieces())] == answer_pieces()
    assert " cat" in pieces
    assert PieceTokenizer(pieces).decode(PieceTokenizer(pieces).encode("the cat")) == "the cat"


def test_pieces_that_repeat_are_refused():
    with pytest.raises(InputError, match="twice"):
        PieceTokenizer([" the", " the"])


def test_log_mel_equals_librosa():
    audio = np.random.default_rng(0).normal(0, 0.1, 2 * 2560 + 100).astype(np.float32)
    ours = stacked_log_mel(audio)
    assert ours.shape == (3, 640)
    # librosa centres the 400-sample window in a 512-sample frame, 56 samples in: shift by as much.
    padded = np.pad(audio, (56, 3 * 2560 + 300 - len(audio)))
    power = librosa.feature.melspectrogram(
        y=padded, sr=16000, n_fft=512, win_length=400, hop_length=160, center=False, n_mels=40
    )
    theirs = (np.log(power.T[:48] + 1e-8) + 8.0) / 5.0
    np.testing.assert_allclose(ours.reshape(48, 40), theirs, atol=1e-4)  # float32 sums


def test_token_k_hears_from_160_k_milliseconds_on():
    audio = np.zeros(5 * 2560, np.float32)
    audio[3 * 2560 : 3 * 2560 + 1000] = 1.0
    loud = stacked_log_mel(audio).reshape(5, 16, 40).mean(-1)
    assert loud.argmax() // 16 == 3
    # Only the last two frames of token 2 (25 ms long, 10 ms apart) reach over the onset.
    assert (loud[2, :14] == loud[0, 0]).all()
    assert (loud[4] == loud[0, 0]).all()


@pytest.mark.parametrize(("samples", "tokens"), [(1, 1), (2560, 1), (2561, 2), (480_000, 188)])
def test_one_vector_for_each_begun_160_ms(samples, tokens):
    assert stacked_log_mel(np.zeros(samples, np.float32)).shape == (tokens, 640)


def test_prompt_leaves_the_system_text_out_unless_wanted():
    system, user = "Answer with one word.", "Is the speaker on my left side?"
    before, after = TinyBackbone().prompt(system, user)
    assert before == []
    assert TinyBackbone().tokenizer.decode(after) == user
    assert (
        TinyBackbone().tokenizer.decode(TinyBackbone(system=True).prompt(system, user)[0]) == system
    )


def test_it_learns_to_read_a_soft_token():
    """Forty steps fit a token in the stream to the word that it stands for."""
    backbone = TinyBackbone(layers=1, width=32, heads=2, kv_heads=1, hidden=32)
    functional = Functional(backbone.build)
    params = jax.jit(functional.init)(jax.random.key(0))
    assert set(params) == {"audio", "embedding", "layers", "norm"}
    features = jax.random.normal(jax.random.key(1), (8, 1, backbone.audio_width))
    words = jnp.asarray([backbone.tokenizer.encode(f"{10 * i:03d}")[0] for i in range(8)])

    def loss(params):
        model = functional.bind(params)
        soft = model.embed_audio(features)
        ids = jnp.full((8, 1), -2)
        hidden, _ = model(soft, ids, jnp.zeros((8, 1), int), jnp.ones((8, 1), bool))
        picked = jax.nn.log_softmax(model.logits(hidden[:, 0]))
        return -jnp.mean(picked[jnp.arange(8), words])

    step = jax.jit(jax.value_and_grad(loss))
    start = step(params)[0]
    for _ in range(40):
        value, gradient = step(params)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
    assert start > 5
    assert value < 0.1

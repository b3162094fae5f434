# SPDX-License-Identifier: Apache-2.0
"""The decoder of Whisper tiny.en (Radford et al. 2022): greedy text, and when each token is spoken.

Guards against text in silence and against loops, and times by cross-attention, are those of OpenAI's
whisper (decoding.py, transcribe.py, timing.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Float
from numpy.typing import NDArray

from llm_bridge.backbones.whisper import (
    FRAME_HOP,
    HEADS,
    LAYERS,
    STRIDE,
    WEIGHTS,
    WIDTH,
    layer_norm,
    linear,
    read_ctranslate2,
)
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.typing import Array

END, START, NO_SPEECH, NO_TIMESTAMPS = 50256, 50257, 50361, 50362
# suppress_ids below END, suppress_ids_begin and alignment_heads (layer, head) of the model's config.json.
# All ids above END are markers, which no text has.
SUPPRESSED = tuple(
    map(
        int,
        (
            "1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 357 366 438 532 685 705 796 "
            "930 1058 1220 1267 1279 1303 1343 1377 1391 1635 1782 1875 2162 2361 2488 3467 4008 4211 "
            "4600 4808 5299 5855 6329 7203 9609 9959 10563 10786 11420 11709 11907 13163 13697 13700 "
            "14808 15306 16410 16791 17992 19203 19510 20724 22305 22935 27007 30109 30420 33409 34949 "
            "40283 40493 40549 47282 49146"
        ).split(),
    )
)
SUPPRESSED_FIRST = (220, END)
ALIGNMENT = ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))
FRAME_SECONDS = FRAME_HOP * STRIDE / SAMPLE_RATE  # 20 ms, of one vector of the encoder
MEDIAN = 7  # vectors
SILENCE, UNSURE, REPETITIVE = 0.6, -1.0, 2.4  # thresholds of OpenAI's transcribe
HARDLY, LONGEST_LOOP = 2, 32  # tokens
# Of what is said again: tokens, and seconds of each. People take 0.2 s and more, made-up echoes 0.03 s.
SHORTEST_ECHO, HURRY = 4, 0.1


@dataclass(frozen=True)
class Spoken:
    """What was understood.

    ids: tokens without markers. edges: seconds [len(ids) + 1], token k from edges[k] to edges[k + 1];
    they never fall. no_speech: probability that nobody talks; confidence: mean log-probability of the
    tokens and the end. stopped: the text came to its end by itself.
    """

    ids: tuple[int, ...]
    edges: NDArray[np.float64]
    no_speech: float
    confidence: float
    stopped: bool


@cache
def load_decoder() -> dict[str, NDArray[np.float32]]:
    """Parameters of the packaged decoder, float32, by CTranslate2's names without `decoder/`."""
    found = read_ctranslate2(WEIGHTS.locate(), "decoder/")
    return {
        name.removeprefix("decoder/"): value.astype(np.float32)
        for name, value in found.items()
        if value.ndim
    }


def token_limit(frames: int) -> int:
    """Tokens of text at most for so many vectors of 20 ms: 96 for 10 s, 224 (Whisper's own) for 30 s."""
    return 32 + round(6.4 * frames * FRAME_SECONDS)


def greedy(params: dict[str, Array], heard: Float[Array, "f 384"], limit: int) -> dict[str, Array]:
    """The most likely text: `ids` [limit + 3] with all markers, `count` of them, `scores` of the
    alignment heads [limit + 3, 8, f] before the softmax, `no_speech`, `log_prob` (sum over text and end).
    """
    size, frames = limit + 3, len(heard)
    crossed = [
        _split(linear(params, f"layer_{n}/attention/linear_1", heard), 2) for n in range(LAYERS)
    ]
    allowed = np.zeros(len(params["embeddings/weight"]), bool)
    allowed[: END + 1] = True
    allowed[list(SUPPRESSED)] = False
    first = allowed.copy()
    first[list(SUPPRESSED_FIRST)] = False

    def feed(state: dict[str, Array], token: Array) -> dict[str, Array]:
        """`state` with one more token read."""
        at = state["count"]
        x = params["embeddings/weight"][token] + params["position_encodings/encodings"][at]
        keys, values, scores = state["keys"], state["values"], []
        for n in range(LAYERS):
            name = f"layer_{n}/self_attention"
            q, k, v = _split(
                linear(params, f"{name}/linear_0", layer_norm(params, f"{name}/layer_norm", x)), 3
            )
            keys, values = keys.at[n, :, at].set(k), values.at[n, :, at].set(v)
            seen = jnp.where(jnp.arange(size) <= at, _match(q, keys[n]), -jnp.inf)
            x = x + linear(params, f"{name}/linear_1", _mix(seen, values[n]))
            name = f"layer_{n}/attention"
            q = linear(params, f"{name}/linear_0", layer_norm(params, f"{name}/layer_norm", x))
            found = _match(_split(q, 1)[0], crossed[n][0])
            scores += [found[head] for layer, head in ALIGNMENT if layer == n]
            x = x + linear(params, f"{name}/linear_2", _mix(found, crossed[n][1]))
            name = f"layer_{n}/ffn"
            h = linear(params, f"{name}/linear_0", layer_norm(params, f"{name}/layer_norm", x))
            x = x + linear(params, f"{name}/linear_1", jax.nn.gelu(h, approximate=False))
        return {
            **state,
            "ids": state["ids"].at[at].set(token),
            "scores": state["scores"].at[at].set(jnp.stack(scores)),
            "hidden": layer_norm(params, "layer_norm", x),
            "keys": keys,
            "values": values,
            "count": at + 1,
        }

    def step(state: dict[str, Array]) -> dict[str, Array]:
        at = state["count"]
        logits = params["embeddings/weight"] @ state["hidden"]
        none = jnp.where(at == 1, jax.nn.softmax(logits)[NO_SPEECH], state["no_speech"])
        logits = jnp.where(jnp.where(at == 2, first, allowed), logits, -jnp.inf)
        best = jnp.argmax(logits)
        gained = jnp.where(at < 2, 0.0, logits[best] - jax.nn.logsumexp(logits))
        given = jnp.where(at == 0, START, NO_TIMESTAMPS)
        state = {**state, "no_speech": none, "log_prob": state["log_prob"] + gained}
        return feed(state, jnp.where(at < 2, given, best))

    def unfinished(state: dict[str, Array]) -> Array:
        at = state["count"]
        return (at < 3) | ((state["ids"][at - 1] != END) & (at < size))

    state = {
        "ids": jnp.full(size, END),
        "scores": jnp.zeros((size, len(ALIGNMENT), frames)),
        "hidden": jnp.zeros(WIDTH),
        "keys": jnp.zeros((LAYERS, HEADS, size, WIDTH // HEADS)),
        "values": jnp.zeros((LAYERS, HEADS, size, WIDTH // HEADS)),
        "count": jnp.zeros((), jnp.int32),
        "log_prob": jnp.zeros(()),
        "no_speech": jnp.zeros(()),
    }
    # The two markers go through the same loop: its body is compiled once.
    state = jax.lax.while_loop(unfinished, step, state)
    return {name: state[name] for name in ("ids", "count", "scores", "log_prob", "no_speech")}


def _split(x: Array, parts: int) -> Array:
    """[..., parts * 384] -> [parts, 6, ..., 64]."""
    x = x.reshape(*x.shape[:-1], parts, HEADS, WIDTH // HEADS)
    return jnp.moveaxis(x, (-3, -2), (0, 1))


def _match(q: Float[Array, "h c"], k: Float[Array, "h n c"]) -> Float[Array, "h n"]:
    return jnp.einsum("hc,hnc->hn", q, k) * (WIDTH // HEADS) ** -0.5


def _mix(scores: Float[Array, "h n"], v: Float[Array, "h n c"]) -> Float[Array, " d"]:
    return jnp.einsum("hn,hnc->hc", jax.nn.softmax(scores, axis=-1), v).reshape(WIDTH)


def whisper_decoder(
    decode: Callable[[tuple[int, ...]], str],
) -> Callable[[NDArray[np.float32], int], Spoken]:
    """(vectors of the encoder [f, 384], samples of the clip) -> what is spoken in it.

    decode: text of tokens.
    """
    params = {name: jnp.asarray(value) for name, value in load_decoder().items()}
    run = jax.jit(greedy, static_argnums=2)

    def call(heard: NDArray[np.float32], samples: int) -> Spoken:
        out = run(params, jnp.asarray(heard), token_limit(len(heard)))
        count = int(out["count"])
        ids = np.asarray(out["ids"])[:count]
        stopped = bool(ids[-1] == END)
        text = tuple(map(int, ids[2 : count - stopped]))
        inside = min(len(heard), max(1, samples // (FRAME_HOP * STRIDE)))
        scores = np.asarray(out["scores"])[:count, :, :inside]
        mean = float(out["log_prob"]) / (len(text) + 1)
        edges = token_edges(scores, len(text))
        spoken = Spoken(text, edges, float(out["no_speech"]), mean, stopped)
        kept = trusted(spoken, decode)
        if kept < len(text):
            spoken = replace(spoken, ids=text[:kept], edges=token_edges(scores, kept))
        return spoken

    return call


def token_edges(scores: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Seconds at which the first `count` tokens begin, and the last of them ends [count + 1].

    scores: attention before the softmax [rows, heads, f]; rows are START, NO_TIMESTAMPS, the tokens, END,
    and each looks where the token after it is spoken. As timing.py: softmax over time, each moment normed
    over the rows, a median over 7 vectors, the mean of the heads, and the path with the largest sum.
    """
    scores = scores[: count + 3]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights = (weights - weights.mean(0)) / np.maximum(weights.std(0), 1e-12)
    if weights.shape[-1] > MEDIAN // 2:
        weights = scipy.ndimage.median_filter(weights, (1, 1, MEDIAN), mode="mirror")
    starts = path_starts(-weights.mean(1)[1 : count + 2].astype(np.float64))
    return np.asarray(starts * FRAME_SECONDS, np.float64)


def path_starts(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Column at which the cheapest path enters each row of [n, f].

    The path leads from corner to corner by steps to the right, down, or both at once (dynamic time
    warping).
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        before = np.minimum(total[i, :-1], total[i, 1:])
        summed = np.cumsum(cost[i])
        # Entering row i at column k and staying costs summed[j] - summed[k - 1].
        entered = np.minimum.accumulate(before - (summed - cost[i]))
        total[i + 1, 1:] = entered + summed
    starts = np.zeros(rows, np.int64)
    i, j = rows, columns
    while i > 0:
        starts[i - 1] = j - 1
        diagonal, up, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        if diagonal < up and diagonal < left:
            i, j = i - 1, j - 1
        elif up < left:
            i -= 1
        else:
            j -= 1
    return starts


def trusted(spoken: Spoken, decode: Callable[[tuple[int, ...]], str]) -> int:
    """How many of the first tokens are really said: none in silence, and a loop once.

    Silence is where speech is unlikely and the text is, too, or hardly a text: " you" is Whisper's answer
    to no sound at all. Loops are looked for in text that does not
    end or is as repetitive as nobody talks; and what is said again at once, faster than anybody talks, is
    said once: Whisper does so behind the end of some clips if less than 30 s are heard.
    """
    ids = spoken.ids
    unsure = spoken.confidence < UNSURE or len(ids) <= HARDLY
    if spoken.no_speech > SILENCE and unsure:
        return 0
    if not spoken.stopped or _compression(decode(ids)) > REPETITIVE:
        kept = _before_loop(ids)
    else:
        kept = _before_echo(spoken)
    # The round that is kept ends with its own mark.
    closed = kept < len(ids) and not any(map(str.isalnum, decode((ids[kept],))))
    return kept + closed


def _before_echo(spoken: Spoken) -> int:
    """Tokens up to the end of what is said again in no time."""
    ids = spoken.ids
    for end in range(SHORTEST_ECHO, len(ids)):
        for period in range(SHORTEST_ECHO, min(end, len(ids) - end) + 1):
            first, last = end - period, end + period
            hurried = spoken.edges[last] - spoken.edges[end] < HURRY * period
            if hurried and ids[first:end] == ids[end:last]:
                return end
    return len(ids)


def _compression(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _before_loop(ids: tuple[int, ...]) -> int:
    """Tokens up to the end of the first round of a loop: three equal rounds on end, six tokens in all."""
    for end in range(1, len(ids) + 1):
        for period in range(1, min(LONGEST_LOOP, end) + 1):
            rounds = max(3, -(-6 // period))
            first, span = end - period, period * rounds
            if ids[first : first + span] == ids[first:end] * rounds:
                return end
    return len(ids)

# SPDX-License-Identifier: Apache-2.0
"""The generic decoder: against a plain numpy one, with and without padding, cache and remat."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_bridge.backbones.decoder import AudioProjection, Decoder, DecoderConfig
from llm_bridge.backbones.word_slots import to_numbers
from spatial_core.nn.functional import Functional

LLAMA = DecoderConfig(
    vocabulary=50, width=32, layers=3, heads=4, kv_heads=2, head_width=8, hidden=48, audio_width=10
)
GEMMA = dataclasses.replace(
    LLAMA,
    layers=4,
    kv_heads=1,
    activation="gelu",
    rope_base=1e6,
    local_window=3,
    period=2,
    query_key_norm=True,
    post_norm=True,
    embed_scale=math.sqrt(32),
    audio_hidden=12,
)
STYLES = pytest.mark.parametrize("config", [LLAMA, GEMMA], ids=["llama", "gemma3"])


@functools.cache
def fresh(config, seed=0):
    """Functional and random parameters, drawn by numpy because that needs no compilation."""
    functional = Functional(lambda rngs: Decoder(config, rngs=rngs))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (
            rng.normal(size=leaf.shape) / math.sqrt(leaf.shape[-2 if leaf.ndim > 1 else -1])
        ).astype(np.float32)

    shapes = jax.eval_shape(functional.init, jax.random.key(0))
    return functional, jax.tree_util.tree_map_with_path(draw, shapes)


def inputs(batch=2, length=7, seed=0):
    ids = np.random.default_rng(seed).integers(0, 50, (batch, length))
    positions = np.broadcast_to(np.arange(length), ids.shape)
    return jnp.asarray(ids), jnp.asarray(positions), jnp.ones(ids.shape, bool)


@functools.partial(jax.jit, static_argnums=0)
def run(functional, params, ids, positions, valid, cache=None, key=None):
    model = functional.bind(params)
    return model(model.embed(ids), ids, positions, valid, cache, key)


def norm(x, scale, eps):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * scale


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def turned(vector, position, base):
    """One head's vector at a position: each pair (i, i + c/2) as a complex number that turns."""
    half = len(vector) // 2
    z = vector[:half] + 1j * vector[half:]
    z = z * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def by_hand(config, params, ids):
    """Last hidden states of one row [n], in float64, position by position and head by head."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"][ids] * config.embed_scale
    count, group = len(ids), config.heads // config.kv_heads
    for number in range(config.layers):
        layer = jax.tree.map(lambda leaf, i=number: leaf[i], params["layers"])
        attention = layer["attention"]
        wide = config.local_window is None or (number + 1) % config.period == 0
        base = config.rope_base if wide else config.local_rope_base
        h = norm(x, layer["attention_norm"]["scale"], config.eps)
        heads = {
            name: (h @ attention[name]["kernel"]).reshape(count, -1, config.head_width)
            for name in ("query", "key", "value")
        }
        for name in ("query", "key") if config.query_key_norm else ():
            heads[name] = norm(heads[name], attention[name + "_norm"]["scale"], config.eps)
        mixed = np.zeros((count, config.heads, config.head_width))
        for head in range(config.heads):
            for n in range(count):
                first = 0 if wide else max(0, n + 1 - config.local_window)
                q = turned(heads["query"][n, head], n, base)
                scores = np.array(
                    [
                        q @ turned(heads["key"][s, head // group], s, base)
                        for s in range(first, n + 1)
                    ]
                ) / math.sqrt(config.head_width)
                weights = np.exp(scores - scores.max())
                mixed[n, head] = (
                    weights / weights.sum() @ heads["value"][first : n + 1, head // group]
                )
        out = mixed.reshape(count, -1) @ attention["out"]["kernel"]
        if config.post_norm:
            out = norm(out, layer["attention_post_norm"]["scale"], config.eps)
        x = x + out
        h = norm(x, layer["feed_forward_norm"]["scale"], config.eps)
        gate, up = h @ layer["gate"]["kernel"], h @ layer["up"]["kernel"]
        active = gelu(gate) if config.activation == "gelu" else gate / (1 + np.exp(-gate))
        out = (active * up) @ layer["down"]["kernel"]
        if config.post_norm:
            out = norm(out, layer["feed_forward_post_norm"]["scale"], config.eps)
        x = x + out
    return norm(x, params["norm"]["scale"], config.eps)


@STYLES
def test_equals_a_decoder_written_out_in_numpy(config):
    functional, params = fresh(config)
    ids, positions, valid = inputs(batch=1)
    hidden, _ = run(functional, params, ids, positions, valid)
    expected = by_hand(config, params, np.asarray(ids[0]))
    # Float32 against float64 through a few layers.
    np.testing.assert_allclose(np.asarray(hidden[0]), expected, atol=2e-5)
    logits = functional.bind(params).logits(hidden[0])
    np.testing.assert_allclose(logits, expected @ np.asarray(params["embedding"]).T, atol=2e-5)


@STYLES
def test_cache_gives_what_the_whole_row_gives(config):
    functional, params = fresh(config)
    ids, positions, valid = inputs()
    whole, _ = run(functional, params, ids, positions, valid)
    cache = functional.bind(params).new_cache(2, 9)
    parts = []
    for start, end in ((0, 5), (5, 6), (6, 7)):
        part = slice(start, end)
        hidden, cache = run(
            functional, params, ids[:, part], positions[:, part], valid[:, part], cache
        )
        parts.append(hidden)
    # The same sums in float32, over other array shapes.
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)
    assert int(cache.index) == 7


@STYLES
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padding_changes_nothing(config, left):
    functional, params = fresh(config)
    ids, positions, valid = inputs()
    whole, _ = run(functional, params, ids, positions, valid)
    sides = ((0, 0), (3, 0) if left else (0, 3))
    padded = [jnp.pad(array, sides) for array in (ids, positions, valid)]
    hidden, _ = run(functional, params, *padded)
    inner = hidden[:, 3:] if left else hidden[:, :7]
    np.testing.assert_allclose(inner, whole, atol=1e-5)
    assert np.isfinite(np.asarray(hidden)).all()


def test_remat_gives_the_same_gradients():
    ids, positions, valid = inputs()

    def gradient(config):
        functional, params = fresh(config)

        def loss(params):
            hidden, _ = run(functional, params, ids, positions, valid)
            return jnp.sum(hidden**2 * jnp.arange(32))

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    kept, again = gradient(LLAMA), gradient(dataclasses.replace(LLAMA, remat=True))
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_placeholders_embed_to_zeros_and_audio_to_the_width():
    functional, params = fresh(GEMMA)
    model = functional.bind(params)
    rows = model.embed(jnp.asarray([[3, -1, -2]]))
    assert np.abs(rows[0, 0]).sum() > 0
    assert not np.asarray(rows[0, 1:]).any()
    assert model.embed_audio(jnp.ones((2, 5, 10))).shape == (2, 5, 32)


def test_words_in_the_mono_stream_are_read_as_text():
    config = dataclasses.replace(GEMMA, audio_words=True)
    fresh_maps = jax.jit(lambda: nnx.state(AudioProjection(config, rngs=nnx.Rngs(0))))()
    assert not fresh_maps["out"]["kernel"][...].any()
    assert fresh_maps["inner"]["kernel"].shape == (8, 12)
    model = Decoder(config, rngs=nnx.Rngs(0))
    ids = jnp.asarray([[3, -1, 49]])
    features = np.random.default_rng(0).normal(size=(1, 3, 10)).astype(np.float32)
    features[0, :, 8:] = to_numbers(np.asarray(ids[0]))
    np.testing.assert_array_equal(model.embed_audio(jnp.asarray(features)), model.embed(ids))
    # Padding is no word.
    assert not np.asarray(model.embed_audio(jnp.zeros((1, 2, 10)))).any()


def test_an_untied_head_is_a_matrix_of_its_own():
    functional, params = fresh(dataclasses.replace(LLAMA, tied=False))
    hidden = jnp.ones((1, 32))
    logits = functional.bind(params).logits(hidden)
    np.testing.assert_allclose(logits, hidden @ params["head"]["kernel"], rtol=1e-6)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads"):
        dataclasses.replace(LLAMA, heads=3)

# SPDX-License-Identifier: Apache-2.0
"""Phi-4-mini's decoder: as transformers computes it, short and long, with a cache; its size."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.phi4.config import Phi4TextConfig, small_text
from llm_bridge.backbones.phi4.text import PARTITION_RULES, frequencies, rotate
from llm_bridge.backbones.weight_files import leaves_of
from spatial_core.errors import InputError
from tests.golden.make_phi4 import EDGE, LAST, MODELS, NEW, PROMPT, padded, text_ids
from tests.unit.llm_bridge.phi4_drawn import golden, greedy, positions_of, text_model, text_params
from tests.unit.programs import quick

# Float32 sums in another order.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@functools.cache
def params(which: str) -> Any:
    return text_params(MODELS[which])


@functools.cache
def runners(which: str) -> tuple[Any, Any]:
    """(logits of ids, greedy ids after ids), compiled."""
    bind = text_model(MODELS[which]).bind

    def logits(params: Any, ids: Any, valid: Any) -> Any:
        model: Any = bind(params)
        hidden, _ = model(model.embed(ids), ids, positions_of(valid), valid)
        return model.logits(hidden)

    def answer(params: Any, ids: Any, valid: Any) -> Any:
        model: Any = bind(params)
        return greedy(model, model.embed(ids), valid, NEW)

    return quick(logits), quick(answer)


@pytest.mark.parametrize("which", MODELS)
def test_logits_and_greedy_text_are_those_of_transformers(which: str) -> None:
    """ "long" is beyond its first context, so that it turns by the long factors."""
    known, (logits, answer) = golden(), runners(which)
    everything = np.ones((2, text_ids().shape[1]), bool)
    found = logits(params(which), text_ids(), everything)[:, ::3]
    np.testing.assert_allclose(found, known[f"{which}/logits"], **TOLERANCE)
    ids, valid = padded()
    found = logits(params(which), ids, valid)
    seen = valid[:, ::3]
    np.testing.assert_allclose(
        found[:, ::3][seen], known[f"{which}/padded_logits"][seen], **TOLERANCE
    )
    said = answer(params(which), text_ids()[:, :PROMPT], everything[:, :PROMPT])
    assert np.array_equal(said, known[f"{which}/greedy"])
    if which == "short":
        said = answer(params(which), ids[:, :PROMPT], valid[:, :PROMPT])
        assert np.array_equal(said, known["short/padded_greedy"])


@pytest.mark.slow
def test_each_row_is_turned_by_its_own_length_on_both_sides_of_4096() -> None:
    """Beside each other in one batch they are what transformers says of each alone."""
    known = golden()
    short, long = EDGE
    ids = np.concatenate(
        [np.pad(text_ids(short, 1), ((0, 0), (0, long - short))), text_ids(long, 1)]
    )
    valid = np.arange(long) < np.array([[short], [long]])
    bind = text_model(MODELS["short"]).bind

    @quick
    def last(params: Any) -> Any:
        model: Any = bind(params)
        hidden, _ = model(model.embed(ids), ids, positions_of(valid), valid)
        return model.logits(jnp.stack([hidden[i, n - LAST : n] for i, n in enumerate(EDGE)]))

    found = last(params("short"))
    np.testing.assert_allclose(found[0], known[f"short/edge_{short}"][0], **TOLERANCE)
    np.testing.assert_allclose(found[1], known[f"short/edge_{long}"][0], **TOLERANCE)


def test_published_rotation_is_longrope_on_three_quarters_of_a_head() -> None:
    config = Phi4TextConfig()
    # sqrt(1 + ln 32 / ln 4096) = sqrt(17 / 12): the context grew 32-fold.
    assert math.isclose(config.attention_scale, math.sqrt(17 / 12))
    rows = jnp.array([[0, 4095], [0, 4096]])
    found = np.asarray(frequencies(config, rows, jnp.ones((2, 2), bool)))
    assert found.shape == (2, 48)
    np.testing.assert_allclose(found[0], 10_000.0 ** (-np.arange(48) / 48), rtol=1e-5)
    np.testing.assert_allclose(found[0] / found[1], config.long_factors, rtol=1e-5)
    # Padding's positions do not count.
    apart = frequencies(config, rows, jnp.array([[True, True], [True, False]]))
    assert np.array_equal(apart[1], found[0])
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 128))
    angle = rows[:1, :, None, None] * found[:1, None, None]
    turned = rotate(x, angle, config.attention_scale)
    assert np.array_equal(turned[..., 96:], x[..., 96:])
    sizes = [np.hypot(y[..., :48], y[..., 48:96]) for y in (np.asarray(turned), np.asarray(x))]
    np.testing.assert_allclose(sizes[0], sizes[1] * math.sqrt(17 / 12), rtol=1e-5)


def test_published_size() -> None:
    """3,836,021,760 parameters, as the index of Phi-4-mini-instruct's files says."""
    shapes = leaves_of(jax.eval_shape(text_model(Phi4TextConfig()).init, jax.random.key(0)))
    count = {"fixed": 0, "audio": 0, "text": 0}
    for path, leaf in shapes.items():
        kind = "fixed" if "/fixed_" in path else "audio" if path.startswith("audio/") else "text"
        count[kind] += math.prod(leaf.shape)
    assert count["text"] == 3_836_021_760
    # Rank 320 beside 3072 -> 5120, 3072 -> 3072, 3072 -> 16384 and 8192 -> 3072, in 32 layers.
    assert count["fixed"] == 32 * 320 * (8192 + 6144 + 19456 + 11264)
    assert count["audio"] == 1024 * 3072 + 3072 * 3072 + 2 * 3072
    assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype("bfloat16")}


def test_every_leaf_has_a_partition_rule_that_fits_it() -> None:
    shapes = leaves_of(jax.eval_shape(text_model(Phi4TextConfig()).init, jax.random.key(0)))
    for path, leaf in shapes.items():
        spec = next(rule for pattern, rule in PARTITION_RULES if re.search(pattern, path))
        assert len(spec) in (0, leaf.ndim), path
        split = [size for size, axis in zip(leaf.shape, spec) if axis == "fsdp"]
        # Eight devices, each with a whole number of columns; what is not split is small.
        assert all(size % 8 == 0 for size in split)
        assert split or leaf.size < 20_000_000, path


def test_remat_and_bfloat16_change_little() -> None:
    config = MODELS["short"]
    half = dataclasses.replace(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, remat=True)
    ids, valid = padded()
    cut = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params("short"))
    bind = text_model(half).bind

    def loss(params: Any) -> Any:
        model: Any = bind(params)
        hidden, _ = model(model.embed(ids), ids, positions_of(valid), valid)
        logits = model.logits(hidden)
        return jnp.mean(jnp.square(logits)), logits

    (_, logits), gradient = quick(jax.value_and_grad(loss, has_aux=True))(cut)
    assert all(
        np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(gradient)
    )
    assert logits.dtype == jnp.float32
    exact = runners("short")[0](jax.tree.map(lambda x: x.astype(jnp.float32), cut), ids, valid)
    # bfloat16 has 8 bits: some percent after two layers.
    error = np.sqrt(np.mean(np.square(logits - exact)[valid]))
    assert error < 0.05 * np.std(np.asarray(exact)[valid])


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="rotary_width 10: even, and at most the 8 of a head"):
        small_text(rotary_width=10)
    with pytest.raises(InputError, match="3 short and 2 long factors: 3 of each"):
        small_text(long_factors=(1.0, 2.0))
    with pytest.raises(InputError, match="4 heads do not divide over 3"):
        small_text(kv_heads=3)

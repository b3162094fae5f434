# SPDX-License-Identifier: Apache-2.0
"""A published, frozen adapter beside a trained one on the same linear map."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_bridge import lora
from llm_bridge.lora import LoraConfig
from llm_bridge.nn import Linear
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional

FIXED = LoraConfig(rank=3, alpha=6.0, dropout=0.5, targets="^one$")
TRAINED = LoraConfig(rank=2, alpha=1.0, dropout=0.5, targets="^(one|two)$")


class Two(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, fixed: bool = True, dtype: Any = jnp.float32):
        self.one, self.two = (Linear(5, 5, param_dtype=dtype, rngs=rngs) for _ in range(2))
        if fixed:
            lora.attach_fixed(self, FIXED, rngs)

    def __call__(self, x: Any, key: Any = None) -> Any:
        return self.two(jnp.tanh(self.one(x, key)), key)


def adapted(rngs: nnx.Rngs) -> Two:
    model = Two(rngs)
    assert lora.attach(model, TRAINED, rngs) == ("one", "two")
    return model


@pytest.fixture
def params() -> Any:
    shapes = jax.eval_shape(Functional(adapted).init, jax.random.key(0))
    draw = np.random.RandomState(0)
    return jax.tree.map(lambda leaf: draw.randn(*leaf.shape).astype(np.float32), shapes)


def test_both_add_to_the_map(params: Any) -> None:
    x = np.random.RandomState(1).randn(4, 5)
    one, two = ({k: np.float64(v) for k, v in params[name].items()} for name in ("one", "two"))
    y = x @ one["kernel"] + 2.0 * x @ one["fixed_a"] @ one["fixed_b"]
    y = np.tanh(y + 0.5 * x @ one["lora_a"] @ one["lora_b"])
    y = y @ two["kernel"] + 0.5 * y @ two["lora_a"] @ two["lora_b"]
    model: Any = Functional(adapted).bind(params)
    # Float32 against float64.
    np.testing.assert_allclose(model(jnp.float32(x)), y, atol=1e-4)


def test_only_the_trained_one_is_trained_exported_and_merged(params: Any) -> None:
    trained, frozen = lora.split(params, lora.ADAPTERS)
    assert {*trained["one"], *trained["two"]} == {"lora_a", "lora_b"}
    assert set(frozen["one"]) == {"kernel", "fixed_a", "fixed_b"}
    assert lora.parameter_count(params) == 2 * (5 * 2 + 2 * 5)
    assert lora.adapter_sites(params) == {"one": (), "two": ()}
    merged = lora.merge(params, TRAINED)
    assert set(merged["one"]) == {"kernel", "fixed_a", "fixed_b"}
    x = jnp.asarray(np.random.RandomState(1).randn(4, 5), jnp.float32)
    plain: Any = Functional(Two).bind(merged)
    whole: Any = Functional(adapted).bind(params)
    np.testing.assert_allclose(plain(x), whole(x), atol=1e-4)


def test_dropout_is_of_the_trained_one_alone(params: Any) -> None:
    x = jnp.ones((64, 5))
    silent = jax.tree.map(jnp.asarray, params)
    silent["one"]["lora_b"] = silent["two"]["lora_b"] = jnp.zeros((2, 5))
    model: Any = Functional(adapted).bind(silent)
    np.testing.assert_array_equal(model(x, jax.random.key(0)), model(x))


def test_a_fresh_one_changes_nothing_and_has_the_type_of_its_weights() -> None:
    half = Functional(lambda rngs: Two(rngs, dtype=jnp.bfloat16)).init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    fresh = Functional(Two).init(jax.random.key(0))
    assert not np.any(fresh["one"]["fixed_b"]) and np.all(fresh["one"]["fixed_a"])
    with pytest.raises(InputError, match="matches no linear map; there are one, two"):
        lora.attach_fixed(Two(nnx.Rngs(0), fixed=False), LoraConfig(targets="three"), nnx.Rngs(0))

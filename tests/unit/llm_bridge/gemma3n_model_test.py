# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's text decoder: sizes, gradients, number formats, masks and shardings."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig, e2b, e4b, small_text
from llm_bridge.backbones.gemma3n.names import hf_linear_name, text_name
from llm_bridge.backbones.gemma3n.text import PARTITION_RULES, Gemma3nText
from llm_bridge.lora import ADAPTERS, LoraConfig, attach, check_first_gradients, split
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from spatial_core.train.partition import path_name
from spatial_core.train.task import merge_params
from tests.golden.make_gemma3n_text import numbers
from tests.unit.programs import quick

SMALL = small_text(layers=10, sparse_layers=2)
# Of one kind of layer only, which compiles in a third of the time.
DENSE = small_text(layers=5, sparse_layers=0, shared_layers=0)
LORA = LoraConfig(rank=2, alpha=4, dropout=0.3)
IDS = jnp.array([[5, 17, 250, 260, 290, -1, -2, 9, 0, 0], [3, 250, 11, 12, 13, 14, 15, 16, 17, 18]])
VALID = jnp.arange(10)[None] < jnp.array([[8], [10]])


def adapted(config: Gemma3nTextConfig) -> Functional:
    def build(rngs: nnx.Rngs) -> Gemma3nText:
        model = Gemma3nText(config, rngs)
        attach(model, LORA, rngs)
        return model

    return Functional(build)


def forward(bound: Functional, params: Any, embeds: Any, key: Any = None) -> Any:
    positions = jnp.maximum(jnp.cumsum(VALID, axis=1) - 1, 0)
    model: Any = bound.bind(params)
    hidden, _ = model(embeds, IDS, positions, VALID, key=key)
    return model.logits(hidden)


@pytest.fixture(scope="module", params=[DENSE, pytest.param(SMALL, marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest) -> Gemma3nTextConfig:
    return request.param


@pytest.fixture(scope="module")
def params(config: Gemma3nTextConfig) -> Any:
    """Random ones, adapters as they start."""

    def fill(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        if name.endswith("lora_b"):
            return jnp.zeros(leaf.shape)
        values = numbers(name, *leaf.shape)
        if name.endswith("scale"):
            return 1 + 0.1 * values
        return values if name.endswith(("embedding", "table")) else values * leaf.shape[-2] ** -0.5

    return jax.tree_util.tree_map_with_path(
        fill, jax.eval_shape(adapted(config).init, jax.random.key(0))
    )


@pytest.fixture(scope="module")
def embeds(params: Any) -> Any:
    """Of IDS: placeholders are zeros, as padding may be."""
    found = jnp.asarray(numbers("embeds", 2, 10, SMALL.width))
    return jnp.where(IDS[..., None] < 0, 0, found)


# The loss reads this position only, so that its gradient tells what the position sees.
READ = 6


def loss_and_gradients(config: Gemma3nTextConfig) -> Any:
    bound = adapted(config)

    def loss(trained: Any, embeds: Any, frozen: Any, key: Any) -> Any:
        logits = forward(bound, merge_params(trained, frozen), embeds, key)[:, READ]
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([7, 9])).sum()

    return quick(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.fixture(scope="module")
def gradients(config: Gemma3nTextConfig) -> Any:
    return loss_and_gradients(config)


def leaves(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("build", "count"),
    # Gemma3nForCausalLM of transformers has 6,835,235,568 and 4,435,182,688, and its
    # Gemma3nMultimodalEmbedder 3,345,408.
    [(e4b, 6_835_235_568 + 3_345_408), (e2b, 4_435_182_688 + 3_345_408)],
)
def test_parameter_counts_are_those_of_transformers(build: Any, count: int) -> None:
    config = build().text
    shapes = jax.eval_shape(
        Functional(lambda rngs: Gemma3nText(config, rngs)).init, jax.random.key(0)
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


def test_adapters_of_e4b_are_counted() -> None:
    """Rank 8 beside every linear map of the decoder: 8 (in + out) for each."""
    config = dataclasses.replace(e4b().text)

    def build(rngs: nnx.Rngs) -> Gemma3nText:
        model = Gemma3nText(config, rngs)
        attach(model, LoraConfig(rank=8), rngs)
        return model

    found = leaves(jax.eval_shape(Functional(build).init, jax.random.key(0)))
    count = sum(math.prod(x.shape) for path, x in found.items() if re.search(ADAPTERS, path))
    layer = {
        "query and out": 2 * (2048 + 2048),
        "mlp": 3 * (2048 + 16384),
        "laurel and per layer": 2 * (2048 + 64) + 2 * (2048 + 256),
        "altup": (2048 + 4) + (4 + 16) + (4 + 4),
    }
    own = 2 * (2048 + 512)
    top = 6 * (2048 + 2048) + (2048 + 35 * 256)
    assert count == 8 * (35 * sum(layer.values()) + 20 * own + top)


def test_layers_that_share_keys_read_the_last_of_their_kind() -> None:
    assert e4b().text.sources == (18, 19)
    assert e2b().text.sources == (18, 19)
    assert [len(layers) for layers in e4b().text.groups.values()] == [10, 10, 15]
    assert [len(layers) for layers in e2b().text.groups.values()] == [10, 10, 10]
    cache = jax.eval_shape(lambda: Gemma3nText(SMALL, nnx.Rngs(0)).new_cache(2, 7))
    assert {name: x.shape for name, x in cache.keys.items()} == {
        "sparse": (2, 2, 7, 2, 16),
        "dense": (3, 2, 7, 2, 16),
    }


def test_names_count_layers_through_the_groups() -> None:
    config = e4b().text
    assert text_name(config, "dense/mlp/up/kernel", (3,)) == (
        "model.language_model.layers.13.mlp.up_proj.weight"
    )
    assert hf_linear_name(config, "shared/attention/out", (14,)) == (
        "model.language_model.layers.34.self_attn.o_proj"
    )
    assert hf_linear_name(config, "altup_out", (2,)) == (
        "model.language_model.altup_unembed_projections.2"
    )
    with pytest.raises(InputError, match="no parameter"):
        hf_linear_name(config, "dense/attention/cross")


def test_first_step_moves_every_adapter(params: Any, embeds: Any, gradients: Any) -> None:
    trained, frozen = split(params, ADAPTERS)
    _, (found, _) = gradients(trained, embeds, frozen, jax.random.key(1))
    check_first_gradients(found)


def test_what_is_not_valid_and_what_comes_later_is_not_seen(
    params: Any, embeds: Any, gradients: Any
) -> None:
    trained, frozen = split(params, ADAPTERS)
    _, (_, found) = gradients(trained, embeds, frozen, jax.random.key(1))
    seen = np.abs(np.asarray(found)).sum(-1)
    assert np.isfinite(seen).all()
    assert np.all(seen[:, : READ + 1] > 0)
    assert not np.any(seen[:, READ + 1 :])


def test_dropout_is_driven_by_the_key(params: Any, embeds: Any, gradients: Any) -> None:
    trained, frozen = split(params, ADAPTERS)
    moved = jax.tree.map(lambda x: x + 0.1, trained)
    losses = [
        float(gradients(moved, embeds, frozen, jax.random.key(seed))[0]) for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-3


@pytest.mark.slow
def test_remat_changes_no_gradient(
    config: Gemma3nTextConfig, params: Any, embeds: Any, gradients: Any
) -> None:
    trained, frozen = split(params, ADAPTERS)
    inputs = (trained, embeds, frozen, jax.random.key(1))
    again = leaves(loss_and_gradients(dataclasses.replace(config, remat=True))(*inputs)[1])
    for path, leaf in leaves(gradients(*inputs)[1]).items():
        # The same sums, perhaps fused otherwise.
        np.testing.assert_allclose(
            again[path], leaf, rtol=1e-3, atol=1e-4 * float(jnp.abs(leaf).max()), err_msg=path
        )


@pytest.mark.slow
def test_bfloat16_stays_near_float32_and_logits_are_float32(
    config: Gemma3nTextConfig, params: Any, embeds: Any
) -> None:
    half = dataclasses.replace(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    cut = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    logits = quick(functools.partial(forward, adapted(half)))(cut, embeds)
    exact = quick(functools.partial(forward, adapted(config)))(
        jax.tree.map(lambda x: x.astype(jnp.float32), cut), embeds
    )
    assert logits.dtype == jnp.float32
    # bfloat16 has 8 bits: some percent after ten layers of a random network.
    difference = float(jnp.sqrt(jnp.mean(jnp.square(logits - exact)[VALID])))
    assert difference < 0.2 * float(jnp.std(exact[VALID]))


def test_every_large_parameter_is_split_and_divides_over_64_devices() -> None:
    config = e4b().text
    shapes = jax.eval_shape(
        Functional(lambda rngs: Gemma3nText(config, rngs)).init, jax.random.key(0)
    )
    for path, leaf in leaves(shapes).items():
        rule = next((axes for pattern, axes in PARTITION_RULES if re.search(pattern, path)), None)
        assert rule is not None, path
        assert len(rule) <= len(leaf.shape), path
        if leaf.size > 2**21:
            assert "fsdp" in rule, path
        for size, axis in zip(leaf.shape, rule, strict=False):
            assert axis is None or size % 64 == 0, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse_layers": 12}, "must not overlap"),
        ({"shared_layers": 12, "sparse_layers": 0}, "must come before"),
        ({"heads": 3}, "divide evenly"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"streams": 1}, "streams"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_text(**changes)

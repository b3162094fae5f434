# SPDX-License-Identifier: Apache-2.0
"""SELDNet: the published size, the fast forms beside plain ones, inside another model."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sciphi.convolution import convolve, max_pool
from sciphi.recurrence import BidirectionalGru
from sciphi.running import BatchNorm, Standardizer, is_statistic
from sciphi.seldnet import SeldModel, SeldNet, SeldNetConfig, encoder_part
from spatial_core.errors import InputError
from spatial_core.io.export import fill_tree
from spatial_core.nn.functional import Functional
from spatial_core.train.partition import path_name

SMALL = SeldNetConfig(channels=4, width=16, heads=4, gru_layers=1, attention_layers=1)


def shapes(functional):
    found = jax.eval_shape(functional.init, jax.random.key(0))
    return {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(found)}


def test_the_encoder_has_the_published_number_of_weights() -> None:
    """Without the last two linears, as the paper counts; statistics are no weights."""
    encoder = shapes(Functional(lambda rngs: SeldNet(SeldNetConfig(), rngs=rngs)))
    assert sum(math.prod(s) for n, s in encoder.items() if not is_statistic(n)) == 705_536
    # 3 x 2 x 64 of batch norms; 2 x 448 and a count of the standardizer
    assert sum(math.prod(s) for n, s in encoder.items() if is_statistic(n)) == 384 + 897
    whole = shapes(Functional(lambda rngs: SeldModel(SeldNetConfig(), 13, rngs=rngs)))
    part = encoder_part({name: name for name in whole})
    assert set(part) == set(encoder)
    heads = sum(math.prod(whole[n]) for n in whole if not n.startswith("encoder/"))
    assert heads == 128 * 129 + 156 * 129


@pytest.fixture(scope="module")
def small():
    functional = Functional(lambda rngs: SeldNet(SMALL, rngs=rngs))
    return functional, jax.jit(functional.init)(jax.random.key(0))


def maps(frames=23, batch=2, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, 7, frames, 64)).astype(np.float32)


class Outer(nnx.Module):
    """A model that holds the encoder as a part, as the describer does."""

    def __init__(self, *, rngs):
        self.spatial = SeldNet(SMALL, rngs=rngs)
        self.project = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, features):
        return self.project(self.spatial.encode(features))


def test_it_is_trained_on_inside_another_model_and_its_statistics_stay(small) -> None:
    _, params = small
    outer = Functional(lambda rngs: Outer(rngs=rngs))
    whole = jax.jit(outer.init)(jax.random.key(1))
    whole["spatial"] = fill_tree(
        whole["spatial"],
        {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)},
        "params",
    )
    gradient = jax.jit(jax.grad(lambda p: jnp.square(outer.bind(p)(maps())).sum()))(whole)
    for path, value in jax.tree_util.tree_leaves_with_path(gradient["spatial"]):
        if is_statistic(path_name(path)):
            assert not np.any(value), path_name(path)
        elif path_name(path).startswith("gru_0"):
            assert np.any(value), path_name(path)


def test_tokens_are_ten_a_second_and_dropout_needs_a_key(small) -> None:
    functional, params = small
    encode = jax.jit(lambda p, x, key=None: functional.bind(p).encode(x, key))
    still = encode(params, maps())
    assert still.shape == (2, 4, 16)
    np.testing.assert_array_equal(still, encode(params, maps()))
    moving = encode(params, maps(), jax.random.key(0))
    assert np.abs(moving - still).max() > 1e-3
    # A clip's tokens do not depend on what else is in the batch.
    np.testing.assert_allclose(encode(params, maps()[:1]), still[:1], atol=1e-5)


def test_other_shapes_and_sizes_are_refused(small) -> None:
    functional, params = small
    with pytest.raises(InputError, match="features are"):
        functional.bind(params).encode(jnp.zeros((2, 25, 7, 64)))
    with pytest.raises(InputError, match="frequency_pool"):
        SeldNetConfig(frequency_pool=(4, 3))
    with pytest.raises(InputError, match="heads"):
        SeldNetConfig(heads=7)


def test_the_convolution_and_its_gradients_are_those_of_the_library() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 3, 3, 4))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    def grads(function):
        return jax.jit(jax.grad(lambda x, k: jnp.sin(function(x, k)).sum(), argnums=(0, 1)))

    for ours, theirs in zip(grads(convolve)(x, kernel), grads(plain)(x, kernel)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_pooling_leaves_the_rest_out_and_equal_values_share_a_gradient() -> None:
    x = np.random.default_rng(0).normal(size=(1, 7, 5, 2)).astype(np.float32)
    x[0, :3, :2, 0] = 9.0
    top = max_pool(x, 3, 2)
    assert top.shape == (1, 2, 2, 2)
    expected = [
        [x[0, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2].max((0, 1)) for j in (0, 1)] for i in (0, 1)
    ]
    np.testing.assert_array_equal(top[0], expected)
    gradient = jax.grad(lambda x: max_pool(x, 3, 2).sum())(x)
    np.testing.assert_allclose(gradient[0, :3, :2, 0], 1 / 6, rtol=1e-6)
    assert gradient.sum() == pytest.approx(8) and not gradient[0, 6:].any()


def test_the_backward_half_of_the_recurrence_is_the_forward_one_in_reverse() -> None:
    gru = Functional(lambda rngs: BidirectionalGru(3, 4, rngs=rngs))
    params = gru.init(jax.random.key(0))
    turned = jax.tree.map(lambda x: x[::-1], params)
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    run = jax.jit(lambda p, x: gru.bind(p)(x))
    there, back = run(params, x), run(turned, x[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(there[..., :4], back[..., 4:], atol=1e-6)


def test_the_standardizer_is_that_of_all_batches_together() -> None:
    rng = np.random.default_rng(0)
    batches = (5 + 3 * rng.normal(size=(4, 8, 10, 2))).astype(np.float32)
    functional = Functional(lambda rngs: Standardizer(2))
    params = functional.init(jax.random.key(0))
    for batch in batches:
        _, params = functional.bind(params)(batch, True)
    stored, unmoved = functional.bind(params)(batches[0], False)
    flat = batches.reshape(-1, 2)
    # float32 means of squares
    np.testing.assert_allclose(stored, (batches[0] - flat.mean(0)) / flat.std(0), atol=1e-4)
    assert unmoved == {} and params["count"] == 4


def test_batch_norm_gives_unit_variance_in_training_and_the_stored_one_after() -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(16, 50, 2)).astype(np.float32)
    functional = Functional(lambda rngs: BatchNorm(2))
    params = functional.init(jax.random.key(0))
    y, moved = functional.bind(params)(x, True)
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1)), 1, atol=1e-3)
    np.testing.assert_allclose(moved["mean"], 0.1 * x.mean((0, 1)), rtol=1e-5)
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(moved["variance"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)
    stored, _ = functional.bind({**params, **moved})(x, False)
    expected = (x - moved["mean"]) / np.sqrt(moved["variance"] + 1e-5)
    np.testing.assert_allclose(stored, expected, atol=1e-4)

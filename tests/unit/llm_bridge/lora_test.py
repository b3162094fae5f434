# SPDX-License-Identifier: Apache-2.0
"""Adapters: where they go, how they start, what is trained, folding them in."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_bridge import lora
from llm_bridge.backbones.gemma3n.config import e2b, e4b
from llm_bridge.backbones.gemma3n.names import hf_linear_name
from llm_bridge.backbones.gemma3n.text import Gemma3nText
from llm_bridge.lora import LoraConfig
from llm_bridge.nn import Linear, scan_layers, stack_layers
from spatial_core.errors import InputError
from spatial_core.io.export import flatten_tree
from spatial_core.nn.functional import Functional
from spatial_core.train.task import merge_params
from tests.unit.llm_bridge import llama

LAYERS, WIDTH, HIDDEN = 3, 16, 24


class Block(nnx.Module):
    def __init__(self, rngs, dtype):
        formats = dict(dtype=dtype, param_dtype=dtype, rngs=rngs)
        self.up = Linear(WIDTH, HIDDEN, bias=True, **formats)
        self.down = Linear(HIDDEN, WIDTH, **formats)


class Net(nnx.Module):
    """Stacked layers, a list and a lone map: the three places where a linear map can be."""

    def __init__(self, rngs, dtype=jnp.float32):
        self.layers = stack_layers(lambda r: Block(r, dtype), LAYERS, rngs)
        self.maps = nnx.List([Linear(WIDTH, WIDTH, dtype=dtype, rngs=rngs) for _ in range(2)])
        self.audio = Linear(5, WIDTH, dtype=dtype, rngs=rngs)
        self.head = Linear(WIDTH, 7, dtype=dtype, rngs=rngs)

    def __call__(self, x, key=None):
        def step(layer, x, number):
            salted = None if key is None else jax.random.fold_in(key, number)
            return x + layer.down(jnp.tanh(layer.up(x, salted)), salted), None

        x, _ = scan_layers(self.layers, step, x, jnp.arange(LAYERS))
        for linear in self.maps:
            x = x + linear(x, key)
        return self.head(x, key)


def bare():
    """The model without adapters, as shapes."""
    return nnx.eval_shape(lambda: Net(nnx.Rngs(0)))


@functools.cache
def net(config: LoraConfig | None = None, dtype=jnp.float32) -> Functional:
    def build(rngs):
        model = Net(rngs, dtype)
        if config is not None:
            lora.attach(model, config, rngs)
        return model

    return Functional(build)


def start(config=None, dtype=jnp.float32):
    """Fresh parameters; drawn by NumPy, since to compile the real draw takes seconds."""
    return redrawn(jax.eval_shape(net(config, dtype).init, jax.random.key(0)))


def redrawn(shapes, seed=1):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("lora_b", "bias"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if path[-1].key == "scale":
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.normal(0, leaf.shape[-2] ** -0.5, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def answer(config, dtype, params, key=None):
    return net(config, dtype).bind(params)(X, key)


def filled(params, seed=0):
    """The same with random values in every adapter."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        is_adapter = path[-1].key in ("lora_a", "lora_b")
        return jnp.asarray(rng.normal(0, 0.15, leaf.shape), leaf.dtype) if is_adapter else leaf

    return jax.tree_util.tree_map_with_path(fill, params)


X = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, WIDTH)), jnp.float32)


def test_the_default_adapts_every_linear_map_of_the_decoder_and_no_other():
    shapes = jax.eval_shape(net(LoraConfig(rank=2)).init, jax.random.key(0))
    assert lora.adapter_sites(shapes) == {
        "layers/up": (LAYERS,),
        "layers/down": (LAYERS,),
        "maps/0": (),
        "maps/1": (),
    }
    assert shapes["layers"]["up"]["lora_a"].shape == (LAYERS, WIDTH, 2)
    assert shapes["layers"]["up"]["lora_b"].shape == (LAYERS, 2, HIDDEN)
    assert lora.parameter_count(shapes) == 2 * (LAYERS * 2 * (WIDTH + HIDDEN) + 2 * 2 * WIDTH)


def test_targets_choose_by_path():
    config = LoraConfig(targets=r"layers/up|head$")
    assert list(lora.adapter_sites(start(config))) == ["head", "layers/up"]
    assert lora.attach(bare(), config, nnx.Rngs(0)) == ("head", "layers/up")


def test_a_regex_without_a_match_lists_what_there_is():
    with pytest.raises(InputError, match=r"'q_proj' matches no linear map.*layers/down, layers/up"):
        lora.attach(bare(), LoraConfig(targets="q_proj"), nnx.Rngs(0))


def test_a_second_adapter_is_refused():
    model = bare()
    lora.attach(model, LoraConfig(targets="maps"), nnx.Rngs(0))
    with pytest.raises(InputError, match="have adapters already: maps/0, maps/1"):
        lora.attach(model, LoraConfig(), nnx.Rngs(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(rank=0), "rank is 0"),
        (dict(alpha=0.0), "alpha is 0.0"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(targets="("), "not a regex"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        LoraConfig(**wrong)


def test_fresh_adapters_start_as_pefts_do():
    model = bare()
    lora.attach(model, LoraConfig(rank=64), nnx.Rngs(0))
    a = np.asarray(model.layers.down.lora_a[...])
    # Uniform in +-1/sqrt(in): Kaiming's with a = sqrt(5), the start of torch's and peft's linear maps.
    bound = 1 / math.sqrt(HIDDEN)
    assert np.abs(a).max() <= bound
    # 4600 draws: the standard deviation of a uniform is bound / sqrt(3) to about 1%.
    np.testing.assert_allclose(a.std(), bound / math.sqrt(3), rtol=0.05)
    assert not np.array_equal(a[0], a[1]), "layers start alike"
    assert not np.any(model.layers.down.lora_b[...])


def test_fresh_adapters_change_nothing():
    config = LoraConfig(rank=2, alpha=6.0)
    params = start(config)
    frozen = lora.split(params, lora.ADAPTERS)[1]
    np.testing.assert_array_equal(
        answer(config, jnp.float32, params), answer(None, jnp.float32, frozen)
    )


def test_the_draw_of_a_map_does_not_depend_on_the_others_targets():
    few, many = ({name: Linear(4, 4, rngs=nnx.Rngs(0)) for name in "ab"} for _ in range(2))
    few, many = nnx.Dict(few), nnx.Dict(many)
    lora.attach(few, LoraConfig(targets="b"), nnx.Rngs(5))
    lora.attach(many, LoraConfig(), nnx.Rngs(5))
    np.testing.assert_array_equal(few["b"].lora_a[...], many["b"].lora_a[...])
    assert few["a"].lora_a is None


def test_split_and_join_are_inverse():
    params = start(LoraConfig())
    trained, frozen = lora.split(params, lora.ADAPTERS + "|^head/")
    assert set(flatten_tree(trained)) == {
        *(
            f"{site}/{leaf}"
            for site in ("layers/up", "layers/down", "maps/0", "maps/1")
            for leaf in ("lora_a", "lora_b")
        ),
        "head/kernel",
    }
    assert not any("lora" in path or path.startswith("head") for path in flatten_tree(frozen))
    joined = merge_params(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, joined, params)
    with pytest.raises(InputError, match=r"'nothing' matches no parameter.*head/kernel"):
        lora.split(params, "nothing")


@functools.partial(jax.jit, static_argnums=1)
def first_gradients(params, config):
    def loss(params):
        return jnp.mean(net(config).bind(params)(X) ** 2)

    return jax.grad(loss)(params)


def test_the_first_gradient_moves_every_b_and_no_a():
    config = LoraConfig(rank=2)
    params = start(config)
    found = first_gradients(params, config)
    gradients = flatten_tree(found)
    for path, value in gradients.items():
        if path.endswith("lora_a"):
            assert not np.any(value), path
        if path.endswith("lora_b"):
            assert np.any(value, axis=(-2, -1)).all(), path
    lora.check_first_gradients(found)


def test_adapters_that_are_not_fresh_or_not_used_are_found():
    config = LoraConfig(rank=2, targets="layers|audio")
    params = start(config)
    params["layers"]["up"] = filled(params["layers"]["up"])
    with pytest.raises(InputError) as caught:
        lora.check_first_gradients(first_gradients(params, config))
    assert "layers/up/lora_a: the gradient is not zero" in str(caught.value)
    assert "audio/lora_b: the gradient is zero, so the adapter is not used" in str(caught.value)
    assert "layers/down" not in str(caught.value)
    one_dead = first_gradients(params, config)
    one_dead["layers"]["down"]["lora_b"] = one_dead["layers"]["down"]["lora_b"].at[1].set(0.0)
    with pytest.raises(InputError, match=r"layers/down/lora_b\[1\]: the gradient is zero"):
        lora.check_first_gradients(one_dead)
    with pytest.raises(InputError, match="no adapters among the gradients"):
        lora.check_first_gradients({"kernel": np.zeros(3)})


@pytest.mark.parametrize("host", [False, True])
def test_folding_adapters_in_keeps_the_answers(host):
    config = LoraConfig(rank=2, alpha=6.0)
    params = filled(start(config))
    given = jax.tree.map(np.asarray, params) if host else params
    merged = lora.merge(given, config)
    assert set(flatten_tree(merged)) == set(flatten_tree(start()))
    assert all(isinstance(leaf, np.ndarray) == host for leaf in jax.tree.leaves(merged))
    adapted = answer(config, jnp.float32, params)
    # Rounding of float32 sums over at most 24 terms of order one.
    np.testing.assert_allclose(answer(None, jnp.float32, merged), adapted, atol=1e-5)
    plain = answer(None, jnp.float32, lora.split(params, lora.ADAPTERS)[1])
    assert np.abs(adapted - plain).max() > 0.1


def test_adapters_stay_float32_beside_bfloat16_weights():
    config = LoraConfig(rank=2)
    params = filled(start(config, jnp.bfloat16))
    up = params["layers"]["up"]
    assert up["kernel"].dtype == jnp.bfloat16
    assert {up["lora_a"].dtype, up["lora_b"].dtype} == {jnp.dtype(jnp.float32)}
    assert answer(config, jnp.bfloat16, params).dtype == jnp.bfloat16
    merged = lora.merge(params, config)
    assert merged["layers"]["up"]["kernel"].dtype == jnp.bfloat16


def test_dropout_differs_between_maps_and_keeps_the_mean():
    config = LoraConfig(rank=4, dropout=0.3)
    model = net(config).bind(filled(start(config)))
    assert len({model.layers.up.salt, model.layers.down.salt, *(m.salt for m in model.maps)}) == 4
    linear, count = model.maps[0], 1000
    draws = linear(jnp.broadcast_to(X, (count, *X.shape)), jax.random.key(4))
    spread = np.asarray(draws).std(axis=0) / math.sqrt(count)
    assert spread.min() > 0
    # Five standard errors of the mean, over 128 numbers.
    assert (np.abs(draws.mean(axis=0) - linear(X)) < 5 * spread).all()


def test_a_real_decoder_takes_adapters_in_its_scanned_layers():
    shapes = jax.eval_shape(llama.functional(LoraConfig(rank=4)).init, jax.random.key(0))
    assert lora.adapter_sites(shapes) == {
        **{f"layers/attention/{name}": (2,) for name in ("key", "out", "query", "value")},
        **{f"layers/{name}": (2,) for name in ("down", "gate", "up")},
    }


@pytest.mark.parametrize(
    ("config", "millions", "modules"), [(e4b().text, 21.935872, 467), (e2b().text, 13.051392, 407)]
)
def test_gemma_3n_has_an_adapter_for_each_linear_map_of_hugging_face(config, millions, modules):
    def build(rngs):
        model = Gemma3nText(config, rngs)
        lora.attach(model, LoraConfig(), rngs)
        return model

    shapes = jax.eval_shape(Functional(build).init, jax.random.key(0))
    names = {
        hf_linear_name(config, path, index)
        for path, stack in lora.adapter_sites(shapes).items()
        for index in np.ndindex(*stack)
    }
    # By hand: r (in + out) of the maps of a layer, those of its own keys, and those outside of layers.
    wide, ff, inner, small = config.width, config.hidden, 8 * 256, 256
    shared = 2 * (wide + inner) + 3 * (wide + ff) + 2 * (wide + 64) + 2 * (wide + small)
    shared += (wide + 4) + (4 + 16) + (4 + 4)
    own = 2 * (wide + config.kv_heads * 256)
    outside = 6 * (wide + wide) + wide + small * config.layers
    expected = 8 * (config.layers * shared + config.own_layers * own + outside)
    assert lora.parameter_count(shapes) == expected == round(millions * 1e6)
    assert len(names) == modules
    adapters = lora.adapters_of(shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {jnp.dtype(jnp.float32)}

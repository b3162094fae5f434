# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's text decoder against transformers and peft: golden file here, live where torch is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.backbones.gemma3n.names import TEXT, hf_linear_name, text_places
from llm_bridge.backbones.gemma3n.text import Gemma3nText
from llm_bridge.lora import LoraConfig, attach
from spatial_core.nn.functional import Functional
from spatial_core.train.partition import path_name
from tests.golden import make_gemma3n_text as golden
from tests.unit.programs import quick

# float32 sums of some hundred terms in another order, through 15 layers: logits are of order 1.
LOGITS = 1e-4


@pytest.fixture(scope="module", params=["golden", pytest.param("live", marks=pytest.mark.slow)])
def reference(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """What transformers and peft answer, by 'model/name'."""
    if request.param == "golden":
        with np.load(golden.PATH, allow_pickle=False) as stored:
            return dict(stored)
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    return {name: value for which in golden.MODELS for name, value in golden.compute(which).items()}


def shapes(config: Gemma3nTextConfig) -> dict[str, Any]:
    module = nnx.eval_shape(lambda: Gemma3nText(config, nnx.Rngs(0)))
    tree = nnx.to_pure_dict(nnx.split(module, nnx.Param)[1])
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def drawn(config: Gemma3nTextConfig) -> dict[str, Any]:
    """The parameters that the reference has, placed by hand."""
    leaves = shapes(config)
    flat = {path: np.empty(leaf.shape, np.float32) for path, leaf in leaves.items()}
    places = text_places(config, {path: leaf.shape for path, leaf in leaves.items()})
    for name, place in places.items():
        short = name.removeprefix(TEXT) if name.startswith(TEXT) else name.removeprefix("model.")
        flat[place.path][place.index] = golden.tensor(short, place.shape).transpose(place.axes)
    return nested(flat)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, leaf = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


class Model:
    """One of the golden models with jitted passes."""

    def __init__(self, config: Gemma3nTextConfig):
        self.config = config
        self.bound = Functional(lambda rngs: Gemma3nText(config, rngs))
        self.params = drawn(config)
        self._logits = quick(self._forward)
        self.greedy = quick(self._greedy)

        self.embed = jax.jit(lambda params, ids: self.bound.bind(params).embed(ids))

    def logits(self, ids: Any, valid: Any, soft: Any = None) -> np.ndarray:
        """With the embeddings of the ids, or with `soft`."""
        embeds = self.embed(self.params, ids) if soft is None else soft
        return np.asarray(self._logits(self.params, embeds, ids, valid))

    def _forward(self, params: Any, embeds: Any, ids: Any, valid: Any) -> Any:
        model = self.bound.bind(params)
        hidden, _ = model(embeds, ids, positions(valid), valid)
        return model.logits(hidden)

    def _greedy(self, params: Any, ids: Any, valid: Any) -> Any:
        model = self.bound.bind(params)
        cache = model.new_cache(ids.shape[0], ids.shape[1] + golden.NEW)
        at = positions(valid)
        hidden, cache = model(model.embed(ids), ids, at, valid, cache)

        def step(carry: Any, _: None) -> tuple[Any, Any]:
            token, at, cache = carry
            hidden, cache = self.bound.bind(params)(
                self.bound.bind(params).embed(token), token, at, jnp.ones_like(token, bool), cache
            )
            following = model.logits(hidden)[:, -1:].argmax(-1)
            return (following, at + 1, cache), token[:, 0]

        first = model.logits(hidden)[:, -1:].argmax(-1)
        return jax.lax.scan(step, (first, at[:, -1:] + 1, cache), length=golden.NEW)[1].T


def positions(valid: Any) -> Any:
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


@pytest.fixture(scope="module", params=["shared", pytest.param("plain", marks=pytest.mark.slow)])
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(which: str) -> Iterator[Model]:
    yield Model(golden.MODELS[which])


def error(got: Any, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(got, np.float64) - wanted).max())


def test_logits_are_those_of_transformers(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    ids = golden.text_ids()
    every = np.ones_like(ids, bool)
    worst = error(model.logits(ids, every)[:, ::3], reference[f"{which}/logits"])
    print(
        f"{which}: logits within {worst:.1e} of transformers, std {reference[f'{which}/logits'].std():.2f}"
    )
    assert worst < LOGITS


def test_soft_tokens_are_those_of_transformers(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    ids = golden.text_ids()
    soft = 4.0 * golden.numbers("soft", golden.BATCH, golden.LENGTH, model.config.width)
    got = model.logits(ids, np.ones_like(ids, bool), soft)
    worst = error(got[:, ::3], reference[f"{which}/soft_logits"])
    print(f"{which}: soft-token logits within {worst:.1e}")
    assert worst < LOGITS


def test_padding_changes_nothing(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    """Padded logits are transformers', and those of the same row without padding."""
    (ids, valid), shift = golden.padded(), golden.PADDING
    left = model.logits(ids, valid)
    kept = valid[:, ::3]
    worst = error(left[:, ::3][kept], reference[f"{which}/padded_logits"][kept])
    print(f"{which}: padded logits within {worst:.1e} of transformers")
    assert worst < LOGITS
    right = model.logits(np.roll(ids, -shift, axis=1), np.roll(valid, -shift, axis=1))
    plain = model.logits(golden.text_ids(), np.ones_like(valid))
    # The same sums with zeros in other places.
    assert error(left[1, shift:], plain[1, :-shift]) < 1e-5
    assert error(right[1, :-shift], plain[1, :-shift]) < 1e-5


def test_greedy_text_is_that_of_generate(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    ids = golden.text_ids()[:, : golden.PROMPT]
    wanted = reference[f"{which}/greedy"]
    assert len(np.unique(wanted)) > golden.NEW // 2
    assert np.array_equal(model.greedy(model.params, ids, np.ones_like(ids, bool)), wanted)
    ids, valid = (part[:, : golden.PROMPT] for part in golden.padded())
    assert np.array_equal(
        model.greedy(model.params, ids, valid), reference[f"{which}/padded_greedy"]
    )


def test_audio_ids_and_features_are_embedded_as_in_transformers(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    config = model.config
    bound = model.bound.bind(model.params)
    ids = jnp.arange(config.audio_offset, config.audio_offset + config.audio_vocabulary)[None]
    features = 3.0 * golden.numbers("features", 1, 7, config.audio_width)
    assert error(bound.embed(ids)[0], reference[f"{which}/hard"]) < 1e-5
    assert error(bound.embed_audio(jnp.asarray(features)), reference[f"{which}/features"]) < 1e-5
    assert not np.any(bound.embed(jnp.array([[-1, -2]])))


def test_adapters_are_those_of_peft(
    model: Model, which: str, reference: dict[str, np.ndarray]
) -> None:
    config = model.config
    adapters = LoraConfig(rank=golden.RANK, alpha=golden.ALPHA, targets=r"^(?!audio_embedder)")

    def build(rngs: nnx.Rngs) -> Gemma3nText:
        module = Gemma3nText(config, rngs)
        attach(module, adapters, rngs)
        return module

    bound = Functional(build)
    tree = jax.eval_shape(bound.init, jax.random.key(0))
    names = set()
    flat: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = path_name(keys)
        linear, _, last = path.rpartition("/")
        if last not in ("lora_a", "lora_b"):
            continue
        flat[path] = np.empty(leaf.shape, np.float32)
        for index in np.ndindex(leaf.shape[:-2]):
            name = hf_linear_name(config, linear, index).removeprefix(TEXT)
            names.add(name)
            side = last[-1].upper()
            flat[path][index] = golden.adapter(name, side, leaf.shape[-2:][::-1]).T
    assert names == set(reference[f"{which}/adapted"].tolist())
    params = merged(model.params, nested(flat))
    ids = golden.text_ids()

    @quick
    def logits(params: Any) -> Any:
        module = bound.bind(params)
        valid = jnp.ones(ids.shape, bool)
        hidden, _ = module(module.embed(ids), jnp.asarray(ids), positions(valid), valid)
        return module.logits(hidden)

    got = logits(params)[:, ::3]
    assert error(got, reference[f"{which}/logits"]) > 0.1
    worst = error(got, reference[f"{which}/adapted_logits"])
    print(f"{which}: {len(names)} adapters, logits within {worst:.1e} of peft")
    assert worst < LOGITS


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {
        key: merged(a.get(key, {}), b[key])
        if isinstance(b.get(key), dict)
        else b.get(key, a.get(key))
        for key in {**a, **b}
    }

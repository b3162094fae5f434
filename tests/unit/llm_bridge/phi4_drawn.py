# SPDX-License-Identifier: Apache-2.0
"""Small Phi-4 models with the weights that tests/golden/make_phi4.py drew for transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.backbones.phi4.config import LAYERS, Phi4AudioConfig, Phi4TextConfig
from llm_bridge.backbones.phi4.conformer import Phi4AudioEncoder
from llm_bridge.backbones.phi4.names import audio_places, hf_linear_name, text_places
from llm_bridge.backbones.phi4.text import Phi4Text
from llm_bridge.backbones.weight_files import fill, leaves_of
from llm_bridge.lora import LoraConfig, attach
from spatial_core.nn.functional import Functional
from tests.golden.make_phi4 import PATH, SPATIAL, tensor

SPATIAL_LORA = LoraConfig(SPATIAL["r"], SPATIAL["lora_alpha"], dropout=0.3, targets=LAYERS)


def golden() -> dict[str, np.ndarray]:
    with np.load(PATH) as stored:
        return dict(stored)


def text_model(config: Phi4TextConfig, lora: LoraConfig | None = None) -> Functional:
    def build(rngs: nnx.Rngs) -> Phi4Text:
        model = Phi4Text(config, rngs)
        if lora is not None:
            attach(model, lora, rngs)
        return model

    return Functional(build)


def audio_model(config: Phi4AudioConfig) -> Functional:
    return Functional(lambda rngs: Phi4AudioEncoder(config, rngs))


class Drawn:
    """Tensors by transformers' names, as `weight_files.fill` reads them."""

    where = "drawn"

    def __init__(self, places: dict[str, Any]):
        self.places = places

    def tensors(self, names: Any) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            yield name, tensor(name, self.places[name].shape)


def text_places_of(config: Phi4TextConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    leaves = leaves_of(jax.eval_shape(text_model(config).init, jax.random.key(0)))
    return leaves, text_places({name: leaf.shape for name, leaf in leaves.items()})


def audio_places_of(config: Phi4AudioConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    leaves = leaves_of(jax.eval_shape(audio_model(config).init, jax.random.key(0)))
    return leaves, audio_places({name: leaf.shape for name, leaf in leaves.items()})


def text_params(config: Phi4TextConfig) -> Any:
    leaves, places = text_places_of(config)
    return fill(Drawn(places), places, leaves)  # type: ignore[arg-type]


def audio_params(config: Phi4AudioConfig) -> Any:
    leaves, places = audio_places_of(config)
    return fill(Drawn(places), places, leaves)  # type: ignore[arg-type]


def with_spatial(params: Any, config: Phi4TextConfig, scale: float = 1.0) -> Any:
    """`params` with the adapter "spatial" of the golden file; its B times `scale`."""
    flat = leaves_of(params)
    shapes = leaves_of(jax.eval_shape(text_model(config, SPATIAL_LORA).init, jax.random.key(0)))
    for path, leaf in shapes.items():
        site, found, side = path.rpartition("/lora_")
        if found:
            one = leaf.shape[:0:-1]
            name = f".lora_{side.upper()}.spatial.weight"
            stack = [tensor(hf_linear_name(site, (i,)) + name, one).T for i in range(config.layers)]
            flat[path] = np.stack(stack) * (scale if side == "b" else 1.0)
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, last = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def positions_of(valid: Any) -> Any:
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


def greedy(model: Any, embeds: Any, valid: Any, new: int) -> jax.Array:
    """`new` ids after a prompt padded on the left, with a cache."""
    batch, length = valid.shape
    positions = positions_of(valid)
    ids = jnp.zeros((batch, length), jnp.int32)
    cache = model.new_cache(batch, length + new)
    hidden, cache = model(embeds, ids, positions, valid, cache)
    first = jnp.argmax(model.logits(hidden[:, -1]), axis=-1)

    def step(carry: Any, _: None) -> Any:
        best, place, cache = carry
        hidden, cache = model(
            model.embed(best[:, None]),
            best[:, None],
            place[:, None],
            jnp.ones((batch, 1), bool),
            cache,
        )
        found = jnp.argmax(model.logits(hidden[:, 0]), axis=-1)
        return (found, place + 1, cache), best

    _, out = jax.lax.scan(step, (first, positions[:, -1] + 1, cache), None, length=new)
    return out.T

# SPDX-License-Identifier: Apache-2.0
"""A stack of layers of one kind with a cache of all their keys and values.

Gemma 3n's layers are of several kinds and some keep nothing: its cache is its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_bridge.nn import Cache, empty_cache, scan_layers, write_slots
from spatial_core.typing import Array

# (new keys, new values) [b n g c] -> all that can be attended to [b s g c].
Enter = Callable[[Array, Array], tuple[Array, Array]]


def new_cache(
    layers: int, batch: int, length: int, kv_heads: int, head_width: int, dtype: Any
) -> Cache:
    """An empty cache; every layer keeps all `length` positions."""
    shape = (layers, batch, length, kv_heads, head_width)
    return empty_cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), batch, length)


def scan_cached(
    layers: nnx.Module,
    step: Callable[[Any, Array, Array, Array | None, Enter], Array],
    x: Array,
    count: int,
    cache: Cache | None,
    new: int,
    key: Array | None,
    remat: bool = False,
    unroll: bool = False,
) -> tuple[Array, Cache | None]:
    """Run `step(layer, x, number, key, enter) -> x` over `count` stacked layers.

    cache: already advanced by these `new` positions; `enter` writes a layer's keys and values to it, and
    without a cache returns them as they are. key: another one for each layer, None for none.
    """

    def body(layer: Any, x: Array, given: tuple) -> tuple[Array, tuple | None]:
        number, stored = given
        salted = None if key is None else jax.random.fold_in(key, number)
        kept: list[tuple[Array, Array]] = []

        def enter(keys: Array, values: Array) -> tuple[Array, Array]:
            if cache is None:
                return keys, values
            at = cache.index - new
            kept.append((write_slots(stored[0], keys, at), write_slots(stored[1], values, at)))
            return kept[0]

        x = step(layer, x, number, salted, enter)
        return x, kept[0] if kept else None

    pairs = None if cache is None else (cache.keys, cache.values)
    x, found = scan_layers(layers, body, x, (jnp.arange(count), pairs), remat, unroll)
    if cache is not None:
        cache = dataclasses.replace(cache, keys=found[0], values=found[1])
    return x, cache

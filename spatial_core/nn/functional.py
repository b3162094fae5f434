# SPDX-License-Identifier: Apache-2.0
"""NNX modules as pure functions of a plain nested dict of arrays.

The train state holds plain dicts only, so that checkpoints, sharding rules and exports see paths
such as ``block_0/attention/query/kernel`` and nothing of the module library.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from spatial_core.typing import Params


class Functional:
    """A module constructor turned into ``init(key) -> params`` and ``bind(params) -> module``."""

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module]):
        self._build = build
        abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        self._graph, self._state = nnx.split(abstract, nnx.Param)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters as a nested dict; can be jitted or given to ``jax.eval_shape``."""
        _, state = nnx.split(self._build(nnx.Rngs(params=key)), nnx.Param)
        return nnx.to_pure_dict(state)

    def bind(self, params: Params) -> nnx.Module:
        """The module holding ``params``; make it inside the traced function that uses it."""
        state = jax.tree.map(lambda x: x, self._state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)

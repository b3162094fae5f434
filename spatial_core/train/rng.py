# SPDX-License-Identifier: Apache-2.0
"""Random keys as functions of the seed and the step, so that nothing has to be saved."""

from __future__ import annotations

import jax

_INIT, _DROPOUT = 0, 1


def init_key(seed: int) -> jax.Array:
    """Key of the parameter initialisation."""
    return jax.random.fold_in(jax.random.key(seed), _INIT)


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
    """Key of one training step (dropout and the like)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _DROPOUT), step)

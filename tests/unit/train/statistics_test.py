# SPDX-License-Identifier: Apache-2.0
"""Running statistics among the parameters: the step puts a task's new values in their places."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatial_core.train.optim import OptimizerConfig
from spatial_core.train.state import init_state, make_eval_step, make_train_step
from spatial_core.train.task import STATISTICS


class Centred:
    """Fits a weight on inputs of which it keeps a running mean."""

    def init(self, rng):
        return {"norm": {"mean": jnp.zeros(2)}, "weight": jnp.ones(2)}

    def loss(self, params, batch, rng, train):
        stored, x = jax.lax.stop_gradient(params["norm"]["mean"]), batch["x"]
        mean = x.mean(0) if train else stored
        metrics = {"size": jnp.float32(len(x))}
        if train:
            metrics[STATISTICS] = {"norm": {"mean": 0.5 * stored + 0.5 * mean}}
        return jnp.square((x - mean) @ params["weight"] + batch["bad"].sum()).mean(), metrics


OPTIMIZER = OptimizerConfig(peak_lr=0.1, schedule="constant", weight_decay=0.1, ema_decay=0.5)


def batch(bad=0.0):
    return {"x": jnp.arange(8.0).reshape(4, 2), "bad": jnp.full(4, bad)}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_statistics_move_as_the_task_says_and_not_by_the_optimizer(microbatches) -> None:
    step = jax.jit(make_train_step(Centred(), OPTIMIZER, 10, 0, 3, microbatches))
    state = init_state(Centred(), OPTIMIZER, 0)
    state, metrics = step(state, {}, batch())
    np.testing.assert_allclose(state["params"]["norm"]["mean"], [1.5, 2.0])
    assert not np.allclose(state["params"]["weight"], 1)
    assert STATISTICS not in metrics and metrics["size"] == 4 / microbatches
    state, _ = step(state, {}, batch())
    np.testing.assert_allclose(state["params"]["norm"]["mean"], [2.25, 3.0])
    assert not np.any(jax.tree.leaves(state["opt_state"][1].mu["norm"]))
    evaluate = jax.jit(make_eval_step(Centred(), 0))
    assert set(evaluate(state["ema"], {}, batch())) == {"loss", "size"}


def test_a_bad_step_does_not_move_them() -> None:
    step = jax.jit(make_train_step(Centred(), OPTIMIZER, 10, 0, 3))
    state, metrics = step(init_state(Centred(), OPTIMIZER, 0), {}, batch(bad=jnp.nan))
    assert not metrics["finite"]
    np.testing.assert_array_equal(state["params"]["norm"]["mean"], 0)

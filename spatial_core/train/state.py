# SPDX-License-Identifier: Apache-2.0
"""The train state, a plain nested dict, and the two functions that are compiled: step and evaluate.

State: {"step": int32, "params": tree, "opt_state": optax tree, "skipped": int32 number of non-finite
steps so far, "ema": tree (only with ema_decay > 0)}. Everything is float32 whatever the model computes
in; nothing else has to be kept to resume a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from spatial_core.train.optim import OptimizerConfig, learning_rate, make_optimizer
from spatial_core.train.rng import init_key, step_key
from spatial_core.train.task import Batch, Metrics, Task

State = dict[str, Any]


def init_state(task: Task, optimizer: OptimizerConfig, seed: int) -> State:
    """The state before the first step; traceable, so that it can be made straight on the devices."""
    params = task.init(init_key(seed))
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "opt_state": make_optimizer(optimizer, params).init(params),
        "skipped": jnp.zeros((), jnp.int32),
    }
    if optimizer.ema_decay:
        # A copy: donated buffers must not appear twice.
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def with_params(state: State, params: Any) -> State:
    """The state of a run that starts from given parameters."""
    started = {**state, "params": params}
    if "ema" in state:
        started["ema"] = jax.tree.map(jnp.copy, params)
    return started


def eval_params(state: State) -> Any:
    """The parameters to evaluate and to export: the running average where there is one."""
    return state.get("ema", state["params"])


def make_train_step(
    task: Task, optimizer: OptimizerConfig, steps: int, seed: int, nonfinite_budget: int
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """step(state, batch) -> (state, metrics); a non-finite step changes nothing but the counters.

    Past the budget nothing changes at all, so that the parameters of the last bad step are still
    there when the host, one step behind, writes its report.
    """
    schedule = learning_rate(optimizer, steps)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        step, params = state["step"], state["params"]
        key = step_key(seed, step)
        (loss, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, batch, key, True
        )
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        within = state["skipped"] <= nonfinite_budget
        rate = schedule(step)
        updates, opt_state = make_optimizer(optimizer, params).update(
            grads, state["opt_state"], params
        )
        stepped = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), params, updates)
        new = {
            "step": step + 1,
            "params": _select(finite & within, stepped, params),
            "opt_state": _select(finite & within, opt_state, state["opt_state"]),
            "skipped": state["skipped"] + jnp.where(finite, 0, 1),
        }
        if "ema" in state:
            weight = jnp.where(finite & within, _average_rate(optimizer.ema_decay, step), 0.0)
            new["ema"] = jax.tree.map(
                lambda e, p: e + weight * (p - e), state["ema"], new["params"]
            )
        scalars = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        report = {**scalars, "loss": loss, "grad_norm": grad_norm, "learning_rate": rate}
        return new, {**report, "finite": finite, "skipped": new["skipped"]}

    return train_step


def make_eval_step(task: Task, seed: int) -> Callable[[Any, Batch], Metrics]:
    """evaluate(params, batch) -> mean metrics of the batch, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Metrics:
        loss, metrics = task.loss(params, batch, step_key(seed, 0), False)
        return {**metrics, "loss": loss}

    return eval_step


def _select(finite: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _average_rate(decay: float, step: jax.Array) -> jax.Array:
    """Weight of the newest parameters: larger at first, so that the random start is forgotten."""
    return 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))

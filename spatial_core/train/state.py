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
from spatial_core.train.task import (
    STATISTICS,
    Batch,
    Metrics,
    Params,
    Task,
    merge_params,
    replace_params,
)

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
    task: Task,
    optimizer: OptimizerConfig,
    steps: int,
    seed: int,
    nonfinite_budget: int,
    microbatches: int = 1,
) -> Callable[[State, Params, Batch], tuple[State, Metrics]]:
    """step(state, frozen, batch) -> (state, metrics); a non-finite step changes only the counters.

    Past the budget nothing changes at all, so that the parameters of the last bad step are still
    there when the host, one step behind, writes its report.
    """
    schedule = learning_rate(optimizer, steps)

    def gradients(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> Any:
        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            return task.loss(merge_params(params, frozen), batch, key, True)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def train_step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        step, params = state["step"], state["params"]
        key = step_key(seed, step)
        if microbatches == 1:
            (loss, metrics), grads = gradients(params, frozen, batch, key)
        else:
            (loss, metrics), grads = _accumulate(
                gradients, params, frozen, batch, key, microbatches
            )
        statistics = metrics.pop(STATISTICS, {})
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        within = state["skipped"] <= nonfinite_budget
        rate = schedule(step)
        updates, opt_state = make_optimizer(optimizer, params).update(
            grads, state["opt_state"], params
        )
        stepped = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), params, updates)
        stepped = replace_params(stepped, statistics)
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


def make_eval_step(task: Task, seed: int) -> Callable[[Params, Params, Batch], Metrics]:
    """evaluate(params, frozen, batch) -> mean metrics of the batch, without dropout."""

    def eval_step(params: Params, frozen: Params, batch: Batch) -> Metrics:
        loss, metrics = task.loss(merge_params(params, frozen), batch, step_key(seed, 0), False)
        return {**metrics, "loss": loss}

    return eval_step


def _accumulate(
    gradients: Callable[..., Any],
    params: Params,
    frozen: Params,
    batch: Batch,
    key: jax.Array,
    count: int,
) -> Any:
    """((loss, metrics), gradients): means over `count` equal parts of the batch, one after another.

    Row i goes to part i % count, so that a part is spread over the devices like the whole batch.
    """
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def one(i: jax.Array) -> Any:
        return gradients(
            params, frozen, jax.tree.map(lambda x: x[i], parts), jax.random.fold_in(key, i)
        )

    def add(total: Any, i: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(i)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jnp.int32(0)))
    total, _ = jax.lax.scan(add, zeros, jnp.arange(count))
    return jax.tree.map(lambda x: x / count, total)


def _select(finite: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _average_rate(decay: float, step: jax.Array) -> jax.Array:
    """Weight of the newest parameters: larger at first, so that the random start is forgotten."""
    return 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))

# SPDX-License-Identifier: Apache-2.0
"""The compiled parts of a run: abstract shapes -> shardings -> init, step and evaluate on the mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from spatial_core.errors import InputError
from spatial_core.train import partition, state
from spatial_core.train.config import TrainConfig


@dataclass(frozen=True)
class Program:
    """jitted functions of one run. `step` consumes (donates) the state that it is given."""

    mesh: Mesh
    abstract_state: dict[str, Any]
    batch_sharding: NamedSharding
    init: Callable[[], dict[str, Any]]
    init_from: Callable[[Any], dict[str, Any]]
    step: Any
    evaluate: Any


def compile_program(config: TrainConfig) -> Program:
    """Sets up (nothing is compiled or allocated before the first call)."""
    mesh = partition.make_mesh(config.mesh)
    make = functools.partial(state.init_state, config.task, config.optimizer, config.seed)
    shapes = jax.eval_shape(make)
    specs = partition.param_specs(
        shapes["params"], config.task.partition_rules, mesh, config.mesh.fsdp_min_size
    )
    shardings = partition.state_shardings(shapes, specs, mesh)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    batch_sharding = partition.batch_sharding(mesh)
    whole = partition.replicated(mesh)
    init = jax.jit(make, out_shardings=shardings)
    train_step = state.make_train_step(
        config.task, config.optimizer, config.steps, config.seed, config.nonfinite_budget
    )

    def init_from(params: Any) -> dict[str, Any]:
        _check_params(params, shapes["params"], str(config.init_from))
        placed = jax.device_put(params, shardings["params"])
        return jax.jit(state.with_params, out_shardings=shardings)(init(), placed)

    return Program(
        mesh=mesh,
        abstract_state=abstract,
        batch_sharding=batch_sharding,
        init=init,
        init_from=init_from,
        step=jax.jit(
            train_step,
            in_shardings=(shardings, batch_sharding),
            out_shardings=(shardings, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            state.make_eval_step(config.task, config.seed),
            in_shardings=(shardings["params"], batch_sharding),
            out_shardings=whole,
        ),
    )


def _check_params(params: Any, wanted: Any, source: str) -> None:
    def table(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {partition.path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    have, want = table(params), table(wanted)
    lines = [
        f"{name}: {have.get(name, 'missing')} in the file, {want.get(name, 'not')} in this model"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if lines:
        raise InputError(f"{source} does not fit this model:\n  " + "\n  ".join(lines[:20]))

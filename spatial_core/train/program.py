# SPDX-License-Identifier: Apache-2.0
"""The compiled parts of a run: abstract shapes -> shardings -> init, step and evaluate on the mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from spatial_core.errors import InputError
from spatial_core.train import partition, state
from spatial_core.train.config import TrainConfig
from spatial_core.train.task import FrozenTask, Params


@dataclass(frozen=True)
class Program:
    """jitted functions of one run. `step` consumes (donates) the state that it is given.

    step(state, frozen, batch), evaluate(params, frozen, batch); abstract_frozen: shapes of the
    parameters that are not trained (an empty dict for most tasks), `load_frozen` places them.
    """

    mesh: Mesh
    abstract_state: dict[str, Any]
    abstract_frozen: Params
    batch_sharding: NamedSharding
    init: Callable[[], dict[str, Any]]
    init_from: Callable[[Any], dict[str, Any]]
    step: Any
    evaluate: Any
    load_frozen: Callable[[], Params]


def compile_program(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Program:
    """Sets up (nothing is compiled or allocated before the first call).

    devices: instead of all that are here, such as those of a machine that is only described.
    """
    mesh = partition.make_mesh(config.mesh, devices)
    shapes, frozen = placed_shapes(config, mesh)
    shardings, held = (jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (shapes, frozen))
    batch_sharding = partition.batch_sharding(mesh)
    whole = partition.replicated(mesh)
    make = functools.partial(state.init_state, config.task, config.optimizer, config.seed)
    init = jax.jit(make, out_shardings=shardings)
    train_step = state.make_train_step(
        config.task,
        config.optimizer,
        config.steps,
        config.seed,
        config.nonfinite_budget,
        config.microbatches,
    )

    def init_from(params: Any) -> dict[str, Any]:
        fitted = _fit_params(params, shapes["params"])
        placed = jax.device_put(fitted, shardings["params"])
        return jax.jit(state.with_params, out_shardings=shardings)(init(), placed)

    def load_frozen() -> Params:
        return config.task.load_frozen(held) if isinstance(config.task, FrozenTask) else {}

    return Program(
        mesh=mesh,
        abstract_state=shapes,
        abstract_frozen=frozen,
        batch_sharding=batch_sharding,
        init=init,
        init_from=init_from,
        step=jax.jit(
            partition.on_mesh(mesh, train_step),
            in_shardings=(shardings, held, batch_sharding),
            out_shardings=(shardings, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            partition.on_mesh(mesh, state.make_eval_step(config.task, config.seed)),
            in_shardings=(shardings["params"], held, batch_sharding),
            out_shardings=whole,
        ),
        load_frozen=load_frozen,
    )


def placed_shapes(config: TrainConfig, mesh: partition.AnyMesh) -> tuple[dict[str, Any], Params]:
    """Train state and frozen parameters (an empty dict for most tasks) as shapes with shardings."""
    make = functools.partial(state.init_state, config.task, config.optimizer, config.seed)
    shapes = jax.eval_shape(make)

    def specs(params: Params) -> Any:
        rules, smallest = config.task.partition_rules, config.mesh.fsdp_min_size
        return partition.param_specs(params, rules, mesh, smallest)

    shardings = partition.state_shardings(shapes, specs(shapes["params"]), mesh)
    frozen = config.task.frozen_shapes() if isinstance(config.task, FrozenTask) else {}
    held = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(frozen)) if frozen else {}
    return _abstract(shapes, shardings), _abstract(frozen, held)


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _fit_params(params: Any, wanted: Any) -> Any:
    """The given parameters in the structure of `wanted`; InputError lists the paths that differ."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    have = {partition.path_name(path): leaf for path, leaf in leaves}
    want = {
        partition.path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
    }
    lines = [
        f"{name}: {_shape(have.get(name))} in init_from, {_shape(want.get(name))} in this model"
        for name in sorted(have.keys() | want.keys())
        if _shape(have.get(name)) != _shape(want.get(name))
    ]
    if lines:
        raise InputError("init_from does not fit this model:\n  " + "\n  ".join(lines[:20]))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(have[partition.path_name(path)], leaf.dtype), wanted
    )


def _shape(leaf: Any) -> str:
    return "missing" if leaf is None else str(list(leaf.shape))

# SPDX-License-Identifier: Apache-2.0
"""Which part of which array lives on which device: a (data, fsdp) mesh and path rules."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from spatial_core.errors import InputError
from spatial_core.train.task import Rules

AXES = ("data", "fsdp")
# Of devices, or of their number alone.
AnyMesh = Mesh | AbstractMesh


@dataclass(frozen=True)
class MeshConfig:
    """Devices as a grid of `data` x `fsdp`; -1 once means 'all that are left'.

    The batch is split over both axes. Parameters with at least `fsdp_min_size` elements are split
    over `fsdp`, along their largest divisible dimension, unless a rule of the task says otherwise.
    """

    data: int = -1
    fsdp: int = 1
    fsdp_min_size: int = 2**18


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices of all processes, or over given ones."""
    sizes = _sizes(config, jax.device_count() if devices is None else len(devices))
    # Auto, not make_mesh's default Explicit: under Explicit ordinary layers fail once fsdp > 1.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def described_mesh(config: MeshConfig, count: int) -> AbstractMesh:
    """The mesh over so many devices, of which none has to be there: it tells what is split how."""
    return AbstractMesh(_sizes(config, count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, count: int) -> tuple[int, ...]:
    sizes = [config.data, config.fsdp]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError(
            f"mesh data={config.data}, fsdp={config.fsdp}: positive sizes, at most one -1"
        )
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = count // known if count % known == 0 else 0
    if math.prod(sizes) != count:
        raise InputError(
            f"a mesh of data={config.data} x fsdp={config.fsdp} does not use the {count} devices here; "
            "set MeshConfig.data and MeshConfig.fsdp so that their product is that"
        )
    return tuple(sizes)


def path_name(path: tuple[Any, ...]) -> str:
    """'block_0/attention/kernel' for a key path of jax.tree_util."""
    return "/".join(_key_name(key) for key in path)


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, to be jitted, so that `split_batch` knows the mesh where it is traced."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return run


def split_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """`x`, with its batch axis held to the devices; as it is where no mesh is known or it has one.

    Models are free of shardings but for this one: where frozen parameters of a large model are split
    along the width, the compiler would otherwise split activations along it too, and sum over devices
    after every matrix product, instead of fetching each layer's parameters.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    devices = math.prod(sizes.get(name, 1) for name in AXES)
    if devices == 1 or x.shape[axis] % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, AXES))


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Axis 0 over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def first_here() -> Sharding:
    """Whole on the first device of this process."""
    return SingleDeviceSharding(jax.local_devices()[0])


def whole_here() -> Sharding:
    """Whole on every device of this process: parameters of what answers batches (`beside`)."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return first_here()
    return replicated(make_mesh(MeshConfig(), devices))


def beside(params: Any, batch: Any) -> Any:
    """The arrays of a batch where parameters lie that are `whole_here`: each device has a share of the rows.

    All rows are on all devices where they do not divide. With one device, or parameters that lie otherwise,
    the batch stays as it is.
    """
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(where, NamedSharding) or not where.is_fully_addressable:
        return batch
    mesh = where.mesh

    def placed(x: Any) -> Any:
        split = x.shape[0] % mesh.size == 0
        return jax.device_put(x, batch_sharding(mesh) if split else replicated(mesh))

    return jax.tree.map(placed, batch)


def param_specs(params: Any, rules: Rules, mesh: AnyMesh, fsdp_min_size: int) -> Any:
    """A PartitionSpec for each parameter leaf (arrays or shapes)."""

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        name = path_name(path)
        for pattern, axes in rules:
            if re.search(pattern, name):
                _check_rule(name, leaf.shape, pattern, axes, mesh)
                return PartitionSpec(*axes)
        return _default_spec(leaf.shape, mesh.shape["fsdp"], fsdp_min_size)

    return jax.tree_util.tree_map_with_path(spec, params)


def _default_spec(shape: tuple[int, ...], fsdp: int, min_size: int) -> PartitionSpec:
    if fsdp == 1 or math.prod(shape) < min_size:
        return PartitionSpec()
    divisible = [(size, axis) for axis, size in enumerate(shape) if size % fsdp == 0]
    if not divisible:
        return PartitionSpec()
    _, chosen = max(divisible)
    return PartitionSpec(*("fsdp" if axis == chosen else None for axis in range(len(shape))))


def _check_rule(
    name: str, shape: tuple[int, ...], pattern: str, axes: tuple[str | None, ...], mesh: AnyMesh
) -> None:
    if len(axes) > len(shape):
        raise InputError(
            f"partition rule {pattern!r} has {len(axes)} axes, {name} has shape {shape}"
        )
    for size, axis in zip(shape, axes, strict=False):
        if axis is not None and axis not in mesh.shape:
            raise InputError(f"partition rule {pattern!r}: no mesh axis {axis!r}; there are {AXES}")
        if axis is not None and size % mesh.shape[axis]:
            raise InputError(
                f"partition rule {pattern!r}: {name} with shape {shape} does not divide over "
                f"{axis}={mesh.shape[axis]}"
            )


def state_shardings(abstract_state: dict[str, Any], specs: Any, mesh: AnyMesh) -> dict[str, Any]:
    """NamedShardings for a whole train state.

    Optimizer leaves that mirror a parameter (same path at the end, same shape) follow it; all else
    (counters, step) is replicated.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_state["params"])
    spec_leaves = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
    known = {
        path_name(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(leaves, spec_leaves, strict=True)
    }

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = path_name(path).split("/")
        for start in range(1, len(keys)):
            shape, spec = known.get("/".join(keys[start:]), (None, None))
            if shape == leaf.shape and spec is not None:
                return NamedSharding(mesh, spec)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def place_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This host's slice of the batch as global arrays on the devices."""
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }

# SPDX-License-Identifier: Apache-2.0
"""Mesh sizes and which axis of which array is split, by rule and by default."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from spatial_core.errors import InputError
from spatial_core.train import partition
from spatial_core.train.partition import MeshConfig

MESH = AbstractMesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in leaves.items()}


def test_large_arrays_are_split_along_their_largest_divisible_axis():
    specs = partition.param_specs(
        shapes(wide=(6, 64), tall=(64, 6), odd=(63, 65), small=(4, 4), bias=(512,)), (), MESH, 100
    )
    assert specs["wide"] == PartitionSpec(None, "fsdp")
    assert specs["tall"] == PartitionSpec("fsdp", None)
    assert specs["odd"] == PartitionSpec() and specs["small"] == PartitionSpec()
    assert specs["bias"] == PartitionSpec("fsdp")


def test_the_first_matching_rule_wins():
    rules = ((r"out/kernel$", (None, "fsdp")), (r"kernel$", ()))
    tree = {"out": shapes(kernel=(8, 8)), "in": shapes(kernel=(800, 800))}
    specs = partition.param_specs(tree, rules, MESH, 1)
    assert specs["out"]["kernel"] == PartitionSpec(None, "fsdp")
    assert specs["in"]["kernel"] == PartitionSpec()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((None, "fsdp"), "does not divide over fsdp=4"),
        (("model",), "no mesh axis 'model'"),
        ((None, None, "fsdp"), "has 3 axes"),
    ],
)
def test_impossible_rules_are_named(axes, message):
    with pytest.raises(InputError, match=message):
        partition.param_specs(shapes(kernel=(8, 6)), ((r"kernel", axes),), MESH, 1)


def test_the_mesh_has_to_use_all_devices():
    mesh = partition.make_mesh(MeshConfig())
    assert mesh.shape == {"data": jax.device_count(), "fsdp": 1}
    for wrong in (MeshConfig(3, 5), MeshConfig(-1, -1), MeshConfig(0, 1), MeshConfig(-1, 7)):
        with pytest.raises(InputError, match="mesh"):
            partition.make_mesh(wrong)

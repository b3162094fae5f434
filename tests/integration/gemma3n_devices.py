# SPDX-License-Identifier: Apache-2.0
"""Run by gemma3n_devices_test: scores of a small Gemma 3n on four devices, and what they exchange."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from llm_bridge.backbones.gemma3n.config import small_text
from llm_bridge.backbones.gemma3n.text import PARTITION_RULES, Gemma3nText
from spatial_core.nn.functional import Functional
from spatial_core.train import partition

BATCH, LENGTH = 4, 12
CONFIG = small_text(layers=5, sparse_layers=0, shared_layers=0)


def main() -> None:
    """Prints the largest difference to one device and the number of values in sums over devices."""
    bound = Functional(lambda rngs: Gemma3nText(CONFIG, rngs))
    params = jax.jit(bound.init)(jax.random.key(0))
    ids = jnp.asarray(np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 5 % 300)

    def scores(params: Any, ids: Any) -> Any:
        model: Any = bound.bind(params)
        positions = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
        hidden, _ = model(model.embed(ids), ids, positions, jnp.ones(ids.shape, bool))
        return model.logits(hidden)

    alone = jax.jit(scores)(params, ids)
    mesh = partition.make_mesh(partition.MeshConfig(data=2, fsdp=2))
    specs = partition.param_specs(params, PARTITION_RULES, mesh, 0)
    split = jax.device_put(params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
    batch = jax.device_put(ids, partition.batch_sharding(mesh))
    compiled = jax.jit(partition.on_mesh(mesh, scores)).lower(split, batch).compile()
    sums = re.findall(r"= (\(?.*?\)?) all-reduce(?:-start)?\(", compiled.as_text())
    sizes = [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for found in sums
        for shape in re.findall(r"\[([\d,]*)\]", found)
    ]
    difference = float(np.abs(np.asarray(compiled(split, batch)) - np.asarray(alone)).max())
    print(json.dumps({"difference": difference, "largest_sum": max(sizes, default=0)}))


if __name__ == "__main__":
    main()

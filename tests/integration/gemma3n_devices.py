# SPDX-License-Identifier: Apache-2.0
"""Run by gemma3n_devices_test: a small Gemma 3n with all of its layers' kinds on four devices and on one.

score: logits, and what the devices exchange for them. train: a step of the bridge with adapters, its
frozen weights read from a file onto the devices.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from safetensors.numpy import save_file

from llm_bridge.backbones.gemma3n import backbone as presets
from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig
from llm_bridge.backbones.gemma3n.backbone import Gemma3nBackbone
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig, small_text
from llm_bridge.backbones.gemma3n.names import text_places
from llm_bridge.backbones.gemma3n.text import PARTITION_RULES, Gemma3nText
from llm_bridge.layout import MONO, SPATIAL
from llm_bridge.lora import LoraConfig
from llm_bridge.task import BridgeTask
from spatial_core.io.export import flatten_tree
from spatial_core.nn.functional import Functional
from spatial_core.train import partition
from spatial_core.train.config import TrainConfig
from spatial_core.train.optim import OptimizerConfig
from spatial_core.train.program import compile_program

BATCH, LENGTH, SOFT, ANSWER = 4, 24, 4, 3
# Five sparse layers, five others, five that read the keys and values of layers 8 and 9.
CONFIG = small_text()
# The same without the middle ones: half as much to compile.
TRAINED = small_text(layers=10)
MESH = partition.MeshConfig(data=2, fsdp=2, fsdp_min_size=0)


def score() -> dict[str, float]:
    """The largest difference to one device and the number of values in sums over devices."""
    bound = Functional(lambda rngs: Gemma3nText(CONFIG, rngs))
    params = jax.jit(bound.init)(jax.random.key(0))
    ids = jnp.asarray(np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 5 % 300)

    def scores(params: Any, ids: Any) -> Any:
        model: Any = bound.bind(params)
        positions = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
        hidden, _ = model(model.embed(ids), ids, positions, jnp.ones(ids.shape, bool))
        return model.logits(hidden)

    alone = jax.jit(scores)(params, ids)
    mesh = partition.make_mesh(MESH)
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
    return {"difference": difference, "largest_sum": max(sizes, default=0)}


def train() -> dict[str, Any]:
    """Loss, gradient norm and change of parameters on one device, and how far off four are."""
    audio = Gemma3nAudioConfig(width=TRAINED.audio_width, layers=1, heads=4, channels=(8, 4))
    sizes = Gemma3nConfig("gemma3n-e4b", TRAINED, audio)
    presets._PRESETS["E4B"] = lambda **changes: sizes
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_file(_published(), weights)
        backbone = Gemma3nBackbone(weights=str(weights), dtype="float32")
        task = BridgeTask(
            backbone,
            LoraConfig(rank=2, dropout=0.0),
            soft=SOFT,
            length=LENGTH,
            answer_length=ANSWER,
        )
        alone, _ = _step(task, partition.MeshConfig(data=1, fsdp=1), jax.devices()[:1])
        split, placed = _step(task, MESH, jax.devices())
    change = max(np.abs(value).max() for value in alone["params"].values())
    return {
        "loss": alone["loss"],
        "loss_difference": abs(split["loss"] - alone["loss"]),
        "norm_ratio": split["grad_norm"] / alone["grad_norm"],
        "change": float(change),
        "change_difference": max(
            float(np.abs(value - split["params"][name]).max())
            for name, value in alone["params"].items()
        ),
        "unmoved": [
            name for name, value in split["params"].items() if "lora_b" in name and not value.any()
        ],
        "split_tables": placed,
    }


def _step(task: BridgeTask, mesh: partition.MeshConfig, devices: list[Any]) -> tuple[Any, int]:
    """One step of the real program; also how many frozen leaves are in parts on the devices."""
    config = TrainConfig(
        task=task,
        data=SimpleNamespace(batch_size=BATCH),  # type: ignore[arg-type]
        steps=10,
        mesh=mesh,
        # With so large an eps the step is along the gradient itself, whose noise stays small.
        optimizer=OptimizerConfig(peak_lr=1.0, schedule="constant", eps=1.0, clip_norm=0.0),
    )
    program = compile_program(config, devices)
    # Drawn, not initialised: that would be another program to compile.
    rng = np.random.default_rng(3)
    state = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        program.abstract_state,
    )
    state["params"] = jax.tree.map(
        lambda leaf: jax.device_put(_drawn(rng, leaf.shape), leaf.sharding),
        program.abstract_state["params"],
    )
    frozen = program.load_frozen()
    before = jax.tree.map(np.asarray, state["params"])
    batch = partition.place_batch(_batch(task), program.batch_sharding)
    state, metrics = program.step(state, frozen, batch)
    moved = jax.tree.map(lambda new, old: np.asarray(new) - old, state["params"], before)
    parts = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(frozen))
    found = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    return {**found, "params": flatten_tree(moved)}, parts


def _batch(task: BridgeTask) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    rows: dict[str, np.ndarray] = {}
    for name, leaf in task.example_batch(BATCH).items():
        if leaf.dtype == jnp.int32:
            rows[name] = rng.integers(10, 250, leaf.shape).astype(np.int32)
        else:
            rows[name] = rng.normal(size=leaf.shape).astype(leaf.dtype)
    rows["ids"][:, 2 : 2 + SOFT], rows["ids"][:, 8 : 8 + SOFT] = SPATIAL, MONO
    rows["positions"][:] = np.arange(LENGTH)
    rows["valid"][:] = True
    rows["answer_slots"][:] = np.arange(LENGTH - ANSWER, LENGTH)
    rows["answer_weight"][:] = 1.0
    return rows


def _published() -> dict[str, np.ndarray]:
    """Weights under Hugging Face's names."""
    model = nnx.eval_shape(lambda: Gemma3nText(TRAINED, nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in flat}
    rng = np.random.default_rng(4)
    return {
        name: _drawn(rng, place.shape) + name.endswith("norm.weight")
        for name, place in text_places(TRAINED, shapes).items()
    }


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(0.0, 0.1, shape).astype(np.float32)


if __name__ == "__main__":
    print(json.dumps({"score": score, "train": train}[sys.argv[1]]()))

# SPDX-License-Identifier: Apache-2.0
"""Bridges on disk: round trips, and refusal of other encoders and base models."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.adapters import (
    load_bridge,
    model_metadata,
    release_run,
    save_bridge,
    token_metadata,
)
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.lora import LoraConfig, check_first_gradients
from llm_bridge.stream import QuestionStream
from llm_bridge.task import BridgeTask
from llm_bridge.tokens import manifest as manifests
from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io.export import flatten_tree, read_release
from spatial_core.nn.functional import Functional
from spatial_core.train.checkpoint import Checkpoints, tree_digest
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.task import merge_params
from tests.unit.llm_bridge.released import DIGEST as ENCODER_OF_SET
from tests.unit.llm_bridge.released import token_set

ENCODER, OTHER = "a1" * 32, "b2" * 32
LORA = LoraConfig(rank=2, alpha=8.0, targets="layers")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """As much of one as its metadata shows."""

    name: str = "small"
    weights_digest: str = "c3" * 32
    audio_identity: tuple[str, str] = ("whisper", "d4" * 32)
    ids: tuple[int, ...] = (6, 7)


METADATA = {**model_metadata(Backbone(), LORA), **token_metadata(ENCODER, 2560)}


def params():
    rng = np.random.default_rng(0)
    return {
        "projector": {"expand": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)}},
        "model": {
            "layers": {
                "lora_a": rng.normal(size=(2, 3, 2)).astype(np.float32),
                "lora_b": rng.normal(size=(2, 2, 3)).astype(np.float32),
            },
            "audio": {"kernel": np.asarray(rng.normal(size=(2, 3)), jnp.bfloat16)},
        },
    }


def save(folder, **changes):
    given = dict(step=300, backbone=Backbone(), training={"seconds": 12.5}, results="| a |\n|---|")
    return save_bridge(folder, params(), METADATA, **{**given, **changes})


def test_a_release_comes_back_as_it_was(tmp_path):
    folder = save(tmp_path / "bridge")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter.safetensors",
        "bridge.json",
    ]
    bridge = load_bridge(folder, METADATA)
    # bfloat16 of trained soft parts included.
    assert tree_digest(bridge.params) == tree_digest(params())
    assert bridge.metadata == METADATA and bridge.step == 300
    assert bridge.training == {"seconds": 12.5}
    assert bridge.backbone["class"] == "Backbone" and bridge.backbone["name"] == "small"
    assert bridge.lora == dataclasses.replace(LORA, dropout=0.0)
    fitted = bridge.fitted(jax.eval_shape(params))
    assert tree_digest(fitted) == tree_digest(params())


def test_the_card_says_what_it_belongs_to(tmp_path):
    card = load_bridge(save(tmp_path / "bridge")).card
    for part in ("# bridge", "small", ENCODER[:16], "c3" * 8, "rank 2, alpha 8, 24 parameters"):
        assert part in card
    assert card.rstrip().endswith("| a |\n|---|")


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({"encoder_digest": OTHER}, ("encoder_digest", ENCODER, OTHER)),
        ({"base_digest": OTHER}, ("base_digest", "c3" * 32, OTHER)),
        ({"base_model": "gemma3n"}, ("base_model", "'small'", "'gemma3n'")),
        ({"hop": 1280}, ("hop", "2560", "1280")),
        ({"audio_digest": OTHER}, ("audio_digest", "d4" * 32, OTHER)),
        (model_metadata(Backbone(ids=(6, 8)), LORA), ("ids", "[6, 7]", "[6, 8]")),
        (
            model_metadata(Backbone(), dataclasses.replace(LORA, alpha=16.0)),
            ("lora.alpha", "8.0", "16.0"),
        ),
    ],
)
def test_what_it_does_not_belong_to_is_refused_with_both_values(tmp_path, wanted, shown):
    folder = save(tmp_path / "bridge")
    with pytest.raises(InputError) as caught:
        load_bridge(folder, {**METADATA, **wanted})
    assert all(part in str(caught.value) for part in shown)
    # A part of the metadata can be asked for alone.
    load_bridge(folder).require({"encoder_digest": ENCODER})


def test_the_dropout_of_training_does_not_matter_later():
    changed = dataclasses.replace(LORA, dropout=0.3)
    assert model_metadata(Backbone(), changed) == model_metadata(Backbone(), LORA)


def test_parameters_of_another_shape_are_listed(tmp_path):
    bridge = load_bridge(save(tmp_path / "bridge"))
    like = jax.eval_shape(params)
    like["projector"]["expand"]["kernel"] = jax.ShapeDtypeStruct((4, 5), jnp.float32)
    with pytest.raises(InputError, match=r"projector/expand/kernel has shape \(4, 3\)"):
        bridge.fitted(like)


def test_what_is_no_bridge_is_not_written(tmp_path):
    half = {key: value for key, value in METADATA.items() if key != "encoder_digest"}
    with pytest.raises(InputError, match="lacks encoder_digest"):
        save_bridge(tmp_path / "x", params(), half, step=1, backbone={})
    with pytest.raises(InputError, match="no projector, only model"):
        save_bridge(tmp_path / "x", {"model": params()["model"]}, METADATA, step=1, backbone={})
    broken = params()
    broken["model"]["layers"]["lora_b"][0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite are not released: model/layers/lora_b"):
        save_bridge(tmp_path / "x", broken, METADATA, step=1, backbone={})
    assert not (tmp_path / "x").exists()


def test_damaged_and_foreign_folders_are_refused(tmp_path):
    folder = save(tmp_path / "bridge")
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_release(folder)
    with pytest.raises(InputError, match=r"has no bridge\.json"):
        load_bridge(tmp_path)
    config = json.loads((folder / "bridge.json").read_text())
    (folder / "bridge.json").write_text(json.dumps({**config, "metadata": {"hop": 2560}}))
    with pytest.raises(InputError, match="is no bridge: it does not say base_model"):
        load_bridge(folder)
    folder = save(tmp_path / "bridge")
    content = bytearray((folder / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "adapter.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or was changed.*bridge\.json says"):
        load_bridge(folder)


def test_a_run_becomes_a_release(tmp_path):
    run = tmp_path / "run"
    given = jax.tree.map(jnp.asarray, params())
    state = {"step": jnp.int32(40), "params": given, "opt_state": {"mu": jnp.ones(3)}}
    Checkpoints(run, metadata=METADATA).save(state)
    task = {"class": "BridgeTask", "backbone": resolved.describe(Backbone())}
    data = {"tokens": "/somewhere/of/mine", "backbone": task["backbone"], "style": "brief"}
    (run / "config.json").write_text(json.dumps({"task": task, "data": data, "seed": 4}))
    with pytest.raises(InputError, match=f"encoder_digest: '{ENCODER}' -> '{OTHER}'"):
        load_bridge(run, {"encoder_digest": OTHER})
    folder = release_run(run, tmp_path / "released", training={"minutes": 3})
    bridge = load_bridge(folder, METADATA)
    assert bridge.step == 40 and bridge.backbone["name"] == "small"
    assert bridge.training == {"seed": 4, "data": {"style": "brief"}, "minutes": 3}
    assert set(flatten_tree(bridge.params)) == set(flatten_tree(params()))
    assert tree_digest(bridge.params) == tree_digest(params())


def test_the_run_of_another_task_is_no_bridge(tmp_path):
    Checkpoints(tmp_path).save({"step": jnp.int32(1), "params": {"kernel": jnp.ones(2)}})
    with pytest.raises(InputError, match="is no bridge: it does not say base_model"):
        load_bridge(tmp_path)


def test_a_real_tasks_metadata_is_complete_json():
    metadata = {**BridgeTask(TinyBackbone(), None).metadata, **token_metadata(ENCODER, 2560)}
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["base_model"] == "tiny" and metadata["lora"] is None
    assert metadata["base_digest"] == "", "all of it is trained"
    assert set(metadata["ids"]) == {"pad", "bos", "stop", "bsa", "esa", "boa", "eoa"}


@dataclasses.dataclass(frozen=True)
class FrozenTiny(TinyBackbone):
    """`tiny` as if it had been published: its weights are drawn here and stay as they are."""

    layers: int = 2
    width: int = 48
    heads: int = 2
    kv_heads: int = 1
    hidden: int = 64
    trainable: str = ""

    def load(self, shardings=None):
        functional = Functional(self.build)
        return jax.tree.map(np.asarray, jax.jit(functional.init)(jax.random.key(9)))


@pytest.mark.slow
def test_a_run_keeps_only_what_it_trains_and_goes_on_only_with_its_encoder(tmp_path):
    shapes = dict(soft=8, length=96, answer_length=64)
    backbone = FrozenTiny()
    task = BridgeTask(backbone, LoraConfig(rank=2), **shapes)
    stream = QuestionStream(
        tokens=str(token_set(tmp_path / "tokens" / "train").parent),
        backbone=backbone,
        batch_size=4,
        style="brief",
        **shapes,
    )
    config = TrainConfig(task=task, data=stream, steps=2)
    result = train(config, tmp_path / "run")
    trained = flatten_tree(result.params)
    assert {path.split("/")[0] for path in trained} == {"projector", "model"}
    assert all("lora_" in path for path in trained if path.startswith("model/"))
    bridge = load_bridge(tmp_path / "run")
    assert bridge.step == 2 and bridge.backbone["class"] == "FrozenTiny"
    assert bridge.metadata["encoder_digest"] == ENCODER_OF_SET
    manifest = json.loads(
        (tmp_path / "run" / "checkpoints" / "00000002" / "manifest.json").read_text()
    )
    assert not any("kernel" in leaf and "projector" not in leaf for leaf in manifest["leaves"])
    # The content of the folder of tokens changes, its name does not.
    folder = tmp_path / "tokens" / "train"
    found = manifests.load(folder)
    manifests.save(dataclasses.replace(found, encoder={"name": "level", "digest": OTHER}), folder)
    with pytest.raises(InputError) as caught:
        train(dataclasses.replace(config, data=dataclasses.replace(stream)), tmp_path / "run")
    assert f"encoder_digest: '{ENCODER_OF_SET}' -> '{OTHER}'" in str(caught.value)


@pytest.mark.slow
def test_the_first_step_of_a_real_task_moves_every_b_and_no_a(tmp_path):
    shapes = dict(soft=8, length=96, answer_length=64)
    task = BridgeTask(FrozenTiny(), LoraConfig(rank=2), **shapes)
    stream = QuestionStream(
        tokens=str(token_set(tmp_path / "tokens" / "train").parent),
        backbone=task.backbone,
        batch_size=4,
        style="brief",
        **shapes,
    )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    frozen = task.load_frozen(jax.tree.map(lambda _: here, task.frozen_shapes()))
    batch = {name: stream.batch(0)[name] for name in task.example_batch(4)}

    @jax.jit
    def gradients(trained):
        def loss(trained):
            return task.loss(merge_params(trained, frozen), batch, jax.random.key(1), True)[0]

        return jax.grad(loss)(trained)

    check_first_gradients(gradients(jax.jit(task.init)(jax.random.key(0))))

# SPDX-License-Identifier: Apache-2.0
"""Adapters in peft's files: against files and logits that peft made, and (slow) against peft itself."""

from __future__ import annotations

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_bridge import lora
from llm_bridge.backbones.gemma3n.config import small_text
from llm_bridge.backbones.gemma3n.names import hf_linear_name
from llm_bridge.backbones.gemma3n.text import Gemma3nText
from llm_bridge.lora import DECODER, LoraConfig
from llm_bridge.peft_format import (
    CONFIG_FILE,
    TENSOR_FILE,
    decoder_names,
    export_adapters,
    import_adapters,
    read_peft,
)
from spatial_core.errors import InputError
from spatial_core.io.export import unflatten_tree
from spatial_core.nn.functional import Functional
from spatial_core.train.task import merge_params
from tests.golden import make_peft_llama as golden
from tests.unit.llm_bridge import llama

# Logits of order one, float32 sums in another order.
CLOSE = 1e-4


@functools.cache
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(golden.FOLDER / "llama.npz"))


def base() -> dict:
    tensors = {
        name.removeprefix("base/"): value
        for name, value in stored().items()
        if name.startswith("base/")
    }
    return llama.base_params(tensors)


@functools.cache
def config():
    return read_peft(golden.FOLDER).config(DECODER)


def shapes():
    return jax.eval_shape(llama.functional(config()).init, jax.random.key(0))


def imported(folder=golden.FOLDER) -> dict:
    return import_adapters(read_peft(folder), shapes(), decoder_names)


def copy(tmp_path):
    return shutil.copytree(golden.FOLDER, tmp_path / "adapter")


def test_the_plain_model_agrees_before_any_adapter_does():
    found = llama.logits(llama.functional(), base(), stored()["ids"])
    np.testing.assert_allclose(found, stored()["plain_logits"], atol=CLOSE)


def test_pefts_adapters_give_pefts_logits():
    adapter = read_peft(golden.FOLDER)
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (golden.RANK, golden.ALPHA, 0.1)
    found = llama.logits(
        llama.functional(config()), merge_params(imported(), base()), stored()["ids"]
    )
    np.testing.assert_allclose(found, stored()["adapted_logits"], atol=CLOSE)
    assert np.abs(stored()["adapted_logits"] - stored()["plain_logits"]).max() > 0.1


def test_merged_weights_give_pefts_logits_too():
    merged = lora.merge(merge_params(imported(), base()), config())
    found = llama.logits(llama.functional(), merged, stored()["ids"])
    np.testing.assert_allclose(found, stored()["adapted_logits"], atol=CLOSE)


def test_export_writes_what_peft_wrote(tmp_path):
    export_adapters(tmp_path, imported(), config(), decoder_names, "tiny/llama")
    ours, theirs = load_file(tmp_path / TENSOR_FILE), load_file(golden.FOLDER / TENSOR_FILE)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    ours, theirs = (
        json.loads((folder / CONFIG_FILE).read_text()) for folder in (tmp_path, golden.FOLDER)
    )
    assert ours.pop("base_model_name_or_path") == "tiny/llama"
    assert sorted(theirs["target_modules"]) == ours.pop("target_modules")
    assert {key: theirs[key] for key in ours} == ours
    again = imported(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, imported())


def test_bfloat16_files_are_read(tmp_path):
    folder = copy(tmp_path)
    tensors = load_file(folder / TENSOR_FILE)
    save_file({k: v.astype(jnp.bfloat16) for k, v in tensors.items()}, folder / TENSOR_FILE)
    found = read_peft(folder).tensors
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    name = next(iter(found))
    # bfloat16 keeps eight bits.
    np.testing.assert_allclose(found[name], tensors["base_model.model." + name], rtol=2**-8)


def test_all_that_does_not_fit_is_listed(tmp_path):
    folder = copy(tmp_path)
    tensors = load_file(folder / TENSOR_FILE)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    tensors[name.format("Z")] = tensors.pop(name.format("A"))
    tensors[name.format("B")] = tensors[name.format("B")][:-1].copy()
    save_file(tensors, folder / TENSOR_FILE)
    with pytest.raises(InputError) as caught:
        imported(folder)
    message = str(caught.value)
    assert "model.layers.1.mlp.up_proj.lora_A.weight is missing" in message
    assert "model.layers.1.mlp.up_proj.lora_Z.weight has no place in the model" in message
    assert "up_proj.lora_B.weight is [47, 4], the model needs [48, 4]" in message
    assert message.count("\n") == 3


def test_an_adapter_of_few_layers_maps_names_the_rest():
    few = unflatten_tree(
        {
            f"layers/attention/query/{leaf}": jax.ShapeDtypeStruct(shape, jnp.float32)
            for leaf, shape in (("lora_a", (2, 32, 4)), ("lora_b", (2, 4, 32)))
        }
    )
    with pytest.raises(InputError, match=r"k_proj.lora_A.weight has no place in the model"):
        import_adapters(read_peft(golden.FOLDER), few, decoder_names)


@pytest.mark.parametrize(
    "setting",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"peft_type": "LOHA"},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
    ],
)
def test_settings_that_would_compute_something_else_are_refused(tmp_path, setting):
    folder = copy(tmp_path)
    settings = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**settings, **setting}))
    key, value = next(iter(setting.items()))
    with pytest.raises(InputError, match="only plain LoRA is read") as caught:
        read_peft(folder)
    assert f"{key}={value!r}" in str(caught.value)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        read_peft(tmp_path)
    folder = copy(tmp_path)
    (folder / TENSOR_FILE).write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_peft(folder)
    (folder / TENSOR_FILE).unlink()
    (folder / "adapter_model.bin").touch()
    with pytest.raises(InputError, match="is a pickle and not read"):
        read_peft(folder)
    (folder / CONFIG_FILE).write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="lacks a valid r"):
        read_peft(folder)


def test_parameters_without_adapters_are_not_exported(tmp_path):
    with pytest.raises(InputError, match="no adapters to export"):
        export_adapters(tmp_path, base(), config(), decoder_names, "")
    with pytest.raises(InputError, match="has no counterpart"):
        decoder_names("audio/out", ())


def test_names_of_a_backbone_with_layers_of_several_kinds(tmp_path):
    """Gemma 3n's layers lie in three stacks; every adapter comes back from its Hugging Face name."""
    sizes = small_text()
    settings = LoraConfig(rank=2)

    def build(rngs):
        model = Gemma3nText(sizes, rngs)
        lora.attach(model, settings, rngs)
        return model

    like = lora.adapters_of(jax.eval_shape(Functional(build).init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), like)
    names = functools.partial(hf_linear_name, sizes)
    export_adapters(tmp_path, adapters, settings, names, "google/gemma-3n-E4B-it")
    found = read_peft(tmp_path)
    last = "model.language_model.layers.14.mlp.up_proj.lora_A.weight"
    np.testing.assert_array_equal(
        found.tensors[last], adapters["shared"]["mlp"]["up"]["lora_a"][4].T
    )
    again = import_adapters(found, like, names)
    jax.tree.map(np.testing.assert_array_equal, again, adapters)


@pytest.mark.slow
def test_peft_saves_and_we_load(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    model = golden.tiny_llama(seed=5)
    tensors = golden.weights(model)
    wrapped = golden.with_adapters(model, seed=6)
    wrapped.save_pretrained(tmp_path)
    ids = np.random.default_rng(1).integers(0, golden.SIZES["vocab_size"], (3, 11))
    params = merge_params(imported(tmp_path), llama.base_params(tensors))
    found = llama.logits(llama.functional(config()), params, ids)
    np.testing.assert_allclose(found, golden.logits(wrapped, ids), atol=CLOSE)


@pytest.mark.slow
def test_we_save_and_peft_loads(tmp_path):
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    model = golden.tiny_llama(seed=7)
    tensors = golden.weights(model)
    rng = np.random.default_rng(8)
    adapters = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        lora.adapters_of(shapes()),
    )
    export_adapters(tmp_path, adapters, config(), decoder_names, "tiny/llama")
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path)).eval()
    ids = rng.integers(0, golden.SIZES["vocab_size"], (3, 11))
    params = merge_params(adapters, llama.base_params(tensors))
    found = llama.logits(llama.functional(config()), params, ids)
    theirs = golden.logits(loaded, ids)
    np.testing.assert_allclose(found, theirs, atol=CLOSE)
    assert np.abs(theirs - golden.logits(golden.tiny_llama(seed=7), ids)).max() > 0.1

# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n as a backbone: its template, its files or what is wrong with them, its ear on any clip."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from llm_bridge.backbones.gemma3n import backbone as module
from llm_bridge.backbones.gemma3n import mel
from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig, Gemma3nAudioEncoder
from llm_bridge.backbones.gemma3n.backbone import Gemma3nBackbone
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig, small_text
from llm_bridge.layout import MONO, SPATIAL, make_row
from llm_bridge.lora import LoraConfig
from llm_bridge.protocol import Backbone
from llm_bridge.task import BridgeTask
from spatial_core.data.records import HOP
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "gemma3n_audio.npz"
AUDIO = Gemma3nAudioConfig(width=32, layers=2, heads=4, channels=(8, 4))


class Letters:
    """A tokenizer whose ids are letters."""

    vocab_size = 262_144

    def encode(self, text):
        return [200_000 + ord(letter) for letter in text]

    def decode(self, ids):
        special = {0: "<pad>", 2: "<bos>", 6: "[BSA]", 7: "[ESA]", 105: "<sot>", 106: "<eot>"}
        special |= {256_000: "<boa>", 262_272: "<eoa>", SPATIAL: "s", MONO: "m"}
        return "".join(special[i] if i in special else chr(i - 200_000) for i in ids)


@pytest.fixture
def small(monkeypatch):
    """E4B with all its parts and few parameters."""
    sizes = Gemma3nConfig("gemma3n-e4b", small_text(), AUDIO)
    monkeypatch.setitem(module._PRESETS, "E4B", lambda **changes: sizes)


@pytest.fixture
def folder(tmp_path):
    """Two files of Hugging Face's kind with the audio encoder of the golden file."""
    with np.load(GOLDEN) as stored:
        tensors = {
            f"model.audio_tower.{name[7:]}": value
            for name, value in stored.items()
            if name.startswith("weight/")
        }
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {name: file for file, part in parts.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tmp_path


def test_a_prompt_is_one_turn_with_the_sound_between_system_text_and_question(monkeypatch) -> None:
    """Gemma's template: system text heads the user's turn; the processor of transformers puts blank
    lines around `<boa>` audio `<eoa>`."""
    monkeypatch.setattr(module, "_tokenizer", lambda path: Letters())
    model: Backbone = Gemma3nBackbone(tokenizer_file="tokenizer.model")
    row = make_row(model, "Be brief.", "Who?", 2, "Ann")
    decode = Letters().decode
    assert decode(row.prompt) == (
        "<bos><sot>user\nBe brief.\n\n\n\n[BSA]ss[ESA]<boa>mm<eoa>\n\nWho?<eot>\n<sot>model\n"
    )
    assert decode(row.answer) == "Ann<eot>"
    assert decode(make_row(model, "", "Who?", 1).prompt).startswith("<bos><sot>user\n\n\n[BSA]")


def test_sizes_are_those_of_the_presets() -> None:
    model = Gemma3nBackbone()
    assert (model.name, model.width, model.audio_width) == ("gemma3n-e4b", 2048, 1536)
    assert Gemma3nBackbone(preset="E2B").name == "gemma3n-e2b"
    task = BridgeTask(model, LoraConfig())
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    trained = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    frozen = jax.tree.leaves(task.frozen_shapes())
    # LoRA of rank 8 on all linear maps of E4B 21.9 million, the projector 4.72 million.
    assert trained == 26_658_560
    assert sum(leaf.size for leaf in frozen) == 6_838_580_976
    assert {leaf.dtype for leaf in frozen} == {jnp.dtype("bfloat16")}


@pytest.mark.usefixtures("small")
def test_the_ear_hears_a_clip_of_any_length_as_the_encoder_does(folder) -> None:
    hear = Gemma3nBackbone(weights=str(folder), dtype="float32").audio_encoder()
    noise = np.random.RandomState(0).randn(34 * HOP).astype(np.float32) * 0.1
    params = module.weights.load_audio(folder, AUDIO)
    bind = Functional(lambda rngs: Gemma3nAudioEncoder(AUDIO, rngs)).bind
    for samples in (20_000, 33 * HOP + 1):
        clip = noise[:samples]
        plain = np.zeros((1, mel.padded_length(samples)), np.float32)
        plain[0, :samples] = clip
        expected, _ = jax.jit(lambda p, a, n: bind(p).from_audio(a, n))(
            params, plain, np.array([samples])
        )
        heard = hear(clip)
        assert heard.shape == (-(-samples // HOP), 32) and heard.dtype == np.float32
        # The same sums in another order.
        np.testing.assert_allclose(heard, expected[0], atol=1e-5)


@pytest.mark.usefixtures("small")
def test_clips_that_it_cannot_hear_are_refused(folder) -> None:
    hear = Gemma3nBackbone(weights=str(folder), dtype="float32").audio_encoder()
    with pytest.raises(InputError, match="the clip is empty"):
        hear(np.zeros(0, np.float32))
    with pytest.raises(InputError, match=r"31\.0 s: the language model hears at most 30 s"):
        hear(np.zeros(31 * 16000, np.float32))
    with pytest.raises(InputError, match=r"hears one channel \[t\], not \[2, 100\]"):
        hear(np.zeros((2, 100), np.float32))


@pytest.mark.usefixtures("small")
def test_another_ear_has_another_identity(folder) -> None:
    name, digest = Gemma3nBackbone(weights=str(folder), dtype="float32").audio_identity
    assert name == "gemma3n-e4b audio encoder, float32" and len(digest) == 64
    whole = folder / "copy"
    whole.mkdir()
    with np.load(GOLDEN) as stored:
        tensors = {
            f"model.audio_tower.{key[7:]}": np.array(value)
            for key, value in stored.items()
            if key.startswith("weight/")
        }
    # The same weights in one file are the same ear.
    save_file(tensors, whole / "model.safetensors")
    assert Gemma3nBackbone(weights=str(whole)).audio_identity[1] == digest
    tensors["model.audio_tower.conformer.0.norm.weight"][0] += 1
    other = folder / "other.safetensors"
    save_file(tensors, other)
    assert Gemma3nBackbone(weights=str(other)).audio_identity[1] != digest


@pytest.mark.usefixtures("small")
def test_what_is_missing_is_said(folder, tmp_path) -> None:
    with pytest.raises(InputError, match=r"weights is not set: accept .* gemma-3n-E4B-it"):
        Gemma3nBackbone().load()
    with pytest.raises(InputError, match=r"weights is not set"):
        Gemma3nBackbone().audio_encoder()
    with pytest.raises(InputError, match=r"nowhere does not exist; give a folder with model.safe"):
        Gemma3nBackbone(weights=str(tmp_path / "nowhere")).load()
    with pytest.raises(InputError, match=r"neither .*tokenizer_file nor .weights is set"):
        _ = Gemma3nBackbone().tokenizer
    with pytest.raises(InputError, match=r"tokenizer.model does not exist"):
        _ = Gemma3nBackbone(weights=str(folder)).tokenizer
    with pytest.raises(InputError, match=r"does not hold this model's weights\n  .* missing"):
        Gemma3nBackbone(weights=str(folder), dtype="float32").load()
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks model-2.safetensors: the download is not comp"):
        Gemma3nBackbone(weights=str(folder)).audio_encoder()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="preset is 'E8B': choose among E2B, E4B"):
        Gemma3nBackbone(preset="E8B")
    with pytest.raises(InputError, match="dtype is 'float16': bfloat16 or float32"):
        Gemma3nBackbone(dtype="float16")

# SPDX-License-Identifier: Apache-2.0
"""Phi-4's weights from a user's safetensors, one tensor at a time, each checked before any is read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from flax import nnx

from llm_bridge.backbones.phi4.config import Phi4AudioConfig, Phi4TextConfig
from llm_bridge.backbones.phi4.conformer import Phi4AudioEncoder
from llm_bridge.backbones.phi4.names import (
    DECODER,
    ENCODER,
    PROJECTION,
    audio_places,
    known_name,
    text_places,
)
from llm_bridge.backbones.phi4.text import Phi4Text
from llm_bridge.backbones.weight_files import (
    INDEX_FILE,
    SINGLE_FILE,
    Place,
    WeightFiles,
    check,
    digest,
    fill,
    leaves_of,
    model_files,
)
from spatial_core.errors import InputError
from spatial_core.typing import Params

# Where transformers' layout of Phi-4-multimodal has its adapter.
SPEECH_FILE = Path("speech-lora") / "adapter_model.safetensors"

Opened = tuple[WeightFiles, dict[str, Place], dict[str, Any]]


def load_text(path: str | Path, config: Phi4TextConfig, shardings: Params | None = None) -> Params:
    """Parameters of the text decoder and the projection of sound, in the types of the config.

    Args:
        path: a .safetensors file or the folder of a Hugging Face model.
        config: sizes that the files must have. A projection that is trained is not read.
        shardings: by leaf; leaves without one are NumPy arrays on the host.

    InputError lists what is missing, left over or of another shape; then nothing has been read.
    """
    source, places, leaves = _open_text(path, config)
    return fill(source, places, leaves, shardings)


def load_audio(
    path: str | Path, config: Phi4AudioConfig, shardings: Params | None = None
) -> Params:
    """Parameters of the audio encoder; else as `load_text`."""
    source, places, leaves = _open_audio(path, config)
    return fill(source, places, leaves, shardings)


def text_digest(path: str | Path, config: Phi4TextConfig) -> str:
    """SHA-256 of a sample of every tensor that the text decoder reads; errors as of `load_text`."""
    source, places, _ = _open_text(path, config)
    return digest(source, places)


def audio_digest(path: str | Path, config: Phi4AudioConfig) -> str:
    """The same of the audio encoder."""
    source, places, _ = _open_audio(path, config)
    return digest(source, places)


def open_weights(path: str | Path) -> WeightFiles:
    """The tensors at a path, of which only names and shapes are read; InputError for anything else."""
    path = Path(path)
    files = model_files(path)
    if not files:
        state = "has neither" if path.exists() else "does not exist; give a folder with"
        raise InputError(
            f"{path} {state} {SINGLE_FILE} nor {INDEX_FILE}: download "
            "microsoft/Phi-4-multimodal-instruct (or -mini-instruct) and name its folder"
        )
    found = WeightFiles(files, str(path), known_name)
    if (path / SPEECH_FILE).is_file() and not any(".lora_A.speech." in n for n in found.shapes):
        found = WeightFiles([*files, path / SPEECH_FILE], str(path), known_name)
    return found


def _open_text(path: str | Path, config: Phi4TextConfig) -> Opened:
    """A checked source, where its tensors go, and the leaves as shapes and types."""
    source = open_weights(path)
    leaves = _text_leaves(config)
    elsewhere: tuple[str, ...] = (ENCODER,)
    if config.audio_trained:
        leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("audio/")}
        elsewhere = (PROJECTION,)
    places = text_places({name: leaf.shape for name, leaf in leaves.items()})
    check(source, places, lambda name: name.startswith(elsewhere))
    return source, places, leaves


def _open_audio(path: str | Path, config: Phi4AudioConfig) -> Opened:
    source = open_weights(path)
    leaves = _audio_leaves(config)
    places = audio_places({name: leaf.shape for name, leaf in leaves.items()})
    elsewhere = (*DECODER, PROJECTION + "up_proj", PROJECTION + "down_proj")
    check(source, places, lambda name: name.startswith(elsewhere))
    return source, places, leaves


@functools.lru_cache(maxsize=2)
def _text_leaves(config: Phi4TextConfig) -> dict[str, Any]:
    return leaves_of(nnx.eval_shape(lambda: Phi4Text(config, nnx.Rngs(0))))


@functools.lru_cache(maxsize=2)
def _audio_leaves(config: Phi4AudioConfig) -> dict[str, Any]:
    return leaves_of(nnx.eval_shape(lambda: Phi4AudioEncoder(config, nnx.Rngs(0))))

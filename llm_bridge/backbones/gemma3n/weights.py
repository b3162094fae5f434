# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's weights from a user's files, one tensor at a time, each checked before any is read.

Two kinds of files: Hugging Face's safetensors (one file, or several with an index) and Google's Orbax
folder. Tensors are cast and, when shardings are given, put onto the devices as soon as a stack is
complete, so that memory for the largest of them (5 GB) is needed besides the model's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from flax import nnx

from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig, Gemma3nAudioEncoder
from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.backbones.gemma3n.google import GoogleFolder, is_google_folder
from llm_bridge.backbones.gemma3n.names import (
    AUDIO,
    EMBEDDER,
    HEAD,
    TEXT,
    audio_places,
    text_places,
    unused,
)
from llm_bridge.backbones.gemma3n.text import Gemma3nText
from llm_bridge.backbones.weight_files import (
    INDEX_FILE,
    SINGLE_FILE,
    Place,
    Source,
    WeightFiles,
    check,
    digest,
    fill,
    leaves_of,
    model_files,
)
from spatial_core.errors import InputError
from spatial_core.typing import Params

# The camera's half of the model; it has no use here.
_VISION = ("model.vision_tower.", "model.embed_vision.")


def load_text(
    path: str | Path, config: Gemma3nTextConfig, shardings: Params | None = None
) -> Params:
    """Parameters of the text decoder with its audio embedder, in the types of the config.

    Args:
        path: a .safetensors file, the folder of a Hugging Face model, or Google's Orbax folder.
        config: sizes that the files must have.
        shardings: for each leaf; None leaves NumPy arrays on the host.

    InputError lists what is missing, left over or of another shape; then nothing has been read.
    """
    source, places, leaves = _open_text(path, config)
    return fill(source, places, leaves, shardings)


def _open_text(
    path: str | Path, config: Gemma3nTextConfig
) -> tuple[Source, dict[str, Place], dict[str, Any]]:
    """A checked source, where its tensors go, and the leaves as shapes and types."""
    source = open_weights(path)
    leaves = _text_leaves(config)
    places = text_places(config, {name: leaf.shape for name, leaf in leaves.items()})
    check(source, places, _elsewhere((TEXT, EMBEDDER), unused(config)))
    return source, places, leaves


@functools.lru_cache(maxsize=2)
def _text_leaves(config: Gemma3nTextConfig) -> dict[str, Any]:
    return leaves_of(nnx.eval_shape(lambda: Gemma3nText(config, nnx.Rngs(0))))


def load_audio(
    path: str | Path, config: Gemma3nAudioConfig, shardings: Params | None = None
) -> Params:
    """Parameters of the audio encoder; else as `load_text`."""
    source = open_weights(path)
    leaves = leaves_of(nnx.eval_shape(lambda: Gemma3nAudioEncoder(config, nnx.Rngs(0))))
    places = audio_places({name: leaf.shape for name, leaf in leaves.items()})
    check(source, places, _elsewhere((AUDIO,), {HEAD}))
    return fill(source, places, leaves, shardings)


@functools.lru_cache(maxsize=2)
def text_digest(path: str, config: Gemma3nTextConfig) -> str:
    """SHA-256 that tells text decoders apart, of a sample of every tensor that the model reads.

    Some 80 MB of E4B's 14 GB are read; see `weight_files.digest`. The values count, not the files:
    Hugging Face's and Google's give the same. Errors as of `load_text`.
    """
    source, places, _ = _open_text(path, config)
    return digest(source, places)


def open_weights(path: str | Path) -> Source:
    """The tensors at a path, of which only names and shapes are read; InputError for anything else."""
    path = Path(path)
    files = model_files(path)
    if files:
        return WeightFiles(files, str(path), _whole_name)
    if is_google_folder(path):
        return GoogleFolder(path)
    state = "has neither" if path.exists() else "does not exist; give a folder with"
    raise InputError(
        f"{path} {state} {SINGLE_FILE}, {INDEX_FILE} (Hugging Face) nor an Orbax checkpoint (Google): "
        "accept Gemma's licence, download gemma-3n-E4B-it or -E2B-it and name its folder"
    )


def _whole_name(stored: str) -> str:
    """The name in a whole model; a text-only one lacks the middle of it."""
    if re.match(r"model\.(layers|embed_tokens|norm|altup|per_layer)", stored):
        return TEXT + stored.removeprefix("model.")
    return stored


def _elsewhere(read: tuple[str, ...], unread: Collection[str]) -> Callable[[str], bool]:
    """Whether a tensor may be there: one of the model's other parts, or one that is never read."""
    known = (TEXT, EMBEDDER, AUDIO, *_VISION)
    return lambda name: name in unread or (name.startswith(known) and not name.startswith(read))

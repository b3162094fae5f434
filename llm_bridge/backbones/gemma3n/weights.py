# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's weights from a user's files, one tensor at a time, each checked before any is read.

Two kinds of files: Hugging Face's safetensors (one file, or several with an index) and Google's Orbax
folder. Tensors are cast and, when shardings are given, put onto the devices as soon as a stack is
complete, so that memory for the largest of them (5 GB) is needed besides the model's.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes  # noqa: F401  (gives NumPy the bfloat16 that safetensors asks for)
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig, Gemma3nAudioEncoder
from llm_bridge.backbones.gemma3n.config import Gemma3nTextConfig
from llm_bridge.backbones.gemma3n.google import GoogleFolder, is_google_folder
from llm_bridge.backbones.gemma3n.names import (
    AUDIO,
    EMBEDDER,
    HEAD,
    TEXT,
    Place,
    audio_places,
    text_places,
    unused,
)
from llm_bridge.backbones.gemma3n.text import Gemma3nText
from spatial_core.errors import InputError
from spatial_core.io.export import unflatten_tree
from spatial_core.train.partition import path_name
from spatial_core.typing import Params

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
_LISTED = 20
# Of a tensor with more numbers than `_SMALL` the digest takes so many rows.
_SMALL, _SAMPLED_ROWS = 1 << 16, 16
# The camera's half of the model; it has no use here.
_VISION = ("model.vision_tower.", "model.embed_vision.")
_KINDS = r"^(F64|F32|F16|BF16)$"


class Source(Protocol):
    """Tensors in files, by Hugging Face's names."""

    where: str
    shapes: dict[str, tuple[int, ...]]

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and values of each of `names`, in any order, one at a time."""
        ...

    def rows(self, wanted: Mapping[str, NDArray[np.intp]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and the wanted rows (indices of the first axis) of each tensor, in any order."""
        ...


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
    check(source, places, (TEXT, EMBEDDER), unused(config))
    return source, places, leaves


@functools.lru_cache(maxsize=2)
def _text_leaves(config: Gemma3nTextConfig) -> dict[str, Any]:
    return _leaves(nnx.eval_shape(lambda: Gemma3nText(config, nnx.Rngs(0))))


def load_audio(
    path: str | Path, config: Gemma3nAudioConfig, shardings: Params | None = None
) -> Params:
    """Parameters of the audio encoder; else as `load_text`."""
    source = open_weights(path)
    leaves = _leaves(nnx.eval_shape(lambda: Gemma3nAudioEncoder(config, nnx.Rngs(0))))
    places = audio_places({name: leaf.shape for name, leaf in leaves.items()})
    check(source, places, (AUDIO,), {HEAD})
    return fill(source, places, leaves, shardings)


@functools.lru_cache(maxsize=2)
def text_digest(path: str, config: Gemma3nTextConfig) -> str:
    """SHA-256 that tells text decoders apart: of a sample of every tensor that the model reads.

    It covers names and shapes, all of a tensor of up to 65,536 numbers (norms, AltUp), and 16 rows of a
    larger one, evenly spaced from the first to the last: 40 MB of E4B's 14 GB. Another model or
    fine-tune, a LoRA that was merged, or files of two models mixed are noticed; a change to rows
    between those is not. The values count, as float32, not the files: Hugging Face's and Google's give
    the same. Errors as of `load_text`.
    """
    source, places, _ = _open_text(path, config)
    wanted = {name: _sampled(place.shape) for name, place in places.items()}
    parts = {}
    for name, values in source.rows(wanted):
        part = hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes())
        parts[name] = f"{name} {list(places[name].shape)} {part.hexdigest()}"
    return hashlib.sha256("\n".join(parts[name] for name in sorted(parts)).encode()).hexdigest()


def _sampled(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Rows of a tensor that the digest takes."""
    if math.prod(shape) <= _SMALL:
        return np.arange(shape[0])
    return np.unique(np.linspace(0, shape[0] - 1, _SAMPLED_ROWS).round().astype(np.intp))


def open_weights(path: str | Path) -> Source:
    """The tensors at a path, of which only names and shapes are read; InputError for anything else."""
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return SafetensorsFiles([path], str(path))
    if (path / INDEX_FILE).is_file():
        return SafetensorsFiles(_shards(path), str(path))
    if (path / SINGLE_FILE).is_file():
        return SafetensorsFiles([path / SINGLE_FILE], str(path))
    if is_google_folder(path):
        return GoogleFolder(path)
    state = "has neither" if path.exists() else "does not exist; give a folder with"
    raise InputError(
        f"{path} {state} {SINGLE_FILE}, {INDEX_FILE} (Hugging Face) nor an Orbax checkpoint (Google): "
        "accept Gemma's licence, download gemma-3n-E4B-it or -E2B-it and name its folder"
    )


class SafetensorsFiles:
    """Tensors of Hugging Face's files."""

    def __init__(self, files: list[Path], where: str):
        self.where = where
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in files:
            for name, shape in _header(file).items():
                # A text-only model lacks the middle of the name.
                if re.match(r"model\.(layers|embed_tokens|norm|altup|per_layer)", name):
                    name = TEXT + name.removeprefix("model.")
                if name in self._files:
                    raise InputError(
                        f"{where}: {name} is in {self._files[name].name} and {file.name}"
                    )
                self.shapes[name], self._files[name] = shape, file

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Read from the mapped files in the order asked for."""
        return self._read(names, lambda file, name, stored: file.get_tensor(stored))

    def rows(self, wanted: Mapping[str, NDArray[np.intp]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Only these rows are read."""

        def read(file: Any, name: str, stored: str) -> NDArray[Any]:
            if len(wanted[name]) == self.shapes[name][0]:
                whole: NDArray[Any] = file.get_tensor(stored)
                return whole
            part = file.get_slice(stored)
            return np.concatenate([part[int(row) : int(row) + 1] for row in wanted[name]])

        return self._read(wanted, read)

    def _read(
        self, names: Collection[str], read: Callable[[Any, str, str], NDArray[Any]]
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """`read(opened file, name, name in the file)` of each."""
        opened: dict[Path, Any] = {}
        for name in names:
            file = self._files[name]
            try:
                if file not in opened:
                    opened[file] = safe_open(file, framework="numpy")
                keys = opened[file].keys()
                stored = name if name in keys else name.replace(TEXT, "model.", 1)
                yield name, read(opened[file], name, stored)
            except (OSError, SafetensorError, KeyError) as error:
                raise InputError(f"{file} became unreadable at {name}: {error}") from error


def check(
    source: Source, places: Mapping[str, Place], prefixes: tuple[str, ...], unread: Collection[str]
) -> None:
    """Holds the files' names and shapes to what the model needs; InputError is the whole report."""
    known = (TEXT, EMBEDDER, AUDIO, *_VISION)
    missing = [name for name in places if name not in source.shapes]
    unexpected = [
        name
        for name in source.shapes
        if (name.startswith(prefixes) or not name.startswith(known))
        and name not in places
        and name not in unread
    ]
    wrong = [
        f"{name} is {list(source.shapes[name])}, the model has {list(place.shape)}"
        for name, place in places.items()
        if name in source.shapes and source.shapes[name] != place.shape
    ]
    parts = [
        f"{len(found)} {title}:\n    " + "\n    ".join([*sorted(found)[:_LISTED], *_more(found)])
        for title, found in (
            ("tensors missing", missing),
            ("tensors unexpected", unexpected),
            ("tensors of another shape", wrong),
        )
        if found
    ]
    if parts:
        raise InputError(
            f"{source.where} does not hold this model's weights\n  " + "\n  ".join(parts)
        )


def fill(
    source: Source,
    places: Mapping[str, Place],
    leaves: Mapping[str, Any],
    shardings: Params | None = None,
) -> Params:
    """The nested dict of `leaves` (shapes and types) with the values of a checked source."""
    onto = {} if shardings is None else _leaves(shardings)
    left = dict.fromkeys(leaves, 0)
    for place in places.values():
        left[place.path] += 1
    stacks: dict[str, NDArray[Any]] = {}
    done: dict[str, Any] = {}
    for name, values in source.tensors(list(places)):
        place = places[name]
        leaf = leaves[place.path]
        if not place.index:
            # Not stacked: without a copy where the file has it as we want it, as tables of 5 GB.
            ours = values.transpose(place.axes).reshape(leaf.shape)
            stacks[place.path] = np.ascontiguousarray(ours.astype(leaf.dtype, copy=False))
        else:
            if place.path not in stacks:
                stacks[place.path] = np.empty(leaf.shape, leaf.dtype)
            target = stacks[place.path][place.index]
            target[...] = values.transpose(place.axes).reshape(target.shape)
        left[place.path] -= 1
        if not left[place.path]:
            stack = stacks.pop(place.path)
            on = onto.get(place.path)
            done[place.path] = stack if on is None else jax.device_put(stack, on)
    unfilled = [path for path, count in left.items() if count]
    if unfilled:
        raise InputError(
            f"{source.where} ended before {', '.join(unfilled[:_LISTED])} were complete"
        )
    return unflatten_tree(done)


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path, of a module's parameters or of a nested dict."""
    if isinstance(tree, nnx.Module):
        tree = nnx.to_pure_dict(nnx.split(tree, nnx.Param)[1])
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _shards(folder: Path) -> list[Path]:
    """Files of an index; InputError for those that have not been downloaded."""
    index = folder / INDEX_FILE
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise InputError(f"{index} is larger than {MAX_INDEX_BYTES >> 20} MB: no index is")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index} is no index of safetensors files: {error!r}") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise InputError(f"{index} names files outside its folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: the download is not complete")
    return [folder / name for name in names]


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors; a cut-off file is noticed here, as its length is in the header."""
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}
            kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file} cannot be read ({error}): the download may be incomplete; fetch it again"
        ) from error
    packed = [name for name, kind in kinds.items() if not re.match(_KINDS, kind)]
    if packed:
        raise InputError(
            f"{file}: {packed[0]} is {kinds[packed[0]]}; quantised weights are not read, "
            "only float32, float16 and bfloat16"
        )
    return shapes


def _more(found: Collection[str]) -> list[str]:
    return [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []

# SPDX-License-Identifier: Apache-2.0
"""Weight files into our parameters: names and shapes first, then one tensor at a time.

Tensors are cast and, when shardings are given, put onto the devices as soon as a stack of layers is
complete, so that memory for the largest of them is needed besides the model's.
"""

from __future__ import annotations

import dataclasses
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

from spatial_core.errors import InputError
from spatial_core.io.export import unflatten_tree
from spatial_core.train.partition import path_name
from spatial_core.typing import Params

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
_LISTED = 20
# Of a tensor with more numbers than `_SMALL` a digest takes so many rows.
_SMALL, _SAMPLED_ROWS = 1 << 16, 16
_KINDS = r"^(F64|F32|F16|BF16)$"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor of a file goes: our leaf, the index in its stack, and the change of axes.

    shape: of theirs. Ours is theirs transposed by `axes`, then reshaped to the leaf.
    """

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


class Source(Protocol):
    """Tensors in files: their shapes by name, and `where` they are, for messages."""

    where: str
    shapes: dict[str, tuple[int, ...]]

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and values of each of `names`, in any order, one at a time."""
        ...

    def rows(self, wanted: Mapping[str, NDArray[np.intp]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and the wanted rows (indices of the first axis) of each tensor, in any order."""
        ...


class WeightFiles:
    """Tensors of one or several files by the names that `rename` gives them.

    shapes: by name. where: for messages. rename: the name in the file -> the name here, None for a
    tensor that is not wanted. InputError for damaged files, quantised tensors and names that occur twice.
    """

    def __init__(self, files: list[Path], where: str, rename: Callable[[str], str | None]):
        self.where = where
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._stored: dict[str, tuple[Path, str]] = {}
        for file in files:
            for stored, shape in _header(file, rename).items():
                name = rename(stored)
                if name is None:
                    continue
                if name in self._stored:
                    other = self._stored[name]
                    raise InputError(
                        f"{where}: {name} is twice there, as {other[1]} in {other[0].name} and as "
                        f"{stored} in {file.name}"
                    )
                self.shapes[name], self._stored[name] = shape, (file, stored)

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and values of each of `names`, in the order asked for, from the mapped files."""
        return self._read(names, lambda file, _, stored: file.get_tensor(stored))

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
            file, stored = self._stored[name]
            try:
                if file not in opened:
                    opened[file] = safe_open(file, framework="numpy")
                yield name, read(opened[file], name, stored)
            except (OSError, SafetensorError, KeyError) as error:
                raise InputError(f"{file} became unreadable at {name}: {error}") from error


def model_files(path: Path) -> list[Path]:
    """The safetensors files of a model: the file itself, or those of a folder; [] if there are none.

    InputError for an index whose files are not all there.
    """
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    if (path / INDEX_FILE).is_file():
        return _shards(path)
    return [path / SINGLE_FILE] if (path / SINGLE_FILE).is_file() else []


def check(source: Source, places: Mapping[str, Place], elsewhere: Callable[[str], bool]) -> None:
    """Holds names and shapes in the files to what the model needs; InputError is the whole report.

    elsewhere: whether a tensor of this name may be there, unread.
    """
    missing = [name for name in places if name not in source.shapes]
    unexpected = [name for name in source.shapes if name not in places and not elsewhere(name)]
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
    """The nested dict of `leaves` (shapes and types) with the values of a checked source.

    shardings: by leaf; leaves without one are NumPy arrays on the host.
    """
    onto = {} if shardings is None else leaves_of(shardings)
    left = dict.fromkeys(leaves, 0)
    for place in places.values():
        left[place.path] += 1
    stacks: dict[str, NDArray[Any]] = {}
    done: dict[str, Any] = {}
    for name, values in source.tensors(list(places)):
        place = places[name]
        leaf = leaves[place.path]
        if not place.index:
            # Not stacked: without a copy where the file has it as we want it, as tables of 1 GB.
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


def required(backbone: str, weights: str | None, how: str) -> str:
    """The setting `weights` of a backbone; InputError that says how to come by them where it is not set."""
    if not weights:
        raise InputError(f"{backbone}.weights is not set: {how}")
    return weights


def tokenizer_path(
    backbone: str, model: str, tokenizer_file: str | None, weights: str | None, name: str
) -> Path:
    """`tokenizer_file`, or the file `name` in the folder of the weights; InputError if neither is set."""
    if tokenizer_file:
        return Path(tokenizer_file)
    if not weights:
        raise InputError(
            f"neither {backbone}.tokenizer_file nor .weights is set: name {model}'s {name}, "
            "or the folder that holds it"
        )
    path = Path(weights)
    return (path if path.is_dir() else path.parent) / name


def digest(source: Source, places: Mapping[str, Place]) -> str:
    """SHA-256 of names, shapes and a sample of the values (as float32) of the tensors of a checked source.

    All of a tensor of up to 65,536 numbers counts, and 16 rows of a larger one, evenly spaced from the
    first to the last. Another model or fine-tune, a LoRA that was merged, or files of two models mixed
    are noticed; a change to rows between those is not.
    """
    wanted = {name: _sampled(place.shape) for name, place in places.items()}
    parts = {}
    for name, values in source.rows(wanted):
        part = hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes())
        parts[name] = f"{name} {list(places[name].shape)} {part.hexdigest()}"
    return hashlib.sha256("\n".join(parts[name] for name in sorted(parts)).encode()).hexdigest()


def leaves_of(tree: Any) -> dict[str, Any]:
    """Leaves by path, of a module's parameters or of a nested dict."""
    if isinstance(tree, nnx.Module):
        tree = nnx.to_pure_dict(nnx.split(tree, nnx.Param)[1])
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _sampled(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Rows of a tensor that the digest takes."""
    if math.prod(shape) <= _SMALL:
        return np.arange(shape[0])
    return np.unique(np.linspace(0, shape[0] - 1, _SAMPLED_ROWS).round().astype(np.intp))


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


def _header(file: Path, rename: Callable[[str], str | None]) -> dict[str, tuple[int, ...]]:
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
    packed = [name for name, kind in kinds.items() if rename(name) and not re.match(_KINDS, kind)]
    if packed:
        raise InputError(
            f"{file}: {packed[0]} is {kinds[packed[0]]}; quantised weights are not read, "
            "only float32, float16 and bfloat16"
        )
    return shapes


def _more(found: Collection[str]) -> list[str]:
    return [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []

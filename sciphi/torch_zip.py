# SPDX-License-Identifier: Apache-2.0
"""Read the tensors of a file that torch.save wrote, without torch and without running what is in it.

Such a file is a zip archive: raw storages, and a pickle that says which part of which storage a tensor
is. The pickle's instructions are read as data by a machine that knows the few which a dict of tensors
needs; any other, and any function that is not on the list, is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError

MAX_BYTES = 1 << 30
_MAX_PICKLE = 16 << 20
_MAX_MEMBERS = 10_000
_MAX_DIMENSIONS = 8
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_DICT = "collections OrderedDict"
_KNOWN = {_REBUILD, _DICT, *(f"torch {name}" for name in _STORAGES)}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    """A name that the pickle mentions; nothing is imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Member `data/key` of the archive: `count` numbers of a type."""

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor: numbers of a storage from `offset`, `strides` apart (in numbers)."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_zip(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, NDArray]:
    """The tensors of a state dict by name, each an array of its own.

    Raises InputError: no such archive, one that is compressed or larger than `max_bytes`, big-endian, a
    pickle with other instructions than a dict of tensors needs, views beyond their storage.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, max_bytes)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no zip archive as torch.save writes them ({error})") from None


def _read(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> dict[str, NDArray]:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    total = sum(info.file_size for info in members.values())
    if len(pickles) != 1 or len(members) > _MAX_MEMBERS:
        raise InputError(f"{path} is no archive of torch.save: it has {len(pickles)} data.pkl")
    if total > max_bytes or members[pickles[0]].file_size > _MAX_PICKLE:
        raise InputError(f"{path} holds {total} bytes, more than the {max_bytes} that are read")
    squeezed = [name for name, i in members.items() if i.compress_type != zipfile.ZIP_STORED]
    if squeezed:
        raise InputError(f"{path}: {squeezed[0]} is compressed, which torch.save does not do")
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{root}byteorder")
    if order is not None and archive.read(order).strip() != b"little":
        raise InputError(f"{path} is of a big-endian machine: save it on another one")
    state = _Machine(path).run(archive.read(pickles[0]))
    if not isinstance(state, dict) or not all(isinstance(v, _View) for v in state.values()):
        raise InputError(
            f"{path} holds no dict of tensors (a state dict) but {type(state).__name__}"
        )
    storages: dict[str, NDArray] = {}
    budget = max_bytes
    arrays = {}
    for name, view in state.items():
        budget -= math.prod(view.shape) * view.storage.dtype.itemsize
        if budget < 0:
            raise InputError(f"{path}: its tensors are larger than the {max_bytes} bytes allowed")
        if view.storage.key not in storages:
            storages[view.storage.key] = _storage(archive, members, root, view.storage, path)
        arrays[str(name)] = _array(storages[view.storage.key], view, f"{path}: {name}")
    return arrays


def _storage(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    root: str,
    storage: _Storage,
    path: Path,
) -> NDArray:
    info = members.get(f"{root}data/{storage.key}")
    size = storage.count * storage.dtype.itemsize
    if info is None or info.file_size != size:
        have = "is missing" if info is None else f"has {info.file_size} bytes"
        raise InputError(f"{path}: storage {storage.key!r} of {size} bytes {have}")
    try:
        return np.frombuffer(archive.read(info), storage.dtype)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: storage {storage.key!r} is damaged ({error})") from None


def _array(storage: NDArray, view: _View, what: str) -> NDArray:
    """A copy of the view; InputError if it reaches beyond its storage."""
    if storage.dtype != view.storage.dtype:
        raise InputError(f"{what}: one storage is used with two types")
    if math.prod(view.shape) == 0:
        return np.zeros(view.shape, storage.dtype)
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides))
    if last >= len(storage):
        raise InputError(f"{what} reaches to {last} of a storage of {len(storage)} numbers")
    strides = [step * storage.itemsize for step in view.strides]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()


class _Machine:
    """A pickle machine without the parts that do things."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """What the pickle describes, as far as this machine goes."""
        try:
            for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            (result,) = self.stack
            return result
        except InputError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: its data.pkl is damaged or says more than a dict of tensors needs "
                f"({type(error).__name__}: {error})"
            ) from None

    def _step(self, name: str, argument: Any) -> None:
        if name in _SIMPLE:
            _SIMPLE[name](self)
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"):
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            if argument not in _KNOWN:
                raise self._refused(f"names {argument.replace(' ', '.')!r}")
            self.stack.append(_Global(argument))
        elif name not in ("PROTO", "FRAME"):
            raise self._refused(f"uses the instruction {name}")

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: its data.pkl {what}, which a dict of tensors does not need. Nothing was run; "
            "save model.state_dict() instead"
        )

    def _above_mark(self) -> list[Any]:
        place = max(i for i, item in enumerate(self.stack) if item is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def tuple_of(self, count: int | None) -> None:
        """The last `count` items, or those above the mark, become a tuple."""
        if count is None:
            self.stack.append(tuple(self._above_mark()))
            return
        if len(self.stack) < count:
            raise ValueError("too few items for a tuple")
        items = self.stack[len(self.stack) - count :]
        self.stack[len(self.stack) - count :] = [tuple(items)]

    def set_items(self, items: list[Any]) -> None:
        """Pairs of key and value go into the dict below them."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2]):
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no name")
            target[key] = value

    def storage(self) -> None:
        """("storage", type, key, device, count) becomes a storage."""
        kind, cls, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(cls, _Global) or not key.isalnum():
            raise ValueError("a reference to something else than a storage")
        dtype = np.dtype(_STORAGES[cls.name.removeprefix("torch ")])
        self.stack.append(_Storage(key, dtype, _whole(count)))

    def reduce(self) -> None:
        """A call: an empty dict or a view, or it is refused."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _Global(_DICT) and arguments == ():
            self.stack.append({})
        elif function == _Global(_REBUILD):
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, _Storage) or len(shape) != len(strides):
                raise ValueError("a tensor of no storage")
            if len(shape) > _MAX_DIMENSIONS:
                raise ValueError(f"a tensor of {len(shape)} dimensions")
            sizes, steps = tuple(map(_whole, shape)), tuple(map(_whole, strides))
            self.stack.append(_View(storage, _whole(offset), sizes, steps))
        else:
            raise self._refused("calls something")

    def build(self) -> None:
        """Attributes of the dict, torch's `_metadata`: left out."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise self._refused("sets attributes of something")

    def pop_pair(self) -> list[Any]:
        """The last key and value."""
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


_SIMPLE: dict[str, Callable[[_Machine], None]] = {
    "MARK": lambda m: m.stack.append(_MARK),
    "EMPTY_TUPLE": lambda m: m.stack.append(()),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "NONE": lambda m: m.stack.append(None),
    "NEWTRUE": lambda m: m.stack.append(True),
    "NEWFALSE": lambda m: m.stack.append(False),
    "TUPLE": lambda m: m.tuple_of(None),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "SETITEM": lambda m: m.set_items(m.pop_pair()),
    "SETITEMS": lambda m: m.set_items(m._above_mark()),
    "BINPERSID": lambda m: m.storage(),
    "REDUCE": lambda m: m.reduce(),
    "BUILD": lambda m: m.build(),
}

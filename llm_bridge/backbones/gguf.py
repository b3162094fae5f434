# SPDX-License-Identifier: Apache-2.0
"""Reading GGUF, the file format of llama.cpp: metadata, and quantised tensors as float32.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 2 and 3, little endian.
"""

from __future__ import annotations

import importlib
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatial_core.errors import InputError

MAGIC = b"GGUF"
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4
MAX_ENTRIES = 100_000  # metadata keys or tensors


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the file: shape as numpy has it, the number of its type, bytes from `start` on."""

    shape: tuple[int, ...]
    kind: int
    start: int


class GgufFile:
    """A file: `metadata`, `tensors` by name, and `read(name)`.

    data: its bytes or a map of them; path: for messages.
    """

    def __init__(self, data: bytes | mmap.mmap, path: Path):
        self.path, self._data = path, data
        if data[: len(MAGIC)] != MAGIC:
            raise InputError(f"{path} is no GGUF file: it begins with {data[: len(MAGIC)]!r}")
        try:
            self._parse(_Cursor(self._data, len(MAGIC)))
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise InputError(f"{path} is damaged or cut off: {error}") from error

    @classmethod
    def open(cls, *parts: Path) -> GgufFile:
        """One file, mapped into memory; or one in several parts, read whole."""
        if len(parts) > 1:
            return cls(b"".join(part.read_bytes() for part in parts), parts[0])
        if parts[0].stat().st_size == 0:
            raise InputError(f"{parts[0]} is empty")
        with parts[0].open("rb") as stream:
            return cls(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), parts[0])

    def _parse(self, cursor: _Cursor) -> None:
        version, tensors, entries = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
        if version not in (2, 3) or max(tensors, entries) > MAX_ENTRIES:
            raise InputError(
                f"{self.path}: GGUF version {version} with {tensors} tensors and {entries} entries: "
                "versions 2 and 3 are read; convert it with a current llama.cpp"
            )
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = cursor.string()
            self.metadata[name] = cursor.value(cursor.scalar("I"))
        found = {}
        for _ in range(tensors):
            name, rank = cursor.string(), cursor.scalar("I")
            if rank > MAX_DIMENSIONS:
                raise InputError(f"{self.path}: {name} has {rank} dimensions: damaged")
            shape = tuple(cursor.scalar("Q") for _ in range(rank))[::-1]
            found[name] = TensorEntry(shape, cursor.scalar("I"), cursor.scalar("Q"))
        step = int(self.metadata.get("general.alignment", 32))
        base = -(-cursor.at // step) * step
        self.tensors = {
            name: TensorEntry(entry.shape, entry.kind, base + entry.start)
            for name, entry in found.items()
        }

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor, dequantised: matrices are [out, in]. InputError if it is missing or cut off."""
        if name not in self.tensors:
            raise InputError(f"{self.path} has no tensor {name!r}: it holds another kind of model")
        entry, package = self.tensors[name], _package()
        kind = package.GGMLQuantizationType(entry.kind)
        per_block, size = package.GGML_QUANT_SIZES[kind]
        count = math.prod(entry.shape)
        end = entry.start + count // per_block * size
        if end > len(self._data):
            raise InputError(f"{self.path} is cut off: {name} ends at byte {end:,}")
        raw = np.frombuffer(self._data, np.uint8, end - entry.start, entry.start)
        rows = raw.reshape(count // entry.shape[-1], -1)
        values = package.quants.dequantize(rows, kind)
        return np.asarray(values, np.float32).reshape(entry.shape)


class _Cursor:
    """A place in the bytes of a file, moved on by reading."""

    def __init__(self, data: bytes | mmap.mmap, at: int):
        self._data, self.at = data, at

    def scalar(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self._data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self._bounded(self.scalar("Q"), 1)
        self.at += length
        return self._data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.scalar(SCALARS[kind])
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner in SCALARS:
            code = SCALARS[inner]
            self._bounded(count, struct.calcsize("<" + code))
            values = np.frombuffer(self._data, np.dtype("<" + code), count, self.at)
            self.at += values.nbytes
            return values.tolist()
        self._bounded(count, 8)
        return [self.value(inner) for _ in range(count)]

    def _bounded(self, count: int, size: int) -> int:
        """`count`, or an error if so many things of `size` bytes cannot follow in the file."""
        if count * size > len(self._data) - self.at:
            raise struct.error(f"{count} entries of {size} bytes at byte {self.at}")
        return count


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise InputError(
            "quantised weights need the package gguf: run `pip install gguf tokenizers`"
        ) from error

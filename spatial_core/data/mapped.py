# SPDX-License-Identifier: Apache-2.0
"""Uncompressed ArrayRecord files mapped into memory: a record is read where the page cache has it.

The layout is Riegeli's (github.com/google/riegeli, doc/riegeli_records_file_format.md): blocks of 64 KiB
that begin with a header of 24 bytes, and through them chunks of 40 bytes of header and data. The last
block says where the footer is, which lists the chunks; each holds one record.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import os
import struct
import threading
import weakref
from pathlib import Path

import numpy as np

_BLOCK, _HEADER = 65536, 24
_ROOM = _BLOCK - _HEADER
# Hash, size and hash of the data; kind of chunk and number of records; size when decoded.
_CHUNK = struct.Struct("<QQQB7sQ")
_MAGIC = 0x71930E704FDAE05E
_LONGEST_PREFIX = 32
_LARGEST_FOOTER = 1 << 28
_FAILED = ctypes.c_void_p(-1).value


class MappedShard:
    """The records of one file, in order; ValueError for a file of another form. Thread-safe.

    Only the layout is checked here: records carry checksums of their own.
    """

    def __init__(self, path: Path) -> None:
        self._view = _map(path)
        if len(self._view) < 2 * _BLOCK:
            raise ValueError("it is too short")
        values = _values(*self._simple_chunk(_inside(len(self._view) - _BLOCK), 4096))
        if not values:
            raise ValueError("nothing stands at its end")
        place, magic = _numbers(values[0])
        if magic != _MAGIC:
            raise ValueError("it does not end as an ArrayRecord file does")
        self._footer = _inside(place)
        # The first value of the footer describes the file.
        self._count = self._header(self._footer)[1] - 1
        self._places: np.ndarray | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def record(self, number: int) -> list[memoryview]:
        """The bytes of a record, in as many pieces as blocks it lies in. Nothing is copied."""
        begin = int(self._index()[number])
        size, records = self._header(begin)
        begin += _CHUNK.size
        prefix = b"".join(self._pieces(begin, min(size, _LONGEST_PREFIX)))
        lengths, at = _varint(prefix, 1)
        length, end = _varint(prefix, at)
        if records != 1 or prefix[0] != 0 or end != at + lengths or end + length != size:
            raise ValueError("not one uncompressed record")
        return self._pieces(begin + end, length)

    def _index(self) -> np.ndarray:
        """Where the chunks begin, read from the footer when first asked for."""
        with self._lock:
            if self._places is None:
                listed = _values(*self._simple_chunk(self._footer, _LARGEST_FOOTER))[1:]
                self._places = np.array([_inside(_numbers(value)[0]) for value in listed])
            return self._places

    def _header(self, begin: int) -> tuple[int, int]:
        """Bytes of data and records of the chunk that begins here."""
        packed = b"".join(self._pieces(begin, _CHUNK.size))
        _, size, _, kind, records, _ = _CHUNK.unpack(packed)
        if kind != ord("r"):
            raise ValueError("not a chunk of records")
        return size, int.from_bytes(records, "little")

    def _simple_chunk(self, begin: int, largest: int) -> tuple[bytes, int]:
        size, records = self._header(begin)
        if size > largest:
            raise ValueError(f"{size} bytes where there are at most {largest}")
        return b"".join(self._pieces(begin + _CHUNK.size, size)), records

    def _pieces(self, begin: int, size: int) -> list[memoryview]:
        """`size` bytes from `begin` on, both without the headers of blocks."""
        pieces = []
        while size > 0:
            block, within = divmod(begin, _ROOM)
            place = block * _BLOCK + _HEADER + within
            length = min(size, _ROOM - within)
            pieces.append(self._view[place : place + length])
            if len(pieces[-1]) != length:
                raise ValueError("it ends too early")
            begin, size = begin + length, size - length
        return pieces


def _map(path: Path) -> memoryview:
    """The bytes of a file, read-only, without a descriptor: a bank may have more shards than those.

    Python's own mmap keeps one for each mapping until version 3.13. It ends with the last view of it.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return memoryview(b"")
        begin = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if begin == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    mapped = (ctypes.c_ubyte * size).from_address(begin)
    ending = weakref.finalize(mapped, _libc().munmap, begin, size)
    # When Python ends, other threads may still read.
    ending.atexit = False
    return memoryview(mapped).cast("B").toreadonly()


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _inside(place: int) -> int:
    """A place in the file, counted without the headers of blocks."""
    block, within = divmod(place, _BLOCK)
    return block * _ROOM + max(within - _HEADER, 0)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits a byte, and where it ends."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number does not end")


def _values(data: bytes, records: int) -> list[bytes]:
    """The records of a chunk's data."""
    if data[:1] != b"\0":
        raise ValueError("compressed")
    size, at = _varint(data, 1)
    begin, lengths = at + size, []
    for _ in range(records):
        length, at = _varint(data, at)
        lengths.append(length)
    ends = begin + np.cumsum([0, *lengths])
    if at != begin or ends[-1] != len(data):
        raise ValueError("lengths do not add up")
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def _numbers(message: bytes) -> list[int]:
    """The numbers of a protocol buffer of which all fields are such, in order."""
    numbers, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7:
            raise ValueError("not a number")
        value, at = _varint(message, at)
        numbers.append(value)
    if len(numbers) < 2:
        raise ValueError("too few numbers")
    return numbers

# SPDX-License-Identifier: Apache-2.0
"""Record files with checksums: written whole or not at all, opened only if they are what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from spatial_core.data.mapped import MappedShard
from spatial_core.errors import InputError
from spatial_core.io import places

_MAX_MANIFEST = 64 * 2**20

Progress = Callable[[str], None]

# One record a chunk, because training reads them in any order; float16 noise does not compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_SAY_SECONDS = 2.0


@dataclass(frozen=True)
class Shard:
    """One finished file; `replaced` names the records that had to be made anew."""

    records: int
    bytes: int
    sha256: str
    replaced: tuple[str, ...] = ()


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of JSON values, hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_shard(path: Path, records: int, replaced: tuple[str, ...] = ()) -> Shard:
    """The entry of a finished file."""
    return Shard(records, places.size(path), digest(path), replaced)


def shard_fault(folder: Path, name: str, shard: Shard) -> str | None:
    """What is wrong with a finished shard's file: missing, another size or checksum."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if (size := places.size(path)) != shard.bytes:
        return f"{name} has {size} bytes, not {shard.bytes}"
    if digest(path) != shard.sha256:
        return f"{name} differs from its checksum"
    return None


def write_shard(path: Path, records: Iterable[bytes]) -> Shard:
    """Write one file under a name that no other writer has, then move it into place.

    The folder may be in a bucket. Nothing is left behind when `records` raises.
    """
    with contextlib.ExitStack() as stack:
        folder = path.parent
        if places.is_remote(path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shard-")))
        temporary = folder / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            shard = describe_shard(temporary, _write(temporary, records))
            if places.is_remote(path):
                places.upload(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return shard


def _write(path: Path, records: Iterable[bytes]) -> int:
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    count = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return count


def open_shard(path: Path, shard: Shard, again: str) -> ArrayRecordReader:
    """A reader of a finished file; InputError, which ends in `again` (what to do), if it is not whole."""
    if not path.is_file():
        raise InputError(f"{path} is missing: {again}")
    reader = ArrayRecordReader(str(path), _READER_OPTIONS)
    if not reader.ok() or reader.num_records() != shard.records:
        raise InputError(
            f"{path} is damaged ({reader.num_records()} records can be found, {shard.records} were "
            f"written): {again}"
        )
    return reader


def map_shard(path: Path, shard: Shard, again: str) -> MappedShard:
    """A finished file mapped into memory; InputError as `open_shard`."""
    if not path.is_file():
        raise InputError(f"{path} is missing: {again}")
    try:
        mapped = MappedShard(path)
        if len(mapped) != shard.records:
            raise ValueError(f"{len(mapped)} records where {shard.records} were written")
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): {again}") from error
    return mapped


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON; a reader sees the old file or the new one, never a part."""
    places.write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


class Report:
    """Lines of progress with the time left, at most one every two seconds.

    what: the records in a word, such as "rooms".
    """

    def __init__(self, total: int, what: str, say: Progress) -> None:
        self._total, self._what, self._say = total, what, say
        self._there = self._new = 0
        self._start = self._last = time.monotonic()

    def kept(self, count: int) -> None:
        """Count records that are there from before."""
        self._there += count

    def made(self, count: int) -> None:
        """Count records made now, and say so from time to time."""
        self._new += count
        now = time.monotonic()
        if now - self._last < _SAY_SECONDS:
            return
        self._last = now
        ready = self._there + self._new
        rate = self._new / (now - self._start)
        self._say(
            f"{ready:,} of {self._total:,} {self._what} ({100 * ready / self._total:.0f}%), "
            f"{rate:.{0 if rate >= 10 else 1}f} a second, "
            f"{(self._total - ready) / rate / 60:.1f} minutes left"
        )

    def done(self, folder: Path) -> None:
        """The last line."""
        self._say(
            f"{folder}: {self._total:,} {self._what}, {self._there:,} of them kept from before, "
            f"{time.monotonic() - self._start:.0f} s"
        )


def read_manifest(path: Path, what: str, name: str, version: int, again: str) -> dict[str, Any]:
    """The content of a folder's manifest.

    what: the folder's content in a message; name, version: its "format" and "version"; again: what
    makes it anew. InputError when there is none, or it is not one that this version reads.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent} holds no {what} (no {path.name}): {again}, or correct the folder"
        )
    if (size := places.size(path)) > _MAX_MANIFEST:
        raise InputError(f"{path} has {size} bytes: it is not a manifest of a {what}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != name:
        raise InputError(f"{path} is not the manifest of a {what}")
    if content.get("version") != version:
        raise InputError(
            f"{path} has version {content.get('version')!r}, this program reads {version}: {again}"
        )
    return content


def parse_shards(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Shard]:
    """The shards of a manifest by name; KeyError or TypeError for anything else."""
    return {
        str(name): Shard(**{**entry, "replaced": tuple(entry["replaced"])})
        for name, entry in entries.items()
    }


_RECORD_HEADER = struct.Struct("<4sI")


def pack_header(magic: bytes, header: Mapping[str, Any]) -> bytes:
    """What a record begins with: four bytes that tell its kind, a length, and JSON."""
    text = json.dumps(header, allow_nan=False, ensure_ascii=False).encode()
    return _RECORD_HEADER.pack(magic, len(text)) + text


def read_header(data: bytes, magic: bytes, largest: int) -> tuple[dict[str, Any], int]:
    """The JSON that `pack_header` wrote, and where it ends; ValueError for anything else.

    largest: bytes of JSON that are read at most.
    """
    if len(data) < _RECORD_HEADER.size:
        raise ValueError(f"{len(data)} bytes are too few")
    found, size = _RECORD_HEADER.unpack_from(data)
    if found != magic or not 0 < size <= largest:
        raise ValueError(f"they start with {found!r}")
    end = _RECORD_HEADER.size + size
    header = json.loads(data[_RECORD_HEADER.size : end].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    return header, end

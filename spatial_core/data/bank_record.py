# SPDX-License-Identifier: Apache-2.0
"""One record of a bank on disk: a small header, labels as JSON, responses as scaled float16.

    magic "RIRB" | version u16 | sources u16 | microphones u32 | taps u32 | JSON bytes u32 |
    CRC-32 u32 of all other bytes | JSON (UTF-8) | float16 [sources, microphones, taps]

Little-endian throughout. The JSON holds the caller's labels and, under "exponents", the power of
two by which each source's responses were divided: the scaling is exact, so the only rounding is
that of float16's 11-bit mantissa (-72 dB re the response's energy).
"""

from __future__ import annotations

import functools
import json
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatial_core.sim.kernels import compiled

VERSION = 1
_HEADER = struct.Struct("<4sHHIII")
_CRC = struct.Struct("<I")
_MAGIC = b"RIRB"
_HEADROOM = 15
"""Peaks are scaled to 2**14..2**15: below float16's 65504, far above its subnormals (2**-14)."""
TAIL_SHARE = 10.0**-7.5
"""The last taps may be cut where they hold less than this share of the energy (-75 dB)."""


class CorruptRecord(ValueError):
    """A record that is not what was written."""


def encode(labels: dict[str, Any], rirs: np.ndarray) -> bytes:
    """Bytes of one record. labels: JSON values; rirs float32 [s, m, taps], finite.

    The quiet end of the responses (`TAIL_SHARE`) is not stored.
    """
    kept = rirs[..., : _audible_taps(rirs)]
    exponents = [_exponent(r) for r in kept]
    scale = np.array([math.ldexp(1.0, _HEADROOM - e) for e in exponents], np.float32)
    body = (kept * scale[:, None, None]).astype("<f2").tobytes()
    text = json.dumps({**labels, "exponents": exponents}, separators=(",", ":")).encode()
    sources, mics, taps = kept.shape
    header = _HEADER.pack(_MAGIC, VERSION, sources, mics, taps, len(text))
    crc = zlib.crc32(body, zlib.crc32(text, zlib.crc32(header)))
    return b"".join((header, _CRC.pack(crc), text, body))


def decode(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Labels and rirs float32 [s, m, stored taps]; CorruptRecord if damaged."""
    record = Record([memoryview(data)])
    rirs = np.empty(record.shape, np.float32)
    record.fill(rirs)
    return record.labels, rirs


class Record:
    """One record in pieces of memory, checked (CorruptRecord if damaged), not yet converted.

    labels: what was written. shape: (sources, microphones, stored taps).
    """

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        start, size = _HEADER.size + _CRC.size, sum(len(piece) for piece in pieces)
        if size < start:
            raise CorruptRecord(f"record of {size} bytes has no header")
        head = b"".join(_part(pieces, 0, start))
        magic, version, sources, mics, stored, text_bytes = _HEADER.unpack_from(head)
        if magic != _MAGIC or version != VERSION:
            raise CorruptRecord(f"record starts with {magic!r} version {version}")
        self.shape = (sources, mics, stored)
        body = start + text_bytes
        if min(self.shape) < 1:
            raise CorruptRecord(f"record of {sources} sources, {mics} microphones, {stored} taps")
        if size != body + 2 * sources * mics * stored:
            raise CorruptRecord(
                f"record has {size} bytes where its header means "
                f"{body + 2 * sources * mics * stored}"
            )
        (expected,) = _CRC.unpack_from(head, _HEADER.size)
        crc = zlib.crc32(head[: _HEADER.size])
        for piece in _part(pieces, start, size):
            crc = zlib.crc32(piece, crc)
        if crc != expected:
            raise CorruptRecord("record differs from its checksum")
        self.labels = json.loads(b"".join(_part(pieces, start, body)))
        self._exponents = self.labels.pop("exponents")
        if len(self._exponents) != sources:
            raise CorruptRecord(f"record of {sources} sources has {len(self._exponents)} scales")
        self._body = _part(pieces, body, size)

    def fill(self, out: np.ndarray) -> None:
        """Writes the responses to the beginning of float32 out [s, m, taps]; of the first s sources only.

        CorruptRecord if a response has more microphones or taps than `out`.
        """
        _, mics, stored = self.shape
        if mics > out.shape[1] or stored > out.shape[2]:
            raise CorruptRecord(
                f"record of {mics} microphones and {stored} taps where there is room for "
                f"{out.shape[1]} and {out.shape[2]}"
            )
        steps = np.array([_steps(exponent) for exponent in self._exponents], np.float32)
        done, odd = 0, b""
        for piece in self._body:
            if odd:  # a number that lies in two pieces
                _widen(np.frombuffer(odd + piece[:1], np.uint8), done, mics, stored, steps, out)
                done, piece = done + 1, piece[1:]
            whole = len(piece) // 2 * 2
            if whole:
                raw = np.frombuffer(piece[:whole], np.uint8)
                _widen(raw, done, mics, stored, steps, out)
            done, odd = done + whole // 2, bytes(piece[whole:])


def _part(pieces: Sequence[memoryview], begin: int, end: int) -> list[memoryview]:
    """Bytes begin..end - 1 of the pieces, as pieces."""
    chosen, at = [], 0
    for piece in pieces:
        part = piece[max(begin - at, 0) : max(end - at, 0)]
        if len(part):
            chosen.append(part)
        at += len(piece)
    return chosen


@functools.lru_cache(maxsize=256)
def _steps(exponent: int) -> np.ndarray:
    """What the last bit of a float16 is worth, [64] by its sign and exponent, times the record's scale."""
    sizes = np.maximum(np.arange(32), 1) - 25.0 + exponent - _HEADROOM
    sizes[31] = np.inf  # so are such numbers; none is written
    return np.concatenate([2.0**sizes, -(2.0**sizes)])


@compiled()
def _widen(raw, first, mics, stored, steps, out):  # type: ignore[no-untyped-def]
    """float16 numbers as bytes [2 n], of which the first is number `first` of a record, into out [s, m, taps].

    steps [s, 64]: see `_steps`. The products are exact.
    """
    row, tap, n, count = first // stored, first % stored, 0, raw.shape[0] // 2
    while n < count and row < out.shape[0] * mics:
        target, worth = out[row // mics, row % mics], steps[row // mics]
        run = min(stored - tap, count - n)
        for k in range(run):
            place = np.uint64(2 * (n + k))
            bits = np.uint32(raw[place]) | (np.uint32(raw[place + np.uint64(1)]) << np.uint32(8))
            size = bits >> np.uint32(10)
            mantissa = bits & np.uint32(1023)
            if size & np.uint32(31):
                mantissa |= np.uint32(1024)
            target[tap + k] = np.float32(np.int32(mantissa)) * worth[size]
        n, tap, row = n + run, 0, row + 1


def _exponent(rirs: np.ndarray) -> int:
    return max(-100, math.frexp(float(np.abs(rirs).max()))[1])


def _audible_taps(rirs: np.ndarray) -> int:
    """Taps up to which every response holds all but `TAIL_SHARE` of its energy (at least 1)."""
    energy = np.square(rirs, dtype=np.float64)
    remaining = np.cumsum(energy[..., ::-1], axis=-1)[..., ::-1]
    needed = remaining > TAIL_SHARE * remaining[..., :1]
    return max(1, int(np.flatnonzero(needed.any(axis=(0, 1)))[-1:].sum()) + 1)

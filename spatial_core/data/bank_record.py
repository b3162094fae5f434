# SPDX-License-Identifier: Apache-2.0
"""One record of a bank on disk: a small header, labels as JSON, responses as scaled float16.

    magic "RIRB" | version u16 | sources u16 | microphones u32 | taps u32 | JSON bytes u32 |
    CRC-32 u32 of all other bytes | JSON (UTF-8) | float16 [sources, microphones, taps]

Little-endian throughout. The JSON holds the caller's labels and, under "exponents", the power of
two by which each source's responses were divided: the scaling is exact, so the only rounding is
that of float16's 11-bit mantissa (-72 dB re the response's energy).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

import numpy as np

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
    start = _HEADER.size + _CRC.size
    if len(data) < start:
        raise CorruptRecord(f"record of {len(data)} bytes has no header")
    magic, version, sources, mics, stored, text_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        raise CorruptRecord(f"record starts with {magic!r} version {version}")
    size = start + text_bytes + 2 * sources * mics * stored
    if len(data) != size:
        raise CorruptRecord(f"record has {len(data)} bytes where its header means {size}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if zlib.crc32(memoryview(data)[start:], zlib.crc32(data[: _HEADER.size])) != crc:
        raise CorruptRecord("record differs from its checksum")
    labels = json.loads(data[start : start + text_bytes])
    halves = np.frombuffer(data, "<f2", offset=start + text_bytes).reshape(sources, mics, stored)
    scale = [math.ldexp(1.0, exponent - _HEADROOM) for exponent in labels.pop("exponents")]
    return labels, halves * np.array(scale, np.float32)[:, None, None]


def _exponent(rirs: np.ndarray) -> int:
    return max(-100, math.frexp(float(np.abs(rirs).max()))[1])


def _audible_taps(rirs: np.ndarray) -> int:
    """Taps up to which every response holds all but `TAIL_SHARE` of its energy (at least 1)."""
    energy = np.square(rirs, dtype=np.float64)
    remaining = np.cumsum(energy[..., ::-1], axis=-1)[..., ::-1]
    needed = remaining > TAIL_SHARE * remaining[..., :1]
    return max(1, int(np.flatnonzero(needed.any(axis=(0, 1)))[-1:].sum()) + 1)

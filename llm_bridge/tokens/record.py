# SPDX-License-Identifier: Apache-2.0
"""One exported clip: its spatial tokens, who talks when and where, and its mono audio, as bytes.

A record is the magic `SBT1`, the length of the header (uint32, little-endian), a JSON header, and
the parts that the header lists, end to end: tokens float16 [n, 256], the encoder's answers float32
[n] each, audio and mixed as FLAC of 16 bits.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.shards import pack_header, read_header
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray

HEADS = ("azimuth", "elevation", "distance", "speech_probability", "confidence")
_MAGIC = b"SBT1"
_MAX_HEADER = 1 << 24


@dataclass(frozen=True)
class Talker:
    """One talker of a clip.

    start, end: seconds in which the dry voice talks. azimuth (-180, 180] counter-clockwise from +x,
    elevation [-90, 90] degrees, distance in metres, all about the array's centroid.
    """

    start: float
    end: float
    azimuth: float
    elevation: float
    distance: float
    transcript: str
    speaker: str


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip before it is encoded.

    channels: float32 [m, t] at 16 kHz, what the array hears. talkers: those who are heard, in order
    (positions about the array's centroid). audio, mixed: as in TokenRecord. rt60: seconds, of the first
    talker's response.
    """

    key: str
    channels: NDArray[np.float32]
    array: MicArray
    talkers: tuple[Talker, ...]
    audio: NDArray[np.float32]
    mixed: NDArray[np.float32]
    seed: int
    rt60: float


@dataclass(frozen=True, eq=False)
class TokenRecord:
    """What the encoder made of a clip, and what is known of it.

    tokens: float16 [n, 256]; token k covers the 250 ms from 160 k ms on, n = ceil(t / 2560).
    heads: the encoder's own answers float32 [n] by name (`HEADS`): angles in degrees, metres,
    probabilities. They are its answers for each window alone, also where nobody talks.
    talkers: in the order of time, never overlapping; empty where nobody talks or nothing is known.
    audio: float32 [t], mono: the dry voices (of a recording: the mean of its channels).
    mixed: float32 [t], mono: the mean of the array's channels. Both in [-1, 1), 16 bits deep.
    seconds: t / 16000. array: the array in words. rt60: seconds, 0 if unknown.
    """

    key: str
    tokens: NDArray[np.float16]
    heads: dict[str, NDArray[np.float32]]
    talkers: tuple[Talker, ...]
    audio: NDArray[np.float32]
    mixed: NDArray[np.float32]
    seconds: float
    array: str
    seed: int = 0
    rt60: float = 0.0

    def encode(self) -> bytes:
        """The record as bytes; the same record gives the same bytes."""
        parts = {
            "tokens": np.ascontiguousarray(self.tokens, "<f2").tobytes(),
            **{name: np.ascontiguousarray(self.heads[name], "<f4").tobytes() for name in HEADS},
            "audio": _to_flac(self.audio),
            "mixed": _to_flac(self.mixed),
        }
        header = {
            "key": self.key,
            "shape": list(self.tokens.shape),
            "samples": [len(self.audio), len(self.mixed)],
            "talkers": [dataclasses.asdict(talker) for talker in self.talkers],
            "seconds": self.seconds,
            "array": self.array,
            "seed": self.seed,
            "rt60": self.rt60,
            "parts": {name: len(part) for name, part in parts.items()},
        }
        return b"".join([pack_header(_MAGIC, header), *parts.values()])


def decode(data: bytes, audio: bool = True) -> TokenRecord:
    """The record that `TokenRecord.encode` wrote; InputError if the bytes are not one.

    audio: without it `audio` and `mixed` come back empty, which is twenty times as fast.
    """
    try:
        header, begin = read_header(data, _MAGIC, _MAX_HEADER)
        parts = {}
        for name, size in header["parts"].items():
            parts[name] = data[begin : begin + size]
            begin += size
        if begin != len(data):
            raise ValueError(f"{len(data)} bytes where {begin} were written")
        tokens, width = header["shape"]
        return TokenRecord(
            key=header["key"],
            tokens=np.frombuffer(parts["tokens"], "<f2").reshape(tokens, width),
            heads={
                name: np.frombuffer(parts[name], "<f4", tokens).astype(np.float32) for name in HEADS
            },
            talkers=tuple(Talker(**talker) for talker in header["talkers"]),
            audio=_from_flac(parts["audio"], header["samples"][0] * audio),
            mixed=_from_flac(parts["mixed"], header["samples"][1] * audio),
            **{name: header[name] for name in ("seconds", "array", "seed", "rt60")},
        )
    except (ValueError, KeyError, TypeError, soundfile.LibsndfileError) as error:
        raise InputError(
            f"these bytes are not a token record, or a damaged one: {error}"
        ) from error


def decode_talkers(data: bytes) -> tuple[str, tuple[Talker, ...]]:
    """Key and talkers alone, without unpacking tokens and audio; InputError as in `decode`."""
    try:
        header, _ = read_header(data, _MAGIC, _MAX_HEADER)
        return header["key"], tuple(Talker(**talker) for talker in header["talkers"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"these bytes are not a token record, or a damaged one: {error}"
        ) from error


def _to_flac(samples: NDArray[np.float32]) -> bytes:
    if len(samples) == 0:
        return b""
    pcm = np.clip(np.rint(np.asarray(samples, np.float32) * 32768), -32768, 32767).astype(np.int16)
    sink = io.BytesIO()
    soundfile.write(sink, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return sink.getvalue()


def _from_flac(data: bytes, count: int) -> NDArray[np.float32]:
    if count == 0:
        return np.zeros(0, np.float32)
    samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    if samples.shape != (count,):
        raise ValueError(f"audio of {samples.shape} samples where {count} were written")
    return samples / np.float32(32768)

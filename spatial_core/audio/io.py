# SPDX-License-Identifier: Apache-2.0
"""Reading and writing audio files: bounded, resampled, and refused when they cannot be trusted."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import ArrayLike, NDArray

from spatial_core.errors import InputError

SAMPLE_RATE = 16_000
MAX_CHANNELS = 64
MAX_VALUES = 2**29  # decoded float32 values, 2 GiB
MIN_RATE, MAX_RATE = 2_000, 768_000
_BLOCK = 1 << 16  # frames decoded at a time
# Recorders that cannot seek back write these in place of the data size (ffmpeg, sox, arecord).
_STREAMING_SIZE = 0x7FFF_0000


@dataclass(frozen=True, eq=False)
class Audio:
    """Decoded audio: samples float32 [c, t] at `sample_rate`, recorded at `source_rate` (Hz)."""

    samples: NDArray[np.float32]
    sample_rate: int
    source_rate: int
    path: str
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples.shape[1] / self.sample_rate

    @property
    def num_channels(self) -> int:
        """Number of channels, c."""
        return self.samples.shape[0]


def load_audio(
    path: str | Path, sample_rate: int | None = SAMPLE_RATE, max_seconds: float = 3600.0
) -> Audio:
    """Decode a file (wav, flac, ogg, ...) to float32 [c, t] at `sample_rate` Hz (None: its own).

    Decoding is in blocks, so memory is that of the result, which is bounded before it is
    allocated. Raises InputError when the file is missing, not decodable, empty, shorter than its
    header promises, longer than `max_seconds`, has more than 64 channels, or holds NaN or
    infinite samples.
    """
    with stream_audio(path, sample_rate, max_seconds) as stream:
        seconds = stream.seconds
        if seconds * stream.sample_rate * stream.num_channels > MAX_VALUES:
            raise InputError(
                f"audio file {path} ({seconds:.0f} s, {stream.num_channels} channels) needs more "
                f"than {MAX_VALUES * 4 // 2**30} GiB once decoded: cut it into pieces"
            )
        samples = np.ascontiguousarray(np.concatenate(list(stream), axis=1))
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        channel = int(np.argmin(finite))
        first = int(np.argmin(np.isfinite(samples[channel])))
        raise InputError(
            f"audio file {path}: channel {channel + 1} holds NaN or infinite samples (first at "
            f"{first / stream.sample_rate:.3f} s); export it again"
        )
    return Audio(samples, stream.sample_rate, stream.source_rate, str(path), stream.warnings)


@dataclass(frozen=True, eq=False)
class AudioStream:
    """An open file as float32 blocks [c, t] at `sample_rate`; iterate once, then close it."""

    sample_rate: int
    source_rate: int
    num_channels: int
    seconds: float
    path: str
    warnings: tuple[str, ...]
    file: soundfile.SoundFile

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The blocks in order; InputError when the file turns out to be truncated or damaged."""
        try:
            yield from _decode(self.file, Path(self.path), self.sample_rate)
        except soundfile.LibsndfileError as error:
            raise _undecodable(Path(self.path), error) from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def stream_audio(
    path: str | Path, sample_rate: int | None = SAMPLE_RATE, max_seconds: float = 86400.0
) -> AudioStream:
    """Open a file to be decoded block by block: memory stays that of one block.

    Arguments and errors are those of `load_audio`, except that samples that are not finite are the
    caller's to find.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not an audio file" if path.is_dir() else "does not exist"
        raise InputError(f"audio file {path} {what}")
    if path.stat().st_size == 0:
        raise InputError(f"audio file {path} is empty (0 bytes)")
    source, warnings = _checked_source(path)
    try:
        file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise _undecodable(path, error) from error
    try:
        _check_bounds(file, path, max_seconds)
    except InputError:
        file.close()
        raise
    rate = file.samplerate
    return AudioStream(
        sample_rate or rate,
        rate,
        file.channels,
        file.frames / rate,
        str(path),
        tuple(warnings),
        file,
    )


def _undecodable(path: Path, error: soundfile.LibsndfileError) -> InputError:
    return InputError(
        f"audio file {path} cannot be decoded ({error.error_string}); supported are wav, flac, "
        "ogg, mp3 and aiff"
    )


def resample(x: ArrayLike, source_rate: int, target_rate: int) -> NDArray[np.float32]:
    """[..., t] at `source_rate` to float32 [..., t'] at `target_rate` (soxr, high quality).

    All channels pass the same linear-phase filter: delays between them stay as they were.
    """
    x = np.asarray(x, np.float32)
    if source_rate == target_rate:
        return x
    flat = x.reshape(-1, x.shape[-1]).T
    out = soxr.resample(np.ascontiguousarray(flat), source_rate, target_rate)
    return np.ascontiguousarray(out.T).reshape(*x.shape[:-1], -1)


def write_wav(
    path: str | Path, x: ArrayLike, rate: int = SAMPLE_RATE, subtype: str = "FLOAT"
) -> None:
    """Write x [c, t] (or [t]) as a wav file at `rate` Hz; the folder must exist.

    subtype: 'FLOAT' keeps every value; 'PCM_16' needs |x| <= 1 (InputError otherwise).
    """
    x = np.atleast_2d(np.asarray(x, np.float32))
    if x.ndim != 2:
        raise InputError(f"audio to write must be [channels, samples], got shape {x.shape}")
    if subtype != "FLOAT" and x.size and float(np.abs(x).max()) > 1.0:
        raise InputError(
            f"peak {float(np.abs(x).max()):.3g} does not fit {subtype} (full scale is 1): scale it "
            "or write subtype='FLOAT'"
        )
    soundfile.write(path, x.T, rate, subtype=subtype, format="WAV")


def encode_mp3(x: ArrayLike, rate: int = SAMPLE_RATE) -> bytes:
    """x [c, t] (or [t]), one or two channels, as a small file for people to listen to.

    For ears only: it keeps neither phases nor levels between channels. Peaks over full scale are
    scaled down. rate: one of MPEG's, 8 to 48 kHz.
    """
    x = np.atleast_2d(np.asarray(x, np.float32))
    if x.ndim != 2 or x.shape[0] > 2 or not x.size:
        raise InputError(f"an mp3 has one or two channels [c, t], not {list(x.shape)}")
    peak = float(np.abs(x).max())
    sink = io.BytesIO()
    soundfile.write(sink, (x / max(peak, 1.0)).T, rate, format="MP3")
    return sink.getvalue()


def _check_bounds(file: soundfile.SoundFile, path: Path, max_seconds: float) -> None:
    """InputError for what would be too long, too wide or of an odd rate, before decoding."""
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise InputError(
            f"audio file {path}: sample rate {file.samplerate} Hz is outside "
            f"{MIN_RATE}..{MAX_RATE} Hz; is the header right?"
        )
    if file.channels > MAX_CHANNELS:
        raise InputError(
            f"audio file {path} has {file.channels} channels; at most {MAX_CHANNELS} are read"
        )
    if file.frames <= 0:
        raise InputError(f"audio file {path} holds no audio (0 samples)")
    seconds = file.frames / file.samplerate
    if seconds > max_seconds:
        raise InputError(
            f"audio file {path} lasts {seconds:.0f} s; at most {max_seconds:.0f} s are read: cut it "
            "into pieces or raise max_seconds"
        )


def _decode(
    file: soundfile.SoundFile, path: Path, target_rate: int
) -> Iterator[NDArray[np.float32]]:
    """All frames as float32 blocks [c, t] at `target_rate`."""
    stream = None
    if target_rate != file.samplerate:
        stream = soxr.ResampleStream(file.samplerate, target_rate, file.channels, dtype="float32")
    read = 0
    while read < file.frames:
        block = file.read(min(_BLOCK, file.frames - read), dtype="float32", always_2d=True)
        if not len(block):
            raise InputError(
                f"audio file {path} is truncated: its header promises "
                f"{file.frames / file.samplerate:.2f} s, "
                f"{(file.frames - read) / file.samplerate:.2f} s of that are missing"
            )
        read += len(block)
        if stream is not None:
            block = stream.resample_chunk(block, read == file.frames)
        yield np.ascontiguousarray(block.T)


def _checked_source(path: Path) -> tuple[Path | io.BytesIO, list[str]]:
    """What to decode (the file, or a copy with its header mended) and warnings about its length.

    libsndfile silently reads what is there, so a broken copy would pass as a shorter recording:
    the size in a wav header is compared with the file, and an Ogg stream must end with its end
    mark. Raises InputError when data is missing. Other formats are left to the decoder.
    """
    with path.open("rb") as file:
        magic = file.read(12)
        if magic[:4] == b"OggS":
            return path, [] if _ogg_ends(file) else [
                f"{path} lacks its end mark: it may be cut off"
            ]
        if magic[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or magic[8:12] != b"WAVE":
            return path, []
        order = ">" if magic[:4] == b"RIFX" else "<"
        chunk = _find_data_chunk(file, order)
        if chunk is None:
            raise InputError(
                f"audio file {path} is truncated or damaged: it has no audio data chunk"
            )
        if chunk.held == 0 and chunk.promised == 0:
            raise InputError(f"audio file {path} holds no audio (0 samples)")
        streamed = chunk.promised == 0 or _STREAMING_SIZE <= chunk.promised <= 0xFFFF_FFFF
        if not streamed and chunk.promised > chunk.held:
            missing = chunk.promised - chunk.held
            raise InputError(
                f"audio file {path} is truncated: its header promises "
                f"{chunk.promised / chunk.bytes_per_second:.2f} s, "
                f"{missing / chunk.bytes_per_second:.2f} s of that are missing ({missing} bytes); "
                "copy or record it again"
            )
        if not streamed:
            return path, []
        warning = (
            f"{path} was written as a stream (its header does not say how long it is): whether the "
            "end is missing cannot be checked"
        )
        if chunk.promised or chunk.held > 4 * MAX_VALUES:
            return path, [warning]
        # libsndfile takes a size of 0 at its word and reads nothing: give it the real size.
        file.seek(0)
        mended = bytearray(file.read())
        mended[chunk.start - 4 : chunk.start] = struct.pack(order + "I", chunk.held)
        return io.BytesIO(bytes(mended)), [warning]


def _ogg_ends(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file carries the end-of-stream flag."""
    file.seek(max(0, file.seek(0, 2) - 70_000))  # a page has at most 65 307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


@dataclass(frozen=True)
class _DataChunk:
    """A wav file's audio: first byte, bytes promised by the header and really there, byte rate."""

    start: int
    promised: int
    held: int
    bytes_per_second: int


def _find_data_chunk(file: BinaryIO, order: str) -> _DataChunk | None:
    """The data chunk of an open wav file; None without one. order: '<' or '>' as in struct."""
    size_of_file = file.seek(0, 2)
    position, bytes_per_second, size64 = 12, 1, None
    for _ in range(1000):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return None
        name, size = struct.unpack(order + "4sI", header)
        if name == b"ds64":
            size64 = struct.unpack(order + "QQ", file.read(16).ljust(16, b"\0"))[1]
        elif name == b"fmt ":
            bytes_per_second = struct.unpack(order + "HHII", file.read(12).ljust(12, b"\0"))[3] or 1
        elif name == b"data":
            if size == 0xFFFF_FFFF and size64 is not None:
                size = size64
            start = position + 8
            return _DataChunk(start, size, size_of_file - start, bytes_per_second)
        position += 8 + size + size % 2
    return None

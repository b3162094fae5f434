# SPDX-License-Identifier: Apache-2.0
"""Many clips as one block of 16-bit samples, and windows drawn from it that are worth hearing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from spatial_core.errors import InputError

SAMPLE_RATE = 16000
FRAME = 160  # samples (10 ms): the grid on which a clip's loudness is known and windows end
MAX_CLIP_SECONDS = 3600.0
PEAK = 0.9  # of full scale
SILENT_PEAK = 1e-4  # below this a file is its own rounding noise
MEMORY_LIMIT = 2 << 30  # bytes of PCM held in memory before a cache directory is asked for

Pcm = np.ndarray  # int16, one clip or many end to end


def decode_mono(path: str | os.PathLike[str], target_rate: int = SAMPLE_RATE) -> Pcm:
    """Decode an audio file to int16 [t] at 16 kHz or another rate: channels averaged, scaled to a common peak.

    Scaled because quiet field recordings would keep only a few of the 16 bits, and because scenes
    set levels anyway. Raises InputError for a file that cannot be decoded, is longer than an hour, holds less than it
    declares, or is not finite.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.frames > MAX_CLIP_SECONDS * file.samplerate:
                raise InputError(
                    f"{path}: {file.frames / file.samplerate:.0f} s long; split it into clips of "
                    f"at most {MAX_CLIP_SECONDS:.0f} s"
                )
            declared, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(
            f"{path}: cannot be decoded ({error}); replace or remove the file"
        ) from error
    if len(samples) < declared:
        raise InputError(
            f"{path}: truncated, {len(samples)} of {declared} samples; replace or remove the file"
        )
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: holds samples that are not finite; replace or remove the file")
    if rate != target_rate:
        mono = soxr.resample(mono, rate, target_rate)
    peak = float(np.abs(mono).max(initial=0.0))
    return to_int16(mono * (PEAK / peak) if peak > SILENT_PEAK else np.zeros_like(mono))


def to_int16(samples: np.ndarray) -> Pcm:
    """Round float samples of full scale 1 to int16, clipping what resampling pushed over."""
    return np.clip(np.rint(samples * 32767.0), -32768, 32767).astype(np.int16)


def audible_frames(clip: Pcm, below_db: float) -> np.ndarray:
    """Mark the whole 10 ms frames within `below_db` of the clip's 95th-percentile frame energy.

    Returns bool [t // 160]; all False for digital silence.
    """
    count = len(clip) // FRAME
    frames = clip[: count * FRAME].reshape(count, FRAME).astype(np.float32)
    energy = np.einsum("ft,ft->f", frames, frames)
    if count == 0 or energy.max() == 0.0:
        return np.zeros(count, dtype=bool)
    # A short knock in a long silence has a 95th percentile of nothing: fall back on its peak.
    loud = np.percentile(energy, 95.0) or energy.max()
    return energy > max(loud * 10.0 ** (-below_db / 10.0), 0.0)


@dataclass(frozen=True)
class PcmPool:
    """Clips end to end with their audible frames.

    pcm int16 [total]; starts, lengths int64 [clips] in samples; audible bool [all frames];
    frame_starts int64 [clips] into `audible`. Arrays are only ever read, so threads may share it.
    """

    pcm: Pcm
    starts: np.ndarray
    lengths: np.ndarray
    audible: np.ndarray
    frame_starts: np.ndarray

    @classmethod
    def from_clips(cls, clips: Iterable[Pcm], below_db: float) -> PcmPool:
        """Pack clips held in memory."""
        clips = list(clips)
        return cls._index(
            np.concatenate(clips) if clips else np.zeros(0, np.int16),
            np.array([len(clip) for clip in clips], dtype=np.int64),
            [audible_frames(clip, below_db) for clip in clips],
        )

    @classmethod
    def from_files(
        cls, paths: Sequence[Path], below_db: float, cache_dir: str | os.PathLike[str] | None
    ) -> PcmPool:
        """Decode files into memory, or once into a memory-mapped file under `cache_dir`.

        Raises InputError where the files would not fit in 2 GiB and no `cache_dir` is given.
        """
        if cache_dir is not None:
            return cls._cached(paths, below_db, Path(cache_dir))
        needed = sum(_pcm_bytes(path) for path in paths)
        if needed > MEMORY_LIMIT:
            raise InputError(
                f"{len(paths)} files from {paths[0].parent} on decode to {needed / 2**30:.1f} GiB; "
                "give a cache_dir with that much room, where they are decoded once"
            )
        return cls.from_clips(_decode_all(paths), below_db)

    @classmethod
    def _cached(cls, paths: Sequence[Path], below_db: float, cache_dir: Path) -> PcmPool:
        listing = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        digest = hashlib.sha256(json.dumps([listing, below_db]).encode()).hexdigest()[:20]
        data, index = cache_dir / f"{digest}.pcm", cache_dir / f"{digest}.npz"
        if not (data.exists() and index.exists()):
            cache_dir.mkdir(parents=True, exist_ok=True)
            lengths, audible = [], []
            part = cache_dir / f"{digest}.{os.getpid()}.part"
            with part.open("wb") as sink:
                for clip in _decode_all(paths):
                    sink.write(clip.tobytes())
                    lengths.append(len(clip))
                    audible.append(audible_frames(clip, below_db))
            part_index = cache_dir / f"{digest}.{os.getpid()}.part.npz"
            np.savez(
                part_index, lengths=np.array(lengths, np.int64), audible=np.concatenate(audible)
            )
            # Renamed last: an interrupted run leaves no index, and the next one starts over.
            part.replace(data)
            part_index.replace(index)
        with np.load(index, allow_pickle=False) as stored:
            lengths, audible = stored["lengths"], stored["audible"]
        if data.stat().st_size != 2 * int(lengths.sum()):
            raise InputError(f"{data}: size differs from its index; delete it to decode again")
        pcm = np.memmap(data, dtype=np.int16, mode="r") if lengths.sum() else np.zeros(0, np.int16)
        return cls._index(pcm, lengths, [audible])

    @classmethod
    def _index(cls, pcm: Pcm, lengths: np.ndarray, audible: list[np.ndarray]) -> PcmPool:
        frames = lengths // FRAME
        return cls(
            pcm=pcm,
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            audible=np.concatenate(audible) if audible else np.zeros(0, bool),
            frame_starts=np.cumsum(frames) - frames,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, index: int) -> Pcm:
        """One clip, int16 [t]."""
        start = self.starts[index]
        return self.pcm[start : start + self.lengths[index]]

    def flags(self, index: int) -> np.ndarray:
        """One clip's audible frames, bool [t // 160]."""
        start = self.frame_starts[index]
        return self.audible[start : start + self.lengths[index] // FRAME]

    def draw_end(
        self,
        rng: np.random.Generator,
        index: int,
        window: int,
        share: float,
        looped: bool,
    ) -> int | None:
        """Draw where a window of `window` samples may end so that `share` of its frames is audible.

        Before the clip's start lies silence, or its own end where `looped`. Returns samples from
        the clip's start (a multiple of 160), or None where no such place exists.
        """
        flags = self.flags(index)
        count = max(1, -(-window // FRAME))
        if len(flags) == 0:
            return None
        if looped:
            lead = np.resize(flags[::-1], count)[::-1]
        else:
            lead = np.zeros(count, dtype=bool)
        total = np.cumsum(np.concatenate([[False], lead, flags]), dtype=np.int32)
        heard = total[count + 1 :] - total[1:-count]
        ends = np.flatnonzero(heard >= share * count)
        if len(ends) == 0:
            return None
        return int(ends[rng.integers(len(ends))] + 1) * FRAME

    def read(self, index: int, end: int, samples: int, looped: bool) -> np.ndarray:
        """Read the `samples` before `end` as float32 of full scale 1.

        Before the clip's start: zeros, or the clip over again where `looped`.
        """
        clip = self.clip(index)
        if looped:
            usable = clip[: len(clip) // FRAME * FRAME]
            return np.take(usable, np.arange(end - samples, end), mode="wrap") / np.float32(32768)
        out = np.zeros(samples, dtype=np.float32)
        have = min(end, samples)
        if have > 0:
            out[samples - have :] = clip[end - have : end] / np.float32(32768)
        return out


def _pcm_bytes(path: Path) -> int:
    """Bytes of the decoded file, from its header."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(
            f"{path}: cannot be decoded ({error}); replace or remove the file"
        ) from error
    return int(2 * info.duration * SAMPLE_RATE)


def _decode_all(
    paths: Sequence[Path], decode: Callable[[Path], Pcm] = decode_mono
) -> Iterator[Pcm]:
    """Decode in order on a few threads, holding only a bounded number of clips ahead."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 16 * workers):
            yield from pool.map(decode, paths[start : start + 16 * workers])

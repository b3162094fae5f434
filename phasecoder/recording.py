# SPDX-License-Identifier: Apache-2.0
"""A user's recording as blocks at 16 kHz, with the mistakes that are common in one refused.

Files, arrays and live blocks come out alike: float32 [c, t] pieces, so that an hour takes no more
memory than ten seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatial_core.audio.blocks import checked_rate, float_samples, pieces, regular, resampled
from spatial_core.audio.checks import name_channels
from spatial_core.audio.io import AudioStream, stream_audio
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray

# One block is what the encoder answers at once: 64 hops, 10.24 s.
BLOCK = 64 * HOP
FULL_SCALE = 0.999
_CLIPPED_SHARE = 1e-3
# Power of -110 dB re full scale, under the last bit of 16-bit audio.
SILENT_POWER = 1e-11
# A channel 60 dB under the others is dead: the same rule as for single windows.
DEAD_POWER = 1e-6

# The loudest stretch of this length is kept: enough for the delays between channels to be judged.
EXCERPT = 6 * SAMPLE_RATE
# As much is read before a model is loaded, where the end of a recording does not have to be waited for.
AHEAD_SECONDS = 20.0

AudioInput = str | Path | NDArray[Any] | Iterable[NDArray[Any]]


@dataclass
class Recording:
    """Blocks of one recording and what was noticed on the way; iterate it once.

    blocks: float32 [c, t] at 16 kHz. notes and the checks below are complete only after the last.
    """

    blocks: Iterator[NDArray[np.float32]]
    array: MicArray
    name: str
    source_rate: int
    notes: list[str] = field(default_factory=list)
    samples: int = 0
    _sum: NDArray[np.float64] | None = None
    _energy: NDArray[np.float64] | None = None
    _copies: NDArray[np.bool_] | None = None
    _clipped: int = 0
    _stretches: list[list[NDArray[np.float32]]] = field(default_factory=lambda: [[], []])
    _ahead: list[NDArray[np.float32]] = field(default_factory=list)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The blocks, each checked; raises InputError for NaN or infinite samples."""
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._checked()

    def look_ahead(self) -> None:
        """Reads the first 20 s now, so that what is wrong with it is said before a model is loaded.

        Raises InputError as iterating does, and as `finish` for a recording that ends within it.
        """
        for block in self._checked():
            self._ahead.append(block)
            if self.seconds >= AHEAD_SECONDS:
                return
        self.finish()

    def _checked(self) -> Iterator[NDArray[np.float32]]:
        for block in self.blocks:
            if block.size == 0:
                continue
            self._watch(block)
            self._keep(block)
            self.samples += block.shape[1]
            yield block

    @property
    def seconds(self) -> float:
        """Length so far, in seconds."""
        return self.samples / SAMPLE_RATE

    @property
    def excerpt(self) -> NDArray[np.float32]:
        """The loudest stretch so far of up to 6 s [c, t]."""
        loudest = max(self._stretches, key=_energy)
        if len(loudest) == 1:
            return loudest[0]
        return np.concatenate(loudest, axis=1) if loudest else np.zeros((0, 0), np.float32)

    def finish(self) -> list[str]:
        """Notes about the whole recording.

        Raises InputError for a recording without a sample or without sound, a mono recording
        copied to all channels, or fewer than two live channels.
        """
        if self.samples == 0 or self._sum is None or self._energy is None or self._copies is None:
            raise InputError(f"{self.name} holds no samples")
        # The variance: a constant offset is no sound.
        power = self._energy / self.samples - np.square(self._sum / self.samples)
        if not np.any(power > SILENT_POWER):
            raise InputError(
                f"{self.name} is digital silence: all {len(power)} channels are zero or constant "
                "throughout; check the recorder's input and gain"
            )
        live = power > max(SILENT_POWER, DEAD_POWER * float(np.median(power)))
        dead = np.flatnonzero(~live)
        if len(power) - len(dead) < 2:
            raise InputError(
                f"{self.name}: only {len(power) - len(dead)} of {len(power)} channels carries "
                "sound; a direction needs at least two"
            )
        if np.all(self._copies[live]):
            raise InputError(
                f"{self.name}: all channels are identical, so this is one microphone copied (mono); "
                "record the microphones on separate channels"
            )
        notes = list(self.notes)
        if len(dead):
            notes.append(f"left out: {name_channels(dead)}, silent while the others carry sound")
        if self._clipped > _CLIPPED_SHARE * self.samples:
            notes.append(
                f"{100 * self._clipped / self.samples:.1f} % of the samples are at full scale "
                "(clipped): record with less gain"
            )
        if self.samples < WINDOW:
            notes.append(
                f"only {1000 * self.seconds:.0f} ms long: padded with silence to the "
                f"{1000 * WINDOW / SAMPLE_RATE:.0f} ms that the model hears"
            )
        return notes

    def _keep(self, block: NDArray[np.float32]) -> None:
        """Add the block to the running stretch; a full one replaces the kept one if it is louder."""
        for piece in pieces(block, EXCERPT):
            kept, running = self._stretches
            if sum(part.shape[1] for part in running) + piece.shape[1] > EXCERPT:
                kept, running = max(kept, running, key=_energy), []
                self._stretches = [kept, running]
            running.append(piece.copy())  # a live source may write into its buffer again

    def _watch(self, block: NDArray[np.float32]) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            channel, sample = np.argwhere(~finite)[0]
            raise InputError(
                f"{self.name}: sample at {(self.samples + sample) / SAMPLE_RATE:.3f} s of channel "
                f"{channel + 1} is {block[channel, sample]}; export the recording again"
            )
        if self._sum is None or self._energy is None or self._copies is None:
            self._sum = np.zeros(len(block))
            self._energy = np.zeros(len(block))
            self._copies = np.ones(len(block), bool)
        self._sum += block.sum(axis=1, dtype=np.float64)
        self._energy += np.einsum("ct,ct->c", block, block, dtype=np.float64)
        loudest = block[int(np.argmax(self._energy))]
        self._copies &= np.all(np.abs(block - loudest) <= 1e-6 * np.abs(loudest), axis=1)
        self._clipped += int(np.any(np.abs(block) >= FULL_SCALE, axis=0).sum())


def _energy(parts: list[NDArray[np.float32]]) -> float:
    return sum(float(np.sum(np.var(part, axis=1)) * part.shape[1]) for part in parts)


def open_recording(audio: AudioInput, array: MicArray, sample_rate: int | None) -> Recording:
    """Open a file, an array [c, t] or an iterable of such blocks as a Recording at 16 kHz.

    Args:
        audio: path, array, or blocks in the order of time.
        array: the microphones, one per channel.
        sample_rate: Hz; needed for arrays and blocks. A path's is in the file, and if it is given
            all the same it must be that.

    Raises InputError for what cannot be localised: missing, truncated or one-channel audio, a
    channel count that is not the array's, a sample rate that is missing or out of range.
    """
    if isinstance(audio, str | Path):
        return _open_file(Path(audio), array, sample_rate)
    rate = checked_rate(sample_rate, "sample_rate")
    if isinstance(audio, np.ndarray):
        cut = pieces(_as_float(audio, array), max(1, BLOCK * rate // SAMPLE_RATE))
        blocks = regular(resampled(cut, rate, SAMPLE_RATE), BLOCK)
    else:
        # Live blocks are passed on as they come, so that each is answered at once.
        live = (_as_float(np.asarray(block), array) for block in audio)
        blocks = resampled(live, rate, SAMPLE_RATE)
    recording = Recording(blocks, array, "the audio", rate)
    _note_rate(recording)
    return recording


def _open_file(path: Path, array: MicArray, sample_rate: int | None) -> Recording:
    stream = stream_audio(path, SAMPLE_RATE)
    try:
        if sample_rate is not None and sample_rate != stream.source_rate:
            raise InputError(
                f"{path} has {stream.source_rate} Hz, not sample_rate={sample_rate}: leave "
                "sample_rate out for files, which are read at their own rate; if the file's header "
                "is wrong, give its samples as an array"
            )
        _check_channels(stream.num_channels, array, str(path))
    except InputError:
        stream.close()
        raise
    recording = Recording(_closing(stream), array, str(path), stream.source_rate)
    recording.notes.extend(stream.warnings)
    _note_rate(recording)
    return recording


def _closing(stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    with stream:
        yield from regular(stream, BLOCK)


def _note_rate(recording: Recording) -> None:
    if recording.source_rate != SAMPLE_RATE:
        recording.notes.append(f"resampled from {recording.source_rate} Hz to {SAMPLE_RATE} Hz")
    if recording.source_rate < SAMPLE_RATE:
        recording.notes.append(
            f"recorded at {recording.source_rate} Hz: nothing above "
            f"{recording.source_rate // 2} Hz is there to hear, expect coarser directions and noise taken for speech"
        )


def _check_channels(channels: int, array: MicArray, what: str) -> None:
    if channels == 1:
        raise InputError(
            f"{what} has one channel: a direction needs the microphones of the array on separate "
            f"channels ({array.num_mics} for array {array.name!r})"
        )
    array.require_channels(channels, what)


def _as_float(audio: NDArray[Any], array: MicArray) -> NDArray[np.float32]:
    """[c, t] as float32; integers are scaled by their full scale."""
    if audio.ndim == 1:
        _check_channels(1, array, "the audio")
    if audio.ndim != 2:
        raise InputError(f"audio must be [channels, samples], got shape {audio.shape}")
    if audio.shape[0] != array.num_mics and audio.shape[1] == array.num_mics:
        raise InputError(
            f"audio of shape {audio.shape} looks like [samples, channels]: give its transpose, "
            "[channels, samples]"
        )
    _check_channels(audio.shape[0], array, "the audio")
    return float_samples(audio)

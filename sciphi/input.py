# SPDX-License-Identifier: Apache-2.0
"""A user's Ambisonic recording as blocks of the inside format, with the common mistakes said.

Files, arrays and live blocks come out alike: float32 [4, t] at 24 kHz, ACN (W, Y, Z, X), SN3D. What the
channels are is never guessed: order and normalisation are given, or that they are capsules (A-format).
Whether that can be true is then checked by a law that every sound field obeys: over a band of
frequencies the power of X, Y and Z together is that of W in SN3D, because every plane wave brings as much
to the one as to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciphi.convention_check import BandPowers, convention_hints
from sciphi.input_format import CHANNELS, InputFormat
from sciphi.records import FOA_RATE
from spatial_core.audio.blocks import checked_rate, float_samples, pieces, regular, resampled
from spatial_core.audio.io import AudioStream, stream_audio
from spatial_core.errors import InputError

# Ambisonics of order 2 to 7: the first four channels are those of order 1.
_HIGHER = tuple((n + 1) ** 2 for n in range(2, 8))
# Power of -110 dB re full scale, under the last bit of 16-bit audio.
SILENT_POWER = 1e-11
# A channel 60 dB under W is dead.
DEAD_POWER = 1e-6
FULL_SCALE = 0.999
_CLIPPED_SHARE = 1e-3
# As much is read before a model is loaded, where the end of a recording does not have to be waited for.
AHEAD_SECONDS = 20.0
_BLOCK_SECONDS = 4
_BLOCK = _BLOCK_SECONDS * FOA_RATE

AudioInput = str | Path | NDArray[Any] | Iterable[NDArray[Any]]


@dataclass
class FoaRecording:
    """Blocks of one recording and what was noticed on the way; iterate it once.

    blocks: float32 [4, t] at 24 kHz as they came, before conversion. Notes and the checks of `finish`
    are complete only after the last.
    """

    blocks: Iterator[NDArray[np.float32]]
    format: InputFormat
    name: str
    source_rate: int
    notes: list[str] = field(default_factory=list)
    samples: int = 0
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, CHANNELS)))
    _copies: bool = True
    _clipped: int = 0
    _ahead: list[NDArray[np.float32]] = field(default_factory=list)
    _given: BandPowers = field(default_factory=lambda: BandPowers(FOA_RATE))
    _inside: BandPowers = field(default_factory=lambda: BandPowers(FOA_RATE))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The blocks in the inside format, each checked; raises InputError for NaN or infinity."""
        for block in self.format.inside(self._watched()):
            self._inside.add(block)
            yield block

    @property
    def seconds(self) -> float:
        """Length so far, in seconds."""
        return self.samples / FOA_RATE

    def look_ahead(self) -> bool:
        """Reads the first 20 s now, so that what is wrong with them is said before a model is loaded.

        Whether the recording ends within them; then it raises as `finish` does.
        """
        for block in self._checked():
            self._ahead.append(block)
            if self.seconds >= AHEAD_SECONDS:
                return False
        self._usable()
        return True

    def finish(self) -> list[str]:
        """Notes about the whole recording.

        Raises InputError for a recording without a sample or without sound, one signal copied to all
        channels, and one whose W, or all but W, is silent.
        """
        power, dead = self._usable()
        notes = [*self.notes, *dead]
        if not np.any(power <= SILENT_POWER):
            notes += convention_hints(self._given, self._inside, self.format.norm)
        if self._clipped > _CLIPPED_SHARE * self.samples:
            notes.append(
                f"{100 * self._clipped / self.samples:.1f} % of the samples are at full scale (clipped): "
                "record with less gain"
            )
        return notes

    def _usable(self) -> tuple[NDArray[np.float64], list[str]]:
        """Power of each channel, and notes on silent ones; InputError as `finish`."""
        if self.samples == 0:
            raise InputError(f"{self.name} holds no samples")
        # The variance: a constant offset is no sound.
        power = self._sums[1] / self.samples - np.square(self._sums[0] / self.samples)
        if not np.any(power > SILENT_POWER):
            raise InputError(
                f"{self.name} is digital silence: all four channels are constant or below -110 dB throughout; "
                "check the recorder's input and gain"
            )
        if self._copies:
            raise InputError(
                f"{self.name}: all channels are identical, so this is one microphone copied (mono): "
                "it has no directions"
            )
        return power, self._dead_notes(power)

    def _dead_notes(self, power: NDArray[np.float64]) -> list[str]:
        """Notes on silent channels, or an InputError where they leave no directions."""
        dead = np.flatnonzero(power <= max(SILENT_POWER, DEAD_POWER * float(power.max())))
        if not len(dead):
            return []
        names = self.format.channel_names
        which = ", ".join(f"channel {i + 1} ({names[i]})" for i in dead)
        if self.format.a_format is not None:
            raise InputError(f"{self.name}: {which} silent: all four capsules are needed")
        if 0 in dead:
            raise InputError(
                f"{self.name}: channel 1 (W) is silent while others carry sound: W holds all sound; "
                "check the order of the channels"
            )
        if len(dead) == CHANNELS - 1:
            raise InputError(
                f"{self.name}: only channel 1 (W) carries sound, so it has no directions: a mono recording "
                "was put into an Ambisonic file?"
            )
        axes = {"X": "front and back", "Y": "left and right", "Z": "up and down"}
        lost = ", ".join(axes[names[i]] for i in dead)
        return [
            f"{which} silent: {lost} cannot be told apart, do not trust that part of directions"
        ]

    def _watched(self) -> Iterator[NDArray[np.float32]]:
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._checked()

    def _checked(self) -> Iterator[NDArray[np.float32]]:
        for block in self.blocks:
            if block.shape[1]:
                self._watch(block)
                self.samples += block.shape[1]
                yield block

    def _watch(self, block: NDArray[np.float32]) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            channel, sample = np.argwhere(~finite)[0]
            raise InputError(
                f"{self.name}: sample at {(self.samples + sample) / FOA_RATE:.3f} s of channel "
                f"{channel + 1} is {block[channel, sample]}; export the recording again"
            )
        self._sums += [
            block.sum(axis=1, dtype=np.float64),
            np.einsum("ct,ct->c", block, block, dtype=np.float64),
        ]
        self._copies &= bool(np.all(np.abs(block - block[0]) <= 1e-6 * np.abs(block[0])))
        self._clipped += int(np.any(np.abs(block) >= FULL_SCALE, axis=0).sum())
        self._given.add(block)


def open_scene(
    audio: AudioInput,
    order: str | None = None,
    norm: str | None = None,
    rate: int | None = None,
    a_format: str | None = None,
) -> FoaRecording:
    """Open a file, an array [4, t] or an iterable of such blocks.

    Args:
        audio: path, array, or blocks in the order of time. Of Ambisonics of a higher order (9, 16, ...
            channels) the first four are taken, which are those of order 1.
        order: "ACN" (W, Y, Z, X) or "FuMa" (W, X, Y, Z).
        norm: "SN3D", "N3D" or "FuMa" (W 3 dB down).
        rate: Hz; needed for arrays and blocks. A path's is in the file, and if it is given all the same
            it must be that.
        a_format: "ambeo" for the four capsules of a tetrahedral microphone, instead of order and norm.

    Raises InputError for what cannot be described: missing or truncated files, another number of
    channels, a convention or a rate that is not given.
    """
    channels_are = InputFormat(order, norm, a_format)
    if isinstance(audio, str | Path):
        return _open_file(Path(audio), channels_are, rate)
    hertz = checked_rate(rate, "rate")
    notes: list[str] = []
    if hasattr(audio, "__array__"):  # also the arrays of other libraries
        audio = np.asarray(audio)
    if isinstance(audio, np.ndarray):
        samples = _four(_as_float(audio), "the audio", channels_are, notes)
        blocks = regular(
            resampled(pieces(samples, _BLOCK_SECONDS * hertz), hertz, FOA_RATE), _BLOCK
        )
    else:
        live = (_four(_as_float(np.asarray(b)), "a block", channels_are, []) for b in audio)
        blocks = resampled(live, hertz, FOA_RATE)
    return _recording(blocks, channels_are, "the audio", hertz, notes)


def _open_file(path: Path, channels_are: InputFormat, rate: int | None) -> FoaRecording:
    stream = stream_audio(path, FOA_RATE)
    notes = list(stream.warnings)
    try:
        if rate is not None and rate != stream.source_rate:
            raise InputError(
                f"{path} has {stream.source_rate} Hz, not rate={rate}: leave rate out for files, which "
                "are read at their own; if the file's header is wrong, give its samples as an array"
            )
        _check_channels(stream.num_channels, str(path), channels_are, notes)
    except InputError:
        stream.close()
        raise
    blocks = _closing(stream)
    return _recording(blocks, channels_are, str(path), stream.source_rate, notes)


def _closing(stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    with stream:
        yield from regular((block[:CHANNELS] for block in stream), _BLOCK)


def _recording(
    blocks: Iterator[NDArray[np.float32]],
    channels_are: InputFormat,
    name: str,
    rate: int,
    notes: list[str],
) -> FoaRecording:
    if rate < FOA_RATE:
        notes.append(
            f"recorded at {rate} Hz: nothing above {rate // 2} Hz is there to hear, expect coarser answers"
        )
    return FoaRecording(blocks, channels_are, name, rate, notes)


def _as_float(audio: NDArray[Any]) -> NDArray[np.float32]:
    """[c, t] as float32; integers are scaled by their full scale."""
    if audio.ndim == 1:
        audio = audio[None]
    if audio.ndim != 2:
        raise InputError(f"audio must be [4, samples], got shape {audio.shape}")
    if audio.shape[0] > 64 and audio.shape[1] <= 64:
        raise InputError(
            f"audio of shape {audio.shape} looks like [samples, channels]: give its transpose, "
            "[channels, samples]"
        )
    return float_samples(audio)


def _four(
    samples: NDArray[np.float32], what: str, channels_are: InputFormat, notes: list[str]
) -> NDArray[np.float32]:
    _check_channels(samples.shape[0], what, channels_are, notes)
    return samples[:CHANNELS]


def _check_channels(count: int, what: str, channels_are: InputFormat, notes: list[str]) -> None:
    """Refuse what is not first-order Ambisonics; a note if it holds more than that."""
    if count == CHANNELS:
        return
    if count in _HIGHER and channels_are.a_format is None:
        notes.append(
            f"{count} channels, Ambisonics of order {int(count**0.5) - 1}: the first four, which are those "
            "of order 1, were used"
        )
        return
    advice = {
        1: "a mono recording has no directions",
        2: "a stereo recording cannot be turned into Ambisonics",
        3: (
            "W, X and Y without Z is horizontal only: add Z as a channel of zeros where its place is (the "
            "answer then knows no up and down)"
        ),
        6: "four Ambisonic and two head-locked stereo channels? Keep the first four",
    }
    raise InputError(
        f"{what} has {count} channel{'s' if count != 1 else ''}: first-order Ambisonics has exactly 4 "
        f"({', '.join(channels_are.channel_names)})"
        + (f"; {advice[count]}" if count in advice else "; export only those")
    )

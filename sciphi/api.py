# SPDX-License-Identifier: Apache-2.0
"""Describe an Ambisonic recording: `describe` for the whole answer, `describe_stream` for a window at a time.

import sciphi
result = sciphi.describe("scene.wav", order="ACN", norm="SN3D")
print(result.to_text())
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sciphi.input import AudioInput, FoaRecording, open_scene
from sciphi.records import FOA_RATE
from sciphi.result import DescribedWindow, SceneResult
from sciphi.schema import MOST_LEVEL, SceneDescription, Source
from sciphi.shipped import SHIPPED
from sciphi.text_format import parse_text
from sciphi.timeline import merge, whole
from sciphi.windows import Window, windows
from spatial_core import waits
from spatial_core.errors import InputError

if TYPE_CHECKING:
    from llm_bridge.generate import Told

# Below this a 16-bit recording holds little more than its own rounding.
FLOOR_DB = -90.0
# Levels of W, RMS in dB re full scale, that models are trained on; quieter and louder windows are brought
# to the nearer of them, and what is said of loudness is corrected.
LOWEST_DB, HIGHEST_DB = -45.0, -15.0
SHORTEST = 0.3
"""Seconds: hardly a sound of the training scenes is shorter, and what would be said of less means nothing."""
SHORTEST_HOP = 0.1
_BATCH = 4


class SceneModel(Protocol):
    """Anything that describes windows: a trained Describer, a fake in tests.

    name: for reports. seconds: length of the windows that it hears. One that also has `tell` (as `describe`,
    with the probability of every id) gets confidences.
    """

    @property
    def name(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    def describe(self, foas: Sequence[NDArray[np.float32]]) -> list[str]:
        """The answer to each window [4, t] at 24 kHz, ACN/SN3D, in the text form of a description."""
        ...


ModelInput = str | Path | SceneModel | None


def describe(
    audio: AudioInput,
    order: str | None = None,
    norm: str | None = None,
    rate: int | None = None,
    *,
    a_format: str | None = None,
    model: ModelInput = None,
    hop: float | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    weights: str | Path | None = None,
) -> SceneResult:
    """What sounds where in a first-order Ambisonic recording, and in what room.

    Args:
        audio: path of an audio file, array [4, samples], or an iterable of such arrays in the order of time.
        order: of the channels: "ACN" (W, Y, Z, X) or "FuMa" (W, X, Y, Z). Never guessed.
        norm: their gains: "SN3D", "N3D" or "FuMa" (W 3 dB down). Never guessed.
        rate: Hz, for arrays; any, resampled to 24 kHz. Files know theirs: another one is refused.
        a_format: "ambeo" for the four capsules of a tetrahedral microphone (front left up, front right
            down, back left down, back right up) instead of order and norm.
        model: None for the model that ships with the package, a trained model's folder, or what
            `load_describer` returns, so that many recordings load it once.
        hop: seconds between windows, up to the length of a window (the default); less hears everything
            more than once.
        start, seconds: part of the recording; None: to its end.
        weights: folder of a base model whose weights are yours to bring, as in `load_describer`.

    Returns:
        A SceneResult: `.windows`, `.timeline`, `.description`, `.notes`, `.problems`, `.to_text()`,
        `.to_json()`, `.plot(path)`.

    Raises InputError, with what to do, for audio that is missing, damaged, digital silence, without
    directions, shorter than 0.3 s, or of other than four channels, and for a convention that is not given.
    """
    first, last = _span(start, seconds)
    _check_hop(hop)
    recording = open_scene(audio, order, norm, rate, a_format)
    # What is wrong is said before a model is loaded, but nobody waits for the end of a live source.
    if (isinstance(audio, str | Path) or hasattr(audio, "__array__")) and recording.look_ahead():
        _check_length(recording, first, last)
    teller = _Teller(model, weights)
    size, step = teller.sizes(hop)
    told: list[DescribedWindow] = []
    heard = windows(recording, size, step, first, last)
    while chunk := list(itertools.islice(heard, _BATCH)):
        told += teller.tell(chunk)
    notes = recording.finish()
    _check_length(recording, first, last)
    notes += [*_length_notes(recording, told, size), *teller.notes]
    timeline = merge((window.start, window.end, window.description) for window in told)
    descriptions = [window.description for window in told if window.description is not None]
    if len(told) == 1 and told[0].description is not None:
        description = _later(told[0].description, told[0].start)  # the model's own order and gaps
    else:
        description = whole(descriptions, timeline)
    notes += _doubts(description)
    return SceneResult(
        windows=tuple(told),
        timeline=tuple(timeline),
        description=description,
        notes=tuple(dict.fromkeys(notes)),
        problems=_problems(told),
        source=recording.name,
        format=recording.format.name,
        source_rate=recording.source_rate,
        model_name=teller.name,
        start_seconds=told[0].start,
        end_seconds=told[-1].end,
        window_seconds=size / FOA_RATE,
        hop_seconds=step / FOA_RATE,
    )


def describe_stream(
    audio: AudioInput,
    order: str | None = None,
    norm: str | None = None,
    rate: int | None = None,
    *,
    a_format: str | None = None,
    model: ModelInput = None,
    hop: float | None = None,
) -> Iterator[DescribedWindow]:
    """The same windows one by one, each as soon as its sound is there (arguments as `describe`).

    Give an iterable of blocks [4, samples] for live audio. The checks of a whole recording (digital
    silence, one signal in all channels) come when the audio ends. `timeline.merge` makes one timeline of
    windows so far.
    """
    recording = open_scene(audio, order, norm, rate, a_format)
    teller = _Teller(model)
    size, step = teller.sizes(hop)
    for window in windows(recording, size, step):
        yield from teller.tell([window])
    recording.finish()


class _Teller:
    """A model and what is done around it for windows of a recording."""

    def __init__(self, model: ModelInput, weights: str | Path | None = None) -> None:
        self._model = _load(model, weights)
        self._gains: list[float] = []

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def notes(self) -> list[str]:
        """What was done to windows before the model heard them."""
        if not self._gains:
            return []
        low, high = min(self._gains), max(self._gains)
        span = f"{low:+.0f} dB" if high - low < 1 else f"{low:+.0f} to {high:+.0f} dB"
        return [
            f"the model heard {len(self._gains)} window{'s' if len(self._gains) > 1 else ''} with {span}, at a "
            "level like those it was trained on; loudness is given as recorded"
        ]

    def sizes(self, hop: float | None) -> tuple[int, int]:
        """Window and hop in samples. Raises InputError for a hop that leaves sound unheard, or none."""
        size = round(self._model.seconds * FOA_RATE)
        if hop is None:
            return size, size
        _check_hop(hop, self._model.seconds)
        return size, round(hop * FOA_RATE)

    def tell(self, heard: Sequence[Window]) -> list[DescribedWindow]:
        """The description of each window; silence is not shown to the model."""
        levels = [_level_db(window) for window in heard]
        gains = [_gain_db(level) for level in levels]
        loud = [i for i, level in enumerate(levels) if level >= FLOOR_DB]
        foas = [heard[i].foa * np.float32(10 ** (gains[i] / 20)) for i in loud]
        tell = getattr(self._model, "tell", self._model.describe)
        answers = dict(zip(loud, tell(foas), strict=True)) if foas else {}
        self._gains += [gains[i] for i in loud if gains[i]]
        return [
            _described(window, level, gain, answers.get(i))
            for i, (window, level, gain) in enumerate(zip(heard, levels, gains))
        ]


def _load(model: ModelInput, weights: str | Path | None = None) -> SceneModel:
    if model is None or isinstance(model, str | Path):
        folder = SHIPPED.resolve(model)
        if weights is not None and not Path(weights).exists():
            raise InputError(f"weights {str(weights)!r}: there is nothing")
        waits.say(f"loading {folder.name}")
        from sciphi.trained import load_describer

        return load_describer(folder, weights=weights)
    return model


def _check_hop(hop: float | None, longest: float = math.inf) -> None:
    """InputError for a time between windows that leaves sound unheard, or none."""
    if hop is None or (math.isfinite(hop) and SHORTEST_HOP <= hop <= longest):
        return
    most = f"to {longest:g} s, the length of a window" if longest < math.inf else "s or more"
    raise InputError(f"hop is {hop} s: give the time between windows, {SHORTEST_HOP:g} {most}")


def _check_length(recording: FoaRecording, first: int, last: int | None) -> None:
    """InputError for a recording that was read to its end and holds too little of what is wanted."""
    end = recording.samples if last is None else min(last, recording.samples)
    if end <= first:
        raise InputError(
            f"{recording.name} lasts {recording.seconds:.2f} s: nothing is left from "
            f"{first / FOA_RATE:g} s on"
        )
    if end - first < SHORTEST * FOA_RATE:
        raise InputError(
            f"{(end - first) / FOA_RATE:.2f} s of {recording.name} are too short to be described: give "
            f"{SHORTEST:g} s or more"
        )


def _doubts(description: SceneDescription | None) -> list[str]:
    """A note on what the model itself was not sure of."""
    if description is None:
        return []
    doubts = []
    if description.doubtful:
        doubts.append("how many sources there are")
    unsure = list(dict.fromkeys(each.name for each in description.sources if each.doubtful))
    if unsure:
        doubts.append(f"where these are: {', '.join(unsure)}")
    return [f"the model is in doubt about {' and about '.join(doubts)}"] if doubts else []


def _level_db(window: Window) -> float:
    """RMS of W over the time that was recorded, dB re full scale."""
    length = round((window.end - window.start) * FOA_RATE)
    power = float(np.mean(np.square(window.foa[0, :length], dtype=np.float64)))
    return 10 * math.log10(max(power, 1e-20))


def _gain_db(level: float) -> float:
    """What brings a level into the range of training, whole dB."""
    return float(round(min(max(level, LOWEST_DB), HIGHEST_DB) - level))


def _described(
    window: Window, level: float, gain: float, answer: str | Told | None
) -> DescribedWindow:
    if answer is None:
        return DescribedWindow(window.start, window.end, None, "", (), level)
    if isinstance(answer, str):
        description, problems = parse_text(answer)
    else:
        from sciphi.confidence import parse_told

        description, problems = parse_told(answer)
        answer = answer.text
    return DescribedWindow(
        window.start,
        window.end,
        _louder(_within(description, window.end - window.start), -gain),
        answer,
        problems,
        level,
    )


def _within(description: SceneDescription, seconds: float) -> SceneDescription:
    """Without what is said of the silence behind a short recording."""

    def fits(source: Source) -> bool:
        return source.onset is None or source.onset < seconds

    sources = tuple(
        source
        if source.offset is None or source.offset <= seconds
        else dataclasses.replace(source, offset=seconds)
        for source in filter(fits, description.sources)
    )
    return dataclasses.replace(description, sources=sources)


def _later(description: SceneDescription, seconds: float) -> SceneDescription:
    """With all times `seconds` later."""

    def moved(source: Source) -> Source:
        if source.onset is None or source.offset is None:
            return source
        return dataclasses.replace(
            source, onset=source.onset + seconds, offset=source.offset + seconds
        )

    return dataclasses.replace(description, sources=tuple(map(moved, description.sources)))


def _louder(description: SceneDescription, gain: float) -> SceneDescription:
    """With `gain` dB added to all that is said of loudness."""
    if not gain:
        return description
    background = description.background
    if background is not None:
        background = dataclasses.replace(background, loudness=_sum(background.loudness, gain))
    sources = tuple(
        dataclasses.replace(source, loudness=_sum(source.loudness, gain))
        for source in description.sources
    )
    return dataclasses.replace(description, background=background, sources=sources)


def _sum(level: float | None, gain: float) -> float | None:
    return None if level is None else min(max(level + gain, -MOST_LEVEL), MOST_LEVEL)


def _length_notes(recording: FoaRecording, told: Sequence[DescribedWindow], size: int) -> list[str]:
    notes = []
    if recording.source_rate != FOA_RATE:
        notes.append(f"resampled from {recording.source_rate} Hz to {FOA_RATE} Hz")
    length = told[0].end - told[0].start
    if length < size / FOA_RATE - 0.01:
        notes.append(
            f"only {length:.1f} s long: padded with silence to the {size / FOA_RATE:g} s that the model hears"
        )
    return notes


def _problems(told: Sequence[DescribedWindow]) -> tuple[str, ...]:
    """All problems; those of several windows with their times."""
    if len(told) == 1:
        return told[0].problems
    return tuple(
        f"{window.start:.1f} to {window.end:.1f} s: {problem}"
        for window in told
        for problem in window.problems
    )


def _span(start: float, seconds: float | None) -> tuple[int, int | None]:
    """First and last sample at 24 kHz."""
    if not 0 <= start < math.inf or (seconds is not None and not 0 < seconds < math.inf):
        raise InputError(
            f"start={start}, seconds={seconds}: start at 0 s or later, and take more than 0 s"
        )
    first = round(start * FOA_RATE)
    return first, None if seconds is None else first + max(1, round(seconds * FOA_RATE))

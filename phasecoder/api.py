# SPDX-License-Identifier: Apache-2.0
"""Localise a recording: `localize` for the whole answer, `stream` for one window at a time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phasecoder.ambiguity import Ambiguity
from phasecoder.array_check import delay_fault
from phasecoder.context import Windows, check_context, in_context, posterior, whole
from phasecoder.localization import Localization, Overall, overall_estimate
from phasecoder.pretrained import MAX_MICS, load, window_batch
from phasecoder.recording import AudioInput, Recording, open_recording
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array
from spatial_core.geometry.coords import azimuth_error

# Below this a 16-bit recording holds little more than its own rounding.
FLOOR_DB = -90.0
# Windows this far under the loud ones of the same recording are silence.
QUIET_DB = 40.0
SPEECH_THRESHOLD = 0.5
MAX_HOP_SECONDS = 60.0

MicsInput = str | Path | MicArray | NDArray[np.float64]


class Model(Protocol):
    """Anything that answers a batch: an Encoder, a baseline localizer."""

    def predict(self, batch: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """azimuth, elevation, distance [b]; optionally the other keys of an Encoder's answer."""
        ...


@dataclass(frozen=True)
class Estimate:
    """One window of a stream: time (s, the window's centre), angles in degrees, distance in m.

    Angles, distance and confidence are NaN unless `speech`; `silent` says whether the reason is
    silence. elevation is a magnitude where the array cannot tell up from down.
    """

    time: float
    azimuth: float
    elevation: float
    distance: float
    confidence: float
    speech: bool
    silent: bool
    level_db: float


def localize(
    audio: AudioInput,
    mics: MicsInput,
    sample_rate: int | None = None,
    model: str | Path | Model | None = None,
    hop_seconds: float = HOP / SAMPLE_RATE,
    context: float = 0.0,
) -> Localization:
    """Where the talker is, over time and overall.

    Args:
        audio: path of an audio file, array [channels, samples], or an iterable of such arrays in
            the order of time.
        mics: array preset ("respeaker_4mic", ...), JSON file, MicArray, or positions [m, 3] in
            metres, in the order of the channels.
        sample_rate: Hz, for arrays; any rate, resampled to 16 kHz. Files know theirs: another one
            is refused.
        model: None for the checkpoint that ships with the package, a checkpoint's directory, or
            any object with `predict(batch)`.
        hop_seconds: time between estimates; each hears 250 ms.
        context: seconds of sound behind each estimate, for a talker who stays put: the windows
            within half of it on either side are combined, and all of them for `.overall`. 0: each
            window alone, which follows a talker who moves.

    Returns:
        A Localization: azimuth in degrees counter-clockwise from the array's +x axis, elevation up
        from the horizontal, distance in metres, confidence, speech, per window; `.overall`;
        `.notes` on what to know before trusting it.

    Raises InputError, with what to do, for audio or arrays that cannot give a direction.
    """
    check_context(context)
    array = load_array(mics)
    hop = _hop_samples(hop_seconds)
    recording = open_recording(audio, array, sample_rate)
    if isinstance(audio, str | Path | np.ndarray):  # a live source would be waited for
        recording.look_ahead()
    encoder = _load_model(model)
    parts = list(_predict_blocks(recording, array, encoder, hop))
    notes = [*recording.finish(), *array_notes(array)]
    answer = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    grid = answer.pop("azimuth_grid")[0] if "azimuth_grid" in answer else None
    loud = float(np.quantile(answer["level_db"], 0.95))
    silent = _is_silent(answer["level_db"], loud)
    speech = ~silent & (answer["speech_probability"] >= SPEECH_THRESHOLD)
    ambiguity = Ambiguity.of(array)
    columns = _settle(answer, speech, ambiguity)
    overall = _overall(answer, columns, speech, grid, ambiguity, context, hop / SAMPLE_RATE)
    if overall is not None:
        notes += _doubts(overall, fault_notes(recording, array, mics, audio))
    elif not silent.all():
        notes.append(
            "there is sound, but no speech: this model locates talkers only; "
            "`phasecoder array check` shows where any sound comes from"
        )
    if ambiguity.kind == "cone":
        columns["elevation"][:] = np.nan
    return Localization(
        times=answer["time"],
        **columns,
        speech=speech,
        silent=silent,
        level_db=answer["level_db"],
        speech_probability=answer["speech_probability"],
        elevation_sign=_signs(columns["elevation"], ambiguity),
        azimuth_probs=answer.get("azimuth_probs"),
        azimuth_grid=grid,
        overall=overall,
        notes=tuple(dict.fromkeys(notes)),
        source=recording.name,
        array_name=array.name,
        model_name=_model_name(encoder),
        hop_seconds=hop / SAMPLE_RATE,
        window_seconds=WINDOW / SAMPLE_RATE,
        duration_seconds=recording.seconds,
    )


def _doubts(overall: Overall, faults: list[str]) -> list[str]:
    """What speaks against one direction for all: faults of the array, or else that windows disagree."""
    # Where the array is at fault, that is why the windows disagree.
    if faults or overall.share >= 0.6 or overall.windows < 4:
        return faults
    return [
        f"only {100 * overall.share:.0f} % of the windows agree on one direction: there may be "
        "several talkers, or one who moves; read the table over time"
    ]


def stream(
    audio: AudioInput,
    mics: MicsInput,
    sample_rate: int | None = None,
    model: str | Path | Model | None = None,
    hop_seconds: float = HOP / SAMPLE_RATE,
) -> Iterator[Estimate]:
    """The same estimates one by one, as soon as their audio is there (arguments as `localize`).

    Give an iterable of blocks [channels, samples] for live audio: each block is answered when it
    arrives. Silence is judged against the loudest window so far. The checks of a whole recording
    (all zero, copied mono) come when the audio ends.
    """
    array = load_array(mics)
    hop = _hop_samples(hop_seconds)
    recording = open_recording(audio, array, sample_rate)
    encoder = _load_model(model)
    ambiguity = Ambiguity.of(array)
    loud = -np.inf
    for answer in _predict_blocks(recording, array, encoder, hop):
        for i, level in enumerate(answer["level_db"]):
            loud = max(loud, float(level))
            silent = bool(_is_silent(level, loud))
            speech = not silent and bool(answer["speech_probability"][i] >= SPEECH_THRESHOLD)
            row = {key: value[i : i + 1] for key, value in answer.items()}
            columns = _settle(row, np.array([speech]), ambiguity)
            if ambiguity.kind == "cone":
                columns["elevation"][:] = np.nan
            yield Estimate(
                time=float(answer["time"][i]),
                **{key: float(columns[key][0]) for key in _COLUMNS},
                speech=speech,
                silent=silent,
                level_db=float(level),
            )
    recording.finish()


_COLUMNS = ("azimuth", "elevation", "distance", "confidence")


def _load_model(model: str | Path | Model | None) -> Model:
    if model is None or isinstance(model, str | Path):
        return load(model)
    return model


def _model_name(model: Model) -> str:
    return str(getattr(model, "name", type(model).__name__))


def _hop_samples(hop_seconds: float) -> int:
    hop = round(hop_seconds * SAMPLE_RATE)
    if not 1 <= hop <= MAX_HOP_SECONDS * SAMPLE_RATE:
        raise InputError(
            f"hop_seconds is {hop_seconds}: give the time between estimates, up to "
            f"{MAX_HOP_SECONDS:.0f} s (0.16 is usual)"
        )
    return hop


TRAINED_APERTURE = 0.4
"""Metres: random arrays in a ball of 26 cm are hardly wider; beyond, a wrong unit is likelier."""


def array_notes(array: MicArray) -> list[str]:
    """What an array cannot tell apart, which of its microphones are used, and whether it is strangely wide."""
    note = Ambiguity.of(array).note()
    notes = [] if note is None else [note]
    if array.num_mics > MAX_MICS:
        listed = ", ".join(str(channel + 1) for channel in spread_microphones(array))
        notes.append(
            f"{MAX_MICS} of the {array.num_mics} microphones were used, those farthest apart: "
            f"channels {listed}"
        )
    if array.aperture > TRAINED_APERTURE:
        notes.append(
            f"the array is {100 * array.aperture:.0f} cm wide, wider than the model has learned (30 cm): "
            "if yours is smaller, the coordinates are in the wrong unit and this answer is wrong "
            "(`phasecoder array check` tests it)"
        )
    return notes


def fault_notes(
    recording: Recording, array: MicArray, mics: MicsInput, audio: AudioInput
) -> list[str]:
    """A warning if the delays between channels contradict the array; nothing is said of good ones.

    mics, audio: what the user gave, for the command that tells more.
    """
    fault = delay_fault(array, recording.excerpt, SAMPLE_RATE, spread_microphones(array))
    if fault is None:
        return []
    return [
        f"the delays between channels do not fit this array (it looks as if {fault}), so the "
        f"directions are likely wrong: next, `{_check_command(mics, audio)}`"
    ]


def _check_command(mics: MicsInput, audio: AudioInput) -> str:
    given = [str(x) for x in (mics, audio) if isinstance(x, str | Path)]
    return " ".join(["phasecoder array check", *map(shlex.quote, given)])


def spread_microphones(array: MicArray, count: int = MAX_MICS) -> list[int]:
    """Channels (from 0, ascending) of `count` microphones spread over the array.

    Farthest-point selection, starting from the microphone farthest from the centre.
    """
    positions = array.centred
    chosen = [int(np.argmax(np.linalg.norm(positions, axis=1)))]
    nearest = np.full(array.num_mics, np.inf)
    while len(chosen) < min(count, array.num_mics):
        away = np.linalg.norm(positions - positions[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, away)
        chosen.append(int(np.argmax(nearest)))
    return sorted(chosen)


def _windows(
    recording: Recording, channels: list[int], hop: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index of the first, windows [n, m, 4000]) for each block that completes some.

    A recording shorter than one window is padded with zeros; a rest shorter than a hop is left.
    """
    held = np.zeros((len(channels), 0), np.float32)
    skip = 0  # samples still to be dropped before the next window: hops longer than a window
    index = 0
    for block in recording:
        block = block[channels]
        dropped = min(skip, block.shape[1])
        skip -= dropped
        held = np.concatenate([held, block[:, dropped:]], axis=1)
        count = max(0, (held.shape[1] - WINDOW) // hop + 1)
        for first in range(0, count, 64):
            starts = range(first * hop, min(first + 64, count) * hop, hop)
            yield index + first, np.stack([held[:, s : s + WINDOW] for s in starts])
        index += count
        skip += max(0, count * hop - held.shape[1])
        held = held[:, count * hop :]
    if index == 0 and held.shape[1]:
        yield 0, np.pad(held, ((0, 0), (0, WINDOW - held.shape[1])))[None]


def _predict_blocks(
    recording: Recording, array: MicArray, model: Model, hop: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """The model's answers, block by block, with time and level of each window added."""
    channels = spread_microphones(array)
    positions = array.positions[channels]
    found = False
    for index, windows in _windows(recording, channels, hop):
        found = True
        answer = dict(model.predict(window_batch(windows, positions)))
        count = len(windows)
        power = np.var(windows, axis=2, dtype=np.float64).mean(axis=1)
        answer["level_db"] = 10 * np.log10(np.maximum(power, 1e-20))
        answer["time"] = ((index + np.arange(count)) * hop + WINDOW / 2) / SAMPLE_RATE
        yield _complete(answer, count)
    if not found:
        recording.finish()


def _complete(answer: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    """All columns that the rest relies on; a model without a posterior is taken at its word."""
    answer.pop("token", None)
    if "azimuth_grid" in answer:
        grid = np.asarray(answer["azimuth_grid"], np.float64)
        answer["azimuth_grid"] = np.broadcast_to(grid, (count, grid.shape[-1]))
    if "confidence" not in answer:
        answer["confidence"] = np.ones(count)
        if "azimuth_probs" in answer and "azimuth_grid" in answer:
            near = azimuth_error(answer["azimuth"][:, None], answer["azimuth_grid"]) <= 10.0
            answer["confidence"] = np.sum(answer["azimuth_probs"] * near, axis=1)
    answer.setdefault("speech_probability", np.ones(count))
    answer.setdefault("distance", np.full(count, np.nan))
    answer.setdefault("elevation", np.zeros(count))
    return answer


def _is_silent(level_db: Any, loud_db: float) -> Any:
    return np.asarray(level_db) < max(FLOOR_DB, loud_db - QUIET_DB)


def _settle(
    answer: Mapping[str, NDArray[Any]], speech: NDArray[np.bool_], ambiguity: Ambiguity
) -> dict[str, NDArray[np.float64]]:
    """azimuth, elevation, distance, confidence: NaN without speech, on one side of a mirror."""
    columns = {key: np.where(speech, answer[key].astype(np.float64), np.nan) for key in _COLUMNS}
    if ambiguity.kind == "up-down" and "elevation_probs" in answer:
        size = ambiguity.elevation_size(answer["elevation_probs"])
        columns["elevation"] = np.where(speech, size, np.nan)
    if speech.any():
        azimuth, elevation = ambiguity.fold(
            columns["azimuth"][speech], columns["elevation"][speech], columns["confidence"][speech]
        )
        columns["azimuth"][speech], columns["elevation"][speech] = azimuth, elevation
    return columns


def _overall(
    answer: dict[str, NDArray[Any]],
    columns: dict[str, NDArray[np.float64]],
    speech: NDArray[np.bool_],
    grid: NDArray[np.float64] | None,
    ambiguity: Ambiguity,
    context: float,
    hop: float,
) -> Overall | None:
    """The overall answer; with a context, the columns and posteriors of all windows with speech
    are first replaced, in place, by those of their context."""
    probs, cells = posterior(columns["azimuth"], answer.get("azimuth_probs"), grid)
    azimuth, elevation, distance, confidence = (columns[key][speech] for key in _COLUMNS)
    windows = Windows(
        answer["time"][speech], azimuth, elevation, distance, confidence, probs[speech], cells
    )
    if context == 0 or not speech.any():
        return overall_estimate(windows, ambiguity)
    nearby = in_context(windows, context, hop)
    for key in _COLUMNS:
        columns[key][speech] = getattr(nearby, key)
    if grid is not None:
        answer["azimuth_probs"][speech] = nearby.probs
    return overall_estimate(windows, ambiguity, whole(windows, hop))


def _signs(elevation: NDArray[np.float64], ambiguity: Ambiguity) -> NDArray[np.int8] | None:
    if ambiguity.kind in ("up-down", "cone"):
        return None
    return np.sign(np.nan_to_num(elevation)).astype(np.int8)

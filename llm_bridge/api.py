# SPDX-License-Identifier: Apache-2.0
"""Ask about a recording in words: `ask` for the whole answer, `ask_stream` for it piece by piece.

    import llm_bridge
    answer = llm_bridge.ask("room.wav", "my_array.json", "Who is on my left, and what do they say?")

The listener stands at the centre of the array and looks along +y: azimuth 0 is right (+x), 90 in front,
180 left, 270 behind.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_bridge.generate import Asked, Generator
from llm_bridge.layout import MAX_SECONDS, MAX_SOFT, make_row, token_count
from llm_bridge.protocol import AudioEncoder
from llm_bridge.qa.answers import parse_answer
from llm_bridge.qa.book import QuestionBook
from llm_bridge.routing import check_task
from llm_bridge.tokens.clips import Clip
from llm_bridge.tokens.encode import encode_clips, encoder_digest
from llm_bridge.trained import Trained
from llm_bridge.trained import load as load_trained
from phasecoder.api import MicsInput
from phasecoder.pretrained import Encoder
from phasecoder.pretrained import load as load_encoder
from phasecoder.recording import AudioInput, open_recording
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array

# Few shapes, few programs to compile: 5, 10, 20 and 30 s.
_SOFT = (32, 63, 125, MAX_SOFT)
_LENGTH_STEP = 64
# Level of the voices in training, and the probability from which a window has speech.
_RMS = 0.05
_SPEECH = 0.5
_SIDES = (
    "right",
    "front right",
    "front",
    "front left",
    "left",
    "behind left",
    "behind",
    "behind right",
)


@dataclass(frozen=True)
class Spoken:
    """A talker in an answer; None for what it does not say or says unusably.

    azimuth: degrees as in answers, 0 right, 90 front, 180 left, 270 behind; elevation up from the
    horizontal; distance in metres.
    """

    azimuth: float | None = None
    elevation: float | None = None
    distance: float | None = None
    words: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.azimuth is not None:
            parts.append(f"{self.side} ({self.azimuth:.0f} degrees)")
        if self.elevation:
            parts.append(
                f"{abs(self.elevation):.0f} degrees {'up' if self.elevation > 0 else 'down'}"
            )
        if self.distance is not None:
            parts.append(f"{self.distance:.1f} m off")
        text = ", ".join(parts)
        return f"{text}: {self.words!r}" if self.words and text else self.words or text

    @property
    def side(self) -> str | None:
        """Direction in a word or two, None without an azimuth."""
        return None if self.azimuth is None else _SIDES[round(self.azimuth / 45) % 8]


@dataclass(frozen=True)
class Answer:
    """What the model says about a recording.

    text: its own words. task: 1 where, 2 yes or no, 3 who says what and where, 4 the words of one talker.
    talkers: what was read of the text in Tasks 1, 3 and 4; yes: in Task 2, None if it says neither.
    problems: what in the text is invalid, never guessed. notes: what to know about the recording.
    """

    text: str
    question: str
    task: int
    talkers: tuple[Spoken, ...]
    yes: bool | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    model_name: str
    source: str
    array_name: str
    seconds: float

    def __str__(self) -> str:
        return self.text

    def explain(self) -> str:
        """The answer in plain words, one line for each talker; empty where the text says it already."""
        if self.task in (2, 4) or not (self.talkers or not self.problems):
            return ""
        return "\n".join(map(str, self.talkers)) or "nobody talks"

    def to_json(self, indent: int | None = 2) -> str:
        """All fields as JSON; indent None: on one line."""
        return json.dumps(dataclasses.asdict(self), indent=indent, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording, or a part of it, that was read and found usable: samples [m, t] at 16 kHz."""

    samples: NDArray[np.float32]
    array: MicArray
    notes: tuple[str, ...]
    source: str


@dataclass(frozen=True, eq=False)
class Heard:
    """A recording as the language model hears it: tokens [k, 256], mono features [k, a]."""

    tokens: NDArray[np.float16]
    audio: NDArray[np.floating[Any]]
    notes: tuple[str, ...]
    source: str
    array_name: str
    seconds: float


class BridgeModel:
    """A trained bridge with both of its encoders; hears a recording once and is asked about it often.

    Raises InputError if the spatial encoder is not the one that it was trained with.
    """

    def __init__(self, trained: Trained, encoder: Encoder) -> None:
        trained.saved.require({"encoder_digest": encoder_digest(encoder), "hop": HOP})
        self.trained, self.encoder = trained, encoder
        self._book = QuestionBook.load(
            trained.trained_with("book", None), trained.trained_with("style", "full")
        )
        self._mono: AudioEncoder | None = None
        self._generators: dict[tuple[int, int, int], Generator] = {}

    def hear(self, sound: Sound) -> Heard:
        """What the language model hears of a recording: its mean over the channels, at the level that
        voices have in training, and its spatial tokens."""
        mono = sound.samples.mean(axis=0)
        clip = Clip(sound.source, sound.samples, sound.array, (), mono, mono, 0, 0.0)
        record = encode_clips(self.encoder, [clip])[0]
        speech = record.heads["speech_probability"] >= _SPEECH
        none = () if speech.any() else ("there is sound, but no speech was noticed",)
        if self._mono is None:
            self._mono = self.trained.task.backbone.audio_encoder()
        return Heard(
            record.tokens,
            np.asarray(self._mono(_levelled(mono, speech))),
            (*sound.notes, *none),
            sound.source,
            sound.array.name,
            record.seconds,
        )

    def stream(
        self, heard: Heard, question: str, task: int | None = None, max_new: int = 160
    ) -> Iterator[str]:
        """The answer to a question about what was heard, in pieces."""
        chosen = check_task(task, question)
        row = make_row(
            self.trained.task.backbone,
            self._book.system_prompt(chosen),
            " ".join(question.split()),
            len(heard.tokens),
        )
        generator = self._generator(len(heard.tokens), len(row.prompt), max_new)
        return generator.stream(Asked(row, heard.tokens, heard.audio), self.trained.params)

    def answer(self, heard: Heard, question: str, text: str, task: int | None = None) -> Answer:
        """A text of the model, read."""
        chosen = check_task(task, question)
        parsed = parse_answer(chosen, text, strict=False)
        talkers, yes = _read(chosen, parsed.value)
        return Answer(
            text=text,
            question=question,
            task=chosen,
            talkers=talkers,
            yes=yes,
            problems=parsed.problems,
            notes=heard.notes,
            model_name=self.trained.name,
            source=heard.source,
            array_name=heard.array_name,
            seconds=heard.seconds,
        )

    def _generator(self, soft: int, prompt: int, max_new: int) -> Generator:
        soft = min(size for size in _SOFT if size >= soft)
        length = max(-(-prompt // _LENGTH_STEP) * _LENGTH_STEP, 2 * soft + 4)
        key = (soft, length, max_new)
        if key not in self._generators:
            task = dataclasses.replace(self.trained.task, soft=soft, length=length)
            self._generators[key] = Generator(task, max_new, batch_size=1)
        return self._generators[key]


def read_sound(
    audio: AudioInput,
    mics: MicsInput,
    sample_rate: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> Sound:
    """A recording, or `seconds` of it from `start` on; arguments and errors as in `ask`."""
    array = load_array(mics)
    first, last = _span(start, seconds)
    recording = open_recording(audio, array, sample_rate)
    blocks: list[NDArray[np.float32]] = []
    for block in recording:
        blocks.append(block)
        if recording.samples > last:
            break
    notes = tuple(dict.fromkeys(recording.finish()))
    samples = np.concatenate(blocks, axis=1)[:, first:last]
    count = token_count(samples.shape[1])
    if count == 0:
        raise InputError(f"{recording.name} ends before start={start:g} s")
    if count > MAX_SOFT:
        raise InputError(
            f"{recording.name} is longer than {MAX_SECONDS:.0f} s, all that the language model hears "
            "at once: choose a part, such as start=0, seconds=30 (--start 0 --seconds 30)"
        )
    return Sound(samples, array, notes, recording.name)


def load_model(
    model: str | Path | None = None,
    encoder: str | Path | None = None,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> BridgeModel:
    """A bridge to ask several questions of.

    Args:
        model: folder of a training run or of a release, name of a shipped bridge; None: the shipped
            default.
        encoder: of the spatial tokens, as in `phasecoder.load`; None: its default.
        weights, tokenizer: files of the base model, for one whose weights do not come with a package
            (Gemma 3n); None: where the run had them, else the environment variables
            LLM_BRIDGE_WEIGHTS and LLM_BRIDGE_TOKENIZER.
    """
    trained = load_trained(model, weights=weights, tokenizer=tokenizer)
    return BridgeModel(trained, load_encoder(encoder))


def ask(
    audio: AudioInput,
    mics: MicsInput,
    question: str,
    model: str | Path | BridgeModel | None = None,
    *,
    sample_rate: int | None = None,
    task: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    max_new: int = 160,
    weights: str | Path | None = None,
) -> Answer:
    """The answer of a language model to a question about a recording.

    Args:
        audio: path of an audio file, or array [channels, samples].
        mics: array preset, JSON file, MicArray, or positions [m, 3] in metres, in channel order.
        question: in English, in any words; the model was trained on questions where talkers are, whether
            they are on a side or nearer than something, and what they say.
        model: as in `load_model`, or what that returns, so that many questions load it once.
        sample_rate: Hz, for arrays.
        task: 1 where, 2 yes or no, 3 who says what and where, 4 the words of one talker: decides the
            system prompt and how the answer is read. None: guessed from the question (`routing`).
        start, seconds: part of the recording; None: to its end. More than 30 s are refused.
        max_new: ids of the answer at most.
        weights: as in `load_model`.

    Raises InputError as `phasecoder.localize` does: for audio that is missing, empty, digital silence, mono
    copied to all channels, or of another number of channels than the array; and for an empty question. A
    recording in which nobody talks gets the model's answer, `none` if it is right.
    """
    check_task(task, question)
    sound = read_sound(audio, mics, sample_rate, start, seconds)
    loaded = model if isinstance(model, BridgeModel) else load_model(model, weights=weights)
    heard = loaded.hear(sound)
    text = "".join(loaded.stream(heard, question, task, max_new))
    return loaded.answer(heard, question, text, task)


def ask_stream(
    audio: AudioInput,
    mics: MicsInput,
    question: str,
    model: str | Path | BridgeModel | None = None,
    *,
    sample_rate: int | None = None,
    task: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    max_new: int = 160,
    weights: str | Path | None = None,
) -> Iterator[str]:
    """The answer's text piece by piece, as it is made; arguments and errors as in `ask`."""
    check_task(task, question)
    sound = read_sound(audio, mics, sample_rate, start, seconds)
    loaded = model if isinstance(model, BridgeModel) else load_model(model, weights=weights)
    heard = loaded.hear(sound)
    return loaded.stream(heard, question, task, max_new)


def _span(start: float, seconds: float | None) -> tuple[int, int]:
    """First and last sample wanted; without an end, some more than may be heard."""
    if not 0 <= start < np.inf or (seconds is not None and not 0 < seconds <= MAX_SECONDS):
        raise InputError(
            f"start={start}, seconds={seconds}: start at 0 s or later, and take up to "
            f"{MAX_SECONDS:.0f} s"
        )
    first = round(start * SAMPLE_RATE)
    length = (MAX_SOFT + 1) * HOP if seconds is None else max(1, round(seconds * SAMPLE_RATE))
    return first, first + length


def _levelled(mono: NDArray[np.float32], speech: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The sound at the level that voices have in training; without speech, as it is."""
    if not speech.any():
        return mono
    loud = np.repeat(speech, HOP)[: len(mono)]
    rms = float(np.sqrt(np.mean(np.square(mono[loud], dtype=np.float64))))
    return np.clip(mono * np.float32(_RMS / rms), -1.0, 1.0) if rms > 0 else mono


def _read(task: int, value: Any) -> tuple[tuple[Spoken, ...], bool | None]:
    """Talkers and yes or no of a parsed answer."""
    if value is None or task == 2:
        return (), value
    if task == 4:
        return (() if value.transcript is None else (Spoken(words=value.transcript),)), None
    talkers = []
    for slot in value:
        if slot is not None:
            place = slot.location if task == 3 else slot
            azimuth = None if place.azimuth is None else place.azimuth % 360.0
            words = slot.transcript if task == 3 else None
            talkers.append(Spoken(azimuth, place.elevation, place.distance, words))
    return tuple(talkers), None

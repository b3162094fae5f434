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
from llm_bridge.layout import MAX_SOFT, make_row
from llm_bridge.protocol import AudioEncoder
from llm_bridge.qa.answers import parse_answer
from llm_bridge.qa.book import QuestionBook
from llm_bridge.routing import check_task, is_recognised
from llm_bridge.sound import Sound, read_sound
from llm_bridge.spoken import CONVENTION, Spoken, once
from llm_bridge.tokens.encode import encode_clips, encoder_digest, shipped_encoder
from llm_bridge.tokens.record import Clip
from llm_bridge.trained import Trained
from llm_bridge.trained import load as load_trained
from phasecoder.api import MicsInput
from phasecoder.pretrained import Encoder
from phasecoder.pretrained import load as load_encoder
from phasecoder.recording import AudioInput
from spatial_core import waits
from spatial_core.data.records import HOP

# Few shapes, few programs to compile: 5, 10, 20 and 30 s.
_SOFT = (32, 63, 125, MAX_SOFT)
_LENGTH_STEP = 64
# Level of the voices in training, and the probability from which a window has speech.
_RMS = 0.05
_SPEECH = 0.5
_WHEN = ("first", "then")


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
        talkers = [str(talker) for talker in self.talkers]
        if len(talkers) > 1:
            talkers = [f"{when} {who}" for when, who in zip(_WHEN, talkers)]
        return "\n".join(f"{each[0].upper()}{each[1:]}" for each in talkers) or "Nobody talks"

    def to_json(self, indent: int | None = 2) -> str:
        """All fields as JSON, and the convention of the angles; indent None: on one line."""
        told = {**dataclasses.asdict(self), "convention": CONVENTION}
        return json.dumps(told, indent=indent, ensure_ascii=False)


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
            self._in_its_words(" ".join(question.split()), chosen),
            len(heard.tokens),
        )
        generator = self._generator(len(heard.tokens), len(row.prompt), max_new)
        return generator.stream(Asked(row, heard.tokens, heard.audio), self.trained.params)

    def _in_its_words(self, question: str, task: int) -> str:
        """The question; of Task 1, which has one meaning, in words that a model without language was taught."""
        backbone, known = self.trained.task.backbone, self._book.wordings(1, "locate")
        if task != 1 or getattr(backbone, "system", True) or question in known:
            return question
        return known[0]

    def answer(self, heard: Heard, question: str, text: str, task: int | None = None) -> Answer:
        """A text of the model, read."""
        chosen = check_task(task, question)
        parsed = parse_answer(chosen, text, strict=False)
        named, yes = _read(chosen, parsed.value)
        talkers = once(named)
        told = () if talkers == named else ("the model named one place twice: told as one talker",)
        if chosen in (3, 4) and not _hears_words(self.trained.task.backbone):
            told += (
                f"the model {self.trained.name!r} was taught no words, so it cannot say what is said",
            )
        if task is None and not is_recognised(question):
            told += (
                "the question is of no known kind, so it was taken for 'where is everybody': the model "
                "answers about places, yes-or-no questions about them, and what is said",
            )
        return Answer(
            text=text,
            question=question,
            task=chosen,
            talkers=talkers,
            yes=yes,
            problems=parsed.problems,
            notes=(*heard.notes, *told),
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
            waits.compiling("answers")
            task = dataclasses.replace(self.trained.task, soft=soft, length=length)
            self._generators[key] = Generator(task, max_new, batch_size=1)
        return self._generators[key]


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
        encoder: of the spatial tokens, as in `phasecoder.load`; None: of those that ship, the one that
            the bridge was trained with.
        weights, tokenizer: files of the base model, for one whose weights do not come with a package
            (Gemma 3n); None: where the run had them, else the environment variables
            LLM_BRIDGE_WEIGHTS and LLM_BRIDGE_TOKENIZER.
    """
    trained = load_trained(model, weights=weights, tokenizer=tokenizer)
    if encoder is None:
        return BridgeModel(trained, shipped_encoder(trained.saved.metadata["encoder_digest"]))
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


def _levelled(mono: NDArray[np.float32], speech: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The sound at the level that voices have in training; without speech, as it is."""
    if not speech.any():
        return mono
    loud = np.repeat(speech, HOP)[: len(mono)]
    rms = float(np.sqrt(np.mean(np.square(mono[loud], dtype=np.float64))))
    return np.clip(mono * np.float32(_RMS / rms), -1.0, 1.0) if rms > 0 else mono


def _hears_words(backbone: object) -> bool:
    """Whether what is said can be in the answers: `tiny` is from scratch, and its vocabulary that of places."""
    return getattr(backbone, "system", True)


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

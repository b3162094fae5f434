# SPDX-License-Identifier: Apache-2.0
"""Batches of questions about exported clips: a pure function of the seed and the step.

A curriculum is a list of stages, each with its own mixture of tasks (appendix C, table 4). A stage
asks its questions in a shuffled order; when all are asked, new ones are drawn about the same clips, and
about conversations that are made of them anew, if wanted: spliced, or with other words.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_bridge import reword, splice
from llm_bridge.adapters import token_metadata
from llm_bridge.layout import MAX_SOFT, make_row, pad_answers, pad_rows, pad_soft
from llm_bridge.protocol import Backbone
from llm_bridge.qa.asking import Question
from llm_bridge.qa.book import KINDS, QuestionBook
from llm_bridge.qa.plan import check_weights, plan_questions
from llm_bridge.tokens.audio_cache import AudioCache
from llm_bridge.tokens.record import Talker
from llm_bridge.tokens.token_set import TokenSet
from spatial_core.config.resolved import UNSAID
from spatial_core.data.prefetch import iterate_steps
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError

# (steps, questions of task 1, 2, 3, 4) of each stage, as in table 4.
TABLE_4 = (
    (2000, 2500, 0, 0, 0),
    (1500, 1000, 0, 2500, 0),
    (1500, 500, 2500, 500, 0),
    (3000, 500, 1000, 500, 2500),
    (3000, 500, 2500, 500, 5000),
)


@dataclass(frozen=True)
class Clips:
    """What a language model hears of the clips of a token set, and who talks in them."""

    tokens: tuple[NDArray[np.float16], ...]
    audio: Sequence[NDArray[np.float16]]
    talkers: tuple[tuple[Talker, ...], ...]


def load_clips(
    directory: str | Path, backbone: Backbone, source: str = "audio", limit: int | None = None
) -> Clips:
    """The clips of an exported folder; the backbone's mono audio features are made once and kept there.

    source: "audio" hears the dry voices, "mixed" the mean of the array's channels.
    """
    found = TokenSet(directory)
    name, digest = backbone.audio_identity
    audio = AudioCache(found, backbone.audio_encoder, name=name, digest=digest, source=source)
    count = len(found) if limit is None else min(limit, len(found))
    records = [found.without_audio(i) for i in range(count)]
    return Clips(
        tuple(record.tokens for record in records),
        [audio[i] for i in range(count)],
        tuple(record.talkers for record in records),
    )


@dataclass(frozen=True)
class Subject:
    """What a question is about: the clip of the first talker and that of the second.

    They differ in a spliced conversation. reworded: the talkers' transcripts are not what their clips say.
    """

    first: int
    second: int
    talkers: tuple[Talker, ...]
    reworded: bool = False


@dataclass(frozen=True, kw_only=True)
class QuestionStream:
    """Questions about the clips of an exported folder, as batches of `BridgeTask`.

    Attributes:
      tokens: the exported folder (`--run_mode=export_tokens`); `split` names the one in it.
      backbone: whose ids and audio features the batches hold.
      stages: (steps, questions of tasks 1, 2, ... up to 5) of each stage, one after the other; the last
        goes on for as long as the run does.
      batch_size: rows of the global batch; the paper's 8 are one row at a time, accumulated.
      style: of the system prompts, "full" or "brief".
      weights: of each stage, how often a kind of question is asked, relative to the others of its task (1
        if not named); fewer than stages: 1 for all in the rest.
      book: JSON file of question wordings; None for those that ship.
      source: mono audio that is heard, "audio" (dry) or "mixed".
      mono: False: no mono audio is heard, which makes the rows of questions about places (tasks 1, 2 and 5) a
        quarter shorter.
      spliced: conversations made anew of two others for every pass, as a share of the clips.
      reworded: conversations of which only the places stay and the words are others, made anew for every
        pass, as a share of the clips; for a backbone that hears words.
      soft, length, answer_length: shapes of a batch, as in `BridgeTask`.
    """

    tokens: str | Path
    backbone: Backbone
    split: str = "train"
    stages: tuple[tuple[int, ...], ...] = TABLE_4
    batch_size: int = 8
    seed: int = 0
    style: str = "full"
    weights: tuple[Mapping[str, float], ...] = ()
    book: str | None = None
    source: str = "audio"
    mono: bool = field(default=True, metadata=UNSAID)
    spliced: float = 0.0
    reworded: float = 0.0
    soft: int = MAX_SOFT
    length: int = 1024
    answer_length: int = 160
    threads: int = 2
    _open: list[Clips] = field(init=False, repr=False, compare=False, default_factory=list)
    _passes: dict[tuple[int, int], list[tuple[Subject, Question]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _lock: threading.RLock = field(
        init=False, repr=False, compare=False, default_factory=threading.RLock
    )

    def __post_init__(self) -> None:
        for name, share in (("spliced", self.spliced), ("reworded", self.reworded)):
            if not 0.0 <= share <= 10.0:
                raise InputError(
                    f"QuestionStream.{name} is {share}: a share of 0 to 10 of the clips"
                )
        if self.reworded and not getattr(self.backbone, "words", False):
            raise InputError(
                f"QuestionStream.reworded is {self.reworded}, but {self.backbone.name!r} hears no words; leave it 0"
            )
        for stage, weights in zip(self.stages, self.weights, strict=False):
            check_weights(weights)
            asked = [kind for task, n in enumerate(stage[1:], 1) if n for kind in KINDS[task]]
            idle = [kind for kind in weights if kind not in asked]
            if idle:
                raise InputError(
                    f"QuestionStream.weights: {', '.join(idle)} in the stage {stage}, which asks no "
                    "question of that task"
                )
        if len(self.weights) > len(self.stages):
            raise InputError(
                f"QuestionStream.weights has {len(self.weights)} entries for {len(self.stages)} stages"
            )
        if not self.stages:
            raise InputError("QuestionStream.stages is empty: give at least one stage")
        for stage in self.stages:
            if (
                not 2 <= len(stage) <= 1 + len(KINDS)
                or stage[0] < 1
                or min(stage) < 0
                or not any(stage[1:])
            ):
                raise InputError(
                    f"QuestionStream.stages has {stage}: (steps, questions of task 1, 2, ... up to 5), "
                    "at least one step and one question"
                )
            if not self.mono and (any(stage[3:5]) or self.reworded):
                raise InputError(
                    f"QuestionStream.mono is False, but the stage {stage} (or `reworded`) is about words, "
                    "which nobody could hear: ask Tasks 1, 2 and 5 alone"
                )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each field that depends on this stream's settings."""
        return {"ids": (self.batch_size, self.length)}

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What checkpoints depend on in the data: the encoders of both streams and their grid."""
        found = TokenSet(Path(self.tokens) / self.split, verify=False)
        # What is wrong with the vocabulary's file is said before gigabytes of weights are read.
        _ = self.backbone.tokenizer
        return {
            **token_metadata(found.encoder_digest, found.manifest["hop"]),
            "base_model": self.backbone.name,
            "audio_digest": self.backbone.audio_identity[1],
        }

    @property
    def clips(self) -> Clips:
        """The clips, read at first use."""
        with self._lock:
            if not self._open:
                self._open.append(
                    load_clips(Path(self.tokens) / self.split, self.backbone, self.source)
                )
            return self._open[0]

    @functools.cached_property
    def _book(self) -> QuestionBook:
        return QuestionBook.load(self.book, self.style)

    def sounds(self, step: int, rows: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """The mono audio behind some rows of a step: [1, t] at 16 kHz."""
        records = TokenSet(Path(self.tokens) / self.split, verify=False)
        key = "mixed" if self.source == "mixed" else "audio"
        asked, sounds = self.asked(step), []
        for about in (asked[row][0] for row in rows):
            i, j = about.first, about.second
            sound = getattr(records[i], key)
            if i != j:
                ends = splice.middle(records[i].talkers), splice.middle(records[j].talkers)
                later = getattr(records[j], key)[ends[1] * HOP :]
                sound = np.concatenate([sound[: ends[0] * HOP], later])[: self.soft * HOP]
            sounds.append((sound[None], SAMPLE_RATE))
        return sounds

    def asked(self, step: int) -> list[tuple[Subject, Question]]:
        """What each row of the global batch of a step is about, and its question."""
        stage, since = self._stage(step)
        first = since * self.batch_size
        size = sum(self.stages[stage][1:])
        return [
            self._pass(stage, index // size)[index % size]
            for index in range(first, first + self.batch_size)
        ]

    def _stage(self, step: int) -> tuple[int, int]:
        """Stage of a step, and the steps since it began."""
        for stage, (steps, *_) in enumerate(self.stages[:-1]):
            if step < steps:
                return stage, step
            step -= steps
        return len(self.stages) - 1, step

    @functools.cached_property
    def _words(self) -> tuple[str, ...]:
        return reword.vocabulary(self.clips.talkers)

    def _subjects(self, stage: int, number: int) -> list[Subject]:
        """Those of the exported clips, and those that are made for a pass of a stage."""
        talkers = self.clips.talkers
        found = [Subject(i, i, each) for i, each in enumerate(talkers)]
        rng = np.random.default_rng([self.seed, stage, number, 1])
        for i, j in splice.pairs(talkers, round(self.spliced * len(talkers)), rng, self.soft):
            found.append(Subject(int(i), int(j), splice.talkers_of(talkers[i], talkers[j])))
        rng = np.random.default_rng([self.seed, stage, number, 2])
        for i in rng.integers(len(talkers), size=round(self.reworded * len(talkers))):
            said = reword.with_other_words(talkers[i], self._words, rng)
            found.append(Subject(int(i), int(i), said, reworded=True))
        return found

    def _pass(self, stage: int, number: int) -> list[tuple[Subject, Question]]:
        """The questions of one pass of a stage in the order in which they are asked."""
        with self._lock:
            if (stage, number) not in self._passes:
                rng = np.random.default_rng([self.seed, stage, number])
                counts = {task: n for task, n in enumerate(self.stages[stage][1:], 1) if n}
                seed = int(rng.integers(2**31))
                about = self._subjects(stage, number)
                weights = self.weights[stage] if stage < len(self.weights) else {}
                talkers = [each.talkers for each in about]
                plan = plan_questions(talkers, counts, seed, self._book, weights=weights)
                # Threads are at most one pass behind each other.
                for old in [key for key in self._passes if key < (stage, number - 1)]:
                    del self._passes[old]
                order = [plan[i] for i in rng.permutation(len(plan))]
                self._passes[stage, number] = [(about[clip], question) for clip, question in order]
            return self._passes[stage, number]

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, np.ndarray]:
        """This host's contiguous share of the global batch of a step."""
        if not 0 <= host < hosts or self.batch_size % hosts:
            raise InputError(f"host {host} of {hosts} for a batch of {self.batch_size}")
        share = self.batch_size // hosts
        rows = self.asked(step)[host * share : (host + 1) * share]
        clips = self._heard([about for about, _ in rows])
        asked = list(enumerate(question for _, question in rows))
        return question_batch(
            self.backbone, clips, asked, self.soft, self.length, self.answer_length
        )

    def _heard(self, subjects: Sequence[Subject]) -> Clips:
        """What is heard of them: clips, spliced where both differ, with other words where they were given."""
        clips, heard = self.clips, []
        for about in subjects:
            i, j = about.first, about.second
            tokens, audio = clips.tokens[i], clips.audio[i]
            if i != j:
                second = clips.tokens[j], clips.audio[j]
                both = clips.talkers[i], clips.talkers[j]
                tokens, audio = splice.joined((tokens, audio), second, *both, self.soft)
            if about.reworded:
                audio = reword.heard(audio, about.talkers, self.backbone.tokenizer)
            heard.append((tokens, audio if self.mono else audio[:0]))
        return Clips(tuple(t for t, _ in heard), [a for _, a in heard], ())

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of start_step, start_step + 1, ... without end."""
        return iterate_steps(lambda step: self.batch(step, host, hosts), start_step, self.threads)


def question_batch(
    backbone: Backbone,
    clips: Clips,
    asked: Sequence[tuple[int, Question]],
    soft: int,
    length: int,
    answer_length: int,
) -> dict[str, np.ndarray]:
    """The arrays that `BridgeTask.loss` reads, for (clip, question) of each row."""
    rows = [
        make_row(
            backbone,
            q.system,
            q.user,
            len(clips.tokens[clip]),
            q.answer,
            mono=len(clips.audio[clip]),
        )
        for clip, q in asked
    ]
    return {
        **pad_rows(rows, backbone.ids.pad, length),
        **pad_answers(rows, answer_length),
        "tokens": pad_soft([clips.tokens[clip] for clip, _ in asked], soft),
        "audio": pad_soft([clips.audio[clip] for clip, _ in asked], soft),
    }

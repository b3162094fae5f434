# SPDX-License-Identifier: Apache-2.0
"""Score a bridge: the model, controls that take its ears away, and baselines, on the same questions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_bridge import heads
from llm_bridge.chance import chance_answers
from llm_bridge.eval_report import BridgeReport
from llm_bridge.generate import Asked, Generator
from llm_bridge.layout import make_row
from llm_bridge.metrics import Answered, Scores, score
from llm_bridge.projector import TOKEN_WIDTH
from llm_bridge.protocol import Backbone
from llm_bridge.qa.asking import Question
from llm_bridge.qa.book import QuestionBook
from llm_bridge.qa.plan import plan_questions
from llm_bridge.stream import Clips, load_clips
from llm_bridge.task import BridgeTask
from llm_bridge.tokens.token_set import TokenSet
from llm_bridge.trained import Trained, load
from spatial_core.data.shards import Report
from spatial_core.errors import InputError
from spatial_core.eval.sharing import ALONE, Share
from spatial_core.typing import Params

Plan = Sequence[tuple[int, Question]]
Say = Callable[[str], None]

ZEROED = "spatial tokens zeroed"
BLIND = "question only, nothing heard"
CONTROLS = (ZEROED, BLIND)
HEADS = "encoder's own heads, no language model"
CHANCE = "chance"


@dataclass(frozen=True, kw_only=True)
class BridgeEvalConfig:
    """An evaluation of a bridge; `run` writes its report.

    Attributes:
        tokens: an exported folder (`--run_mode=export_tokens`), and `split` the one in it.
        model: folder of a training run or of a release, name of a shipped bridge, None: the default.
        weights: of the base model, as in `trained.located`.
        which: checkpoint of a run, "latest", "best" or a step; None: the best if one is marked.
        questions: of Tasks 1 to 4 (the paper asks 512 of each, and 1,024 for its table 6).
        seed: of the questions, of chance and of the intervals.
        batch_size: questions answered at once. max_new: ids of an answer at most.
        controls: also ask with the spatial tokens zeroed, and without anything to hear.
        source: mono audio that is heard: "audio" (dry voices, as in training) or "mixed" (mean of the
            channels, as the paper evaluates); None: as in training.
        style, book: of the prompts; None: as in training.
        samples: questions of each task that the report shows with all answers.
        show_paper: put the paper's figures beside.
    """

    tokens: str | Path
    split: str = "test"
    model: str | Path | None = None
    weights: str | Path | None = None
    which: str | int | None = None
    questions: tuple[int, int, int, int] = (512, 1024, 512, 512)
    seed: int = 0
    batch_size: int = 32
    max_new: int = 160
    controls: bool = True
    source: str | None = None
    style: str | None = None
    book: str | None = None
    samples: int = 10
    show_paper: bool = True

    def __post_init__(self) -> None:
        if len(self.questions) != 4 or min(self.questions) < 0 or not any(self.questions):
            raise InputError(
                f"questions is {self.questions}: how many of Tasks 1, 2, 3 and 4, at least one"
            )
        if self.samples < 0 or self.batch_size < 1 or self.max_new < 1:
            raise InputError(
                f"samples {self.samples}, batch_size {self.batch_size}, max_new {self.max_new}: "
                "no negative number, and at least one question and one id at once"
            )

    def run(self, directory: str | Path, say: Say = print, share: Share = ALONE) -> BridgeReport:
        """Evaluates and writes report.md, report.json, answers.jsonl and figures into the directory.

        share: of the questions, that this process asks; see `Share.gather` for how the others end.
        """
        trained = load(self.model, self.which, self.weights, all_devices=True)
        found = TokenSet(Path(self.tokens) / self.split)
        trained.saved.require(
            {"encoder_digest": found.encoder_digest, "hop": found.manifest["hop"]}
        )
        source = self.source or trained.trained_with("source", "audio")
        clips = load_clips(found.directory, trained.task.backbone, source)
        style = self.style or trained.trained_with("style", "full")
        book = QuestionBook.load(self.book or trained.trained_with("book", None), style)
        counts = {task: n for task, n in enumerate(self.questions, 1) if n}
        plan = plan_questions(clips.talkers, counts, self.seed, book)
        answers = self._answers(trained, clips, plan, found, say, share)
        report = BridgeReport(
            title=f"{trained.name}: answers about {self.split} clips",
            results={name: self._scores(name, plan, texts) for name, texts in answers.items()},
            plan=list(plan),
            answers=answers,
            info={
                "base model": trained.task.backbone.name,
                "training steps": trained.saved.step,
                "clips": f"{len(clips.tokens)}, {found.directory}",
                "mono audio": "dry voices" if source == "audio" else "mean of the channels",
                "questions": ", ".join(f"Task {task}: {n}" for task, n in counts.items()),
                "wordings": f"{book.name}, {style} system prompts",
                "seed": self.seed,
            },
            samples=self.samples,
            show_paper=self.show_paper,
        )
        report.save(directory)
        return report

    def _answers(
        self,
        trained: Trained,
        clips: Clips,
        plan: Plan,
        found: TokenSet,
        say: Say,
        share: Share,
    ) -> dict[str, list[str | None]]:
        """Text of every answer by who gives it, None where one does not answer such questions."""
        asker = Asker(trained.task, self.batch_size, self.max_new, say)
        asked: dict[str, str | None] = {trained.name: None}
        asked |= {control: control for control in CONTROLS if self.controls}
        own = [asker.batches(trained.params, clips, plan, c, share) for c in asked.values()]
        batches = share.gather(list(zip(*own, strict=True)), say)
        out: dict[str, list[str | None]] = {
            name: [text for batch in batches for text in batch[n]] for n, name in enumerate(asked)
        }
        talkers = [heads.talkers_of(found.without_audio(i).heads) for i in range(len(found))]
        out[HEADS] = [heads.answer(question, talkers[clip]) for clip, question in plan]
        out[CHANCE] = list(chance_answers(plan, clips.talkers, self.seed))
        return out

    def _scores(self, name: str, plan: Plan, texts: Sequence[str | None]) -> Scores:
        answered: list[Answered] = [
            (clip, question, text)
            for (clip, question), text in zip(plan, texts, strict=True)
            if text is not None
        ]
        scores = score(answered, self.seed)
        # The heads have no words: what stands in their place is not a transcript to be scored.
        return dataclasses.replace(scores, words3=None) if name == HEADS else scores


class Asker:
    """Asks a bridge many questions, with what it hears taken away if wanted.

    Programs are compiled for the longest clip and prompt of a plan, and kept.
    """

    def __init__(
        self, task: BridgeTask, batch_size: int = 32, max_new: int = 160, say: Say = print
    ):
        self._task, self._batch_size, self._max_new, self._say = task, batch_size, max_new, say
        self._generators: dict[tuple[int, int], Generator] = {}

    def answers(
        self, params: Params, clips: Clips, plan: Plan, control: str | None = None
    ) -> list[str]:
        """Greedy answers to (clip, question)s. control: one of `CONTROLS`, None: all is heard."""
        return list(itertools.chain(*self.batches(params, clips, plan, control)))

    def batches(
        self,
        params: Params,
        clips: Clips,
        plan: Plan,
        control: str | None = None,
        share: Share = ALONE,
    ) -> list[list[str]]:
        """`answers`, batch by batch, of those batches that are this process's share."""
        asked = [
            ask_about(self._task.backbone, clips, clip, question, control)
            for clip, question in plan
        ]
        generator = self._generator(asked)
        firsts = range(0, len(asked), self._batch_size)
        own = [asked[first : first + self._batch_size] for first in share.own(firsts)]
        report = Report(
            sum(map(len, own)), "answers", lambda line: self._say(f"{control or 'model'}: {line}")
        )
        out: list[list[str]] = []
        for part in own:
            out.append(generator.answers(part, params))
            report.made(len(part))
        return out

    def _generator(self, asked: Sequence[Asked]) -> Generator:
        soft = max(1, max(one.row.spatial for one in asked))
        longest = max(len(one.row.prompt) for one in asked)
        length = max(-(-longest // 16) * 16, 2 * soft + 4)
        if (soft, length) not in self._generators:
            task = dataclasses.replace(self._task, soft=soft, length=length)
            self._generators[soft, length] = Generator(task, self._max_new, self._batch_size)
        return self._generators[soft, length]


def ask_about(
    backbone: Backbone, clips: Clips, clip: int, question: Question, control: str | None = None
) -> Asked:
    """A question about a clip, or its control: with spatial tokens of zeros, or with no sound at all."""
    if control not in (None, *CONTROLS):
        raise InputError(f"control is {control!r}: choose among {', '.join(CONTROLS)}")
    tokens, audio = clips.tokens[clip], clips.audio[clip]
    if control == ZEROED:
        tokens = np.zeros_like(tokens)
    elif control == BLIND:
        tokens, audio = tokens[:0].reshape(0, TOKEN_WIDTH), audio[:0]
    row = make_row(backbone, question.system, question.user, len(tokens))
    return Asked(row, tokens, audio)

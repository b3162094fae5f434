# SPDX-License-Identifier: Apache-2.0
"""Score descriptions: a trained describer, controls that take its ears away, and chance, on the same scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sciphi.eval_report import SceneReport, Told
from sciphi.metrics import Answer
from sciphi.records import FOA_RATE, Scene, SceneTruth
from sciphi.schema import describe_truth
from sciphi.scores import score
from sciphi.similarity import Choice, Similarity, load_similarity
from sciphi.text_format import parse_text, to_text
from spatial_core.data.seeds import generator
from spatial_core.data.shards import Report
from spatial_core.errors import InputError
from spatial_core.eval.sharing import ALONE, Share

Say = Callable[[str], None]

SPECTRAL_ONLY = "spectral only"
SPATIAL_ONLY = "spatial only"
BLIND = "question only"
CHANCE = "chance"
# What each control hears; of the model itself, both streams.
HEARD: dict[str, tuple[str, ...]] = {
    SPECTRAL_ONLY: ("spectral",),
    SPATIAL_ONLY: ("spatial",),
    BLIND: (),
}
BOTH = ("spatial", "spectral")


class Describes(Protocol):
    """What is scored: sound fields in, texts out (`sciphi.trained.Describer`)."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def seconds(self) -> float:
        """The longest sound field that it describes."""
        ...

    def describe(
        self, foas: Sequence[NDArray[np.float32]], heard: Sequence[str] = BOTH
    ) -> list[str]:
        """Texts of the descriptions of sound fields [4, t] at 24 kHz (ACN, SN3D)."""
        ...


class Scenes(Protocol):
    """Scenes by number, such as `sciphi.scene_set.SceneSet`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...

    def truth(self, index: int) -> SceneTruth:
        """What is true of a scene, without its sound."""
        ...

    def key(self, index: int) -> str:
        """The name of a scene."""
        ...


def evaluate(
    systems: Mapping[str, Sequence[Answer]],
    truths: Sequence[SceneTruth],
    *,
    title: str = "Descriptions of scenes",
    similarity: Similarity | None = None,
    seed: int = 0,
    info: Mapping[str, str | int | float] | None = None,
    told: Sequence[Told] = (),
    samples: int = 5,
    show_paper: bool = True,
) -> SceneReport:
    """Scores what several systems say of the same scenes; answers are what `parse_text` returns.

    similarity: of labels; None: the best that is installed. seed: of the bootstrap intervals. Raises
    InputError without a system or a scene, and for answers that are not one for each scene.
    """
    if not systems:
        raise InputError("nothing to score: give the answers of at least one system")
    measure = similarity or load_similarity()
    return SceneReport(
        title=title,
        results={
            name: score(list(answers), truths, measure, seed) for name, answers in systems.items()
        },
        similarity=measure.name,
        info=dict(info or {}),
        told=told,
        samples=samples,
        show_paper=show_paper,
    )


@dataclass(frozen=True, kw_only=True)
class SceneEvalConfig:
    """An evaluation of a trained describer; `run` writes its report.

    Attributes:
        scenes: a folder of exported scenes (`--run_mode=export_scenes`), and `split` the one in it.
        model: folder of a training run or of a release, name of a shipped model, None: the default.
        which: checkpoint of a run, "latest", "best" or a step.
        others: further models, such as those of an ablation, to stand beside, without controls.
        count: scenes that are described, the first ones of the split; None: all.
        seed: of chance and of the intervals.
        batch_size: scenes that are read and described at once.
        controls: also describe them with one of the two streams, and with neither.
        chance_split: whose truths chance draws from; None leaves chance out.
        similarity: of labels: "embedding", "words", or "auto", the embedding if it is installed.
        samples: scenes that the report shows with all answers.
        show_paper: put the paper's figures beside.
    """

    scenes: str | Path
    split: str = "test"
    model: str | Path | None = None
    which: str | int = "latest"
    others: Sequence[str | Path] = ()
    count: int | None = None
    seed: int = 0
    batch_size: int = 16
    controls: bool = True
    chance_split: str | None = "train"
    similarity: Choice = "auto"
    samples: int = 5
    show_paper: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.samples < 0 or (self.count is not None and self.count < 1):
            raise InputError(
                f"batch_size {self.batch_size}, samples {self.samples}, count {self.count}: "
                "need at least one scene at once and in all, and no negative number"
            )

    def run(self, directory: str | Path, say: Say = print, share: Share = ALONE) -> SceneReport:
        """Evaluates and writes report.md, report.json, answers.jsonl and figures into the directory.

        share: of the scenes, that this process describes; see `Share.gather` for how the others end.
        """
        # Imported here: the settings and `evaluate` need neither jax nor a language model.
        from sciphi.scene_set import SceneSet
        from sciphi.trained import load_describer

        similarity = load_similarity(self.similarity)
        root = Path(self.scenes)
        scenes = SceneSet(root / self.split)
        drawn_from = None if self.chance_split is None else SceneSet(root / self.chance_split)
        # One after the other: only one language model is in memory.
        models = (
            load_describer(model, self.which, all_devices=True)
            for model in (self.model, *self.others)
        )
        report = self.of(models, scenes, similarity, drawn_from, say, share)
        report.save(directory)
        return report

    def of(
        self,
        describers: Iterable[Describes],
        scenes: Scenes,
        similarity: Similarity,
        drawn_from: Scenes | None = None,
        say: Say = print,
        share: Share = ALONE,
    ) -> SceneReport:
        """The report on describers and some scenes; controls are of the first one.

        drawn_from: training scenes, for chance.
        """
        count = len(scenes) if self.count is None else min(self.count, len(scenes))
        firsts = share.own(range(0, count, self.batch_size))
        own: dict[str, list[list[str]]] = {}
        for n, describer in enumerate(describers):
            heard: dict[str, Sequence[str]] = {_free(describer.name, own): BOTH}
            if n == 0 and self.controls:
                heard |= HEARD
            own |= self._ask(describer, scenes, count, firsts, heard, say)
        batches = share.gather(list(zip(*own.values(), strict=True)), say)
        texts: dict[str, list[str]] = {
            name: [text for batch in batches for text in batch[n]] for n, name in enumerate(own)
        }
        if drawn_from is not None:
            texts[CHANCE] = chance_texts(drawn_from, count, self.seed, self.split)
        truths = [scenes.truth(n) for n in range(count)]
        told = [
            Told(
                scenes.key(n),
                to_text(describe_truth(truth)),
                {name: some[n] for name, some in texts.items()},
            )
            for n, truth in enumerate(truths)
        ]
        return evaluate(
            {name: [parse_text(text) for text in some] for name, some in texts.items()},
            truths,
            title=f"{next(iter(texts))}: descriptions of {self.split} scenes",
            similarity=similarity,
            seed=self.seed,
            info={"scenes": f"{count}, {Path(self.scenes) / self.split}", "seed": self.seed},
            told=told,
            samples=self.samples,
            show_paper=self.show_paper,
        )

    def _ask(
        self,
        describer: Describes,
        scenes: Scenes,
        count: int,
        firsts: Sequence[int],
        heard: Mapping[str, Sequence[str]],
        say: Say,
    ) -> dict[str, list[list[str]]]:
        """Texts of the first `count` scenes by what is heard, of the batches that begin at `firsts`."""
        texts: dict[str, list[list[str]]] = {name: [] for name in heard}
        parts = [range(first, min(first + self.batch_size, count)) for first in firsts]
        report = Report(
            sum(map(len, parts)), "scenes", lambda line: say(f"{next(iter(heard))}: {line}")
        )
        for numbers in parts:
            part = [scenes[n] for n in numbers]
            foas = [_fitting(scene, describer.seconds) for scene in part]
            for name, streams in heard.items():
                texts[name].append(describer.describe(foas, streams))
            report.made(len(part))
        return texts


def chance_texts(scenes: Scenes, count: int, seed: int = 0, split: str = "test") -> list[str]:
    """True descriptions of `count` scenes drawn at random; the same for the same seed and split."""
    drawn = (int(generator(seed, split, "order", n).integers(len(scenes))) for n in range(count))
    return [to_text(describe_truth(scenes.truth(n))) for n in drawn]


def _fitting(scene: Scene, seconds: float) -> NDArray[np.float32]:
    if scene.foa.shape[1] > round(seconds * FOA_RATE):
        raise InputError(
            f"{scene.key} lasts {scene.seconds:g} s, and the model describes {seconds:g} s at most: "
            "export scenes of that length"
        )
    return scene.foa


def _free(name: str, taken: Mapping[str, object]) -> str:
    """A name that no other system has: two runs can have folders of the same name."""
    names = (name, *(f"{name} ({n})" for n in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)

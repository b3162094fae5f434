# SPDX-License-Identifier: Apache-2.0
"""How well a trained SELDNet hears what sounds where, in scenes of a set that it was not trained on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from sciphi.records import Scene
from sciphi.seld_labels import seld_labels
from sciphi.seld_metrics import (
    SeldCounter,
    angle_between,
    clip_direction,
    heard_in_answer,
    heard_in_target,
)
from sciphi.seld_task import FeatureScenes, SeldTask
from spatial_core.audio.ambisonics import intensity_direction
from spatial_core.errors import InputError
from spatial_core.eval.sharing import ALONE, Share
from spatial_core.geometry.coords import to_cartesian
from spatial_core.io.export import fill_tree, flatten_tree
from spatial_core.train import partition
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.typing import Params

_COLUMNS = (
    ("f20", "F20", 100, "%"),
    ("recall", "recall", 100, "%"),
    ("doa_error", "DOA error", 1, "°"),
    ("distance_error", "distance error", 1, " m"),
    ("relative_distance_error", "relative", 100, "%"),
)


@dataclass(frozen=True)
class SeldEvalConfig:
    """What is scored: the run of `task` in the folder `model`, on `count` scenes of `scenes`/`split`.

    threshold: length of an answer from which a class sounds.
    """

    model: str
    scenes: str
    task: SeldTask = field(default_factory=SeldTask)
    split: str = "test"
    count: int | None = None
    batch_size: int = 16
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.count is not None and self.count < 1):
            raise InputError(
                f"SeldEvalConfig.batch_size={self.batch_size}, count={self.count}: 1 or more of each"
            )

    def run(
        self, workdir: str | Path, say: Callable[[str], None] = print, share: Share = ALONE
    ) -> SeldReport:
        """Scores, and writes report.md and report.json into `workdir`.

        share: of the scenes, that this process hears; see `Share.gather` for how the others end.
        """
        params, step = load_params(self.task, self.model)
        data = FeatureScenes(Path(self.scenes) / self.split)
        count = min(self.count or len(data), len(data))
        say(f"{count} scenes of {data.scenes.directory}, step {step} of {self.model}")
        report = evaluate(self, params, data, count, share)
        report = dataclasses.replace(report, about={**report.about, "step": step})
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(report.to_markdown() + "\n", encoding="utf-8")
        text = json.dumps(dataclasses.asdict(report), indent=1)
        (folder / "report.json").write_text(text.replace("NaN", "null") + "\n", encoding="utf-8")
        return report


@dataclass(frozen=True)
class SeldReport:
    """about: model, scenes, step. seld: scores by number of sources and "all". alone: direction errors
    (clips, mean, median, within_20) over clips with one source, by who answers."""

    about: Mapping[str, Any]
    seld: Mapping[str, Mapping[str, float]]
    alone: Mapping[str, Mapping[str, float]]

    def glance(self) -> str:
        """Both tables."""
        return self.to_markdown()

    def to_markdown(self) -> str:
        """Markdown with both tables; "-" where nothing was paired."""
        lines = [f"# SELD: {self.about['model']} on {self.about['scenes']}", ""]
        lines += [
            "| one source | clips | mean | median | within 20° |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {who} | {row['clips']:.0f} | {row['mean']:.1f}° | {row['median']:.1f}° | "
            f"{100 * row['within_20']:.0f}% |"
            for who, row in self.alone.items()
        ]
        head = " | ".join(title for _, title, _, _ in _COLUMNS)
        lines += ["", f"| sources | clips | {head} |", "|---|---:|" + "---:|" * len(_COLUMNS)]
        for sources, row in self.seld.items():
            cells = [
                "-" if np.isnan(row[name]) else f"{scale * row[name]:.1f}{unit}"
                for name, _, scale, unit in _COLUMNS
            ]
            lines.append(f"| {sources} | {row['clips']:.0f} | {' | '.join(cells)} |")
        return "\n".join(lines)


def load_params(task: SeldTask, model: str | Path) -> tuple[Params, int]:
    """Parameters of a training run, and their step; InputError if they do not fit the task."""
    params, step = Checkpoints(Path(model), metadata=task.metadata).load_params("latest")
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return fill_tree(shapes, flatten_tree(params), str(model)), step


def evaluate(
    config: SeldEvalConfig,
    params: Params,
    data: FeatureScenes,
    count: int,
    share: Share = ALONE,
) -> SeldReport:
    """The scores of the first `count` scenes."""
    classes = config.task.classes
    counters: dict[int, SeldCounter] = {}
    whole = SeldCounter(len(classes))
    clips: dict[int, int] = {}
    alone: list[tuple[NDArray, NDArray, NDArray]] = []
    batches = share.gather(_answers(config, params, data, count, share))
    for index, answer in enumerate(itertools.chain(*batches)):
        scene = data.scenes[index]
        truth = scene.truth
        target, sounding = seld_labels(truth, classes, len(answer))
        found, right = heard_in_answer(answer, config.threshold), heard_in_target(target, sounding)
        sources = len(truth.sources)
        for counter in (whole, counters.setdefault(sources, SeldCounter(len(classes)))):
            counter.add(found, right)
        clips[sources] = clips.get(sources, 0) + 1
        if sources == 1:
            only = truth.sources[0]
            right_way = to_cartesian(only.azimuth, only.elevation)
            alone.append((clip_direction(answer), _intensity(scene), right_way))
    seld = {
        str(n): {"clips": clips[n], **dataclasses.asdict(counters[n].scores())}
        for n in sorted(counters)
    }
    seld["all"] = {"clips": count, **dataclasses.asdict(whole.scores())}
    about = {"model": str(config.model), "scenes": f"{config.scenes}/{config.split}"}
    return SeldReport(about, seld, _alone(alone))


def _answers(
    config: SeldEvalConfig, params: Params, data: FeatureScenes, count: int, share: Share
) -> list[NDArray[np.float32]]:
    """Answers [b, n, 3, 4, c] of this process's batches; the last of all is filled up with its end."""
    predict = jax.jit(lambda params, x: config.task.predict(params, {"features": x})["answer"])
    params = jax.device_put(params, partition.whole_here())
    answers = []
    for first in share.own(range(0, count, config.batch_size)):
        indices = [min(i, count - 1) for i in range(first, first + config.batch_size)]
        maps = np.stack([data.features(i) for i in indices]).astype(np.float32)
        answers.append(np.asarray(predict(params, partition.beside(params, maps)))[: count - first])
    return answers


def _intensity(scene: Scene) -> NDArray[np.float64]:
    """Direction [3] of the active intensity of the whole clip: what needs no training."""
    azimuth, elevation = intensity_direction(scene.foa)
    return to_cartesian(float(azimuth), float(elevation))


def _alone(clips: list[tuple[NDArray, NDArray, NDArray]]) -> dict[str, dict[str, float]]:
    """Direction errors over clips of (answer, intensity, truth)."""
    if not clips:
        return {}
    answers, intensity, truth = (np.array(part) for part in zip(*clips))
    others = ~np.eye(len(clips), dtype=bool)
    chance = angle_between(truth[:, None], truth[None])[others]
    errors = {
        "SELDNet": angle_between(answers, truth),
        "active intensity": angle_between(intensity, truth),
        "chance (another clip's truth)": chance,
    }
    return {
        who: {
            "clips": len(clips),
            "mean": float(error.mean()) if len(error) else float("nan"),
            "median": float(np.median(error)) if len(error) else float("nan"),
            "within_20": float((error <= 20).mean()) if len(error) else float("nan"),
        }
        for who, error in errors.items()
    }

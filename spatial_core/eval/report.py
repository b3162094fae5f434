# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation: scores with intervals, as Markdown, JSON and figures."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatial_core.eval.bootstrap import Interval, draw
from spatial_core.eval.calibration import Reliability, reliability
from spatial_core.eval.doa import (
    METRICS,
    TOLERANCE,
    Grouping,
    groupings,
    per_example,
    summarise,
)
from spatial_core.eval.names import file_name
from spatial_core.eval.published import PAPER_BY_MICROPHONES, PAPER_LABEL

if TYPE_CHECKING:
    from spatial_core.eval.scenes import ScenePicture

Scores = dict[str, Interval]
_METRIC = {metric.key: metric for metric in METRICS}
_OVERALL = (
    "azimuth_median",
    "azimuth_mae",
    "exact_class",
    "acc_at_10",
    "elevation_mae",
    "distance_mae",
    "speech_accuracy",
    "no_speech_recall",
)
# What is shown for each way of grouping; columns without any value are left out.
_SHOWN: dict[str, tuple[str, ...]] = {
    "num_mics": ("azimuth_mae", "acc_at_10", "azimuth_median", "elevation_mae", "distance_mae"),
    "rt60": ("azimuth_mae", "acc_at_10", "azimuth_median"),
    "snr_db": ("azimuth_mae", "acc_at_10", "azimuth_median"),
    "array_shape": ("azimuth_mae", "elevation_mae", "elevation_mae_ambiguous", "resolvable_mae"),
}
_NOTES = f"""\
Values in brackets are 95% bootstrap intervals over rooms. Directions and distances are scored on
clips with speech. Azimuth errors go the short way round. `exact_class`: estimate and truth fall into
the same 10-degree class (the classes at -180 and 180 are one). `acc_at_10`: azimuth error at most
{TOLERANCE:g} degrees. Elevation is scored on volumetric arrays; a line or a plane of microphones
cannot tell it, and is shown apart. "Up to mirror or cone" is the angle between the directions as far
as the array's shape can tell them apart. ECE: expected calibration error of the confidence that the
azimuth error is at most {TOLERANCE:g} degrees, 0 is best; AUROC: chance that a right answer is more
confident than a wrong one. The classical baselines take every clip for speech, estimate no distance,
and their confidence is a score, not a probability."""


@dataclass(frozen=True)
class Timing:
    """Time that a localizer took: examples after its first batch, wall and CPU seconds."""

    examples: int
    wall: float
    cpu: float

    @property
    def clips_per_second(self) -> float:
        """Clips a second by the clock; nan when nothing was timed."""
        return self.examples / self.wall if self.wall > 0 else math.nan

    @property
    def cpu_ms_per_clip(self) -> float:
        """CPU time a clip over all threads, milliseconds; nan when nothing was timed."""
        return 1000 * self.cpu / self.examples if self.examples else math.nan


@dataclass(frozen=True)
class Result:
    """One localizer: scores over all examples and over each group (in the order of its labels)."""

    overall: Scores
    groups: dict[str, list[Scores]]
    calibration: Reliability
    timing: Timing


@dataclass(frozen=True)
class EvalReport:
    """What `evaluate` returns.

    results: localizer name -> Result. groups: the groupings. truth, predictions: what was compared,
    per example (without audio). info: facts about the run, printed at the top. show_paper: put the
    PhaseCoder paper's Table 5 beside the results by number of microphones. pictures: scenes that
    `save` draws.
    """

    title: str
    results: dict[str, Result]
    groups: list[Grouping]
    truth: dict[str, np.ndarray]
    predictions: dict[str, dict[str, np.ndarray]]
    info: dict[str, str | int | float] = field(default_factory=dict)
    show_paper: bool = False
    pictures: list[ScenePicture] = field(default_factory=list)

    def to_markdown(self, figures: Mapping[str, str] | None = None) -> str:
        """The report as Markdown; figures: caption -> link, put at the end."""
        parts = [f"# {self.title}", "\n".join(f"- {k}: {v}" for k, v in self.info.items())]
        parts += ["## All clips", self._overall_table(), _NOTES]
        for grouping in self.groups:
            parts.append(f"## By {grouping.title}")
            parts += [
                f"{_heading(key)}\n\n{self._group_table(grouping, key)}"
                for key in _SHOWN[grouping.key]
                if self._has_values(grouping, key)
            ]
        parts += ["## Is the confidence true?", self._calibration_table()]
        if figures:
            parts.append("## Figures")
            parts += [f"![{caption}]({link})" for caption, link in figures.items()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> str:
        """Everything that the Markdown shows and more, as JSON; what is not defined is null."""
        document: dict[str, Any] = {
            "title": self.title,
            "info": self.info,
            "metrics": {m.key: {"label": m.label, "unit": m.unit.strip()} for m in METRICS},
            "localizers": {name: self._result_json(r) for name, r in self.results.items()},
        }
        if self.show_paper:
            document["published"] = {PAPER_LABEL: PAPER_BY_MICROPHONES}
        return json.dumps(_plain(document), indent=1, allow_nan=False) + "\n"

    def save(self, directory: str | os.PathLike[str], projection: str = "auto") -> Path:
        """Writes report.md, report.json, predictions.npz and figures/*.png; returns report.md.

        projection: of the token map, see `spatial_core.viz.embed.project`.
        """
        # Imported here: matplotlib takes a second that scores alone need not pay.
        from spatial_core.eval.figures import write_figures

        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        figures = write_figures(self, target / "figures", projection)
        links = {caption: f"figures/{path.name}" for caption, path in figures.items()}
        (target / "report.json").write_text(self.to_json(), encoding="utf-8")
        arrays = {f"truth/{key}": value for key, value in self.truth.items()}
        for name, prediction in self.predictions.items():
            arrays |= {f"{file_name(name)}/{key}": value for key, value in prediction.items()}
        np.savez_compressed(target / "predictions.npz", **arrays)  # type: ignore[arg-type]
        report = target / "report.md"
        report.write_text(self.to_markdown(links), encoding="utf-8")
        return report

    def _result_json(self, result: Result) -> dict[str, Any]:
        groups = {}
        for grouping in self.groups:
            rows = result.groups[grouping.key]
            groups[grouping.key] = {
                label: {key: asdict(value) for key, value in scores.items()}
                for label, scores in zip(grouping.labels, rows)
            }
        return {
            "overall": {key: asdict(value) for key, value in result.overall.items()},
            "groups": groups,
            "calibration": asdict(result.calibration),
            "timing": {
                "clips_per_second": result.timing.clips_per_second,
                "cpu_ms_per_clip": result.timing.cpu_ms_per_clip,
            },
        }

    def _overall_table(self) -> str:
        keys = [k for k in _OVERALL if any(r.overall[k].count for r in self.results.values())]
        header = ["localizer", *(_METRIC[key].label for key in keys), "ECE", "CPU per clip"]
        rows = []
        for name, result in self.results.items():
            cells = [_show(result.overall[key], _METRIC[key].unit) for key in keys]
            cells.append(_number(result.calibration.ece, 3))
            cells.append(f"{_number(result.timing.cpu_ms_per_clip, 2)} ms")
            rows.append([name, *cells])
        return table(header, rows)

    def _has_values(self, grouping: Grouping, key: str) -> bool:
        return any(
            scores[key].count
            for result in self.results.values()
            for scores in result.groups[grouping.key]
        )

    def _group_table(self, grouping: Grouping, key: str) -> str:
        names = [
            name
            for name, result in self.results.items()
            if any(scores[key].count for scores in result.groups[grouping.key])
        ]
        paper = self.show_paper and grouping.key == "num_mics"
        header = ["", "clips", *names, *([PAPER_LABEL] if paper else [])]
        rows = []
        for index, label in enumerate(grouping.labels):
            scores = [self.results[name].groups[grouping.key][index][key] for name in names]
            published = PAPER_BY_MICROPHONES.get(label, {}).get(key) if paper else None
            if published is None and not any(score.count for score in scores):
                continue
            cells = [_show(score, _METRIC[key].unit) for score in scores]
            if paper:
                cells.append("–" if published is None else f"{published:g}{_METRIC[key].unit}")
            rows.append([label, str(max(score.count for score in scores)), *cells])
        return table(header, rows)

    def _calibration_table(self) -> str:
        header = ["localizer", "ECE", "Brier score", "AUROC"]
        edges = np.linspace(0, 1, len(next(iter(self.results.values())).calibration.count) + 1)
        header += [f"{low:.1f}-{high:.1f}" for low, high in itertools.pairwise(edges)]
        rows = []
        for name, result in self.results.items():
            c = result.calibration
            bins = [
                f"{100 * accuracy:.0f}% of {count}" if count else "–"
                for accuracy, count in zip(c.accuracy, c.count)
            ]
            scores = [_number(value, 3) for value in (c.ece, c.brier, c.auroc)]
            rows.append([name, *scores, *bins])
        return (
            f"Share of the clips with an azimuth error of at most {TOLERANCE:g} degrees, by stated "
            "confidence:\n\n" + table(header, rows)
        )


def make_report(
    title: str,
    truth: dict[str, np.ndarray],
    predictions: dict[str, dict[str, np.ndarray]],
    timings: Mapping[str, Timing],
    *,
    clusters: np.ndarray,
    seed: int = 0,
    info: Mapping[str, str | int | float] | None = None,
    show_paper: bool = False,
    pictures: Sequence[ScenePicture] = (),
) -> EvalReport:
    """Scores predictions against the truth of the same examples.

    truth: label fields of the batch schema, [n] and [n, m, 3]. predictions: localizer -> prediction
    dict of arrays [n]. clusters [n]: examples with the same number share a room. seed: of the
    bootstrap, whose draws are the same for every localizer.
    """
    groups = groupings(truth)
    everyone = np.arange(len(clusters))
    chosen = {"": [everyone]} | {
        g.key: [np.flatnonzero(g.index == i) for i in range(len(g.labels))] for g in groups
    }
    examples = {name: per_example(truth, p) for name, p in predictions.items()}
    scores: dict[str, dict[str, list[Scores]]] = {name: {} for name in predictions}
    for key, members in chosen.items():
        for rows in members:
            resamples = draw(clusters[rows], seed)
            for name, values in examples.items():
                scores[name].setdefault(key, []).append(summarise(values, rows, resamples))
    speech = np.asarray(truth["speech"], bool)
    results = {}
    for name, by_group in scores.items():
        right = examples[name]["acc_at_10"][speech] > 0.5
        calibration = reliability(np.asarray(predictions[name]["confidence"])[speech], right)
        by_key = {g.key: by_group.get(g.key, []) for g in groups}
        results[name] = Result(by_group[""][0], by_key, calibration, timings[name])
    return EvalReport(
        title,
        results,
        groups,
        truth,
        predictions,
        dict(info or {}),
        show_paper,
        list(pictures),
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column names the rows, numbers stand right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heading(key: str) -> str:
    metric = _METRIC[key]
    text = metric.label[0].upper() + metric.label[1:] if metric.label != key else f"`{key}`"
    return f"**{text}**"


def _show(interval: Interval, unit: str) -> str:
    if not interval.count:
        return "–"
    digits = 1 if unit in ("%", "°") else 2
    value, low, high = (f"{v:.{digits}f}" for v in (interval.value, interval.low, interval.high))
    return f"{value}{unit} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _plain(value: Any) -> Any:
    """Numbers, lists and dicts only, with None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        # Six digits say all that was measured, and keep the file the same on every machine.
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation of descriptions: tables like the paper's, samples, JSON and figures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sciphi import published
from sciphi.metrics import ALL, BY_KEY, METRICS, Metric, View
from sciphi.pairs import TUPLE_SCORE_VERSION
from sciphi.published import PAPER_LABEL
from sciphi.scores import POS, Scores
from spatial_core.eval.bootstrap import Interval
from spatial_core.eval.report import table

PENALISED: View = ("POS", "penalised")
POM: View = ("POM", "matched")
POM_PENALISED: View = ("POM", "penalised")
# What the tables by group show; the others are in the JSON.
_BRIEF = tuple(
    BY_KEY[key] for key in "count tuple label wer xyz xy z zone distance iou loudness c50".split()
)
_NOTES = """\
Each value is the plain mean over the numbers of true sources. Room volume: |log2| of the ratio; RT60,
loudness, C50, distance (|error| / truth), zone error: mean absolute errors. XYZ: the zone of 26, XY: its sector
of 8, Z: its level of 5. Background and source labels: similarity from 0 to 1, of source labels without the
words that are said; WER: over pairs in which both have words. An answer is compared with the description
that the truth deserves, on the steps of the text form; values that could not be read are wrong where right
and wrong are counted, and have no error otherwise.

Controls get the same scenes: "spectral only" with zeros for the spatial stream, "spatial only" with zeros for
the audio, "question only" with neither. Chance is the true description of a training scene drawn at random."""
_PENALISED_NOTE = (
    "Every source that is missed, or that is not there, counts as the worst: 0 for TupleScore, label, XYZ, XY, "
    "Z and time IoU, 1 for WER and distance, 180° for the zone error. Loudness and C50 have no worst value and are left out."
)
_POM_NOTE = (
    "POM: the best assignment of answered to true sources for each metric by itself; POS above: one "
    "assignment for all, that of the largest sum of TupleScores."
)
_PAPER_NOTE = (
    "Rows marked *paper* are the Sci-Phi paper's own, on its own scenes and with its own label similarity "
    "(CLAP) and TupleScore formula: for orientation only."
)


@dataclass(frozen=True)
class Told:
    """One scene of an evaluation: its key, the right text, and everybody's text."""

    key: str
    right: str
    texts: dict[str, str]


@dataclass(frozen=True)
class SceneReport:
    """What `sciphi.evaluate.evaluate` returns.

    results: who answers -> scores, the model first. similarity: the measure of labels that was used. told:
    the answers, where there are texts; samples: how many of them are shown.
    """

    title: str
    results: dict[str, Scores]
    similarity: str
    info: Mapping[str, str | int | float] = field(default_factory=dict)
    told: Sequence[Told] = ()
    samples: int = 5
    show_paper: bool = True

    def to_markdown(self, figures: Mapping[str, str] | None = None) -> str:
        """All tables, figures (caption -> link) and samples."""
        facts = {**self.info, "label similarity": self.similarity}
        facts["TupleScore"] = f"version {TUPLE_SCORE_VERSION}"
        parts = [f"# {self.title}", "\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
        parts += ["## At a glance (POS, matched sources)", self.glance(), _NOTES]
        parts += [_PAPER_NOTE] if self.show_paper else []
        parts += [f"![{caption}]({link})" for caption, link in (figures or {}).items()]
        parts += ["## With 95% bootstrap intervals over scenes", self._intervals()]
        parts += ["## Misses and inventions penalised (POS)", _PENALISED_NOTE]
        parts += [self._rows_of(PENALISED)]
        parts += ["## POM", _POM_NOTE, self._rows_of(POM)]
        parts += ["Penalised as above:", self._rows_of(POM_PENALISED)]
        parts += ["## By number of sources (POS, matched)", self._counts()]
        model = next(iter(self.results))
        for name in self.results[model].breakdowns:
            parts += [f"## By {name}: {model}", _GROUP_NOTES[name], self._groups(model, name)]
        parts += ["## Found, missed, invented, unreadable", self._tally()]
        parts += [self._samples()] if self.samples and self.told else []
        return "\n\n".join(part for part in parts if part) + "\n"

    def glance(self) -> str:
        """One row for each system, one column for each of the 15 metrics; the paper's below."""
        rows = [self._row(name, scores.headline[POS]) for name, scores in self.results.items()]
        if self.show_paper:
            for name, values in published.table().items():
                cells = [show(values.get(metric.key, math.nan), metric) for metric in METRICS]
                rows.append([f"*{PAPER_LABEL}: {name}*", *cells])
        return table(["", *map(_title, METRICS)], rows)

    def to_json(self) -> str:
        """Everything that the tables show, as JSON; what is not defined is null."""
        document: dict[str, Any] = {
            "title": self.title,
            "info": dict(self.info),
            "label_similarity": self.similarity,
            "tuple_score_version": TUPLE_SCORE_VERSION,
            "metrics": {m.key: {"title": m.title, "unit": m.unit.strip()} for m in ALL},
            "results": {name: plain(scores) for name, scores in self.results.items()},
        }
        if self.show_paper:
            document["paper"] = published.table()
        return json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes report.md, report.json, answers.jsonl and figures/*.png; returns report.md."""
        # Imported here: matplotlib takes a second that scores alone need not pay.
        from sciphi.eval_figures import write_figures

        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        figures = write_figures(self.results, target / "figures")
        links = {caption: f"figures/{path.name}" for caption, path in figures.items()}
        (target / "report.json").write_text(self.to_json(), encoding="utf-8")
        with (target / "answers.jsonl").open("w", encoding="utf-8") as file:
            for one in self.told:
                file.write(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n")
        report = target / "report.md"
        report.write_text(self.to_markdown(links), encoding="utf-8")
        return report

    def _row(self, name: str, values: Mapping[str, Interval]) -> list[str]:
        return [name, *(show(values[metric.key].value, metric) for metric in METRICS)]

    def _rows_of(self, view: View) -> str:
        """The metrics of sources in a view: those of scenes are the same in all."""
        metrics = [metric for metric in METRICS if not metric.scene]
        if view[1] == "penalised":
            metrics = [metric for metric in metrics if metric.worst is not None]
        rows = [
            [name, *(show(scores.headline[view][m.key].value, m) for m in metrics)]
            for name, scores in self.results.items()
        ]
        return table(["", *map(_title, metrics)], rows)

    def _intervals(self) -> str:
        rows = []
        for metric in ALL:
            cells = [
                with_interval(scores.headline[POS][metric.key], metric)
                for scores in self.results.values()
            ]
            rows.append([_title(metric), *cells])
        return table(["", *self.results], rows)

    def _counts(self) -> str:
        rows = [
            [name, str(n), str(scores.scenes[n])]
            + [show(scores.counts[n][POS][metric.key], metric) for metric in METRICS]
            for name, scores in self.results.items()
            for n in scores.counts
        ]
        if self.show_paper:
            for n, share in published.COUNT_BY_SOURCES.items():
                cells = [show(share, m) if m.key == "count" else "–" for m in METRICS]
                rows.append([f"*{PAPER_LABEL}*", str(n), "–", *cells])
        return table(["", "sources", "scenes", *map(_title, METRICS)], rows)

    def _groups(self, system: str, breakdown: str) -> str:
        groups = self.results[system].breakdowns[breakdown]
        rows = [
            [title, str(group.scenes), *(show(group.means[m.key], m) for m in _BRIEF)]
            for title, group in groups.items()
        ]
        return table(["", "scenes", *map(_title, _BRIEF)], rows)

    def _tally(self) -> str:
        fields = list(next(iter(self.results.values())).unread)
        header = ["", "true", "answered", "missed", "invented", "answers with problems"]
        rows = []
        for name, scores in self.results.items():
            counts = (scores.sources, scores.said, scores.missed, scores.extra)
            problems = f"{scores.problems} of {scores.answers}"
            unread = [str(scores.unread[one]) for one in fields]
            rows.append([name, *map(str, counts), problems, *unread])
        return table([*header, *(f"no {one}" for one in fields)], rows)

    def _samples(self) -> str:
        """The first scenes with the right description and everybody's."""
        lines = ["## Samples"]
        for one in self.told[: self.samples]:
            lines += ["", f"**{one.key}**", "", f"- right: `{_one_line(one.right)}`"]
            lines += [f"- {name}: `{_one_line(text)}`" for name, text in one.texts.items()]
        return "\n".join(lines)


_GROUP_NOTES = {
    "SNR": "Level of all sources together over that of the background, A-weighted at the microphone.",
    "reverberation": "RT60 of the room.",
    "similarity": "How alike the labels of the two most alike sources of a scene are; two sources or more.",
}


def show(value: float, metric: Metric) -> str:
    """A value with its unit; a dash for none."""
    if not math.isfinite(value):
        return "–"
    return f"{value * metric.scale:.{metric.digits}f}{metric.unit}"


def with_interval(interval: Interval, metric: Metric) -> str:
    """'8.4° (7.9 to 9.0)'."""
    if not interval.count:
        return "–"
    low, high = (f"{end * metric.scale:.{metric.digits}f}" for end in (interval.low, interval.high))
    return f"{show(interval.value, metric)} ({low} to {high})"


def plain(value: Any) -> Any:
    """JSON values, with null for what is not finite; arrays are for pictures and left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return plain({k: v for k, v in fields.items() if not isinstance(v, np.ndarray)})
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _key(key: Any) -> str:
    return " ".join(key) if isinstance(key, tuple) else str(key)


def _title(metric: Metric) -> str:
    return f"{metric.title} {'↑' if metric.better == 'high' else '↓'}"


def _one_line(text: str) -> str:
    return " ".join(text.replace("`", "'").split()) or "(nothing)"

# SPDX-License-Identifier: Apache-2.0
"""The result of a bridge's evaluation: tables like the paper's 3 and 6, samples, JSON and figures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge import published
from llm_bridge.metrics import TARGET_WER, WER_LIMIT, Places, Scores, Tally, Words
from llm_bridge.published import PAPER_LABEL
from llm_bridge.qa.asking import Question
from llm_bridge.qa.book import KINDS, kind_title
from spatial_core.eval.bootstrap import Interval
from spatial_core.eval.report import table

_NOTES = f"""\
Brackets: 95% bootstrap intervals over clips. Places: mean absolute errors against the unrounded truth,
over the talkers that are both there and in the answer; azimuth the short way round. "Missed": talkers
without a place in the answer; "extra": answered, but not there. "Exact count": answers with as many
talkers as there are. Word error rates (WER) are per talker, casefolded, without punctuation; a talker
without words in the answer has 100%; rates above {100 * WER_LIMIT:.0f}% are left out of mean and median
and counted as dropped. Task 4 is right if the words are those of the talker who is meant (WER at most
{100 * TARGET_WER:.0f}% and lower than against the other talker) or `none` where nobody is;
"attributed" asks for the lower WER alone. Answers are read leniently as to form; values are never guessed.

Controls get the same questions: "spatial tokens zeroed" hears the mono audio alone, "question only"
nothing. Chance answers in the right form: values drawn from their lists, a coin for yes or no; in Task 3
the words of another clip, in Task 4 the right words of a talker picked at random, or `none`."""
_PAPER_NOTE = (
    "Rows and columns marked *paper* are the PhaseCoder paper's own (tables 3 and 6), on its own "
    "clips and wordings and with Gemma 3n E4B: for orientation only."
)


@dataclass(frozen=True)
class _Column:
    """A column of the glance: keys of `published.table_3`, shown with a slash between."""

    task: int
    title: str
    keys: tuple[str, ...]
    unit: str
    form: str

    def cell(self, row: Mapping[str, float], form: str | None = None) -> str:
        """The value with its unit, a dash for none."""
        if not any(key in row for key in self.keys):
            return "–"
        numbers = [format(row[key], form or self.form) for key in self.keys if key in row]
        return " / ".join(f"{number}{self.unit}" for number in numbers)


_GLANCE = (
    _Column(1, "Task 1: azimuth", ("task1_azimuth",), "°", ".1f"),
    _Column(1, "elevation", ("task1_elevation",), "°", ".1f"),
    _Column(1, "distance", ("task1_distance",), " m", ".2f"),
    _Column(2, "Task 2: right", ("task2_accuracy",), "%", ".1f"),
    _Column(3, "Task 3: azimuth", ("task3_azimuth",), "°", ".1f"),
    _Column(3, "elevation", ("task3_elevation",), "°", ".1f"),
    _Column(3, "distance", ("task3_distance",), " m", ".2f"),
    _Column(3, "WER mean / median", ("words3_mean", "words3_median"), "%", ".1f"),
    _Column(4, "Task 4: right", ("task4_accuracy",), "%", ".1f"),
    _Column(4, "WER mean / median", ("words4_mean", "words4_median"), "%", ".1f"),
)


@dataclass(frozen=True)
class BridgeReport:
    """What `BridgeEvalConfig.run` returns.

    results: who answers -> scores, the model first. plan: (clip, question)s; answers: who -> texts, None
    where one does not answer such questions. samples: shown of each task.
    """

    title: str
    results: dict[str, Scores]
    plan: list[tuple[int, Question]]
    answers: dict[str, list[str | None]]
    info: Mapping[str, str | int | float]
    samples: int = 10
    show_paper: bool = True

    def to_markdown(self, figures: Mapping[str, str] | None = None) -> str:
        """All tables, figures (caption -> link) and samples."""
        parts = [f"# {self.title}", "\n".join(f"- {k}: {v}" for k, v in self.info.items())]
        parts += ["## At a glance", self.glance(), _NOTES]
        parts += [_PAPER_NOTE] if self.show_paper else []
        parts += [f"![{caption}]({link})" for caption, link in (figures or {}).items()]
        if any(scores.task1 for scores in self.results.values()):
            parts += ["## Task 1: where is everybody", self._places("task1")]
        if any(scores.task2 for scores in self.results.values()):
            parts += ["## Task 2: yes or no, by kind of question", self._kinds()]
        if any(scores.task3 for scores in self.results.values()):
            parts += ["## Task 3: who says what, and where", self._places("task3")]
            parts += [self._words("words3")]
        if any(scores.task4 for scores in self.results.values()):
            parts += ["## Task 4: the words of one talker", self._targets(), self._words("words4")]
        parts += ["## Valid answers", self._validity()]
        parts += [self._samples()] if self.samples else []
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> str:
        """Everything that the tables show, as JSON; what is not defined is null."""
        document: dict[str, Any] = {
            "title": self.title,
            "info": dict(self.info),
            "results": {name: _plain(scores) for name, scores in self.results.items()},
        }
        if self.show_paper:
            document["paper"] = {
                "table_3": published.table_3(),
                "table_6": published.TABLE_6,
                "table_6_yes": published.TABLE_6_YES,
                "table_6_no": published.TABLE_6_NO,
            }
        return json.dumps(_plain(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes report.md, report.json, answers.jsonl and figures/*.png; returns report.md."""
        # Imported here: matplotlib takes a second that scores alone need not pay.
        from llm_bridge.figures import write_figures

        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        links = {
            caption: f"figures/{path.name}"
            for caption, path in write_figures(self.results, target / "figures").items()
        }
        (target / "report.json").write_text(self.to_json(), encoding="utf-8")
        with (target / "answers.jsonl").open("w", encoding="utf-8") as file:
            for row in self._rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        report = target / "report.md"
        report.write_text(self.to_markdown(links), encoding="utf-8")
        return report

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "clip": clip,
                "task": question.task,
                "kind": question.kind,
                "question": question.user,
                "right": question.answer,
                "answers": {name: texts[n] for name, texts in self.answers.items()},
            }
            for n, (clip, question) in enumerate(self.plan)
        ]

    def glance(self) -> str:
        """As the paper's table 3, without intervals; columns of tasks that were not asked are left out."""
        asked = {question.task for _, question in self.plan}
        columns = [column for column in _GLANCE if column.task in asked]
        rows = [
            [name, *(column.cell(_glance_row(scores)) for column in columns)]
            for name, scores in self.results.items()
        ]
        if self.show_paper:
            rows += [
                [f"*{PAPER_LABEL}: {name}*", *(column.cell(row, "g") for column in columns)]
                for name, row in published.table_3().items()
            ]
        return table(["", *(column.title for column in columns)], rows)

    def _places(self, key: str) -> str:
        header = ["", "azimuth MAE", "elevation MAE", "distance MAE", "exact count"]
        header += ["talkers", "missed", "extra"]
        rows = []
        for name, scores in self.results.items():
            places: Places | None = getattr(scores, key)
            if places is None:
                continue
            rows.append(
                [
                    name,
                    show(places.azimuth, "°"),
                    show(places.elevation, "°"),
                    show(places.distance, " m"),
                    show(places.exact, "%"),
                    str(places.talkers),
                    str(places.missed),
                    str(places.extra),
                ]
            )
        return table(header, rows)

    def _kinds(self) -> str:
        """As the paper's table 6: a row for each kind, a column for each who answers."""
        columns = {name: s.task2 for name, s in self.results.items() if s.task2 is not None}
        header = ["", *columns, *([f"*{PAPER_LABEL}*"] if self.show_paper else [])]
        rows = []
        for kind in sorted(KINDS[2]):
            cells = [tally(each.kinds.get(kind, Tally(0, 0))) for each in columns.values()]
            paper = [tally(Tally(*published.TABLE_6[kind]))] if self.show_paper else []
            rows.append([kind_title(kind), *cells, *paper])
        whole = [sum(column) for column in zip(*published.TABLE_6.values())]
        ends = [
            ("Overall", lambda each: each.overall, (whole[0], whole[1])),
            ("Recall on yes", lambda each: each.yes, published.TABLE_6_YES),
            ("Recall on no", lambda each: each.no, published.TABLE_6_NO),
        ]
        for title, pick, known in ends:
            paper = [tally(Tally(*known))] if self.show_paper else []
            rows.append([title, *(tally(pick(each)) for each in columns.values()), *paper])
        rows.append(
            [
                "Overall, interval",
                *(show(each.accuracy, "%") for each in columns.values()),
                *(["–"] if self.show_paper else []),
            ]
        )
        return table(header, rows)

    def _words(self, key: str) -> str:
        rows = []
        for name, scores in self.results.items():
            words = _words_of(scores, key)
            if words is not None:
                cells = [show(words.mean, "%"), show(words.median, "%")]
                rows.append([name, *cells, str(words.talkers), str(words.dropped)])
        return table(["", "WER mean", "WER median", "talkers", "dropped"], rows)

    def _targets(self) -> str:
        rows = [
            [name, show(t.accuracy, "%"), show(t.attributed, "%"), tally(t.none)]
            for name, scores in self.results.items()
            if (t := scores.task4) is not None
        ]
        return table(["", "right", "attributed", "`none` where nobody is"], rows)

    def _validity(self) -> str:
        tasks = sorted({task for scores in self.results.values() for task in scores.validity})
        rows = []
        for name, scores in self.results.items():
            cells = []
            for task in tasks:
                one = scores.validity.get(task)
                cells.append(f"{one.invalid} / {one.unreadable} / {one.answers}" if one else "–")
            rows.append([name, *cells])
        header = ["invalid in a part / unreadable / all", *(f"Task {task}" for task in tasks)]
        return table(header, rows)

    def _samples(self) -> str:
        """The first questions of each task with the right answer and everybody's."""
        names = [name for name in self.results if any(self.answers[name])]
        lines = ["## Samples"]
        for task in KINDS:
            rows = [row for row in self._rows() if row["task"] == task][: self.samples]
            if rows:
                lines += ["", f"### Task {task}"]
            for row in rows:
                lines += ["", f"**{_code_free(row['question'])}** (clip {row['clip']})", ""]
                lines += [f"- right: `{_one_line(row['right'])}`"]
                lines += [
                    f"- {name}: `{_one_line(row['answers'][name])}`"
                    for name in names[:3]
                    if row["answers"][name] is not None
                ]
        return "\n".join(lines)


def show(interval: Interval, unit: str) -> str:
    """'4.1° (3.9 to 4.4)'; shares and rates as percent."""
    if not interval.count:
        return "–"
    scale, digits = (100.0, 1) if unit == "%" else (1.0, 2 if unit == " m" else 1)
    value, low, high = (
        f"{scale * number:.{digits}f}" for number in (interval.value, interval.low, interval.high)
    )
    return f"{value}{unit} ({low} to {high})"


def tally(one: Tally) -> str:
    """'72.4% (63/87)', as in the paper's table 6."""
    return f"{100 * one.share:.1f}% ({one.right}/{one.total})" if one.total else "–"


def _words_of(scores: Scores, key: str) -> Words | None:
    if key == "words3":
        return scores.words3
    return None if scores.task4 is None else scores.task4.words


def _glance_row(scores: Scores) -> dict[str, float]:
    """A row of table 3 by the keys of `published.table_3`; rates in percent."""
    row: dict[str, float] = {}
    for task, places in ((1, scores.task1), (3, scores.task3)):
        if places is not None:
            row[f"task{task}_azimuth"] = places.azimuth.value
            row[f"task{task}_elevation"] = places.elevation.value
            row[f"task{task}_distance"] = places.distance.value
    if scores.task2 is not None:
        row["task2_accuracy"] = 100 * scores.task2.accuracy.value
    if scores.task4 is not None:
        row["task4_accuracy"] = 100 * scores.task4.accuracy.value
    for task in (3, 4):
        words = _words_of(scores, f"words{task}")
        if words is not None:
            row[f"words{task}_mean"] = 100 * words.mean.value
            row[f"words{task}_median"] = 100 * words.median.value
    return {key: value for key, value in row.items() if math.isfinite(value)}


def _one_line(text: str) -> str:
    return " ".join(text.replace("`", "'").split()) or "(nothing)"


def _code_free(text: str) -> str:
    return text.replace("*", "").replace("|", "/")


def _plain(value: Any) -> Any:
    """JSON values, with None for what is not finite; arrays are for pictures and left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _plain({k: v for k, v in fields.items() if not isinstance(v, np.ndarray)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep: overrides and results of every run, out of metrics.jsonl and report.json."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import sweep_points
from spatial_core.config.bindings import near
from spatial_core.errors import InputError
from spatial_core.io.writers import GOODPUT

# Of no use beside the results of other runs.
_HIDDEN = {"learning_rate", "grad_norm", "examples_per_second", "data_wait", "skipped"}


@dataclass(frozen=True)
class Table:
    """Rows under a heading; cells are texts or numbers, None where a run has no such value."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]

    def markdown(self) -> str:
        """Numbers with four digits, and to the right."""
        numeric = [
            any(isinstance(row[i], float) for row in self.rows) for i in range(len(self.heading))
        ]
        lines = [self.heading, ["---:" if number else "---" for number in numeric]]
        lines += [[_cell(value) for value in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def csv(self) -> str:
        """Numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.heading)
        writer.writerows([["" if value is None else value for value in row] for row in self.rows])
        return text.getvalue()


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value.replace("|", "\\|")


def collect(folder: Path, sort_by: str | None = None, metrics: Sequence[str] = ()) -> Table:
    """The table of a sweep's folder, its runs in their order or sorted by a metric, lowest first.

    metrics: the columns, default all that any run has. InputError for a metric that none has.
    """
    runs = sweep_points.manifest(folder)["runs"]
    found = {name: results(folder / name) for name in runs}
    known = list(dict.fromkeys(metric for values in found.values() for metric in values))
    for metric in (*metrics, *([sort_by] if sort_by else [])):
        if metric not in known:
            raise InputError(
                f"no run of {folder} has {metric!r}; there are {', '.join(known) or 'no results yet'}"
                f"{near(metric, known)}"
            )
    columns = tuple(metrics) or tuple(known)
    settings = tuple(dict.fromkeys(name for overrides in runs.values() for name in overrides))
    order = list(runs)
    if sort_by:
        order.sort(key=lambda name: _or_last(found[name].get(sort_by)))
    rows = tuple(
        (
            name,
            *(runs[name].get(setting) for setting in settings),
            state(folder / name),
            *(found[name].get(column) for column in columns),
        )
        for name in order
    )
    return Table(("run", *settings, "state", *columns), rows)


def _or_last(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def state(run: Path) -> str:
    """'finished', 'exit code 3', 'begun' or 'not begun'."""
    code = sweep_points.outcome(run)
    if code is not None:
        return "finished" if code == 0 else f"exit code {code}"
    config = run / "config.json"
    if config.exists():  # of a training that another machine runs
        steps = json.loads(config.read_text())["steps"]
        return "finished" if results(run).get("step", -1) >= steps else "begun"
    return "finished" if (run / "report.json").exists() else "not begun"


def results(run: Path) -> dict[str, float]:
    """Values by name: the last of every metric of a training, the best one of a checkpoint that was kept
    for it, and the numbers of a report."""
    values: dict[str, float] = {}
    log = run / "metrics.jsonl"
    if log.exists():
        for line in log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that was being written
                continue
            values |= {
                name: float(value)
                for name, value in record.items()
                if name not in _HIDDEN and not name.startswith(GOODPUT)
            }
    best = run / "checkpoints" / "best.json"
    if best.exists():
        record = json.loads(best.read_text())
        values[f"best {record['metric']}"] = float(record["value"])
    report = run / "report.json"
    if report.exists():
        values |= dict(_numbers(_scores(json.loads(report.read_text()))))
    return values


def _scores(document: dict[str, Any]) -> Any:
    """What a report says of all clips, by model; not of groups of them, nor what others published."""
    if "localizers" in document:
        return {name: result["overall"] for name, result in document["localizers"].items()}
    if document.get(
        "results"
    ):  # the first is the run's own, under a name that says which run it is
        own, *others = document["results"]
        return {
            "model": document["results"][own],
            **{name: document["results"][name] for name in others},
        }
    return document


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested dictionaries, by path: of an interval its value; lists are left out."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        yield from _numbers(value["value"], path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)

# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: the console, a JSONL file and TensorBoard event files (without TensorFlow)."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spatial_core.io import places


class JsonlWriter:
    """One JSON object a line: {"step": n, ...}; non-finite numbers as strings.

    Opening it for a run that resumes at `step` drops the lines after that step, which the run is
    about to write again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_until(path, step)
        self._file = places.GrowingText(path, "".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        record = {"step": step, **{name: _json_number(value) for name, value in values.items()}}
        self._file.append(json.dumps(record, allow_nan=False) + "\n")

    def latest(self) -> dict[str, float]:
        """The newest value of every metric in the file."""
        values: dict[str, float] = {}
        for line in self.path.read_text().splitlines():
            values |= {name: float(value) for name, value in json.loads(line).items()}
        values.pop("step", None)
        return values

    def close(self) -> None:
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # the line that was being written when the process died
            continue
    return kept


def _json_number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


class TensorBoardWriter:
    """Scalars as TensorBoard event files.

    Opening it for a run that resumes at `step` tells TensorBoard to forget later points.
    """

    def __init__(self, directory: Path, step: int = 0) -> None:
        # Imported here: the package takes half a second that other verbs need not pay.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._outbox = places.Outbox(directory)
        self._writer = EventFileWriter(str(self._outbox.folder))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step + 1, session_log=start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        points = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._add(step, summary=self._summary(value=points))
        if self._outbox.due:
            self._writer.flush()
            self._outbox.send()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        self._writer.close()
        self._outbox.close()


class ConsoleWriter:
    """Progress for a person: a bar on a terminal, else one plain line for each record.

    Both show the step, the loss and further metrics, examples per second, the share of the time
    spent waiting for data and the time left.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total = total
        self._progress: Progress | None = None
        if self._stream.isatty():
            self._progress = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=Console(file=self._stream),
            )
            self._bar = self._progress.add_task("train", total=total, metrics="")
            self._progress.start()

    def say(self, text: str) -> None:
        """One line of plain text, above the bar if there is one."""
        if self._progress:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def start_at(self, step: int) -> None:
        """Sets the bar to where a run resumes, so that the time left follows the steps to come."""
        if self._progress:
            self._progress.reset(self._bar, completed=step)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._progress:
            self._progress.update(self._bar, completed=step)

    def write(self, step: int, values: Mapping[str, float], eta_seconds: float) -> None:
        """Shows a record of the training metrics."""
        text = format_metrics(values)
        if self._progress:
            self._progress.update(self._bar, completed=step, metrics=text)
        else:
            self.say(f"step {step}/{self._total}  {text}  ETA {format_seconds(eta_seconds)}")

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


_RATES = {"examples_per_second": "{:.0f} examples/s", "data_wait": "data wait {:.0%}"}
_HIDDEN = {"grad_norm", "learning_rate", "skipped"}
GOODPUT = "goodput/"
"""Before the names of shares of the wall time, which the last line of a run says."""


def format_metrics(values: Mapping[str, float], most: int = 5) -> str:
    """'loss 0.532  azimuth_mae 12.1  310 examples/s  data wait 3%': loss first, then the others."""
    names = sorted(
        (
            name
            for name in values
            if name not in _RATES and name not in _HIDDEN and not name.startswith(GOODPUT)
        ),
        key=lambda name: name != "loss",
    )
    parts = [f"{name} {values[name]:.4g}" for name in names[:most]]
    if values.get("skipped"):
        parts.append(f"skipped {values['skipped']:.0f}")
    parts += [form.format(values[name]) for name, form in _RATES.items() if name in values]
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """'1h02m', '3m20s', '12s'; '?' when unknown."""
    if not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"

# SPDX-License-Identifier: Apache-2.0
"""Evaluation: every localizer on the same clips of a stream, then one report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np

from spatial_core.data.pipeline import CropStream
from spatial_core.data.records import Batch, take
from spatial_core.errors import InputError
from spatial_core.eval.baselines import Localizer
from spatial_core.eval.doa import REQUIRED, check_prediction
from spatial_core.eval.report import EvalReport, Timing, make_report
from spatial_core.eval.sharing import ALONE, Share

if TYPE_CHECKING:
    from spatial_core.eval.scenes import ScenePicture

LABELS = (
    "azimuth",
    "elevation",
    "distance",
    "speech",
    "rt60",
    "snr_db",
    "num_mics",
    "example_id",
    "mic_positions",
    "mic_mask",
)


class Stream(Protocol):
    """Where clips come from: batches numbered by step, each always the same."""

    def batch(self, step: int) -> Batch:
        """The batch of a step."""


def evaluate(
    localizers: Mapping[str, Localizer],
    stream: Stream,
    num_examples: int | None = None,
    *,
    steps: int | None = None,
    start_step: int = 0,
    seed: int = 0,
    title: str = "Evaluation",
    info: Mapping[str, str | int | float] | None = None,
    show_paper: bool = False,
    pictures: int = 0,
    out: TextIO | None = None,
    share: Share = ALONE,
) -> EvalReport:
    """Runs every localizer over the same clips and scores them.

    Args:
        localizers: name -> localizer, in the order of the report's rows.
        stream: anything with `batch(step)`; its `crops_per_rir`, if it has one, tells which
            examples share a room (the intervals are over rooms).
        num_examples: how many clips; or `steps`: how many batches. Exactly one of the two.
        start_step: first step of the stream.
        seed: of the bootstrap intervals.
        title, info, show_paper: see `EvalReport`.
        pictures: how many scenes the report shows as pictures; needs a stream of scenes.
        out: where progress goes (default stderr): a line that renews itself on a terminal, one line
            every few seconds elsewhere.
        share: of the batches, that this process answers; see `Share.gather` for how the others end.

    Returns:
        The report; for the same localizers, stream and arguments it is the same except for timing.

    Raises:
        InputError: no localizers, an impossible count, or a localizer whose answer is not usable.
    """
    if not localizers:
        raise InputError("there is no localizer to evaluate")
    if (num_examples is None) == (steps is None):
        raise InputError("give either num_examples or steps")
    if (num_examples if steps is None else steps or 0) < 1:  # type: ignore[operator]
        raise InputError(f"num_examples={num_examples}, steps={steps}: evaluate at least one")
    answered = share.gather(
        _answers(localizers, stream, num_examples, steps, start_step, share, out or sys.stderr)
    )
    joined = _join([part["truth"] for part in answered])
    predictions = {name: _join([part["answers"][name] for part in answered]) for name in localizers}
    # The first of each process may compile: it counts only if there is no other.
    counted = answered[share.hosts :] or answered
    timings = {name: _timing([part["laps"][name] for part in counted]) for name in localizers}
    done = len(joined["speech"])
    crops = int(getattr(stream, "crops_per_rir", 1))
    about = {"clips": done, "clips with speech": int(joined["speech"].sum()), **(info or {})}
    return make_report(
        title,
        joined,
        predictions,
        timings,
        clusters=joined["example_id"] // crops,
        seed=seed,
        info=about,
        show_paper=show_paper,
        pictures=_pictures(localizers, stream, joined, predictions, pictures),
    )


def _answers(
    localizers: Mapping[str, Localizer],
    stream: Stream,
    num_examples: int | None,
    steps: int | None,
    start_step: int,
    share: Share,
    out: TextIO,
) -> list[dict[str, Any]]:
    """Of each of this process's batches its truth, and by localizer answers and laps."""
    progress = _Progress(*_own_counts(stream, num_examples, steps, share), out)
    answered: list[dict[str, Any]] = []
    done = 0
    while progress.wanted(done, len(answered)):
        number = share.host + len(answered) * share.hosts
        batch = stream.batch(start_step + number)
        if num_examples is not None:
            # Of several processes none knows what the others have done, but all batches are as large.
            before = done if share.hosts == 1 else number * len(batch["azimuth"])
            batch = take(batch, slice(0, num_examples - before))
        size = len(batch["azimuth"])
        if not size:
            raise InputError(f"the stream's batch of step {start_step + number} is empty")
        timed = {name: _answer(name, each, batch) for name, each in localizers.items()}
        answered.append(
            {
                "truth": {key: batch[key] for key in LABELS},
                "answers": {name: answer for name, (answer, _) in timed.items()},
                "laps": {name: lap for name, (_, lap) in timed.items()},
            }
        )
        done += size
        progress.show(done, len(answered))
    progress.close()
    return answered


def _own_counts(
    stream: Stream, num_examples: int | None, steps: int | None, share: Share
) -> tuple[int | None, int | None]:
    """How many of the clips, or of the batches, are this process's."""
    if share.hosts == 1:
        return num_examples, steps
    if num_examples is None:
        return None, len(share.own(range(steps or 0)))
    size = getattr(stream, "batch_size", None)
    if size is None:
        raise InputError(
            f"{type(stream).__name__} has no batch_size, and processes share clips by the batch: "
            "evaluate in one process"
        )
    own = share.own(range(-(-num_examples // size)))
    return sum(min(size, num_examples - number * size) for number in own), None


def _pictures(
    localizers: Mapping[str, Localizer],
    stream: Stream,
    truth: Mapping[str, np.ndarray],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    count: int,
) -> list[ScenePicture]:
    """The first `count` clips with speech of rooms of their own."""
    if not count:
        return []
    if not isinstance(stream, CropStream):
        raise InputError("pictures of scenes need a stream of scenes (SceneStream or BankStream)")
    # Matplotlib takes a second that scores alone need not pay.
    from spatial_core.eval.scenes import look_at

    speech = np.flatnonzero(truth["speech"])
    _, first = np.unique(truth["example_id"][speech] // stream.crops_per_rir, return_index=True)
    pictures = []
    for row in speech[np.sort(first)][:count]:
        estimates = {
            name: (float(p["azimuth"][row]), float(p["elevation"][row]), float(p["distance"][row]))
            for name, p in predictions.items()
        }
        example, rt60 = int(truth["example_id"][row]), float(truth["rt60"][row])
        pictures.append(look_at(stream, example, rt60, localizers, estimates))
    return pictures


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation as one object: what `evaluate` needs, and `run` to write its report."""

    localizers: Mapping[str, Localizer]
    stream: Stream
    num_examples: int = 1024
    seed: int = 0
    title: str = "Evaluation"
    info: Mapping[str, str | int | float] = field(default_factory=dict)
    show_paper: bool = False
    projection: str = "auto"
    pictures: int = 0

    def run(self, directory: str | Path, share: Share = ALONE) -> EvalReport:
        """Evaluates, and saves report.md, report.json and the figures to the directory.

        share: as in `evaluate`.
        """
        report = evaluate(
            self.localizers,
            self.stream,
            self.num_examples,
            seed=self.seed,
            title=self.title,
            info=self.info,
            show_paper=self.show_paper,
            pictures=self.pictures,
            share=share,
        )
        report.save(directory, self.projection)
        return report


Lap = tuple[int, float, float]
"""Examples, wall and CPU seconds of one prediction."""


def _answer(name: str, localizer: Localizer, batch: Batch) -> tuple[dict[str, np.ndarray], Lap]:
    """The parts of a prediction that the report keeps, checked, and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    prediction = localizer.predict(batch)
    size = len(batch["azimuth"])
    lap = (size, time.perf_counter() - wall, time.process_time() - cpu)
    check_prediction(name, prediction, size)
    kept = [*REQUIRED, *(["token"] if "token" in prediction else [])]
    return {key: np.asarray(prediction[key]) for key in kept}, lap


def _timing(laps: Sequence[Lap]) -> Timing:
    examples, wall, cpu = (sum(column) for column in zip(*laps))
    return Timing(int(examples), wall, cpu)


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class _Progress:
    """'evaluate 128/1024 clips  41 clips/s  ETA 0:22', in place on a terminal."""

    def __init__(self, examples: int | None, steps: int | None, out: TextIO) -> None:
        self._examples, self._steps = examples, steps
        self._out = out
        self._start = time.monotonic()
        self._shown = 0.0
        self._terminal = out.isatty()

    def wanted(self, examples: int, steps: int) -> bool:
        if self._examples is not None:
            return examples < self._examples
        return steps < (self._steps or 0)

    def show(self, examples: int, steps: int) -> None:
        now = time.monotonic()
        total = self._examples or round(examples / steps * (self._steps or steps))
        if examples < total and now - self._shown < (0.2 if self._terminal else 5.0):
            return
        self._shown = now
        rate = examples / max(now - self._start, 1e-9)
        left = round((total - examples) / rate)
        line = (
            f"evaluate {examples}/{total} clips  {rate:.3g} clips/s  "
            f"ETA {left // 60}:{left % 60:02d}"
        )
        print(f"\r{line}\x1b[K" if self._terminal else line, end="", file=self._out)
        print(end="" if self._terminal else "\n", file=self._out, flush=True)

    def close(self) -> None:
        if self._terminal:
            print(file=self._out)

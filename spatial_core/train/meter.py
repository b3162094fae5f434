# SPDX-License-Identifier: Apache-2.0
"""Averages of the metrics between two records, and rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from spatial_core.train.activity import Activity, Kind

# What is not training: neither in the rates nor in the time left.
_PAUSES: tuple[Kind, ...] = ("checkpoint", "evaluation", "compile")


class Meter:
    """Collects step metrics; `record()` gives their means since the last record.

    Non-finite steps and values (a metric that a batch has no example for) are left out of the means.
    Rates and the time left are over the time since the first step was done, without what was spent on
    validation, saving and compiling; before a second step they are unknown.
    """

    def __init__(self, batch_size: int, total: int, activity: Activity) -> None:
        self._batch_size = batch_size
        self._total = total
        self._activity = activity
        self._values: dict[str, list[float]] = defaultdict(list)
        self._first: tuple[int, float, float] | None = None
        self._last: tuple[int, float, float] | None = None

    def add(self, step: int, metrics: dict[str, float], finite: bool) -> None:
        """Takes in the metrics of a step, the step-th from 1."""
        if self._first is None:
            self._first = self._last = (step, *self._spent())
        if finite:
            for name, value in metrics.items():
                self._values[name].append(value)

    def record(self, step: int) -> tuple[dict[str, float], float]:
        """(means and rates since the last record, seconds left at this pace) after `step` steps."""
        training, waited = self._spent()
        means = {name: finite_mean(values) for name, values in self._values.items()}
        means = {name: value for name, value in means.items() if math.isfinite(value)}
        left = math.nan
        if self._first and self._last and step > self._last[0]:
            seconds = max(training - self._last[1], 1e-9)
            means["examples_per_second"] = (step - self._last[0]) * self._batch_size / seconds
            means["data_wait"] = min((waited - self._last[2]) / seconds, 1.0)
            left = (self._total - step) * (training - self._first[1]) / (step - self._first[0])
        self._last = (step, training, waited)
        self._values.clear()
        return means, left

    def _spent(self) -> tuple[float, float]:
        """(seconds of training, seconds of them waiting for data) until now."""
        spent = self._activity.seconds()
        training = sum(seconds for kind, seconds in spent.items() if kind not in _PAUSES)
        return training, spent["data"]


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite values; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan

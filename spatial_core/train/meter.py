# SPDX-License-Identifier: Apache-2.0
"""Averages of the metrics between two records, and where the time went."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Meter:
    """Collects step metrics; `record()` gives their means since the last record.

    Non-finite steps and values (a metric that a batch has no example for) are left out of the means.
    Rates and the time left are over wall time since the first step was done, which holds the
    compilation; before a second step they are unknown.
    """

    def __init__(self, batch_size: int, total: int) -> None:
        self._batch_size = batch_size
        self._total = total
        self._values: dict[str, list[float]] = defaultdict(list)
        self._waited = 0.0
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - begin

    def add(self, step: int, metrics: dict[str, float], finite: bool) -> None:
        """Takes in the metrics of a step, the step-th from 1."""
        if self._first is None:
            self._first = self._last = (step, time.monotonic())
            self._waited = 0.0
        if finite:
            for name, value in metrics.items():
                self._values[name].append(value)

    def pause(self, seconds: float) -> None:
        """Takes time spent on something else (validation, saving) out of the rates."""
        if self._first and self._last:
            self._first = (self._first[0], self._first[1] + seconds)
            self._last = (self._last[0], self._last[1] + seconds)

    def record(self, step: int) -> tuple[dict[str, float], float]:
        """(means and rates since the last record, seconds left at this pace) after `step` steps."""
        now = time.monotonic()
        means = {name: finite_mean(values) for name, values in self._values.items()}
        means = {name: value for name, value in means.items() if math.isfinite(value)}
        left = math.nan
        if self._first and self._last and step > self._last[0]:
            seconds = max(now - self._last[1], 1e-9)
            means["examples_per_second"] = (step - self._last[0]) * self._batch_size / seconds
            means["data_wait"] = min(self._waited / seconds, 1.0)
            left = (self._total - step) * (now - self._first[1]) / (step - self._first[0])
        self._last, self._waited = (step, now), 0.0
        self._values.clear()
        return means, left


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite values; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan

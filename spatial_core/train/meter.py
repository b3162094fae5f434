# SPDX-License-Identifier: Apache-2.0
"""Averages of the metrics between two records, and where the time went."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Collects step metrics; `record()` gives their means since the last record.

    Non-finite steps are left out of the means. Rates are over wall time between records; the time
    left follows the rate since the second record, as the first holds the compilation.
    """

    def __init__(self, batch_size: int, start: int, total: int) -> None:
        self._batch_size = batch_size
        self._total = total
        self._sums: dict[str, float] = defaultdict(float)
        self._good = 0
        self._waited = 0.0
        self._last = (start, time.monotonic())
        self._anchor: tuple[int, float] | None = None

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - begin

    def add(self, metrics: dict[str, float], finite: bool) -> None:
        if finite:
            self._good += 1
            for name, value in metrics.items():
                self._sums[name] += value

    def pause(self, seconds: float) -> None:
        """Takes time spent on something else (validation, saving) out of the rates."""
        self._last = (self._last[0], self._last[1] + seconds)
        if self._anchor:
            self._anchor = (self._anchor[0], self._anchor[1] + seconds)

    def record(self, step: int) -> tuple[dict[str, float], float]:
        """(means and rates since the last record, seconds left at this pace) after `step` steps."""
        now = time.monotonic()
        seconds = max(now - self._last[1], 1e-9)
        means = {name: value / self._good for name, value in self._sums.items()}
        means["examples_per_second"] = (step - self._last[0]) * self._batch_size / seconds
        means["data_wait"] = min(self._waited / seconds, 1.0)
        left = math.nan
        if self._anchor and step > self._anchor[0]:
            left = (self._total - step) * (now - self._anchor[1]) / (step - self._anchor[0])
        else:
            left = (self._total - step) * seconds / max(step - self._last[0], 1)
        self._anchor = self._anchor or (step, now)
        self._last, self._waited, self._good = (step, now), 0.0, 0
        self._sums.clear()
        return means, left

# SPDX-License-Identifier: Apache-2.0
"""Counting records that had to be replaced, and stopping before they become the data set."""

from __future__ import annotations

import logging
import threading

from spatial_core.errors import InputError

_log = logging.getLogger(__name__)


class DataBudgetError(RuntimeError):
    """More records were bad than the budget allows; the message names them and what was wrong."""


class BadRecords:
    """The bad records met so far, each counted and logged once by its key. Thread-safe.

    Counting keys and not events keeps the number the same when a batch is asked for twice.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise InputError(f"max_bad_records is {limit}: give 0 (none is tolerated) or more")
        self.limit = limit
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """Key -> what was wrong, in the order met."""
        with self._lock:
            return dict(self._reasons)

    def add(self, key: str, reason: str) -> None:
        """Count `key`; DataBudgetError when it is one too many."""
        with self._lock:
            if key in self._reasons:
                return
            self._reasons[key] = reason
            count = len(self._reasons)
            latest = list(self._reasons.items())[-5:]
        _log.warning("bad record replaced: %s: %s (%d so far)", key, reason, count)
        if count > self.limit:
            named = "; ".join(f"{k}: {r}" for k, r in latest)
            raise DataBudgetError(
                f"{count} bad records are more than max_bad_records = {self.limit} allows. "
                f"The latest: {named}. Repair the data, or raise max_bad_records"
            )

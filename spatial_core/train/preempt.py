# SPDX-License-Identifier: Apache-2.0
"""Stopping in an orderly way: SIGTERM and Ctrl-C ask the loop to save and leave."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopSignal:
    """Context in which SIGTERM and SIGINT only set a flag; a second one acts at once.

    `name` is the signal that came, or None. Outside the main thread signals are left alone. With several
    processes jax.distributed listens for SIGTERM and tells all of them, so that a SIGINT is passed on as one.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        main = threading.current_thread() is threading.main_thread()
        several = jax.process_count() > 1
        if main:
            for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        handler = self._previous.get(number, signal.SIG_DFL)
        signal.signal(number, handler)  # type: ignore[arg-type]
        # Not print: a handler may interrupt one. Compiling takes a while, and silence looks like a hang.
        os.write(2, f"\n{self.name}: stopping after this step; once more stops at once\n".encode())
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; on several hosts all answer alike at the same step."""
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                # All are here, after the same step: they end with the same code, too.
                interrupted = np.array(self.name == "SIGINT")
                several = multihost_utils.process_allgather(interrupted)
                self.name = "SIGINT" if np.any(several) else "SIGTERM"
                return True
            return False
        return self.name is not None

# SPDX-License-Identifier: Apache-2.0
"""Ends a run that stands still: says what it waits for, writes the stacks of all threads, and exits.

Imports nothing heavy: the launchers read the exit code from here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from spatial_core.train.activity import Activity, Doing

EXIT_STALLED = 76
"""Exit code of a process that the watchdog has ended, or whose partner is gone."""

HEARTBEAT_SECONDS = 30
"""How long a process of several may be silent before the others take it for dead and end."""

_REPORT_SECONDS = 20.0
"""The disk or the bucket may be what stands still, so the report is not waited for any longer."""

_LATE_SECONDS, _LATE_TIMES = 5.0, 5.0
"""A step that takes that long, and so many times the longest one before, is spoken of."""
_LATE = "far longer than before. If another host is gone, this one ends within --heartbeat_seconds"

Report = Callable[[str, str], None]
"""(one line, stacks of all threads): keeps them for later."""


class Watchdog:
    """Context with a thread that watches an activity and ends the process when nothing is finished.

    seconds: limit of one thing that is done; first_seconds: of one that is `patient` (a compilation, the
    first batch). seconds 0: watches nothing. host, hosts: which process this is of how many; with several
    it also says when a step takes far longer than any before, because JAX, when it misses another one,
    aborts this one without a word about where it stood. report: keeps what is found. Time in which the
    whole process was suspended does not count.
    """

    def __init__(
        self,
        activity: Activity,
        seconds: float,
        first_seconds: float,
        host: int,
        hosts: int,
        report: Report,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._activity, self._report, self._end = activity, report, end
        self._host, self._several = f"host {host} of {hosts}", hosts > 1
        self._limits = {False: seconds, True: first_seconds}
        self._tick = min(1.0, seconds / 10)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._tick > 0:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        seen, waited, last = self._activity.now, 0.0, time.monotonic()
        said = False
        while not self._over.wait(self._tick):
            now = time.monotonic()
            # No more than two ticks: after a suspension the clock jumps, and that is no stall.
            waited += min(now - last, 2 * self._tick)
            last = now
            if self._activity.now is not seen:
                seen, waited, said = self._activity.now, 0.0, False
            elif waited > self._limits[seen.patient]:
                self._stalled(seen, waited)
                return
            elif not said and self._is_late(seen, waited):
                said = True
                self._say(f"{_waiting(self._host, seen)}, {_LATE}")

    def _is_late(self, doing: Doing, waited: float) -> bool:
        """Whether a step of several processes takes far longer than any before, of which there was one."""
        longest = self._activity.longest_step
        if not self._several or doing.kind != "compute" or longest is None:
            return False
        return waited > max(_LATE_SECONDS, _LATE_TIMES * longest)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(f"\n{text}", file=sys.stderr, flush=True)

    def _stalled(self, doing: Doing, waited: float) -> None:
        setting = "TrainConfig.compile_seconds" if doing.patient else "TrainConfig.stall_seconds"
        line = (
            f"{_waiting(self._host, doing)}, and stands still ({waited:.0f} s; {setting} = "
            f"{self._limits[doing.patient]:g})"
        )
        # In a thread of its own: what stands still may be the disk or whoever reads the console.
        keeper = threading.Thread(target=self._keep, args=(line,), daemon=True)
        keeper.start()
        keeper.join(_REPORT_SECONDS)
        self._end(EXIT_STALLED)

    def _keep(self, line: str) -> None:
        stacks = _stacks()
        self._say(
            f"{stacks}\nerror: {line}; above are the stacks of all threads. The same command goes on at "
            "the last checkpoint"
        )
        try:
            self._report(line, stacks)
        except Exception as error:
            print(f"the report could not be written: {error}", file=sys.stderr, flush=True)


def _waiting(host: str, doing: Doing) -> str:
    began = time.gmtime(time.time() - (time.monotonic() - doing.since))
    return f"{host} waits for {doing.what} since {time.strftime('%H:%M:%S', began)} UTC"


def _stacks() -> str:
    """The Python stacks of all threads, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )

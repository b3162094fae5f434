# SPDX-License-Identifier: Apache-2.0
"""Stopping in an orderly way: SIGTERM and Ctrl-C ask the loop to save and leave.

Where there is no loop, several processes stop at once and together.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

from spatial_core.train import distributed

_POLL_SECONDS = 1.0


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


def end_together(codes: Mapping[signal.Signals, int]) -> None:
    """From now on the end of one of several processes, by a signal or an error, is that of all of them.

    codes: the exit code of each signal that ends them. For work without steps to stop between: whole files
    stay, the rest is made again. A thread does it, within seconds, because Python itself hears no signal
    while the main thread is in an operation, which may take minutes. Call it in the main thread, where
    jax does not hear SIGTERM (`distributed.initialize`).
    """
    heard, noted = socket.socketpair()
    noted.setblocking(False)
    signal.set_wakeup_fd(noted.fileno(), warn_on_full_buffer=False)
    for number in codes:
        signal.signal(number, _heard_by_thread)
    ends = threading.Thread(target=_end_when_told, args=(heard, noted, codes), daemon=True)
    ends.start()


def _heard_by_thread(number: int, frame: FrameType | None) -> None:
    """Signals that nothing handles do not get to the file that is read."""


def _end_when_told(
    heard: socket.socket, _noted: socket.socket, codes: Mapping[signal.Signals, int]
) -> None:
    try:
        _listen(heard, codes)
    except Exception as error:
        # Without this thread nobody would hear a signal any more.
        _say(f"error: cannot listen for the end of other processes: {error!r}")
        distributed.leave(1)


def _listen(heard: socket.socket, codes: Mapping[signal.Signals, int]) -> None:
    while True:
        ready, _, _ = select.select([heard], [], [], _POLL_SECONDS)
        came = [number for number in heard.recv(64) if number in codes] if ready else []
        if came:
            name, code = signal.Signals(came[0]).name, codes[signal.Signals(came[0])]
            distributed.tell_end(code, f"was stopped by {name}")
            _say(f"{name}: stopping, with all processes of this run")
            distributed.end_now(code)
        told = distributed.told_end()
        if told is not None:
            _say(f"{told[1]}: this one ends, too")
            distributed.end_now(told[0])


def _say(text: str) -> None:
    """A line to stderr, past what the main thread may hold; nobody may be reading it."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())

# SPDX-License-Identifier: Apache-2.0
"""What the training loop is doing, since when, and how long it did what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["compute", "data", "checkpoint", "evaluation", "compile", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SAID = {"data": "data wait"}


@dataclass(frozen=True)
class Doing:
    """One thing: `what` in words for a person, `since` by time.monotonic, `patient`: it may take long."""

    kind: Kind
    what: str
    since: float
    patient: bool


class Activity:
    """The one thing that the loop does at each moment; the seconds of all kinds add up to the wall time.

    The loop's thread changes it, other threads read `now`.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self.now = Doing("other", "the start of the run", self._begin, True)
        self.longest_step: float | None = None
        """Seconds of the longest step so far; None before there was one to measure."""
        self._last_step: float | None = None

    @contextmanager
    def doing(self, kind: Kind, what: str, patient: bool = False) -> Iterator[None]:
        """Does something else within the context; what was done before goes on after it."""
        before = self.now
        self._change(kind, what, patient)
        try:
            yield
        finally:
            self._change(before.kind, before.what, before.patient)

    def move(self, source: Kind, target: Kind, seconds: float) -> None:
        """Books time of one kind as another: what was waited for turned out to be something else."""
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def progress(self) -> None:
        """Says that a part of what is being done is finished."""
        self._change(self.now.kind, self.now.what, self.now.patient)

    def step_done(self) -> None:
        """Says that the result of a step is there.

        From one result to the next counts as a step what was computed and waited for, not what was
        compiled, validated or saved between them. The first has nothing before it: it was compiled.
        """
        spent = self.seconds()
        now = spent["compute"] + spent["data"]
        if self._last_step is not None:
            self.longest_step = max(self.longest_step or 0.0, now - self._last_step)
        self._last_step = now

    def seconds(self) -> dict[Kind, float]:
        """Time spent on each kind until now."""
        running = self.now
        return {
            kind: spent + (time.monotonic() - running.since if kind == running.kind else 0.0)
            for kind, spent in self._seconds.items()
        }

    def shares(self) -> dict[Kind, float]:
        """Share of the wall time of each kind until now."""
        spent = self.seconds()
        return {kind: seconds / max(sum(spent.values()), 1e-9) for kind, seconds in spent.items()}

    def describe(self) -> str:
        """'compute 81%, data wait 3%, ...': the kinds that took any time."""
        return ", ".join(
            f"{_SAID.get(kind, kind)} {share:.0%}"
            for kind, share in self.shares().items()
            if share >= 0.005
        )

    def _change(self, kind: Kind, what: str, patient: bool) -> None:
        now = time.monotonic()
        self._seconds[self.now.kind] += now - self.now.since
        self.now = Doing(kind, what, now, patient)

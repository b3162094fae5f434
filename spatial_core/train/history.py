# SPDX-License-Identifier: Apache-2.0
"""How each start of a run began and ended: history.jsonl, and what the watchdog found.

    {"event": "start", "time": "2026-01-31T08:00:00Z", "commit": "...", "command": [...]}
    {"event": "end", "time": ..., "reason": "SIGTERM", "first_step": 0, "step": 1200, "goodput": {...}}

A start without an end was killed without a word. Process 0 writes it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from spatial_core.io import places
from spatial_core.train.activity import Kind
from spatial_core.train.provenance import git_state

NAME = "history.jsonl"
_LONGEST = 2000


class Record:
    """Context of one start: writes its beginning, and its end whatever that is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = False

    def __enter__(self) -> Record:
        commit = (git_state() or {}).get("commit")
        _append(self._directory, {"event": "start", "commit": commit, "command": sys.argv})
        return self

    def finish(self, reason: str, first: int, step: int, shares: Mapping[Kind, float]) -> None:
        """The ordinary end: 'done', or the signal that stopped it."""
        goodput = {kind: round(share, 4) for kind, share in shares.items()}
        steps = {"first_step": first, "step": step}
        _append(self._directory, {"event": "end", "reason": reason, **steps, "goodput": goodput})
        self._ended = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not self._ended:
            _end(self._directory, kind.__name__, str(error))


def write_stall(directory: Path, line: str, stacks: str) -> None:
    """What the watchdog found: debug/stalled-host_0.txt of this process, and the end of the start."""
    folder = directory / "debug"
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{_now()} {line}\n\n{stacks}"
    places.write_whole(folder / f"stalled-host_{jax.process_index()}.txt", text)
    _end(directory, "stalled", line)


def _end(directory: Path, reason: str, message: str) -> None:
    _append(directory, {"event": "end", "reason": reason, "message": message[:_LONGEST]})


def _append(directory: Path, record: dict[str, Any]) -> None:
    if jax.process_index() != 0:
        return
    path = directory / NAME
    before = path.read_text() if path.exists() else ""
    event = {"event": record.pop("event"), "time": _now(), **record}
    places.write_whole(path, before + json.dumps(event) + "\n")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

# SPDX-License-Identifier: Apache-2.0
"""The points of a sweep: overrides with the name of their folder, and what became of them.

FOLDER/sweep.json           what all runs share, and the overrides of each
FOLDER/NAME/outcome.json    exit code and time of a run that came to an end
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import places

MANIFEST, OUTCOME = "sweep.json", "outcome.json"
_MAX_POINTS = 10_000
_MAX_NAME = 100


@dataclass(frozen=True)
class Point:
    """One run: its overrides as (name, value), and the folder that they name."""

    overrides: tuple[tuple[str, str], ...]
    name: str

    def arguments(self) -> tuple[str, ...]:
        """'NAME=VALUE', as after --gin."""
        return tuple(f"{name}={value}" for name, value in self.overrides)


def grid(axes: Sequence[str]) -> list[Point]:
    """All combinations of axes 'NAME.PARAMETER=VALUE,VALUE'; the last axis changes fastest."""
    parsed = []
    for axis in axes:
        name, equals, values = axis.partition("=")
        found = _split(values)
        if not equals or not name or not all(found):
            raise InputError(f"--grid={axis}: write it as NAME.PARAMETER=VALUE,VALUE")
        parsed.append([(name, value) for value in found])
    names = [axis[0][0] for axis in parsed]
    if len(set(names)) < len(names):
        raise InputError(f"--grid gives one setting twice: {', '.join(names)}")
    return _named(list(itertools.product(*parsed)))


def read(path: Path) -> list[Point]:
    """Points of a JSON file, a list of {NAME.PARAMETER: VALUE}; a value is a text or a number."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--points={path} cannot be read: {error}") from None
    good = isinstance(listed, list) and all(isinstance(each, dict) and each for each in listed)
    if not good or not listed:
        raise InputError(f"--points={path}: give a JSON list of {{NAME.PARAMETER: VALUE}}")
    return _named([tuple((n, _text(v)) for n, v in each.items()) for each in listed])


def _text(value: Any) -> str:
    """A JSON value as after --gin.NAME=."""
    return value if isinstance(value, str) else repr(value)


def _split(values: str) -> list[str]:
    """Parts between commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in values:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _named(listed: Sequence[tuple[tuple[str, str], ...]]) -> list[Point]:
    if len(listed) > _MAX_POINTS:
        raise InputError(f"{len(listed):,} runs in one sweep: at most {_MAX_POINTS:,}")
    if len(set(listed)) < len(listed):
        raise InputError("two runs of the sweep have the same overrides")
    plain = [_folder(overrides) for overrides in listed]
    return [
        Point(overrides, name if plain.count(name) == 1 else f"{name[:90]}-{_digest(overrides)}")
        for overrides, name in zip(listed, plain, strict=True)
    ]


def _folder(overrides: Iterable[tuple[str, str]]) -> str:
    """'peak_lr-1e-3_seed-0': short names and values, as far as a folder may be called so."""
    parts = [f"{name.rsplit('.', 1)[-1]}-{value}" for name, value in overrides]
    name = "_".join(re.sub(r"[^A-Za-z0-9_.+-]+", "-", part).strip("-.") for part in parts)
    return name if len(name) <= _MAX_NAME else f"{name[:90]}-{_digest(overrides)}"


def _digest(overrides: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(overrides)).encode()).hexdigest()[:8]


def remember(folder: Path, base: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Writes sweep.json, with the runs that it lists already; InputError if what they share differs."""
    there = manifest(folder) if (folder / MANIFEST).exists() else {"base": dict(base), "runs": {}}
    different = list(resolved.differences(there["base"], dict(base)))
    if different:
        raise InputError(
            f"{folder} holds a sweep of something else; use another --workdir.\n  "
            + "\n  ".join(different)
        )
    runs = {**there["runs"], **{point.name: dict(point.overrides) for point in points}}
    places.write_whole(folder / MANIFEST, json.dumps({"base": base, "runs": runs}, indent=1) + "\n")


def manifest(folder: Path) -> dict[str, Any]:
    """{"base": what all share, "runs": {folder: {name: value}}}; InputError if there is none."""
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{folder} is no sweep: it has no {MANIFEST}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def finish(run: Path, code: int, seconds: float) -> None:
    """Writes how a run ended."""
    run.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"exit_code": code, "seconds": round(seconds, 1)}) + "\n"
    places.write_whole(run / OUTCOME, text)


def outcome(run: Path) -> int | None:
    """Exit code of a run that came to an end, else None."""
    path = run / OUTCOME
    return int(json.loads(path.read_text())["exit_code"]) if path.exists() else None

# SPDX-License-Identifier: Apache-2.0
"""The wording of questions and system prompts, from a JSON file that a user can replace.

The shipped book, templates/en.json, has as many wordings of each kind as the paper (appendix D).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Any

from llm_bridge.qa.formats import AZIMUTHS, DISTANCES, ELEVATIONS
from spatial_core.errors import InputError

# Kinds of question of each task and the placeholders that their wordings must have.
KINDS: dict[int, dict[str, frozenset[str]]] = {
    1: {"locate": frozenset()},
    2: {
        "single_distance_further": frozenset({"distance"}),
        "single_distance_closer": frozenset({"distance"}),
        "single_azimuth_left": frozenset(),
        "single_azimuth_right": frozenset(),
        "single_azimuth_front": frozenset(),
        "single_azimuth_back": frozenset(),
        "multi_distance_closer": frozenset(),
        "multi_distance_further": frozenset(),
        "multi_azimuth_within": frozenset({"angle"}),
        "multi_azimuth_outside": frozenset({"angle"}),
    },
    3: {"transcribe": frozenset()},
    4: {
        "place": frozenset({"azimuth", "distance"}),
        "distance": frozenset({"distance"}),
        "area_left": frozenset(),
        "area_right": frozenset(),
        "area_front": frozenset(),
        "area_back": frozenset(),
        "comparison_closer": frozenset(),
        "comparison_further": frozenset(),
        "comparison_left": frozenset(),
        "comparison_right": frozenset(),
    },
    # Not the paper's: what the comparisons of tasks 2 and 4 rest on, asked for by itself.
    5: {
        "measure_distance": frozenset(),
        "measure_distances": frozenset(),
        "measure_directions": frozenset(),
        "measure_separation": frozenset(),
        "measure_turn": frozenset(),
    },
}
STYLES = ("full", "brief")
# A system prompt may, but need not, list the values that answers may hold.
_LISTS = {
    "azimuths": ", ".join(AZIMUTHS),
    "elevations": ", ".join(ELEVATIONS),
    "distances": ", ".join(DISTANCES),
}


def kind_title(kind: str) -> str:
    """A kind as a row of a table: "Single speaker azimuth (left)", as in the paper's table 6."""
    parts = kind.split("_")
    head = f"{parts[0].capitalize()} speaker" if parts[0] in ("single", "multi") else parts[0]
    words = [head.capitalize() if head == parts[0] else head, *parts[1:-1]]
    return " ".join(words) + (f" ({parts[-1]})" if len(parts) > 1 else "")


@dataclass(frozen=True)
class QuestionBook:
    """Wordings by task and kind, and system prompts by style ("full", "brief") and task."""

    name: str
    system: Mapping[str, Mapping[int, str]]
    questions: Mapping[int, Mapping[str, tuple[str, ...]]]
    style: str = "full"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise InputError(f"prompt style must be one of {', '.join(STYLES)}, got {self.style!r}")

    @classmethod
    def load(cls, path: str | Path | None = None, style: str = "full") -> QuestionBook:
        """The shipped book, or the one in a JSON file. InputError names file, key and what is wrong."""
        if path is None:
            source = "templates/en.json"
            text = resources.files("llm_bridge.qa").joinpath(source).read_text("utf-8")
        else:
            source = str(path)
            try:
                text = Path(path).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"question book {source} cannot be read: {error}") from error
        try:
            data = json.loads(text, object_pairs_hook=_no_repeats)
        except ValueError as error:
            raise InputError(f"question book {source} is not usable JSON: {error}") from error
        return _book(data, source, style)

    def system_prompt(self, task: int, style: str | None = None) -> str:
        """System prompt of a task, in the book's style unless another is named."""
        style = self.style if style is None else style
        if style not in self.system or task not in self.system[style]:
            raise InputError(f"no {style!r} system prompt for task {task!r} in book {self.name!r}")
        return self.system[style][task]

    def wordings(self, task: int, kind: str) -> tuple[str, ...]:
        """All wordings of one kind."""
        if task not in self.questions or kind not in self.questions[task]:
            known = ", ".join(self.questions.get(task, {})) or "none: tasks are 1 to 5"
            raise InputError(f"task {task!r} has no questions of kind {kind!r}; it has {known}")
        return self.questions[task][kind]

    def question(self, task: int, kind: str, wording: int, values: Mapping[str, str]) -> str:
        """Wording number `wording` (modulo their number) with the values filled in."""
        texts = self.wordings(task, kind)
        return texts[wording % len(texts)].format_map(values)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal keys without a word; wordings would be lost."""
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"key {twice[0]!r} stands twice in one object")
    return dict(pairs)


def _book(data: Any, source: str, style: str) -> QuestionBook:
    _keys(data, {"name", "system", "questions"}, source, "the file")
    if not isinstance(data["name"], str) or not data["name"].strip():
        raise InputError(f"question book {source}: name must be a word, got {data['name']!r}")
    tasks = {str(task) for task in KINDS}
    _keys(data["system"], set(STYLES), source, "system")
    _keys(data["questions"], tasks, source, "questions")
    system: dict[str, dict[int, str]] = {}
    for one in STYLES:
        _keys(data["system"][one], tasks, source, f"system.{one}")
        system[one] = {
            task: _system(data["system"][one][str(task)], source, f"system.{one}.{task}")
            for task in KINDS
        }
    questions: dict[int, dict[str, tuple[str, ...]]] = {}
    for task, kinds in KINDS.items():
        section = data["questions"][str(task)]
        _keys(section, set(kinds), source, f"questions.{task}")
        questions[task] = {
            kind: _wordings(section[kind], needed, source, f"questions.{task}.{kind}")
            for kind, needed in kinds.items()
        }
    return QuestionBook(data["name"], system, questions, style)


def _keys(section: Any, expected: set[str], source: str, where: str) -> None:
    if not isinstance(section, dict):
        raise InputError(f"question book {source}: {where} must be an object with keys")
    missing, extra = sorted(expected - set(section)), sorted(set(section) - expected)
    if missing:
        raise InputError(f"question book {source}: {where} lacks {', '.join(missing)}")
    if extra:
        raise InputError(
            f"question book {source}: {where} has the unknown key {extra[0]!r}; "
            f"known are {', '.join(sorted(expected))}"
        )


def _system(lines: Any, source: str, where: str) -> str:
    """One text, or the lines of one; value lists filled in."""
    if isinstance(lines, str):
        lines = [lines]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise InputError(f"question book {source}: {where} must be a text or a list of lines")
    text = "\n".join(lines)
    _text(text, source, where)
    extra = sorted(_placeholders(text, source, where) - set(_LISTS))
    if extra:
        raise InputError(
            f"question book {source}: {where} has the placeholder {{{extra[0]}}}; "
            f"a system prompt may have {_braced(_LISTS)}"
        )
    return text.format_map(_LISTS)


def _wordings(texts: Any, needed: frozenset[str], source: str, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts:
        raise InputError(
            f"question book {source}: {where} must be a list with at least one wording"
        )
    for number, text in enumerate(texts, 1):
        here = f"{where}, wording {number}"
        _text(text, source, here)
        found = _placeholders(text, source, here)
        if found != needed:
            raise InputError(
                f"question book {source}: {here} must have {_braced(needed) or 'no placeholder'}, "
                f"has {_braced(found) or 'none'}: {text!r}"
            )
        if text in texts[: number - 1]:
            raise InputError(f"question book {source}: {here} is a repetition: {text!r}")
    return tuple(texts)


def _text(text: Any, source: str, where: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"question book {source}: {where} must be a text, got {text!r}")


def _placeholders(text: str, source: str, where: str) -> set[str]:
    """Names in braces. Only plain ones: {angle}, not {angle:.1f}, {0} or {angle.real}."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(f"question book {source}: {where}: {error}: {text!r}") from error
    names = set()
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise InputError(
                f"question book {source}: {where}: write a placeholder as {{name}}, a brace as "
                f"{{{{ or }}}}: {text!r}"
            )
        names.add(name)
    return names


def _braced(names: Mapping[str, Any] | frozenset[str] | set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))

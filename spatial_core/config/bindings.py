# SPDX-License-Identifier: Apache-2.0
"""What settings files bind and where, and whether a value can be what its parameter is said to be."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text in quotes",
    types.NoneType: "None",
}
_FEW = 3
"""Settings that an error names without having been told which of them is meant."""


@dataclasses.dataclass
class Scan:
    """What the parsed files bind and refer to, with the place of each for error messages.

    Parameters are (scope, selector, parameter); `through` holds the macros that each one's value is
    made of.
    """

    parameters: dict[tuple[str, str, str], str] = dataclasses.field(default_factory=dict)
    macros: dict[str, str] = dataclasses.field(default_factory=dict)
    used_macros: dict[str, str] = dataclasses.field(default_factory=dict)
    references: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    through: dict[tuple[str, str, str], tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def sets(self, name: str) -> bool:
        """Whether any parameter of a configurable is set."""
        return any(short(selector) == name for _, selector, _ in self.parameters)

    def advice(self, name: str, scope: str, message: str) -> str:
        """'; change A.x (FILE, line 3) or A.y (the command line)': what made `message`, or ''.

        name, scope: the configurable that refused its values. Meant are the set parameters that the
        message mentions (as `name.x`, else as a word), or all of them if it mentions none and they
        are few.
        """
        inner = scope.split("/") if scope else []
        seen_from = {"/".join(inner[:count]) for count in range(len(inner) + 1)}
        bound: dict[str, str] = {}
        # A binding of a longer scope wins over one of a shorter one.
        for key in sorted(self.parameters, key=lambda key: len(key[0])):
            if short(key[1]) == name and key[0] in seen_from:
                bound[key[2]] = self._where(key)
        full = {p: w for p, w in bound.items() if re.search(rf"\b{name}\.{p}\b", message)}
        meant = full or {p: w for p, w in bound.items() if re.search(rf"\b{p}\b", message)}
        told = f"{name}." in message
        if not meant and not told and len(bound) <= _FEW:
            meant = bound
        if not meant:
            return "" if told else f" (in {name})"
        return "; change " + " or ".join(dict.fromkeys(meant.values()))

    def _where(self, key: tuple[str, str, str]) -> str:
        scope, selector, parameter = key
        macros = [macro for macro in self.through.get(key, ()) if macro in self.macros]
        if macros:
            return " or ".join(f"{macro} ({self.macros[macro]})" for macro in macros)
        return f"{scope + '/' if scope else ''}{selector}.{parameter} ({self.parameters[key]})"


def short(selector: str) -> str:
    """The name without its module."""
    return selector.rsplit(".", 1)[-1]


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'X'?" with the nearest known name, or ''."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]!r}?" if match else ""


def wrong_type(target: Callable[..., Any], parameter: str, value: Any) -> str | None:
    """'a whole number': what the parameter of a dataclass or function wants, if `value` is not it.

    Judges plain values only (numbers, texts, None, and tuples of them); None: fits, or not ours to say.
    """
    try:
        hint = typing.get_type_hints(target).get(parameter, Any)
    except NameError:  # a name that is imported for type checkers alone
        return None
    return None if _fits(value, hint) else _in_words(hint)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if parts[1:] == (...,):
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, types.NoneType):
        return isinstance(value, hint)
    return True


def _in_words(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(part) for part in parts)
    if origin is tuple:
        if parts[1:] == (...,):
            return f"a list, each {_in_words(parts[0])}"
        return f"{len(parts)} values in brackets ({', '.join(_in_words(part) for part in parts)})"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))

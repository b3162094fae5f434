# SPDX-License-Identifier: Apache-2.0
"""The one door between gin files and the code: registration, strict parsing, building.

Library code never imports gin: it takes frozen dataclasses. An entry point registers those classes,
parses files and overrides, and asks for the object it wants. Parsing is strict where gin is lenient:
a name nobody knows, a macro nobody uses and a setting nobody reads are errors that offer the nearest
name, because each of them otherwise trains the wrong model for a day.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import tokenize
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config_parser

from spatial_core.config.paths import resolve_config
from spatial_core.errors import InputError

_MACRO = "gin.macro"
_registered: dict[str, Callable[..., Any]] = {}
_originals: dict[str, Callable[..., Any]] = {}


@dataclasses.dataclass
class _Scan:
    """What the parsed files bind and refer to, with the place of each for error messages."""

    parameters: dict[tuple[str, str, str], str] = dataclasses.field(default_factory=dict)
    macros: dict[str, str] = dataclasses.field(default_factory=dict)
    used_macros: dict[str, str] = dataclasses.field(default_factory=dict)
    references: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)


class _Delegate(config_parser.ParserDelegate):
    """Records references and macros without resolving them (the scan comes before gin's own parse)."""

    def __init__(self) -> None:
        self.references: list[tuple[str, str]] = []
        self.macros: list[str] = []

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> str:
        scope, _, selector = scoped_name.rpartition("/")
        self.references.append((scope, selector))
        return scoped_name

    def macro(self, scoped_name: str) -> str:
        self.macros.append(scoped_name)
        return scoped_name


def register(
    *objects: Callable[..., Any], module: str | None = None, **renamed: Callable[..., Any]
) -> None:
    """Makes dataclasses and functions available to gin files, under their own or a given name.

    Registering the same object twice does nothing; another object under a taken name is an error.
    Objects that gin builds are true instances of the class, equal to those built in Python.
    """
    for name, target in [*((each.__name__, each) for each in objects), *renamed.items()]:
        if name in _originals:
            if _originals[name] is not target:
                raise ValueError(f"{name} is registered already, for {_originals[name]!r}")
            continue
        _originals[name] = target
        with gin.unlock_config():
            _registered[name] = gin.external_configurable(
                _factory(target), name=name, module=module or target.__module__
            )


def _factory(target: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function with the target's signature: gin would subclass a class, which breaks ==.

    Parts that are left at their default are built by gin too, so that
    `OptimizerConfig.peak_lr = 1e-3` counts without `TrainConfig.optimizer = @OptimizerConfig()`.
    """
    names = list(inspect.signature(target).parameters)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {*names[: len(args)], *kwargs}
        parts = _default_parts(target).items()
        defaults = {field: _registered[name]() for field, name in parts if field not in given}
        return target(*args, **kwargs, **defaults)

    call.__name__ = target.__name__
    call.__qualname__ = target.__qualname__
    call.__module__ = target.__module__
    call.__doc__ = target.__doc__
    call.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    return call


def _default_parts(target: Callable[..., Any]) -> dict[str, str]:
    """Field -> registered name, for the fields whose default is a plain registered dataclass."""
    if not dataclasses.is_dataclass(target):
        return {}
    parts: dict[str, str] = {}
    for field in dataclasses.fields(target):
        kind: Any = field.default_factory
        if dataclasses.is_dataclass(field.default):
            kind = type(field.default)
        if (
            not field.init
            or not isinstance(kind, type)
            or _originals.get(kind.__name__) is not kind
        ):
            continue
        if field.default in (dataclasses.MISSING, kind()):
            parts[field.name] = kind.__name__
    return parts


def registered() -> dict[str, Callable[..., Any]]:
    """The registered objects by name."""
    return dict(_originals)


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` out of a command line: (other arguments, bindings 'NAME = VALUE').

    VALUE is a gin value (number, list, @reference, %macro, quoted string); anything that is not one
    is taken as a string, so `--gin.ARRAY=respeaker_4mic` needs no quotes.
    """
    rest: list[str] = []
    bindings: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if not name.startswith("--gin."):
            rest.append(argument)
            continue
        key = name.removeprefix("--gin.").strip()
        if not equals or not key:
            raise InputError(f"{argument!r}: write an override as --gin.Name.parameter=value")
        bindings.append(f"{key} = {_as_gin_value(value)}")
    return rest, bindings


def _as_gin_value(value: str) -> str:
    parser_text = f"value = {value}"
    try:
        statements = list(config_parser.ConfigParser(parser_text, _Delegate()))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return repr(value)
    return value if len(statements) == 1 else repr(value)


def parse(
    files: Iterable[str], bindings: Iterable[str] = (), roots: Iterable[str] = ()
) -> list[Path]:
    """Reads gin files, then bindings ('Name.parameter = value'; the last one wins); strict.

    `roots` names the configurables that an entry point builds itself; every other configurable with
    settings has to be referred to from somewhere (`@Name`). Returns the files that were read.
    Raises InputError: unknown name or parameter, unused or undefined macro, settings that nothing
    reads, a scope that nothing enters, an import statement, a file that is not there.
    """
    gin.clear_config()
    scan = _Scan()
    read: list[Path] = []
    sources = [text for name in files for text in _load(resolve_config(name), scan, read, ())]
    override = "\n".join(bindings)
    sources += _load_text(override, "the command line", None, scan, read, ())
    _check(scan, set(roots))
    with gin.unlock_config():
        for source in sources:
            gin.parse_config(source)
    gin.finalize()
    return read


def _load(path: Path, scan: _Scan, read: list[Path], parents: tuple[Path, ...]) -> list[str]:
    if path in parents:
        raise InputError(
            f"{path} includes itself: " + " -> ".join(str(p) for p in (*parents, path))
        )
    read.append(path)
    return _load_text(path.read_text(), str(path), path, scan, read, (*parents, path))


def _load_text(
    text: str,
    name: str,
    path: Path | None,
    scan: _Scan,
    read: list[Path],
    parents: tuple[Path, ...],
) -> list[str]:
    """Texts without include statements, in the order in which gin must see them; fills the scan."""
    delegate = _Delegate()
    lines = text.splitlines(keepends=True)
    texts: list[str] = []
    start = 0
    try:
        for statement in config_parser.ConfigParser(text, delegate):
            place = f"{name}, line {statement.location.line_num}" if path else name
            if isinstance(statement, config_parser.ImportStatement):
                raise InputError(f"{place}: gin files may not import modules ({statement.module})")
            if isinstance(statement, config_parser.IncludeStatement):
                line = statement.location.line_num - 1
                texts.append("".join(lines[start:line]))
                included = resolve_config(statement.filename, path.parent if path else None)
                texts += _load(included, scan, read, parents)
                start = line + 1
            elif isinstance(statement, config_parser.BindingStatement):
                _note_binding(statement, place, scan, delegate)
    except SyntaxError as error:
        raise InputError(f"{name} is not valid gin: {error.msg} (line {error.lineno})") from None
    except tokenize.TokenError as error:
        raise InputError(f"{name} is not valid gin: {error.args[0]}") from None
    return [*texts, "".join(lines[start:])]


def _note_binding(
    statement: config_parser.BindingStatement, place: str, scan: _Scan, delegate: _Delegate
) -> None:
    if statement.arg_name:
        scan.parameters[(statement.scope or "", statement.selector, statement.arg_name)] = place
    else:
        scoped = [statement.scope] if statement.scope else []
        scan.macros["/".join([*scoped, statement.selector])] = place
    for reference in delegate.references:
        scan.references.setdefault(reference, place)
    for macro in delegate.macros:
        scan.used_macros.setdefault(macro, place)
    delegate.references.clear()
    delegate.macros.clear()


def _check(scan: _Scan, roots: set[str]) -> None:
    for (_, selector, parameter), place in scan.parameters.items():
        _check_parameter(selector, parameter, place)
    for (_, selector), place in scan.references.items():
        _lookup(selector, place)
    for macro, place in scan.used_macros.items():
        if macro not in scan.macros:
            near = _near(macro, scan.macros)
            raise InputError(
                f"{place}: %{macro} has no value{near}; set it with --gin.{macro}=VALUE"
            )
    for macro, place in scan.macros.items():
        if macro not in scan.used_macros:
            raise InputError(f"{place}: nothing uses {macro}{_near(macro, scan.used_macros)}")
    reached = _reached({_short(selector) for _, selector in scan.references} | roots, scan)
    scopes = {part for scope, _ in scan.references for part in scope.split("/")}
    for (scope, selector, parameter), place in scan.parameters.items():
        if _short(selector) not in reached:
            raise InputError(
                f"{place}: {selector}.{parameter} is set but nothing refers to @{selector}(), "
                "so the setting would have no effect; bind it to a parameter or drop it"
            )
        for part in scope.split("/") if scope else ():
            if part not in scopes:
                raise InputError(f"{place}: nothing enters the scope {part!r}{_near(part, scopes)}")


def _reached(names: set[str], scan: _Scan) -> set[str]:
    """The names, and those that they build as default parts."""
    bound = {(_short(selector), parameter) for _, selector, parameter in scan.parameters}
    reached = set(names)
    waiting = sorted(names & _originals.keys())
    while waiting:
        name = waiting.pop()
        for field, part in _default_parts(_originals[name]).items():
            if (name, field) not in bound and part not in reached:
                reached.add(part)
                waiting.append(part)
    return reached


def _check_parameter(selector: str, parameter: str, place: str) -> None:
    signature = inspect.signature(_originals[_lookup(selector, place)])
    kinds = {p.kind for p in signature.parameters.values()}
    if parameter not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
        near = _near(parameter, signature.parameters)
        known = ", ".join(signature.parameters)
        raise InputError(
            f"{place}: {selector} has no parameter {parameter!r}{near or '.'} It has: {known}"
        )


def _lookup(selector: str, place: str) -> str:
    name = _short(selector)
    if name not in _originals:
        raise InputError(f"{place}: unknown name {selector!r}{_near(name, _originals)}")
    return name


def _short(selector: str) -> str:
    return selector.rsplit(".", 1)[-1]


def _near(name: str, known: Iterable[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]!r}?" if match else ""


def build(name: str, **kwargs: Any) -> Any:
    """Calls the registered object with the parsed settings; keyword arguments win over them."""
    if name not in _registered:
        raise InputError(f"unknown name {name!r}{_near(name, _registered)}")
    try:
        return _registered[name](**kwargs)
    except TypeError as error:
        if "missing" not in str(error) and "Required" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise InputError(f"{name} is not fully configured: {first}") from error


def bound_config() -> str:
    """The parsed settings as gin text, macros resolved by name (for people; runs also keep JSON)."""
    return str(gin.config_str())

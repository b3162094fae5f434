# SPDX-License-Identifier: Apache-2.0
"""The one door between gin files and the code: registration, strict parsing, building.

Library code never imports gin: it takes frozen dataclasses. An entry point registers those classes,
parses files and overrides, and asks for the object it wants. Parsing is strict where gin is lenient:
a name nobody knows, a macro nobody uses and a setting nobody reads are errors that offer the nearest
name, because each of them otherwise trains the wrong model for a day.
"""

from __future__ import annotations

import dataclasses
import inspect
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config_parser

from spatial_core.config.bindings import Scan, near, short, wrong_type
from spatial_core.config.names import as_parameter, check_names
from spatial_core.config.paths import resolve_config
from spatial_core.errors import InputError

_MACRO = "gin.macro"
_registered: dict[str, Callable[..., Any]] = {}
_originals: dict[str, Callable[..., Any]] = {}
_parsed = Scan()


class _Refused(InputError):
    """An InputError of a configurable, with the name and the scope that it was built under."""

    def __init__(self, message: str, name: str, scope: str) -> None:
        super().__init__(message)
        self.message, self.name, self.scope = message, name, scope


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
                _factory(target, name), name=name, module=module or target.__module__
            )


def _factory(target: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A plain function with the target's signature: gin would subclass a class, which breaks ==.

    Parts that are left at their default are built by gin too, so that
    `OptimizerConfig.peak_lr = 1e-3` counts without `TrainConfig.optimizer = @OptimizerConfig()`.
    """
    names = list(inspect.signature(target).parameters)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args)), **kwargs}
        parts = _default_parts(target).items()
        defaults = {field: _registered[part]() for field, part in parts if field not in given}
        try:
            _check_values(target, name, given)
            return target(*args, **kwargs, **defaults)
        except _Refused:
            raise
        except InputError as error:
            raise _Refused(str(error), name, gin.current_scope_str()) from error

    call.__name__ = target.__name__
    call.__qualname__ = target.__qualname__
    call.__module__ = target.__module__
    call.__doc__ = target.__doc__
    call.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    return call


def _check_values(target: Callable[..., Any], name: str, given: Mapping[str, Any]) -> None:
    """InputError for parameters that lack a value, or whose value is of another type."""
    parameters = inspect.signature(target).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    lacking = [
        f"{name}.{p.name}"
        for p in parameters
        if p.kind in named and p.default is p.empty and p.name not in given
    ]
    if lacking:
        raise InputError(
            f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no value: give a "
            f"--gin_file that sets {'it' if len(lacking) == 1 else 'them'}"
        )
    for parameter, value in given.items():
        wanted = wrong_type(target, parameter, value)
        if wanted is not None:
            raise InputError(f"{name}.{parameter} is {value!r}: give {wanted}")


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
    global _parsed
    gin.clear_config()
    scan, read, sources = _read(files, bindings)
    _check(scan, set(roots))
    with gin.unlock_config():
        for source in sources:
            gin.parse_config(source)
    gin.finalize()
    _parsed = scan
    return read


def scan(files: Iterable[str], bindings: Iterable[str] = ()) -> Scan:
    """What files and bindings set and refer to; needs nothing registered.

    InputError: a file that is not there or no gin, an import statement.
    """
    return _read(files, bindings)[0]


def _read(files: Iterable[str], bindings: Iterable[str]) -> tuple[Scan, list[Path], list[str]]:
    """The scan, the files that were read, and their texts without include statements."""
    scan = Scan()
    read: list[Path] = []
    sources = [text for name in files for text in _load(resolve_config(name), scan, read, ())]
    override = "\n".join(bindings)
    sources += _load_text(override, "the command line", None, scan, read, ())
    return scan, read, sources


def _load(path: Path, scan: Scan, read: list[Path], parents: tuple[Path, ...]) -> list[str]:
    if path in parents:
        raise InputError(
            f"{path} includes itself: " + " -> ".join(str(p) for p in (*parents, path))
        )
    read.append(path)
    here = Path.cwd()
    name = path.relative_to(here) if path.is_relative_to(here) else path
    return _load_text(path.read_text(), str(name), path, scan, read, (*parents, path))


def _load_text(
    text: str,
    name: str,
    path: Path | None,
    scan: Scan,
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
    statement: config_parser.BindingStatement, place: str, scan: Scan, delegate: _Delegate
) -> None:
    if statement.arg_name:
        key = (statement.scope or "", statement.selector, statement.arg_name)
        scan.parameters[key] = place
        scan.through[key] = tuple(delegate.macros)
    else:
        scoped = [statement.scope] if statement.scope else []
        scan.macros["/".join([*scoped, statement.selector])] = place
    for reference in delegate.references:
        scan.references.setdefault(reference, place)
    for macro in delegate.macros:
        scan.used_macros.setdefault(macro, place)
    delegate.references.clear()
    delegate.macros.clear()


def _check(scan: Scan, roots: set[str]) -> None:
    known = {name: _parameters(target) for name, target in _originals.items()}
    check_names(scan, known)
    reached = _reached({short(selector) for _, selector in scan.references} | roots, scan)
    for macro, place in scan.macros.items():
        if macro not in scan.used_macros:
            meant = near(macro, scan.used_macros) or as_parameter(macro, reached, known)
            raise InputError(f"{place}: nothing uses {macro}{meant}")
    scopes = {part for scope, _ in scan.references for part in scope.split("/")}
    for (scope, selector, parameter), place in scan.parameters.items():
        if short(selector) not in reached:
            raise InputError(
                f"{place}: {selector}.{parameter} is set but nothing refers to @{selector}(), "
                "so the setting would have no effect; bind it to a parameter or drop it"
            )
        for part in scope.split("/") if scope else ():
            if part not in scopes:
                raise InputError(f"{place}: nothing enters the scope {part!r}{near(part, scopes)}")


def _parameters(target: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of the parameters; None: any."""
    signature = inspect.signature(target)
    kinds = {p.kind for p in signature.parameters.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else tuple(signature.parameters)


def _reached(names: set[str], scan: Scan) -> set[str]:
    """The names, and those that they build as default parts."""
    bound = {(short(selector), parameter) for _, selector, parameter in scan.parameters}
    reached = set(names)
    waiting = sorted(names & _originals.keys())
    while waiting:
        name = waiting.pop()
        for field, part in _default_parts(_originals[name]).items():
            if (name, field) not in bound and part not in reached:
                reached.add(part)
                waiting.append(part)
    return reached


def sets(name: str) -> bool:
    """Whether the parsed files set anything of a registered object."""
    return _parsed.sets(name)


def settings(name: str) -> dict[str, Any]:
    """The parameters of a registered object as it would be called: defaults, then what is set."""
    signature = inspect.signature(_originals[name])
    defaults = {
        p.name: p.default for p in signature.parameters.values() if p.default is not p.empty
    }
    return {**defaults, **gin.get_bindings(name)}


def plain(error: InputError) -> InputError:
    """The error as one sentence: not gin's trail of calls, but the settings to change."""
    if not isinstance(error, _Refused):
        return error
    advice = _parsed.advice(error.name, error.scope, error.message)
    return InputError(error.message.rstrip(".") + advice)


def build(name: str, **kwargs: Any) -> Any:
    """Calls the registered object with the parsed settings; keyword arguments win over them.

    Raises InputError of what is built, as one sentence that names the settings to change.
    """
    if name not in _registered:
        raise InputError(f"unknown name {name!r}{near(name, _registered)}")
    try:
        return _registered[name](**kwargs)
    except InputError as error:
        raise plain(error) from None


def operative_config() -> str:
    """The settings of all that has been built so far as gin text, defaults included."""
    return str(gin.operative_config_str())


def bound_config() -> str:
    """The parsed settings as gin text, macros resolved by name (for people; runs also keep JSON)."""
    return str(gin.config_str())

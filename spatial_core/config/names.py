# SPDX-License-Identifier: Apache-2.0
"""Whether settings files name what there is, judged from a scan: before anything they name is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from spatial_core.config.bindings import Scan, near, short
from spatial_core.errors import InputError

Known = Mapping[str, tuple[str, ...] | None]
"""Parameters of each configurable; None: any, or not known."""
_PLAIN_BASES = {"Protocol", "Generic", "object", "NamedTuple"}


def check_names(scan: Scan, known: Known) -> None:
    """InputError for a name, a parameter or a macro that nobody knows, with the nearest one that is."""
    for (_, selector, parameter), place in scan.parameters.items():
        check_parameter(selector, parameter, place, known)
    for (_, selector), place in scan.references.items():
        look_up(selector, place, known)
    for macro, place in scan.used_macros.items():
        if macro not in scan.macros:
            meant = near(macro, scan.macros)
            raise InputError(
                f"{place}: %{macro} has no value{meant}; set it with --gin.{macro}=VALUE"
            )


def check_mistyped_macros(scan: Scan) -> None:
    """InputError for a macro that nothing uses where another one that is used looks like it."""
    for macro, place in scan.macros.items():
        if macro not in scan.used_macros and near(macro, scan.used_macros):
            raise InputError(f"{place}: nothing uses {macro}{near(macro, scan.used_macros)}")


def check_parameter(selector: str, parameter: str, place: str, known: Known) -> None:
    """InputError for a name, or a parameter of it, that is not known."""
    parameters = known[look_up(selector, place, known)]
    if parameters is not None and parameter not in parameters:
        meant = near(parameter, parameters) or as_parameter(parameter, known, known)
        meant = meant or f". It has: {', '.join(parameters)}"
        raise InputError(f"{place}: {selector} has no parameter {parameter!r}{meant}")


def look_up(selector: str, place: str, known: Known) -> str:
    """The name without its module; InputError for one that is not known."""
    name = short(selector)
    if name not in known:
        raise InputError(f"{place}: unknown name {selector!r}{near(name, known)}")
    return name


def as_parameter(name: str, owners: Iterable[str], known: Known) -> str:
    """ "; did you mean 'TrainConfig.steps'?" for a bare parameter; '' unless one or two have it."""
    found = [
        f"{owner}.{parameter}"
        for owner in sorted(owners)
        for parameter in known.get(owner) or ()
        if parameter.lower() == name.lower()
    ]
    names = " or ".join(repr(each) for each in found)
    return f"; did you mean {names}?" if 0 < len(found) <= 2 else ""


def parameters_in_sources(names: Mapping[str, Iterable[str]]) -> Known:
    """The parameters of all names ("name" or "name=attribute", by module), as far as the files tell."""
    return {
        name: parameters_in_source(module, attribute or name)
        for module, entries in names.items()
        for name, _, attribute in (entry.partition("=") for entry in entries)
    }


def parameters_in_source(module: str, name: str) -> tuple[str, ...] | None:
    """Parameters of a dataclass or function, read from its file: importing the module may take seconds.

    None where the file alone does not tell: other classes, fields inherited from another file, **keywords.
    """
    nodes = {
        node.name: node
        for node in _tree(module).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    return _parameters(nodes.get(name), nodes)


@cache
def _tree(module: str) -> ast.Module:
    package, *parts = module.split(".")
    found = importlib.util.find_spec(package)
    folders = [] if found is None else list(found.submodule_search_locations or ())
    for folder in folders:
        place = Path(folder).joinpath(*parts)
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return ast.parse(path.read_text(encoding="utf-8"))
    return ast.Module([], [])


def _parameters(
    node: ast.AST | None, nodes: Mapping[str, ast.ClassDef | ast.FunctionDef]
) -> tuple[str, ...] | None:
    if isinstance(node, ast.FunctionDef):
        given = node.args
        if given.kwarg is not None:
            return None
        return tuple(each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs))
    if not isinstance(node, ast.ClassDef) or not any(
        "dataclass" in ast.unparse(each) for each in node.decorator_list
    ):
        return None
    fields: list[str] = []
    for base in node.bases:
        name = ast.unparse(base).partition("[")[0]
        if name in _PLAIN_BASES:
            continue
        inherited = _parameters(nodes.get(name), nodes)
        if inherited is None:
            return None
        fields += inherited
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return None
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            words = ast.unparse(item)
            if "ClassVar" not in words and "init=False" not in words:
                fields.append(item.target.id)
    return tuple(dict.fromkeys(fields))

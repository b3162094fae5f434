# SPDX-License-Identifier: Apache-2.0
"""The rules of the house, read from the source: layers, gin, safety, size, licence headers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each package may import itself and those before it, never those after.
LAYERS = ("spatial_core", "phasecoder", "llm_bridge", "sciphi", "launch")
# Neither of the two systems is built on the other, not even by way of what they share.
NEVER = {"sciphi": "phasecoder", "phasecoder": "sciphi"}
FOLDERS = (*LAYERS, "tests", "benchmarks")
GIN_FILE = "spatial_core/config/gin_setup.py"
MAX_MODULE_LINES = 480
MAX_FUNCTION_LINES = 90
FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "pickle.load": "runs code from a file",
    "pickle.loads": "runs code from a file",
    "torch.load": "runs code from a file",
    "joblib.load": "runs code from a file",
    "yaml.load": "runs code from a file; use safe_load",
}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), relative(path))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(node: ast.Call) -> str:
    """Dotted name of a call, as far as it is written out."""
    return ast.unparse(node.func)


@pytest.mark.parametrize("package", LAYERS)
def test_dependencies_point_one_way(package: str) -> None:
    above = LAYERS[LAYERS.index(package) + 1 :]
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sources(package)
        for name in imported(path)
        if name.split(".")[0] in (*above, "tests", "benchmarks")
    ]
    assert wrong == []


def imported_at_once(path: Path) -> set[str]:
    """Full names of what importing a file imports: not what functions import, nor types alone."""
    found, blocks = set(), [tree(path).body]
    while blocks:
        for node in blocks.pop():
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                blocks.append(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                blocks += [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
                blocks += [handler.body for handler in getattr(node, "handlers", [])]
    return found


def module_files(name: str) -> list[Path]:
    """The files that importing a dotted name of ours runs: of its packages, and its own."""
    parts = name.split(".")
    files = []
    for count in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:count])
        files += [place / "__init__.py", place.with_suffix(".py")]
    return [path for path in files if path.is_file()]


@pytest.mark.parametrize("package", NEVER)
def test_the_two_systems_never_meet(package: str) -> None:
    """Whatever a file of a system imports anywhere, importing that never reaches the other system."""
    reached = {path: "" for path in sources(package)}
    waiting = [(path, name) for path in reached for name in imported(path)]
    while waiting:
        path, name = waiting.pop()
        assert name.split(".")[0] != NEVER[package], f"{relative(path)}: {reached[path]}"
        for file in module_files(name):
            if file not in reached and file.relative_to(ROOT).parts[0] in LAYERS:
                reached[file] = f"imported by {relative(path)} ({reached[path]})"
                waiting += [(file, each) for each in imported_at_once(file)]


def test_only_one_file_imports_gin() -> None:
    users = {
        relative(path)
        for path in sources(*FOLDERS)
        if any(name.split(".")[0] == "gin" for name in imported(path))
    }
    # Its own test may look behind it.
    assert {user for user in users if not user.startswith("tests/")} <= {GIN_FILE}


def test_the_gin_folder_holds_no_python() -> None:
    """`import gin` would find the folder instead of gin-config."""
    assert list((ROOT / "gin").rglob("*.py")) == []


def test_no_module_is_called_utils() -> None:
    names = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [relative(path) for path in sources(*FOLDERS) if path.name in names] == []


def test_every_file_names_its_licence() -> None:
    missing = [
        relative(path)
        for path in sources(*FOLDERS)
        if not path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: Apache-2.0")
    ]
    assert missing == []


def test_every_package_is_typed_and_every_module_documented() -> None:
    assert [name for name in LAYERS if not (ROOT / name / "py.typed").is_file()] == []
    bare = [
        relative(path)
        for path in sources(*LAYERS)
        if path.name != "__init__.py" and ast.get_docstring(tree(path)) is None
    ]
    assert bare == []


def test_no_call_runs_foreign_code() -> None:
    found = []
    for path in sources(*FOLDERS):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            name = called(node)
            where = f"{relative(path)}:{node.lineno}"
            if name in FORBIDDEN_CALLS:
                found.append(f"{where} {name} {FORBIDDEN_CALLS[name]}")
            for keyword in node.keywords:
                if keyword.arg in ("shell", "allow_pickle") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    found.append(f"{where} {keyword.arg}")
    assert found == []


def test_nothing_is_configured_at_import() -> None:
    """Importing the library must not change the process: no global jax setting, no seeding."""
    calls = ("jax.config.update", "np.random.seed", "random.seed", "logging.basicConfig")
    found = [
        f"{relative(path)}:{statement.lineno}"
        for path in sources(*LAYERS[:-1])
        for statement in tree(path).body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and called(statement.value) in calls
    ]
    assert found == []


def test_nothing_is_left_undone() -> None:
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    found = [
        f"{relative(path)}:{number}"
        for path in sources(*LAYERS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert found == []


def test_modules_and_functions_stay_readable() -> None:
    long_modules, long_functions = [], []
    for path in sources(*LAYERS):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_MODULE_LINES:
            long_modules.append(f"{relative(path)}: {lines} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = int(node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long_functions.append(f"{relative(path)}:{node.lineno} {node.name}: {length}")
    assert long_modules == []
    assert long_functions == []


def test_the_wheel_names_every_package_folder() -> None:
    """A folder with modules but without `__init__.py` would be left out of the wheel."""
    folders = {path.parent for path in sources(*LAYERS)}
    missing = [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert missing == []

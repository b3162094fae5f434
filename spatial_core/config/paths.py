# SPDX-License-Identifier: Apache-2.0
"""Where the shipped configuration files are: inside the installed package, else beside the checkout."""

from __future__ import annotations

from pathlib import Path

from spatial_core.errors import InputError


def config_root() -> Path:
    """Directory of the shipped .gin files.

    A wheel carries them as `spatial_core/gin_configs`; in a checkout (also an editable install) they
    are `gin/` beside the package. Raises InputError when neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "gin_configs", package.parent / "gin"):
        if candidate.is_dir():
            return candidate
    raise InputError(
        f"no configuration files at {package / 'gin_configs'} nor {package.parent / 'gin'}: "
        "reinstall the package, or give absolute paths to --gin_file"
    )


def config_files() -> list[str]:
    """Names of all shipped .gin files, relative to `config_root()`, sorted."""
    root = config_root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gin"))


def resolve_config(name: str, relative_to: Path | None = None) -> Path:
    """Path of a .gin file named as in `--gin_file` or in an include statement.

    Looked for under `config_root()`, then beside the including file, then as a path of its own
    (absolute or from the working directory). Shipped files win, so that an unrelated folder in the
    working directory cannot change what an experiment includes.
    """
    root = config_root()
    candidates = [root / name]
    if relative_to is not None:
        candidates.append(relative_to / name)
    candidates.append(Path(name))
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise InputError(f"no configuration file {name!r} in {root} or {Path.cwd()}{_nearest(name)}")


def _nearest(name: str) -> str:
    import difflib

    known = config_files()
    by_stem = [path for path in known if Path(path).stem == Path(name).stem]
    match = by_stem or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; shipped: {', '.join(known) or 'none'}"

# SPDX-License-Identifier: Apache-2.0
"""Weight files inside installed Python packages: found without importing them, checked by digest."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spatial_core.errors import InputError

BLOCK = 1 << 20


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package, pinned.

    package: import name, whose code is never run; path: inside it; sha256 of the file; install: the
    arguments of `pip install` that bring exactly this file.
    """

    package: str
    path: str
    sha256: str
    install: str

    def locate(self) -> Path:
        """Where the file is. InputError if it is missing or is not the pinned one."""
        return _locate(self)


@cache
def _locate(file: PackagedFile) -> Path:
    # find_spec of a top-level name only looks; importing could need what --no-deps left out.
    spec = importlib.util.find_spec(file.package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    found = next((p for p in (Path(f) / file.path for f in folders) if p.is_file()), None)
    if found is None:
        raise InputError(
            f"{file.path} of the package {file.package} is not installed: "
            f"run `pip install {file.install}`"
        )
    digest = hashlib.sha256()
    with found.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        raise InputError(
            f"{found} has sha256 {digest.hexdigest()[:16]}..., not the {file.sha256[:16]}... that was "
            f"tested: run `pip install --force-reinstall {file.install}`"
        )
    return found

# SPDX-License-Identifier: Apache-2.0
"""What a result was made with: versions, devices, the command, and the state of the source."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import spatial_core

_PACKAGES = (
    "spatial-audio-stack",
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)
_GIT_SECONDS = 10.0


def environment() -> dict[str, Any]:
    """Versions, source, devices and the command line, for the reader of a result."""
    devices = [device.device_kind for device in jax.devices()]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "git": git_state(),
        "devices": {kind: devices.count(kind) for kind in sorted(set(devices))},
        "processes": jax.process_count(),
        "command": sys.argv,
    }


@functools.cache
def git_state() -> dict[str, Any] | None:
    """{"commit", "changed", "diff_sha256"} of the checkout that the program runs from; None: there is none.

    changed: tracked files that differ from the commit; diff_sha256 names those differences, None for none.
    """
    here = Path(spatial_core.__file__)
    # An installed package may lie in somebody's checkout without being part of it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit, changed = (
        _git(here.parent, *command)
        for command in (
            ("rev-parse", "HEAD"),
            ("status", "--porcelain", "--untracked-files=no"),
        )
    )
    if commit is None or changed is None:
        return None
    files = sorted(line[3:] for line in changed.splitlines())
    diff = _git(here.parent, "diff", "HEAD", "--binary") if files else None
    digest = hashlib.sha256(diff.encode()).hexdigest() if diff is not None else None
    return {"commit": commit.strip(), "changed": files, "diff_sha256": digest}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

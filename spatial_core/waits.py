# SPDX-License-Identifier: Apache-2.0
"""What a person waits for at a command: one line each on stderr, and programs that are compiled only once.

The library says what it begins (`say`, `compiling`), and nobody hears it unless a command listens (`told`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)
_LEAST_SECONDS = 0.1
"""Programs that compile faster are not kept: reading them back would take as long."""


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def say(what: str) -> None:
    """Says what begins now and takes a while."""
    _LOG.info("%s ...", what)


def compiling(what: str) -> None:
    """Says that a program is compiled for `what`, and whether it is kept for the next start."""
    import jax

    kept = all(
        jax.config.values[name]
        for name in ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
    )
    say(
        f"preparing for {what} (compiled the first time, then kept)"
        if kept
        else f"compiling for {what}"
    )


@contextmanager
def told() -> Iterator[None]:
    """Within it, what is said reaches stderr."""
    handler, level, propagate = _Stderr(), _LOG.level, _LOG.propagate
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False  # others, such as absl, would say it again
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)
        _LOG.propagate = propagate


def keep_programs() -> None:
    """Keeps what jax, which is not imported yet, will compile: in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR names another; JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return  # a home that cannot be written is no reason not to answer
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_LEAST_SECONDS))


def cache_folder() -> Path:
    """What may be deleted at any time: $XDG_CACHE_HOME or ~/.cache, and there spatial-audio-stack."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "spatial-audio-stack"

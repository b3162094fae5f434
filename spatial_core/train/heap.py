# SPDX-License-Identifier: Apache-2.0
"""Memory that is kept between the steps of a training on a CPU.

XLA asks for the temporaries of a step anew each time. glibc takes such large blocks from the system and
gives them back at once, and the system clears every page that it hands out, which takes a good part of a
training's CPU time (benchmarks/heap.py).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def cpu_alone() -> bool:
    """Whether jax will find nothing but a CPU, as far as can be told before it looks."""
    named = os.environ.get("JAX_PLATFORMS")
    if named:
        return named == "cpu"
    return not any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next step; False where there is no glibc.

    For the start of a process: threads that exist have arenas of their own. The process then stays as
    large as it ever was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    return all([mallopt(parameter, value) for parameter, value in wanted])

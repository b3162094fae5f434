# SPDX-License-Identifier: Apache-2.0
"""Freed memory that stays with the process: the system hands out no new pages for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Ten times 64 MiB that are written to and freed: 16,384 pages each, if the system gives them anew.
PROGRAM = """
import resource, sys
import numpy as np
from spatial_core.train.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    # Of huge pages the system may need as few as 32 for 64 MiB; kept memory needs none but strays.
    assert pages("kept") < 100 < pages("given back")

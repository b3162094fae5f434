# SPDX-License-Identifier: Apache-2.0
"""Random generators addressed by what they are for, so that nothing depends on order or on hosts."""

from __future__ import annotations

import numpy as np

from spatial_core.errors import InputError

SPLITS = ("train", "validation", "test")
_PURPOSES = ("group", "crop", "order", "replacement", "stretch", "room", "talk", "scene")
_WORD = 2**32


def generator(
    seed: int, split: str, purpose: str, index: int, attempt: int = 0
) -> np.random.Generator:
    """A generator for one purpose of one index: the same on every host, process and machine.

    Every argument takes whole 32-bit words of the seed, so no two addresses share a stream.
    Attempts other than 0 are replacements of a bad record. `seed` and `index` are 0 to 2**64 - 1.
    """
    if not 0 <= seed < _WORD**2:
        raise InputError(f"seed is {seed}: give a whole number from 0 to 2**64 - 1")
    address = [seed % _WORD, seed // _WORD, check_split(split), _PURPOSES.index(purpose)]
    address += [index % _WORD, index // _WORD, attempt]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(address)))


def check_split(split: str) -> int:
    """Number of the split in seeds; InputError for an unknown one."""
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose among {', '.join(SPLITS)}")
    return SPLITS.index(split)

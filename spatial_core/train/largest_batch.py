# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits, found with few compilations: each of them takes a minute or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Largest:
    """rows fit (0: none that was tried); refused: the smallest that did not; tried: in this order."""

    rows: int
    refused: int
    unit: int
    tried: tuple[int, ...]

    def text(self) -> str:
        """In a sentence."""
        tried = f"{len(self.tried)} compilation(s)"
        if not self.rows:
            return f"none of those tried, down to {self.refused:,} rows, after {tried}"
        if self.refused - self.rows <= self.unit:
            return f"{self.rows:,} rows, found with {tried}; batches come in steps of {self.unit:,}"
        return (
            f"{self.rows:,} rows of those tried; {self.refused:,} are too many, "
            f"between them nothing was compiled ({tried})"
        )


def find_largest(
    need: Callable[[int], tuple[bool, float | None]],
    rows: int,
    needed: float | None,
    fixed: float,
    limit: float,
    unit: int,
    tries: int,
) -> Largest:
    """Searches below `rows` (which do not fit and would need `needed` bytes) in multiples of `unit`.

    need(rows): whether so many rows fit, and the bytes that they need if that is known. fixed: bytes
    whatever the batch; limit: bytes that there are. What a step needs grows about evenly with its rows,
    so a straight line through what is known gives the next batch to try.
    """
    low, low_bytes = 0, fixed
    high, high_bytes = rows, needed
    tried: list[int] = []
    while len(tried) < tries and high - low > unit:
        guess = (low + high) / 2
        if high_bytes is not None and high_bytes > low_bytes:
            guess = low + (high - low) * (limit - low_bytes) / (high_bytes - low_bytes)
        # Strictly between what fits and what does not.
        steps = min(max(int(guess // unit), low // unit + 1), (high - 1) // unit)
        fits, size = need(steps * unit)
        tried.append(steps * unit)
        if fits:
            low, low_bytes = steps * unit, size if size is not None else low_bytes
        else:
            high, high_bytes = steps * unit, size
    return Largest(low, high, unit, tuple(tried))

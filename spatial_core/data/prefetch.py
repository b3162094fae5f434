# SPDX-License-Identifier: Apache-2.0
"""Batches ahead of the step that needs them, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_ENDLESS = 2**62


def iterate_steps(
    read: Callable[[int], Any], start_step: int, threads: int, prefetch: int = 2
) -> Iterator[Any]:
    """read(start_step), read(start_step + 1), ... without end, in order.

    Each in one thread, several at once: nothing waits for the slowest part. prefetch: how many are
    held ready. The iterator has a `close()`.
    """
    # Imported here: it brings jax and orbax along, which making or reading a batch does not need.
    import grain

    steps = grain.MapDataset.range(0, _ENDLESS).map(read)[start_step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(steps.to_iter_dataset(options))

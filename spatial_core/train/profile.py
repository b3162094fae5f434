# SPDX-License-Identifier: Apache-2.0
"""A few steps of a run recorded for xprof: what the devices and the host did when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from spatial_core.io import places


class ProfileWindow:
    """Records steps `first` to `first + count - 1` into `folder`; None: records nothing.

    Of several processes each has a folder of its own in it. A run that resumes within the window records
    the rest of it.
    """

    def __init__(
        self, window: tuple[int, int] | None, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._steps = range(0) if window is None else range(window[0], window[0] + window[1])
        several = jax.process_count() > 1
        self._folder = folder / f"host_{jax.process_index()}" if several else folder
        self._say = say
        self._outbox: places.Outbox | None = None

    def begin(self, step: int) -> None:
        """Starts recording, if this step is about to run and is in the window."""
        if step in self._steps and self._outbox is None:
            self._outbox = places.Outbox(self._folder)
            options = jax.profiler.ProfileOptions()
            # The tracer of Python calls crashes beside the threads of a data stream (jax 0.10, Python 3.11).
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._outbox.folder), profiler_options=options)

    def marked(self, step: int) -> AbstractContextManager[None]:
        """The context of a step, which the record then shows by its number."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int) -> None:
        """Stops recording, if this step is done and is the last of the window."""
        if self._outbox is not None and step >= self._steps.stop - 1:
            self.close()

    def close(self) -> None:
        """Writes what was recorded until now."""
        if self._outbox is None:
            return
        jax.profiler.stop_trace()
        self._outbox.close()
        self._outbox, self._steps = None, range(0)
        self._say(f"profile in {self._folder}; look at it with: xprof --logdir {self._folder}")

# SPDX-License-Identifier: Apache-2.0
"""All settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from spatial_core.errors import InputError
from spatial_core.train.optim import OptimizerConfig
from spatial_core.train.partition import MeshConfig
from spatial_core.train.task import DataStream, Task


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, for how long.

    Times are in steps. `checkpoint_every`, `eval_every`, 0: only at the end; `log_every` is the
    stride of console lines, JSONL records and TensorBoard points (means over the steps since the
    last). Validation runs `task.loss(train=False)` over the first `validation_batches` batches of
    `validation`. With `best_metric` (such as "loss" or a metric of the task) the checkpoint with its
    lowest ("min") or highest ("max") validation value is kept besides the `keep` latest. `init_from`
    starts from the parameters of another run (its folder), of a released model (its folder) or from
    those that a function returns. With `microbatches` above 1 a step computes its gradient over that many
    equal parts of the batch, one after another, in less memory. More than `nonfinite_budget` steps with a non-finite loss or
    gradient stop the run. When nothing is finished for `stall_seconds` (`compile_seconds` while something
    is compiled, read or drawn for the first time), the watchdog ends the process (0: there is none).
    `profile` (first step, how many) records these steps for xprof.
    """

    task: Task
    data: DataStream
    steps: int = 1000
    validation: DataStream | None = None
    validation_batches: int = 8
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    keep: int = 2
    eval_every: int = 0
    best_metric: str | None = None
    best_mode: Literal["min", "max"] = "min"
    init_from: str | Callable[[], Any] | None = None
    nonfinite_budget: int = 20
    microbatches: int = 1
    stall_seconds: float = 900.0
    compile_seconds: float = 3600.0
    profile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "log_every", "keep", "validation_batches", "microbatches")
        for name, least in ((name, 1) for name in counts):
            if getattr(self, name) < least:
                raise InputError(f"TrainConfig.{name} is {getattr(self, name)}: at least {least}")
        if self.data.batch_size % self.microbatches:
            raise InputError(
                f"TrainConfig.microbatches is {self.microbatches}: it has to divide the batch of "
                f"{self.data.batch_size}"
            )
        for name in ("checkpoint_every", "eval_every", "nonfinite_budget"):
            if getattr(self, name) < 0:
                raise InputError(f"TrainConfig.{name} is {getattr(self, name)}: at least 0")
        self._check_watchdog()
        if self.profile is not None and (len(self.profile) != 2 or min(self.profile) < 1):
            raise InputError(
                f"TrainConfig.profile is {self.profile}: give the first step (from 1) and how many"
            )
        if self.best_mode not in ("min", "max"):
            raise InputError(f"TrainConfig.best_mode is {self.best_mode!r}: use 'min' or 'max'")
        if self.best_metric and self.validation is None:
            raise InputError("TrainConfig.best_metric needs TrainConfig.validation")
        if self.eval_every and self.validation is None:
            raise InputError("TrainConfig.eval_every needs TrainConfig.validation")

    def _check_watchdog(self) -> None:
        if not 0 <= self.stall_seconds < math.inf:
            raise InputError(
                f"TrainConfig.stall_seconds is {self.stall_seconds}: seconds, or 0 for no watchdog"
            )
        if not self.stall_seconds <= self.compile_seconds < math.inf:
            raise InputError(
                f"TrainConfig.compile_seconds is {self.compile_seconds}: at least stall_seconds "
                f"({self.stall_seconds}), since the first step takes longer than the others"
            )

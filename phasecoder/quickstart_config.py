# SPDX-License-Identifier: Apache-2.0
"""Settings of the quickstart, apart from what runs it: reading them needs none of the heavy parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from phasecoder.task import PhaseCoderTask
from spatial_core.data.pipeline import SceneStream
from spatial_core.errors import InputError
from spatial_core.train.config import TrainConfig


@dataclass(frozen=True)
class QuickstartConfig:
    """What the quickstart trains and on what it is judged.

    train: the training run. test: held-out scenes (split "test"). examples: clips of the
    evaluation. scenes: scenes drawn for the pictures of what is simulated. seed: of the recording.
    compare_with: the model that it is compared with, a folder or a shipped one's name (None: the
    shipped default).
    """

    train: TrainConfig
    test: SceneStream
    examples: int = 512
    scenes: int = 300
    seed: int = 0
    compare_with: str | None = None

    def __post_init__(self) -> None:
        if self.test.split != "test":
            raise InputError(
                f"QuickstartConfig.test draws from the split {self.test.split!r}: an evaluation "
                'needs the held-out one, split = "test"'
            )
        if not isinstance(self.train.task, PhaseCoderTask):
            raise InputError("QuickstartConfig.train must train a PhaseCoderTask")
        for name in ("examples", "scenes"):
            if getattr(self, name) < 1:
                raise InputError(f"QuickstartConfig.{name} is {getattr(self, name)}: at least 1")

    @property
    def task(self) -> PhaseCoderTask:
        """The task that is trained."""
        return cast(PhaseCoderTask, self.train.task)

    @property
    def opponent_name(self) -> str:
        """What the model of `compare_with` is called in tables."""
        return "shipped" if self.compare_with is None else str(self.compare_with)

    @property
    def clips(self) -> int:
        """Clips that the training sees."""
        return self.train.steps * self.train.data.batch_size

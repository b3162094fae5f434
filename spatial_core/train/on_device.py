# SPDX-License-Identifier: Apache-2.0
"""A task whose step makes its own audio: simulation and synthesis on the device, then another task's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from spatial_core.data.device import DeviceStream, Labels, Raw, named
from spatial_core.errors import InputError
from spatial_core.sim.jax_synthesis import synthesize_with_direct
from spatial_core.train.task import Batch, DrawingTask, Exhibit, Metrics, Params, Rules, Task

_MADE = {"audio", "direct", "mic_mask", "speech", *Labels._fields}


@dataclass(frozen=True)
class OnDeviceTask:
    """`task`, trained on raw crops and scenes.

    stream: one whose batches it reads; those of the run (training and validation) must be alike but for
    seed, split and batch_size.
    """

    task: Task
    stream: DeviceStream

    @property
    def name(self) -> str:
        """The task's own: what is learnt is the same."""
        return self.task.name

    @property
    def partition_rules(self) -> Rules:
        """The task's own."""
        return self.task.partition_rules

    def init(self, rng: jax.Array) -> Params:
        """The task's own fresh parameters."""
        return self.task.init(rng)

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the raw arrays for so many examples."""
        return named(self.stream.spec(batch_size))

    def loss(
        self, params: Params, batch: Batch, rng: jax.Array, train: bool
    ) -> tuple[jax.Array, Metrics]:
        """The task's loss of the audio that the batch describes."""
        return self.task.loss(params, self.audio(batch), rng, train)

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """The task's answers to the audio that the batch describes."""
        return self.task.predict(params, self.audio(batch))

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """The task's own pictures of the audio that the batch describes."""
        if not isinstance(self.task, DrawingTask):
            return []
        return self.task.draw(jax.device_get(jax.jit(self.audio)(batch)), folder, rows)

    def audio(self, batch: Batch) -> Batch:
        """The batch as the task reads it, but for what only the host measures (rt60)."""
        shape = self.stream.spec(self.stream.crops_per_rir)
        raw: Raw = jax.tree.unflatten(
            jax.tree.structure(shape), [batch[name] for name in named(shape)]
        )
        wanted = self.task.example_batch(len(raw.labels.azimuth))
        missing = sorted(set(wanted) - _MADE)
        if missing:
            raise InputError(f"{self.task.name} reads {missing}, which a DeviceStream has not")
        audio, direct = synthesize_with_direct(
            raw.rooms, raw.noise_rooms, raw.levels, raw.speech, raw.noise, self.stream.plan
        )
        # The sound is data: no gradient goes back into the simulation.
        fields: dict[str, Any] = {
            "audio": jax.lax.stop_gradient(audio),
            "direct": jax.lax.stop_gradient(direct),
            "mic_mask": raw.levels.mask,
            "speech": raw.levels.speech,
            **raw.labels._asdict(),
        }
        return {name: fields[name] for name in wanted}

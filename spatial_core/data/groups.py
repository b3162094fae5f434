# SPDX-License-Identifier: Apache-2.0
"""Groups: the room, the array and the room responses that neighbouring examples share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatial_core.data.budget import BadRecords, DataBudgetError
from spatial_core.data.seeds import generator
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes

MAX_ATTEMPTS = 8
"""Records that may be bad in a row before the whole set-up is taken to be at fault."""


@dataclass(frozen=True)
class Groups:
    """Scenes and their responses, float32 [g, m, taps]; noise_rirs None without distractors."""

    specs: list[SceneSpec]
    rirs: np.ndarray
    noise_rirs: np.ndarray | None

    def put(self, row: int, other: Groups) -> None:
        """Replace a row by the only row of `other`."""
        self.specs[row] = other.specs[0]
        self.rirs[row] = other.rirs[0]
        if self.noise_rirs is not None and other.noise_rirs is not None:
            self.noise_rirs[row] = other.noise_rirs[0]


class GroupSource(Protocol):
    """Where a stream's groups come from: simulated on the fly, or read from a bank."""

    @property
    def taps(self) -> int:
        """Length of the responses in samples."""

    def groups(self, indices: Sequence[int]) -> Groups:
        """The groups of these indices, each a pure function of its index."""


class SimulatedGroups:
    """Groups simulated when they are asked for."""

    def __init__(
        self,
        scene: SceneConfig,
        simulator: RirSimulator,
        seed: int,
        split: str,
        num_mics: int,
        bad: BadRecords,
    ) -> None:
        self.taps = simulator.taps
        self._scene = scene
        self._simulator = simulator
        self._seed, self._split = seed, split
        self._num_mics = num_mics
        self._bad = bad

    def groups(self, indices: Sequence[int]) -> Groups:
        """All at once; a group that fails is drawn again, alone, from seeds of its own."""
        try:
            made = self._simulate(indices)
        except Exception:
            # One of them is at fault; simulated one by one they say which, and why.
            return stack_groups([self._first_good(i) for i in indices])
        for row, fault in enumerate(find_faults(made)):
            if fault is not None:
                made.put(row, self._first_good(indices[row]))
        return made

    def _simulate(self, indices: Sequence[int], attempt: int = 0) -> Groups:
        specs = [
            sample_scene(generator(self._seed, self._split, "group", i, attempt), self._scene)
            for i in indices
        ]
        return Groups(specs, *simulate_scenes(self._simulator, specs, self._num_mics))

    def _first_good(self, index: int) -> Groups:
        def key(attempt: int) -> str:
            name = f"group {index} of {self._split}, seed {self._seed}"
            return f"{name}, replacement {attempt}" if attempt else name

        return first_good(lambda attempt: self._simulate([index], attempt), key, self._bad)


def first_good(make: Callable[[int], Groups], key: Callable[[int], str], bad: BadRecords) -> Groups:
    """The first of make(0), make(1), ... (one group each) that is without fault.

    The others are counted in `bad` as key(0), key(1), ...

    Raises DataBudgetError when the budget of `bad` is spent, or after MAX_ATTEMPTS.
    """
    cause: Exception | None = None
    fault: str | None = None
    for attempt in range(MAX_ATTEMPTS):
        try:
            group = make(attempt)
            fault = find_faults(group)[0]
        except Exception as error:
            fault, cause = f"{type(error).__name__}: {error}", error
        if fault is None:
            return group
        bad.add(key(attempt), fault)
    raise DataBudgetError(
        f"{key(0)}: {MAX_ATTEMPTS} in a row are bad, the last one because: {fault}"
    ) from cause


def find_faults(groups: Groups) -> list[str | None]:
    """For each group what is wrong with its responses: not finite, or zero at a microphone."""
    faults: list[str | None] = [None] * len(groups.specs)
    for rirs in (groups.rirs, groups.noise_rirs):
        if rirs is None:
            continue
        energy = np.einsum("gmt,gmt->gm", rirs, rirs)
        for row, spec in enumerate(groups.specs):
            if not np.isfinite(energy[row]).all():
                faults[row] = "a room response is not finite"
            elif not (energy[row, : spec.num_mics] > 0).all():
                faults[row] = "a room response is zero"
    return faults


def stack_groups(parts: Sequence[Groups]) -> Groups:
    """One set of all groups in order."""
    noise = [part.noise_rirs for part in parts if part.noise_rirs is not None]
    return Groups(
        [spec for part in parts for spec in part.specs],
        np.concatenate([part.rirs for part in parts]),
        np.concatenate(noise) if noise else None,
    )

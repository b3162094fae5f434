# SPDX-License-Identifier: Apache-2.0
"""The data stream: step -> global batch, a pure function of the seed, on any number of hosts.

Example i of a stream depends on (seed, split, i) and on nothing else: not on the batch size, the
host, the process, the thread, or what was asked for before. `crops_per_rir` consecutive examples
share one room, array and set of room responses (their group) and differ in speech, noise, levels
and dropouts. A stream therefore resumes by its step alone and has no state to save.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard, cast

import numba
import numpy as np

from spatial_core.data.budget import BadRecords, DataBudgetError
from spatial_core.data.groups import MAX_ATTEMPTS, Groups, GroupSource, SimulatedGroups
from spatial_core.data.prefetch import iterate_steps
from spatial_core.data.records import WINDOW, Batch, concatenate, empty_batch, find_bad_examples
from spatial_core.data.seeds import generator
from spatial_core.data.sources import (
    NoiseSource,
    SourceSpec,
    Spec,
    SpeechSource,
    noise_source,
    speech_source,
)
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import PyroomSimulator, RirSimulator
from spatial_core.sim.scene import SceneConfig, vary_scene
from spatial_core.sim.synthesis import synthesize_batch


def _jax_simulator() -> RirSimulator:
    # Imported here: making or reading a batch does not need jax otherwise.
    from spatial_core.sim.jax_engine import JaxSimulator

    return JaxSimulator()


# Streams divide their work among threads themselves.
SIMULATORS: dict[str, Callable[[], RirSimulator]] = {
    "fast": lambda: FastSimulator(threads=1),
    "jax": _jax_simulator,
    "pyroomacoustics": PyroomSimulator,
}


@dataclass(frozen=True)
class _Parts:
    """What a stream opens at its first batch; no noise where scenes have no distractor."""

    scene: SceneConfig
    groups: GroupSource
    speech: SpeechSource
    noise: NoiseSource | None


@dataclass(frozen=True, kw_only=True)
class CropStream(abc.ABC):
    """What streams have in common, wherever their groups come from.

    speech, noise: a source, or what `speech_source` and `noise_source` build one from (with the
    stream's split). batch_size: examples of the global batch. crops_per_rir: consecutive examples
    that share a room. split: separates the seeds, so that an evaluation set never repeats a
    training room. max_mics: microphones that batches are padded to. max_bad_records: examples or
    room responses that may be bad, and are replaced, before the stream stops with DataBudgetError.
    threads: threads that work for the stream; None for one per processor, at most 16.
    cache_dir: where big folders of speech and noise are kept decoded.
    """

    speech: SpeechSource | Spec = "embedded"
    noise: NoiseSource | Spec = "embedded"
    batch_size: int = 512
    seed: int = 0
    split: str = "train"
    crops_per_rir: int = 4
    max_mics: int = 8
    max_bad_records: int = 100
    threads: int | None = None
    cache_dir: str | None = None
    _bad: BadRecords = field(init=False, repr=False, compare=False)
    _parts: list[_Parts] = field(init=False, repr=False, compare=False, default_factory=list)
    _lock: threading.Lock = field(
        init=False, repr=False, compare=False, default_factory=threading.Lock
    )

    def __post_init__(self) -> None:
        generator(self.seed, self.split, "crop", 0)  # refuses an impossible seed or split now
        for name in ("batch_size", "crops_per_rir", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give 1 or more")
        object.__setattr__(self, "_bad", BadRecords(self.max_bad_records))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each field of a global batch."""
        batch = empty_batch(self.batch_size, self.max_mics)
        return {name: value.shape for name, value in batch.items()}

    @property
    def skipped(self) -> int:
        """Bad records replaced so far."""
        return len(self._bad)

    @property
    def bad_records(self) -> dict[str, str]:
        """Key -> reason of every bad record replaced so far."""
        return self._bad.reasons

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> Batch:
        """Host `host`'s contiguous share of the global batch of `step`, `batch_size / hosts` rows.

        The shares of all hosts, one after the other, are the global batch bit for bit.
        """
        start, stop = self._share(step, host, hosts)
        k = self.crops_per_rir
        groups = range(start // k, (stop - 1) // k + 1)
        per_part = -(-len(groups) // self._workers)
        if per_part == len(groups):
            return self.examples(start, stop)
        edges = [start, *(g * k for g in groups[per_part::per_part]), stop]
        with ThreadPoolExecutor(len(edges) - 1) as pool:
            return concatenate(list(pool.map(self.examples, edges, edges[1:])))

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1, prefetch: int = 2
    ) -> Iterator[Batch]:
        """Batches of start_step, start_step + 1, ... without end, prepared ahead in threads.

        prefetch: batches held ready. The iterator has a `close()`.
        """
        self._share(start_step, host, hosts)
        return iterate_steps(
            lambda step: self.examples(*self._share(step, host, hosts)),
            start_step,
            self._workers,
            prefetch,
        )

    @property
    def _workers(self) -> int:
        return self.threads or min(numba.get_num_threads(), 16)

    def _share(self, step: int, host: int, hosts: int) -> tuple[int, int]:
        """Global indices [start, stop) of a host's examples."""
        if not 0 <= host < hosts:
            raise InputError(f"host {host} of {hosts}: hosts are numbered from 0")
        if self.batch_size % hosts:
            raise InputError(
                f"batch_size {self.batch_size} cannot be shared equally by {hosts} hosts"
            )
        if step < 0:
            raise InputError(f"step is {step}: steps are numbered from 0")
        rows = self.batch_size // hosts
        start = step * self.batch_size + host * rows
        return start, start + rows

    def examples(self, start: int, stop: int) -> Batch:
        """The examples of global indices start..stop - 1."""
        parts = self._open()
        first = start // self.crops_per_rir
        groups = parts.groups.groups(range(first, (stop - 1) // self.crops_per_rir + 1))
        indices = np.arange(start, stop)
        rows = indices // self.crops_per_rir - first
        batch, faults = self._crops(parts, groups, indices, rows, attempt=0)
        for i in sorted(faults):
            self._bad.add(self._key(start + i, 0), faults[i])
            good = self._replacement(parts, groups, indices[i : i + 1], rows[i : i + 1])
            for name, value in batch.items():
                value[i] = good[name][0]
        return batch

    def _replacement(
        self, parts: _Parts, groups: Groups, index: np.ndarray, row: np.ndarray
    ) -> Batch:
        """Another crop for the same room, from seeds of its own: the first that is good."""
        for attempt in range(1, MAX_ATTEMPTS):
            batch, faults = self._crops(parts, groups, index, row, attempt)
            if not faults:
                return batch
            self._bad.add(self._key(int(index[0]), attempt), faults[0])
        raise DataBudgetError(
            f"{self._key(int(index[0]), 0)}: {MAX_ATTEMPTS} in a row are bad, the last one because: "
            f"{faults[0]}"
        )

    def _crops(
        self, parts: _Parts, groups: Groups, indices: np.ndarray, rows: np.ndarray, attempt: int
    ) -> tuple[Batch, dict[int, str]]:
        """One crop per index in the room of its row, and what is wrong with any of them."""
        samples = parts.groups.taps - 1 + WINDOW
        speech = np.zeros((len(indices), samples), np.float32)
        noise = np.zeros_like(speech) if groups.noise_rirs is not None else None
        faults: dict[int, str] = {}
        specs = []
        for i, (index, row) in enumerate(zip(indices, rows)):
            rng = generator(self.seed, self.split, "crop", int(index), attempt)
            spec = vary_scene(rng, groups.specs[row], parts.scene)
            specs.append(spec)
            try:
                if spec.speech:
                    speech[i] = _sounding(parts.speech.crop(rng, samples, WINDOW), "speech")
                if spec.distractor and noise is not None and parts.noise is not None:
                    noise[i] = _sounding(parts.noise.crop(rng, samples), "noise")
            except Exception as error:
                faults[i] = f"{type(error).__name__}: {error}"
        batch = synthesize_batch(
            specs,
            groups.rirs,
            speech,
            noise,
            noise_rirs=groups.noise_rirs,
            rir_index=rows,
            example_ids=indices,
            threads=1,
        )
        return batch, {**find_bad_examples(batch), **faults}

    def _key(self, index: int, attempt: int) -> str:
        key = f"example {index} of {self.split}, seed {self.seed}"
        return f"{key}, replacement {attempt}" if attempt else key

    def _open(self) -> _Parts:
        """Sources and groups, built at first use: to configure a stream costs nothing."""
        with self._lock:
            if not self._parts:
                scene, groups = self._open_groups(self._bad)
                speech = (
                    speech_source(self.speech, self.split, self.cache_dir)
                    if _is_spec(self.speech)
                    else cast(SpeechSource, self.speech)
                )
                noise: NoiseSource | None = None
                if scene.distractor:
                    noise = (
                        noise_source(self.noise, self.split, self.cache_dir)
                        if _is_spec(self.noise)
                        else cast(NoiseSource, self.noise)
                    )
                self._parts.append(_Parts(scene, groups, speech, noise))
            return self._parts[0]

    @abc.abstractmethod
    def _open_groups(self, bad: BadRecords) -> tuple[SceneConfig, GroupSource]:
        """What crops are drawn from, and where their rooms come from."""


@dataclass(frozen=True, kw_only=True)
class SceneStream(CropStream):
    """A stream whose rooms are simulated on the fly.

    scene: what scenes are drawn from. array: one device for all scenes instead of the scene's own
    choice: a preset's name, a JSON file or a MicArray; max_mics is then its number. simulator:
    "fast" (for CPUs), "jax" (for accelerators), "pyroomacoustics", or a RirSimulator.
    """

    scene: SceneConfig = field(default_factory=SceneConfig)
    array: MicArray | str | Path | None = None
    simulator: str | RirSimulator = "fast"

    def __post_init__(self) -> None:
        super().__post_init__()
        build_simulator(self.simulator)
        if self.array is not None:
            array = load_array(self.array)
            object.__setattr__(self, "array", array)
            object.__setattr__(self, "scene", replace(self.scene, array=array))
            # One device: nothing to pad, and a batch costs what its microphones cost.
            object.__setattr__(self, "max_mics", array.num_mics)
        if self.scene.padded_mics > self.max_mics:
            raise InputError(
                f"scenes have up to {self.scene.padded_mics} microphones, but the batch has room "
                f"for max_mics = {self.max_mics}: raise max_mics of the stream"
            )

    def _open_groups(self, bad: BadRecords) -> tuple[SceneConfig, GroupSource]:
        simulator = build_simulator(self.simulator)
        groups = SimulatedGroups(self.scene, simulator, self.seed, self.split, self.max_mics, bad)
        return self.scene, groups


def build_simulator(simulator: str | RirSimulator) -> RirSimulator:
    """A simulator by name, or itself."""
    if not isinstance(simulator, str):
        return simulator
    if simulator not in SIMULATORS:
        raise InputError(
            f"simulator {simulator!r} is unknown; choose among {', '.join(SIMULATORS)}"
        )
    return SIMULATORS[simulator]()


def _is_spec(source: object) -> TypeGuard[Spec]:
    return isinstance(source, str | SourceSpec | list | tuple)


def _sounding(crop: np.ndarray, what: str) -> np.ndarray:
    """The crop, if it is finite and its window sounds; ValueError otherwise."""
    if not np.isfinite(crop).all():
        raise ValueError(f"the {what} crop is not finite")
    if not crop[-WINDOW:].any():
        raise ValueError(f"the {what} crop is silent")
    return crop

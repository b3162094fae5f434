# SPDX-License-Identifier: Apache-2.0
"""A stream of raw crops and scenes, from which the train step itself makes the audio.

The host draws what SceneStream draws, example by example, and hands over int16 speech and noise, the
geometry of the rooms and the levels; responses, convolution and mixing are `jax_synthesis` on the device.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from spatial_core.data.budget import DataBudgetError
from spatial_core.data.groups import MAX_ATTEMPTS
from spatial_core.data.pipeline import SceneStream
from spatial_core.data.records import WINDOW, Batch
from spatial_core.data.seeds import generator
from spatial_core.errors import InputError
from spatial_core.sim.images import Geometry
from spatial_core.sim.jax_engine import JaxSimulator, Plan
from spatial_core.sim.jax_synthesis import Levels, pack_levels, pack_scenes
from spatial_core.sim.scene import SceneSpec, sample_scene, vary_scene
from spatial_core.train.partition import path_name
from spatial_core.typing import Array, Float, Int

_FULL_SCALE = 32768.0


class Labels(NamedTuple):
    """What a batch knows besides the audio; see records.py."""

    mic_positions: Float[Array, "e m 3"]
    azimuth: Float[Array, "e"]
    elevation: Float[Array, "e"]
    distance: Float[Array, "e"]


class Raw(NamedTuple):
    """What `jax_synthesis` reads for r rooms of k crops, e = r * k, and the labels.

    No noise where scenes have no distractor.
    """

    rooms: Geometry
    noise_rooms: Geometry | None
    levels: Levels
    speech: Int[Array, "r k s"]
    noise: Int[Array, "r k s"] | None
    labels: Labels


def named(raw: Raw) -> dict[str, Any]:
    """The arrays by name ("rooms/sides/whole"), as a batch."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(raw)
    return {path_name(path): leaf for path, leaf in leaves}


@dataclass(frozen=True, kw_only=True)
class DeviceStream(SceneStream):
    """A SceneStream whose batches are raw (see `Raw`), for OnDeviceTask; otherwise as that.

    simulator: the engine of the device; it works in programs of max_images images, whatever the rooms.
    Example i has the scene, the speech and the distractor of SceneStream's example i; sensor noise is
    another draw. batch_size must be a multiple of crops_per_rir on every host.
    """

    simulator: JaxSimulator = field(default_factory=JaxSimulator)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.simulator, JaxSimulator):
            raise InputError(f"simulator {self.simulator!r}: a DeviceStream needs a JaxSimulator")
        if self.batch_size % self.crops_per_rir:
            raise InputError(
                f"batch_size {self.batch_size} is no multiple of crops_per_rir {self.crops_per_rir}: "
                "rooms are made whole on the device"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array of a global batch."""
        return {name: leaf.shape for name, leaf in named(self.spec(self.batch_size)).items()}

    def spec(self, batch_size: int) -> Raw:
        """Shapes and types of a batch of so many examples, rooms or examples on axis 0."""
        rooms, crops = batch_size // self.crops_per_rir, self.crops_per_rir
        (one, _) = self._example

        def resized(leaf: Any) -> jax.ShapeDtypeStruct:
            first = rooms if leaf.shape[0] == 1 else batch_size
            return jax.ShapeDtypeStruct((first, *leaf.shape[1:]), leaf.dtype)

        # One room of two crops: its arrays tell rooms from examples by their length.
        shapes = jax.tree.map(resized, one)
        dry = jax.ShapeDtypeStruct((rooms, crops, self.samples), np.int16)
        return shapes._replace(speech=dry, noise=None if one.noise is None else dry)

    @property
    def plan(self) -> Plan:
        """The program of the engine, the same for every batch."""
        return self._example[1]

    @property
    def samples(self) -> int:
        """Samples of a dry crop."""
        return self.simulator.taps - 1 + WINDOW

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> Batch:
        """Host `host`'s share of the global batch of `step`, in one thread."""
        return self.examples(*self._share(step, host, hosts))

    def examples(self, start: int, stop: int) -> Batch:
        """The examples of global indices start..stop - 1, whole rooms."""
        crops = self.crops_per_rir
        if start % crops or stop % crops:
            raise InputError(
                f"examples {start} to {stop} are no whole rooms of {crops} crops: choose a batch_size "
                "that every host's share of is a multiple of crops_per_rir"
            )
        parts = self._open()
        scenes = [
            sample_scene(generator(self.seed, self.split, "group", room, 0), parts.scene)
            for room in range(start // crops, stop // crops)
        ]
        noisy = parts.scene.distractor
        dry = np.zeros((2, stop - start, self.samples), np.int16)
        specs = [
            self._draw(start + row, scenes[row // crops], dry[:, row])
            for row in range(stop - start)
        ]
        shaped = dry.reshape(2, len(scenes), crops, -1)
        rooms, noise_rooms, _ = pack_scenes(self.simulator, scenes, self.max_mics)
        raw = Raw(
            rooms=rooms,
            noise_rooms=noise_rooms,
            levels=pack_levels(specs, self.max_mics),
            speech=shaped[0],  # type: ignore[arg-type]
            noise=shaped[1] if noisy else None,  # type: ignore[arg-type]
            labels=_labels(specs, self.max_mics),
        )
        return named(raw)

    def _draw(self, index: int, scene: SceneSpec, out: np.ndarray) -> SceneSpec:
        """One example's levels, and its speech and distractor into out [2, samples] (int16)."""
        parts = self._open()
        for attempt in range(MAX_ATTEMPTS):
            rng = generator(self.seed, self.split, "crop", index, attempt)
            spec = vary_scene(rng, scene, parts.scene)
            try:
                if spec.speech:
                    out[0] = _pcm(parts.speech.crop(rng, self.samples, WINDOW), "speech")
                if spec.distractor and parts.noise is not None:
                    out[1] = _pcm(parts.noise.crop(rng, self.samples), "noise")
                return spec
            except Exception as error:
                self._bad.add(self._key(index, attempt), f"{type(error).__name__}: {error}")
        raise DataBudgetError(f"{self._key(index, 0)}: {MAX_ATTEMPTS} in a row are bad")

    @functools.cached_property
    def _example(self) -> tuple[Raw, Plan]:
        """A batch of one room and two crops, without its sound, and the program."""
        scene = sample_scene(np.random.default_rng(0), self.scene)
        rooms, noise_rooms, plan = pack_scenes(self.simulator, [scene], self.max_mics)
        silent: Any = np.zeros((1, 2, 1), np.int16)
        raw = Raw(
            rooms=rooms,
            noise_rooms=noise_rooms,
            levels=pack_levels([scene] * 2, self.max_mics),
            speech=silent,
            noise=silent if self.scene.distractor else None,
            labels=_labels([scene] * 2, self.max_mics),
        )
        return raw, plan


def _pcm(crop: np.ndarray, what: str) -> np.ndarray:
    """The crop as int16, if it is finite and its window sounds; ValueError otherwise."""
    if not np.isfinite(crop).all():
        raise ValueError(f"the {what} crop is not finite")
    if not crop[-WINDOW:].any():
        raise ValueError(f"the {what} crop is silent")
    return np.clip(np.rint(crop * _FULL_SCALE), -32768, 32767).astype(np.int16)


def _labels(specs: list[SceneSpec], num_mics: int) -> Labels:
    positions = np.zeros((len(specs), num_mics, 3), np.float32)
    for row, spec in enumerate(specs):
        positions[row, : spec.num_mics] = spec.mic_positions()
    values = [spec.labels() for spec in specs]
    angles: list[Any] = [
        np.array([value[name] for value in values], np.float32)
        for name in ("azimuth", "elevation", "distance")
    ]
    return Labels(positions, *angles)  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""CPU time of simulated examples: ours beside pyroomacoustics with scipy, interleaved in one run.

    OMP_NUM_THREADS=1 python benchmarks/simulation.py [--rooms 24] [--rounds 3] [--seed 0]

All rooms follow the default recipe, with 8 microphones and a clean source. pyroomacoustics runs at
order 17 (7,175 images) without its high-pass, once with its octave-band walls, once with one
absorption for all bands (mean of 500 Hz to 2 kHz), which is its fastest form. Ours has 4 bands and
follows the decay of each room, whatever order that takes: by numba, and as JAX programs that an
accelerator would run; in the rows "same images" it sums those 7,175, too. Examples with a window
convolution go through the same synthesis on both sides. A whole utterance is convolved with all
microphones at once by scipy, or one microphone after the other as pyroomacoustics' own
`Room.simulate` does; that is all those rows do, where ours also add noise, set levels and measure
reverberation and the direct sound. One thread on both sides; medians of process CPU time over the
rounds; ratios are of the same round, their median with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from scipy.signal import fftconvolve

from spatial_core.data.records import WINDOW
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.jax_synthesis import pack_levels, pack_scenes, synthesize
from spatial_core.sim.rir import PyroomSimulator
from spatial_core.sim.rooms import RoomSpec
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes, vary_scene
from spatial_core.sim.synthesis import synthesize_batch

MICS = 8
UTTERANCE = 12 * 16000
CROPS = 4


def one_absorption(room: RoomSpec) -> RoomSpec:
    """The room with each wall's mean absorption of 500 Hz to 2 kHz at all frequencies."""
    return RoomSpec(room.dimensions, tuple(room.absorption[:, 2:5].mean(axis=1).tolist()))


class Contest:
    """The same scenes and dry signals for every contestant; each method works through all rooms."""

    def __init__(self, rooms: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.config = SceneConfig(
            min_mics=MICS, max_mics=MICS, distractor=False, speech_dropout=0.0
        )
        self.noisy = SceneConfig(min_mics=MICS, max_mics=MICS)
        self.rng = rng
        self.specs = [sample_scene(rng, self.config) for _ in range(rooms)]
        self.fast = FastSimulator(threads=1)
        self.full = FastSimulator(threads=1, images="full")
        self.same = FastSimulator(threads=1, images="full", max_order=17)
        self.flat = [replace(spec, room=one_absorption(spec.room)) for spec in self.specs]
        self.pyroom = PyroomSimulator(taps=self.fast.taps, max_order=17)
        samples = self.fast.taps - 1 + WINDOW
        self.dry = rng.standard_normal((CROPS * rooms, samples)).astype(np.float32)
        self.jax = {images: JaxSimulator(max_images=images) for images in (1024, 4096)}
        self.program = jax.jit(synthesize, static_argnames="plan")
        self.pcm = np.clip(3000 * self.dry, -32768, 32767).astype(np.int16)
        self.utterance = rng.standard_normal(UTTERANCE).astype(np.float32)

    def rirs(self) -> np.ndarray:
        return simulate_scenes(self.fast, self.specs, MICS)[0]

    def rirs_full(self) -> None:
        simulate_scenes(self.full, self.specs, MICS)

    def rirs_same(self, one_band: bool) -> np.ndarray:
        """The images that pyroomacoustics sums."""
        return simulate_scenes(self.same, self.flat if one_band else self.specs, MICS)[0]

    def rirs_jax(self, images: int) -> None:
        simulate_scenes(self.jax[images], self.specs, MICS)

    def examples_jax(self, images: int, config: SceneConfig, crops: int) -> None:
        """Scene arrays and int16 crops in, windows of audio out, `crops` for each room."""
        scenes = [sample_scene(self.rng, config) for _ in self.specs]
        specs = [vary_scene(self.rng, scene, config) for scene in scenes for _ in range(crops)]
        rooms, noise_rooms, plan = pack_scenes(self.jax[images], scenes, MICS)
        shape = (len(scenes), crops, -1)
        dry = self.pcm[: len(specs)].reshape(shape)
        noise = None if noise_rooms is None else dry
        levels = pack_levels(specs, MICS)
        self.program(rooms, noise_rooms, levels, dry, noise, plan).block_until_ready()

    def _pyroom(self, one_band: bool, convolve: bool) -> None:
        for spec in self.specs:
            room = one_absorption(spec.room) if one_band else spec.room
            rirs = self.pyroom.simulate(room, spec.source, spec.true_positions, 0)
            if convolve:  # the whole utterance, of which a window is cut out
                fftconvolve(self.utterance[None], rirs, axes=1)[:, 90_000 : 90_000 + WINDOW]

    def pyroom_own_example(self) -> None:
        """What `Room.simulate` does: each microphone's signal by a convolution of its own, as float64."""
        for spec in self.flat:
            rirs = self.pyroom.simulate(spec.room, spec.source, spec.true_positions, 0)
            heard = np.zeros((MICS, UTTERANCE + rirs.shape[1] - 1))
            for row, rir in zip(heard, rirs):
                row += fftconvolve(rir, self.utterance)
            heard[:, 90_000 : 90_000 + WINDOW].astype(np.float32)

    def rirs_pyroom(self) -> None:
        self._pyroom(one_band=False, convolve=False)

    def rirs_pyroom_one_band(self) -> None:
        self._pyroom(one_band=True, convolve=False)

    def pyroom_example(self) -> None:
        self._pyroom(one_band=False, convolve=True)

    def pyroom_one_band_example(self) -> None:
        self._pyroom(one_band=True, convolve=True)

    def one_example(self) -> None:
        self._window(self.rirs())

    def same_example(self, one_band: bool) -> None:
        self._window(self.rirs_same(one_band))

    def pyroom_window(self) -> None:
        self._window(simulate_scenes(self.pyroom, self.flat, MICS)[0])

    def _window(self, rirs: np.ndarray) -> None:
        synthesize_batch(self.specs, rirs, self.dry[: len(self.specs)], threads=1)

    def four_examples(self) -> None:
        self._four(self.specs, self.config)

    def sampling_too(self) -> None:
        self._four([sample_scene(self.rng, self.config) for _ in self.specs], self.config)

    def with_distractor(self) -> None:
        self._four([sample_scene(self.rng, self.noisy) for _ in self.specs], self.noisy)

    def _four(self, scenes: list[SceneSpec], config: SceneConfig) -> None:
        rirs, noise_rirs = simulate_scenes(self.fast, scenes, MICS)
        index = np.repeat(np.arange(len(scenes)), CROPS)
        specs = [vary_scene(self.rng, scenes[r], config) for r in index]
        noise = None if noise_rirs is None else self.dry
        synthesize_batch(
            specs, rirs, self.dry, noise, noise_rirs=noise_rirs, rir_index=index, threads=1
        )


# Kind of row -> column -> the row that it is against.
COLUMNS = {
    "RIR set": {
        "against one band": "RIR set: pyroomacoustics, one band",
        "against octave bands": "RIR set: pyroomacoustics, octave bands",
    },
    "example": {
        "against window": "example: pyroomacoustics, one band, window",
        "against whole utterance": "example: pyroomacoustics, one band, whole utterance",
        "against `Room.simulate`": "example: pyroomacoustics, one band, as Room.simulate",
        "and octave bands": "example: pyroomacoustics, octave bands, whole utterance",
    },
}


def contestants(contest: Contest) -> list[tuple[str, Callable[[], object], int]]:
    """Name, work for all rooms, examples of a room."""
    same, jax_, clean = contest.same_example, contest.examples_jax, contest.config
    return [
        ("RIR set: pyroomacoustics, octave bands", contest.rirs_pyroom, 1),
        ("RIR set: pyroomacoustics, one band", contest.rirs_pyroom_one_band, 1),
        ("RIR set: ours, one band, same images", partial(contest.rirs_same, True), 1),
        ("RIR set: ours, four bands, same images", partial(contest.rirs_same, False), 1),
        ("RIR set: ours, every image", contest.rirs_full, 1),
        ("RIR set: ours", contest.rirs, 1),
        ("RIR set: ours in JAX, 1,024 images", partial(contest.rirs_jax, 1024), 1),
        ("RIR set: ours in JAX, 4,096 images", partial(contest.rirs_jax, 4096), 1),
        ("example: pyroomacoustics, octave bands, whole utterance", contest.pyroom_example, 1),
        ("example: pyroomacoustics, one band, whole utterance", contest.pyroom_one_band_example, 1),
        ("example: pyroomacoustics, one band, as Room.simulate", contest.pyroom_own_example, 1),
        ("example: pyroomacoustics, one band, window", contest.pyroom_window, 1),
        ("example: ours, one band, same images, 1 per room", partial(same, True), 1),
        ("example: ours, four bands, same images, 1 per room", partial(same, False), 1),
        ("example: ours, 1 per room", contest.one_example, 1),
        ("example: ours, 4 per room", contest.four_examples, CROPS),
        ("example: ours, 4 per room, drawing the scene included", contest.sampling_too, CROPS),
        ("example: ours, the same with a distractor", contest.with_distractor, CROPS),
        ("example: ours in JAX, 1,024 images, 1 per room", partial(jax_, 1024, clean, 1), 1),
        (
            "example: ours in JAX, 1,024 images, 4 per room",
            partial(jax_, 1024, clean, CROPS),
            CROPS,
        ),
        (
            "example: ours in JAX, 4,096 images, 4 per room",
            partial(jax_, 4096, clean, CROPS),
            CROPS,
        ),
        (
            "example: ours in JAX, the same with a distractor",
            partial(jax_, 4096, contest.noisy, CROPS),
            CROPS,
        ),
    ]


def milliseconds(work: Callable[[], object], rooms: int) -> float:
    """CPU time per room of one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start) / rooms


def main() -> None:
    """Runs the contest and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import pyroomacoustics as pra

    pra.constants.set("num_threads", 1)
    contest = Contest(options.rooms, options.seed)
    rows = contestants(contest)
    for _, work, _ in rows:
        work()
    times = [
        [milliseconds(work, options.rooms) / per for _, work, per in rows]
        for _ in range(options.rounds)
    ]
    print(
        f"{options.rooms} rooms x {options.rounds} rounds, {MICS} microphones, seed {options.seed}\n"
    )
    cost = dict(zip((name for name, _, _ in rows), zip(*times)))
    for kind, columns in COLUMNS.items():
        print("| " + " | ".join([kind, "CPU ms", *columns]) + " |")
        print("|" + "---|" * (2 + len(columns)))
        for name, values in cost.items():
            if name.startswith(kind):
                ratios = [paired_ratio(cost[base], values) for base in columns.values()]
                print("| " + " | ".join([name, f"{statistics.median(values):.2f}", *ratios]) + " |")
        print()


def paired_ratio(base: Sequence[float], values: Sequence[float]) -> str:
    """Median of base / value, round by round, and how far the rounds lie apart."""
    ratios = [one / other for one, other in zip(base, values)]
    middle = f"{statistics.median(ratios):.1f}"
    return middle if base is values else f"{middle} ({min(ratios):.1f} to {max(ratios):.1f})"


if __name__ == "__main__":
    main()

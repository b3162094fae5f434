# SPDX-License-Identifier: Apache-2.0
"""CPU time of simulated examples: ours beside pyroomacoustics with scipy, interleaved in one run.

    OMP_NUM_THREADS=1 python benchmarks/simulation.py [--rooms 24] [--rounds 3] [--seed 0]

All rooms follow the default recipe, with 8 microphones and a clean source. pyroomacoustics runs at
order 17 (7,175 images) without its high-pass, once with its octave-band walls, once with one
absorption for all bands (mean of 500 Hz to 2 kHz), which is its fastest form. Ours has 4 bands and
follows the decay of each room, whatever order that takes. One thread on both sides; medians of
process CPU time over the rounds, and ratios of those.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.signal import fftconvolve

from spatial_core.data.records import WINDOW
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import PyroomSimulator
from spatial_core.sim.rooms import RoomSpec
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes, vary_scene
from spatial_core.sim.synthesis import synthesize_batch

MICS = 8
UTTERANCE = 12 * 16000
CROPS = 4


def grey(room: RoomSpec) -> RoomSpec:
    """The room with each wall's mean absorption of 500 Hz to 2 kHz at all frequencies."""
    return RoomSpec(room.dimensions, tuple(room.absorption[:, 2:5].mean(axis=1).tolist()))


class Contest:
    """The same scenes and dry signals for every contestant; each method makes one room's worth."""

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
        self.pyroom = PyroomSimulator(taps=self.fast.taps, max_order=17)
        samples = self.fast.taps - 1 + WINDOW
        self.dry = rng.standard_normal((CROPS, samples)).astype(np.float32)
        self.utterance = rng.standard_normal(UTTERANCE).astype(np.float32)

    def rirs(self, spec: SceneSpec) -> np.ndarray:
        return simulate_scenes(self.fast, [spec], MICS)[0]

    def rirs_full(self, spec: SceneSpec) -> np.ndarray:
        return simulate_scenes(self.full, [spec], MICS)[0]

    def rirs_pyroom(self, spec: SceneSpec) -> np.ndarray:
        return self.pyroom.simulate(spec.room, spec.source, spec.true_positions, 0)

    def rirs_pyroom_grey(self, spec: SceneSpec) -> np.ndarray:
        return self.pyroom.simulate(grey(spec.room), spec.source, spec.true_positions, 0)

    def one_example(self, spec: SceneSpec) -> None:
        synthesize_batch([spec], self.rirs(spec), self.dry[:1], threads=1)

    def four_examples(self, spec: SceneSpec) -> None:
        specs = [vary_scene(self.rng, spec, self.config) for _ in range(CROPS)]
        index = np.zeros(CROPS, int)
        synthesize_batch(specs, self.rirs(spec), self.dry, rir_index=index, threads=1)

    def sampling_too(self, spec: SceneSpec) -> None:
        self.four_examples(sample_scene(self.rng, self.config))

    def with_distractor(self, spec: SceneSpec) -> None:
        scene = sample_scene(self.rng, self.noisy)
        specs = [vary_scene(self.rng, scene, self.noisy) for _ in range(CROPS)]
        rirs, noise_rirs = simulate_scenes(self.fast, [scene], MICS)
        index = np.zeros(CROPS, int)
        synthesize_batch(
            specs, rirs, self.dry, self.dry, noise_rirs=noise_rirs, rir_index=index, threads=1
        )

    def pyroom_example(self, spec: SceneSpec) -> np.ndarray:
        """What an unhurried generator does: convolve the utterance, cut out the window."""
        rirs = self.rirs_pyroom_grey(spec)
        return fftconvolve(self.utterance[None], rirs, axes=1)[:, 90_000 : 90_000 + WINDOW]

    def pyroom_bands_example(self, spec: SceneSpec) -> np.ndarray:
        rirs = self.rirs_pyroom(spec)
        return fftconvolve(self.utterance[None], rirs, axes=1)[:, 90_000 : 90_000 + WINDOW]


def milliseconds(work: Callable[[SceneSpec], object], specs: list[SceneSpec]) -> float:
    """CPU time per room of one pass over all rooms."""
    start = time.process_time()
    for spec in specs:
        work(spec)
    return 1e3 * (time.process_time() - start) / len(specs)


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
    rows: list[tuple[str, Callable[[SceneSpec], object], int]] = [
        ("RIR set: pyroomacoustics, octave bands", contest.rirs_pyroom, 1),
        ("RIR set: pyroomacoustics, one band", contest.rirs_pyroom_grey, 1),
        ("RIR set: ours, every image", contest.rirs_full, 1),
        ("RIR set: ours", contest.rirs, 1),
        (
            "example: pyroomacoustics, octave bands, whole utterance",
            contest.pyroom_bands_example,
            1,
        ),
        ("example: pyroomacoustics, one band, whole utterance", contest.pyroom_example, 1),
        ("example: ours, 1 per room", contest.one_example, 1),
        ("example: ours, 4 per room", contest.four_examples, CROPS),
        ("example: ours, 4 per room, drawing the scene included", contest.sampling_too, CROPS),
        (
            "example: ours, the same with a distractor from RIRs of its own",
            contest.with_distractor,
            CROPS,
        ),
    ]
    for _, work, _ in rows:
        work(contest.specs[0])
    times = [
        [milliseconds(work, contest.specs) / per for _, work, per in rows]
        for _ in range(options.rounds)
    ]
    medians = [statistics.median(column) for column in zip(*times)]
    print(
        f"{options.rooms} rooms x {options.rounds} rounds, {MICS} microphones, seed {options.seed}\n"
    )
    print("| | CPU ms | against one band | against octave bands |")
    print("|---|---|---|---|")
    for n, (name, _, _) in enumerate(rows):
        bands, one = (medians[0], medians[1]) if n < 4 else (medians[4], medians[5])
        print(f"| {name} | {medians[n]:.2f} | {one / medians[n]:.1f} | {bands / medians[n]:.1f} |")


if __name__ == "__main__":
    main()

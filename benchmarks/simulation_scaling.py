# SPDX-License-Identifier: Apache-2.0
"""Cost and memory of the JAX simulation over microphones, rooms in a batch and images, on any device.

    python benchmarks/simulation_scaling.py [--images 4096] [--rooms 64] [--plot scaling.png]

One program makes windows of audio from int16 speech and scene arrays that lie on the device: RIRs,
four crops for each room, mixing. Time is that of the process's CPUs on a CPU and wall time elsewhere,
medians of --rounds runs. Memory is what the compiled program asks for besides its arguments.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import jax
import numpy as np

from spatial_core.data.records import WINDOW
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.jax_synthesis import pack_levels, pack_scenes, synthesize
from spatial_core.sim.scene import SceneConfig, sample_scene, vary_scene
from spatial_core.viz import style

CROPS = 4


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one program run."""

    seconds: float
    memory: int


def measure(images: int, mics: int, rooms: int, rounds: int) -> Cost:
    """One batch of rooms x CROPS examples."""
    rng = np.random.default_rng(0)
    simulator = JaxSimulator(max_images=images)
    config = SceneConfig(min_mics=mics, max_mics=mics, distractor=False, array_diameter=(0.15, 0.3))
    scenes = [sample_scene(rng, config) for _ in range(rooms)]
    specs = [vary_scene(rng, scene, config) for scene in scenes for _ in range(CROPS)]
    samples = simulator.taps - 1 + WINDOW
    speech = (3000 * rng.standard_normal((rooms, CROPS, samples))).astype(np.int16)
    geometry, _, plan = pack_scenes(simulator, scenes, mics)
    arguments = jax.device_put((geometry, None, pack_levels(specs, mics), speech, None))
    program = jax.jit(synthesize, static_argnames="plan").lower(*arguments, plan=plan).compile()
    program(*arguments).block_until_ready()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    seconds = []
    for _ in range(rounds):
        start = clock()
        program(*arguments).block_until_ready()
        seconds.append(clock() - start)
    analysis = program.memory_analysis()
    used = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return Cost(statistics.median(seconds), used)


def plot(path: str, curves: dict[str, dict[int, Cost]], rooms: int, mics: int) -> None:
    """Milliseconds per room over microphones, and per batch over rooms, with the straight lines."""
    labels = {
        "microphones": (f"microphones ({rooms} rooms)", "ms"),
        "rooms": (f"rooms in a batch ({mics} microphones)", "ms"),
    }
    with style.figure(path, 8.0, 3.2) as fig:
        for axis, (name, costs) in zip(fig.subplots(1, 2), curves.items()):
            x = np.array(list(costs))
            y = 1e3 * np.array([cost.seconds for cost in costs.values()])
            slope, offset = np.polyfit(x, y, 1)
            axis.plot(x, slope * x + offset, color=style.MUTED, label=f"{slope:.2f} ms each")
            axis.plot(x, y, "o", color=style.PALETTE[0])
            axis.set(xlabel=labels[name][0], ylabel="time of a batch (ms)", ylim=(0, None))
            axis.set_title(f"Cost over {name}")
            axis.legend(loc="upper left")


def main() -> None:
    """Measures, prints a Markdown table, and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument("--mics", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", default="")
    options = parser.parse_args()
    rows = [("microphones", m) for m in (2, 4, 8, 16, 32)]
    rows += [("rooms", options.rooms * n // 4) for n in (1, 2, 4, 8)]
    rows += [("images", n) for n in (1024, 2048, 4096, 8192)]
    curves: dict[str, dict[int, Cost]] = {"microphones": {}, "rooms": {}, "images": {}}
    device = jax.devices()[0]
    print(
        f"{device.device_kind}: {options.rooms} rooms of {CROPS} crops, {options.mics} microphones,"
    )
    print(f"{options.images:,} images unless it says otherwise\n")
    print("| | ms | examples/s | memory (MB) |\n|---|---|---|---|")
    for name, value in rows:
        given = {"images": options.images, "microphones": options.mics, "rooms": options.rooms}
        given[name] = value
        cost = measure(given["images"], given["microphones"], given["rooms"], options.rounds)
        curves[name][value] = cost
        rate = given["rooms"] * CROPS / cost.seconds
        print(
            f"| {value:,} {name} | {1e3 * cost.seconds:.1f} | {rate:.0f} | {cost.memory / 1e6:.0f} |",
            flush=True,
        )
    if options.plot:
        del curves["images"]
        plot(options.plot, curves, options.rooms, options.mics)


if __name__ == "__main__":
    main()

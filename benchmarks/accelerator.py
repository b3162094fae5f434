# SPDX-License-Identifier: Apache-2.0
"""One accelerator: examples per second, training steps per second, what data costs of a step, rooflines.

    python benchmarks/accelerator.py --out=runs/accelerator            # a GPU: some minutes
    python benchmarks/accelerator.py --out=/tmp/try --batch=8 --images=512 --size=s --rounds=2  # a CPU

Writes OUT/accelerator.json and .md after every section, so that a run cut short leaves what it has; no
section begins after --budget seconds. Times are medians of wall time over --rounds runs after one that
compiles. Model FLOP of a training step are three times those of the forward pass's matrix products, MFU
their rate over the device's bfloat16 peak as published (as measured here where that is not known).
Examples have 8 microphones and a distractor unless it says otherwise, four crops for each room.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from phasecoder.paper import SIZES
from phasecoder.task import PhaseCoderTask
from spatial_core.data.device import DeviceStream, Raw
from spatial_core.data.pipeline import SceneStream
from spatial_core.sim.jax_engine import JaxSimulator, responses
from spatial_core.sim.jax_synthesis import synthesize
from spatial_core.sim.scene import SceneConfig
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.on_device import OnDeviceTask
from spatial_core.train.program import compile_program

# Dense bfloat16 FLOP/s and bytes/s, from the makers' data sheets.
PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "TPU v5p": (459e12, 2.77e12),
    "TPU v5 lite": (197e12, 0.82e12),
    "TPU v6 lite": (918e12, 1.64e12),
}
CROPS = 4
MICS = 8


def seconds_of(work: Callable[[], Any], rounds: int) -> float:
    """Median wall time of a call whose arrays are waited for; the first one does not count."""
    jax.block_until_ready(work())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_flop(jaxpr: Any) -> float:
    """FLOP of all matrix products of a jaxpr, loops of known length counted as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                total += repeats * product_flop(inner_jaxpr)
    return total


class Bench:
    """The settings, the results so far, and the sections that fill them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = jax.devices()[0]
        self.results: dict[str, Any] = {
            "device": self.device.device_kind,
            "jax": jax.__version__,
            "batch": options.batch,
        }
        self.simulator = JaxSimulator(max_images=options.images)
        self.scene = SceneConfig(min_mics=MICS, max_mics=MICS)
        model = replace(SIZES[options.size], dtype=options.dtype)
        self.task = PhaseCoderTask(model, targets="paper")
        self.flop_peak = self.byte_peak = math.nan

    def stream(self, **changes: Any) -> DeviceStream:
        settings = {
            "scene": self.scene,
            "simulator": self.simulator,
            "batch_size": self.options.batch,
            "crops_per_rir": CROPS,
            "max_mics": MICS,
        }
        return DeviceStream(**{**settings, **changes})

    def peaks(self) -> dict[str, Any]:
        """Rates of a large matrix product and of a copy."""
        side = self.options.side
        left = jnp.ones((side, side), jnp.bfloat16)
        product = jax.jit(lambda a: a @ a)
        flop = 2 * side**3 / seconds_of(lambda: product(left), self.options.rounds)
        words = jnp.ones(side * side, jnp.float32)
        add = jax.jit(lambda a: a + 1)
        rate = 2 * words.nbytes / seconds_of(lambda: add(words), self.options.rounds)
        named = [peak for name, peak in PEAKS.items() if name in self.device.device_kind]
        self.flop_peak, self.byte_peak = named[0] if named else (flop, rate)
        return {
            "measured_bf16_tflops": flop / 1e12,
            "measured_gb_per_s": rate / 1e9,
            "published": bool(named),
            "peak_tflops": self.flop_peak / 1e12,
            "peak_gb_per_s": self.byte_peak / 1e9,
        }

    def simulation(self) -> dict[str, Any]:
        """RIR sets and examples per second for two image counts, with and without a distractor."""
        rows: dict[str, Any] = {}
        for images in sorted({min(1024, self.options.images), self.options.images}, reverse=True):
            simulator = replace(self.simulator, max_images=images)
            for what, scene in (
                ("RIR sets", replace(self.scene, distractor=False)),
                ("clean examples", replace(self.scene, distractor=False)),
                ("examples with a distractor", self.scene),
            ):
                stream = self.stream(scene=scene, simulator=simulator)
                raw = jax.device_put(raw_of(stream))
                count = self.options.batch
                if what == "RIR sets":
                    program = jax.jit(functools.partial(responses, plan=stream.plan))
                    arguments: tuple[Any, ...] = (raw.rooms,)
                    count //= CROPS
                else:
                    program = jax.jit(functools.partial(synthesize, plan=stream.plan))
                    arguments = (raw.rooms, raw.noise_rooms, raw.levels, raw.speech, raw.noise)
                compiled = program.lower(*arguments).compile()
                run = functools.partial(compiled, *arguments)
                seconds = seconds_of(run, self.options.rounds)
                rows[f"{what}, {images:,} images"] = {
                    "ms": 1e3 * seconds,
                    "per_second": count / seconds,
                    **self._roofline(compiled, product_flop_of(program, arguments), seconds),
                }
        return rows

    def _roofline(self, compiled: Any, flop: float, seconds: float) -> dict[str, float]:
        """Memory asked for; rates of products and of results, as shares of the peaks."""
        memory = compiled.memory_analysis()
        moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return {
            "temporary_mb": memory.temp_size_in_bytes / 1e6,
            "product_gflop": flop / 1e9,
            "product_share_of_peak": flop / seconds / self.flop_peak,
            "least_ms_by_products": 1e3 * flop / self.flop_peak,
            "least_ms_by_arguments_and_results": 1e3 * moved / self.byte_peak,
        }

    def training(self) -> dict[str, Any]:
        """The train step on audio that is there, and on raw batches: what the data cost."""
        stream = self.stream()
        inside = OnDeviceTask(self.task, stream)
        raw = stream.batch(0)
        audio = jax.device_get(jax.jit(inside.audio)(raw))
        report: dict[str, Any] = {"model": f"PhaseCoder {self.options.size.upper()}"}
        forward = jax.make_jaxpr(lambda p, b: self.task.loss(p, b, jax.random.key(0), True))
        params = jax.eval_shape(self.task.init, jax.random.key(0))
        flop = 3 * product_flop(forward(params, audio).jaxpr)
        report["parameters"] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        report["gflop_an_example"] = flop / self.options.batch / 1e9
        for name, task, batch in (("audio ready", self.task, audio), ("data inside", inside, raw)):
            seconds, temporary = self._step(task, stream, batch)
            report[name] = {
                "ms": 1e3 * seconds,
                "steps_per_second": 1 / seconds,
                "examples_per_second": self.options.batch / seconds,
                "temporary_mb": temporary / 1e6,
                "mfu": flop / seconds / self.flop_peak,
            }
        report["least_ms_by_products"] = 1e3 * flop / self.flop_peak
        report["share_of_data"] = 1 - report["audio ready"]["ms"] / report["data inside"]["ms"]
        return report

    def _step(self, task: Any, stream: DeviceStream, batch: dict[str, Any]) -> tuple[float, int]:
        """Seconds of a train step, and the bytes that it asks for besides its arguments."""
        program = compile_program(TrainConfig(task=task, data=stream, steps=1000))
        held = {"state": program.init()}
        placed = jax.device_put(batch, program.batch_sharding)
        frozen = program.load_frozen()
        compiled = program.step.lower(held["state"], frozen, placed).compile()

        def step() -> Any:
            held["state"], metrics = compiled(held["state"], frozen, placed)
            return metrics

        seconds = seconds_of(step, self.options.rounds)
        return seconds, compiled.memory_analysis().temp_size_in_bytes

    def host(self) -> dict[str, Any]:
        """Examples per second that one thread of the host draws, and makes without an accelerator."""
        count = min(self.options.batch, 64)
        streams: dict[str, Any] = {
            "raw crops and scenes": self.stream(batch_size=count, threads=1),
            "audio by the fast simulator": SceneStream(
                scene=self.scene, batch_size=count, crops_per_rir=CROPS, max_mics=MICS, threads=1
            ),
        }
        rates = {}
        for name, stream in streams.items():
            stream.batch(0)
            start = time.perf_counter()
            for step in range(1, 1 + self.options.rounds):
                stream.batch(step)
            rates[name] = self.options.rounds * count / (time.perf_counter() - start)
        return rates

    def loop(self) -> dict[str, Any]:
        """Real runs of the training loop: what it says of its speed and of its wait for data."""
        report = {}
        raw = self.stream()
        streams: dict[str, tuple[Any, Any]] = {
            "data inside": (OnDeviceTask(self.task, raw), raw),
            "data by the host": (
                self.task,
                SceneStream(
                    scene=self.scene,
                    batch_size=self.options.batch,
                    crops_per_rir=CROPS,
                    max_mics=MICS,
                ),
            ),
        }
        steps = self.options.steps
        for name, (task, stream) in streams.items():
            config = TrainConfig(
                task=task,
                data=stream,
                steps=steps,
                log_every=max(1, steps // 2),
                checkpoint_every=0,
            )
            with tempfile.TemporaryDirectory() as folder:
                metrics = train(config, folder).metrics
            report[name] = {k: metrics[k] for k in ("examples_per_second", "data_wait")}
        return report


def raw_of(stream: DeviceStream) -> Raw:
    """A batch of the stream, as the synthesis takes it."""
    spec = stream.spec(stream.batch_size)
    batch = stream.batch(0)
    names = OnDeviceTask(PhaseCoderTask(), stream).example_batch(stream.batch_size)
    raw: Raw = jax.tree.unflatten(jax.tree.structure(spec), [batch[name] for name in names])
    return raw


def product_flop_of(program: Any, arguments: tuple[Any, ...]) -> float:
    """FLOP of the matrix products of a program."""
    return product_flop(jax.make_jaxpr(program)(*arguments).jaxpr)


def markdown(results: dict[str, Any]) -> str:
    """The results as nested bullet tables: one section a table, one row a leaf."""
    lines = [f"# {results['device']}, batch {results['batch']}, jax {results['jax']}", ""]
    for name, section in results.items():
        if not isinstance(section, dict):
            continue
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        for path, value in leaves(section):
            shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
            lines.append(f"| {path} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def leaves(tree: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """(path, value) of a nested dict, in order."""
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        place = f"{path}: {name}" if path else name
        found += leaves(value, place) if isinstance(value, dict) else [(place, value)]
    return found


def main() -> None:
    """Runs the sections and writes what they find."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/accelerator")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--size", default="m", choices=sorted(SIZES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--side", type=int, default=8192, help="of the matrix for the peak")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40, help="of the loop's runs")
    parser.add_argument("--budget", type=float, default=420.0)
    parser.add_argument("--sections", default="peaks,training,simulation,host,loop")
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    bench, begin = Bench(options), time.perf_counter()
    for name in options.sections.split(","):
        section, spent = getattr(bench, name), time.perf_counter() - begin
        if spent > options.budget:
            bench.results[name] = {"skipped": f"{spent:.0f} s were spent"}
        else:
            try:
                bench.results[name] = section()
            except Exception as error:  # out of memory, say, must not cost the other sections
                bench.results[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        bench.results["seconds"] = time.perf_counter() - begin
        text = markdown(bench.results)
        (folder / "accelerator.json").write_text(json.dumps(bench.results, indent=1) + "\n")
        (folder / "accelerator.md").write_text(text + "\n")
        print(f"{name}: {json.dumps(bench.results[name])}", flush=True)


if __name__ == "__main__":
    main()

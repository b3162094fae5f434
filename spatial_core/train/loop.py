# SPDX-License-Identifier: Apache-2.0
"""THE training loop: any Task, any DataStream, one or many devices, stoppable at any step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatial_core.errors import InputError
from spatial_core.io import places
from spatial_core.io.writers import (
    GOODPUT,
    ConsoleWriter,
    JsonlWriter,
    TensorBoardWriter,
    format_seconds,
)
from spatial_core.train import distributed, guards, history, partition, workdir
from spatial_core.train.activity import Activity
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.config import TrainConfig
from spatial_core.train.meter import Meter, finite_mean
from spatial_core.train.preempt import StopSignal
from spatial_core.train.profile import ProfileWindow
from spatial_core.train.program import Program, compile_program
from spatial_core.train.state import eval_params
from spatial_core.train.task import SamplingTask, merge_params
from spatial_core.train.watchdog import Watchdog


@dataclass(frozen=True)
class TrainResult:
    """The end of a run. `stopped_by` names the signal when it is to be continued, else None."""

    state: dict[str, Any]
    step: int
    metrics: dict[str, float]
    stopped_by: str | None = None

    @property
    def params(self) -> Any:
        """The parameters to evaluate: the running average where there is one."""
        return eval_params(self.state)


def train(config: TrainConfig, directory: str | Path) -> TrainResult:
    """Trains until `config.steps`, or goes on with the run in `directory`.

    All files are written there (see docs/train.md). The same call after a stop of any kind gives the
    same parameters, bit by bit, as a run that was never stopped. Raises InputError for a directory
    of another experiment or data that does not fit; guards.NonFiniteError past the budget.
    """
    directory = places.place(directory)
    distributed.require_joined()
    activity = Activity()
    with contextlib.ExitStack() as stack:
        # First: a Ctrl-C while the step is compiled would be lost in the compiler's callbacks.
        stop = stack.enter_context(StopSignal())
        stack.enter_context(
            Watchdog(
                activity,
                config.stall_seconds,
                config.compile_seconds,
                jax.process_index(),
                jax.process_count(),
                partial(history.write_stall, directory),
            )
        )
        stack.enter_context(workdir.locked(directory))
        # Before the folder is claimed and anything is compiled: what can never run is refused.
        program = compile_program(config)
        guards.check_batches(config, jax.process_count(), program.mesh.size)
        workdir.claim(directory, config)
        record = stack.enter_context(history.Record(directory))
        console = ConsoleWriter(config.steps) if workdir.is_writer() else None
        run = _Run(config, directory, program, console, activity)
        stack.callback(run.close)
        result = run.train(stop)
        record.finish(result.stopped_by or "done", run.start, result.step, activity.shares())
        return result


def _ready(result: Any) -> float:
    """The time.monotonic at which a result is there; of a step that failed, now."""
    with contextlib.suppress(Exception):  # the loop itself meets it
        jax.block_until_ready(result)
    return time.monotonic()


class _Run:
    """One call of `train`: the state, the open writers and the step that is still in flight."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        program: Program,
        console: ConsoleWriter | None,
        activity: Activity,
    ) -> None:
        self.config, self.program, self.directory = config, program, directory
        self.console, self.activity = console, activity
        self.metadata = workdir.metadata(config)
        self.checkpoints = Checkpoints(directory, config.keep, self.say, self.metadata)
        self.state = self._initial_state()
        self.frozen = program.load_frozen()
        self.start = int(self.state["step"])
        self.profile = ProfileWindow(config.profile, directory / "profile", self.say)
        self.compiled: set[Any] = set()
        self.watcher = ThreadPoolExecutor(1, "step-watcher")
        self.metrics: dict[str, float] = {}
        self.validation_batches: list[dict[str, jax.Array]] | None = None
        self.meter = Meter(config.data.batch_size, config.steps, activity)
        self.skipped = int(self.state["skipped"])
        self.files: list[Any] = []
        if console:
            console.start_at(self.start)
            records = JsonlWriter(directory / "metrics.jsonl", self.start)
            self.metrics = records.latest()
            self.files.append(records)
            self.files.append(TensorBoardWriter(directory / "tensorboard", self.start))

    def say(self, text: str) -> None:
        if self.console:
            self.console.say(text)

    def close(self) -> None:
        with self.activity.doing("checkpoint", "the checkpoint that is being written"):
            self.checkpoints.close()
        self.profile.close()
        self.watcher.shutdown(wait=False)
        for writer in [*self.files, *([self.console] if self.console else [])]:
            writer.close()

    def _initial_state(self) -> dict[str, Any]:
        with self.activity.doing("checkpoint", "the last checkpoint to be read", patient=True):
            self.checkpoints.clean()
            restored = self.checkpoints.restore_latest(self.program.abstract_state)
        if restored is not None:
            self.say(f"resuming from step {int(restored['step'])}")
            return restored
        if self.config.init_from:
            params = workdir.initial_params(self.config.init_from, self.metadata)
            source = self.config.init_from
            name = source if isinstance(source, str) else getattr(source, "__name__", "a function")
            self.say(f"starting from the parameters of {name}")
            with self.activity.doing("compile", "the initial parameters", patient=True):
                return self.program.init_from(params)
        with self.activity.doing("compile", "the initial parameters", patient=True):
            return self.program.init()

    def train(self, stop: StopSignal) -> TrainResult:
        config, step = self.config, self.start
        in_flight: tuple[int, Any, dict[str, np.ndarray]] | None = None
        if step < config.steps:
            self.say("compiling; the first step takes a while")
        with (
            self.activity.doing("other", "what is between two steps"),
            contextlib.closing(self._batches()) as batches,
        ):
            while step < config.steps and not self._stops(stop, step):
                batch = self._next(batches, step + 1, in_flight[1] if in_flight else None)
                metrics = self._step(step + 1, batch)
                step += 1
                # Step n runs on the device while the host reads the metrics of step n - 1.
                if in_flight:
                    self._finish(*in_flight)
                in_flight = (step, metrics, batch)
                if self._is_boundary(step):
                    self._finish(*in_flight)
                    in_flight = None
                    self._at_boundary(step)
            if in_flight:
                self._finish(*in_flight)
        self._save(step, wait=True)
        if step > self.start:
            seconds = format_seconds(sum(self.activity.seconds().values()))
            self.say(f"time {seconds}: {self.activity.describe()}")
        if step < config.steps:
            self.say(f"{stop.name}: saved step {step}; the same command goes on from there")
        return TrainResult(
            self.state, step, self.metrics, stop.name if step < config.steps else None
        )

    def _stops(self, stop: StopSignal, step: int) -> bool:
        """Whether to stop after this step, on which several hosts agree."""
        with self.activity.doing("other", f"the other hosts, whether to go on after step {step}"):
            return stop.requested(step)

    def _next(
        self, batches: Iterator[dict[str, np.ndarray]], step: int, running: Any
    ) -> dict[str, np.ndarray]:
        """The batch of a step; while the step before still runs, waiting for it costs nothing."""
        idle = None if running is None else self.watcher.submit(_ready, running)
        began = time.monotonic()
        with self.activity.doing("data", f"the batch of step {step}", step == self.start + 1):
            batch = next(batches)
        if idle is not None:
            now = time.monotonic()
            busy = (idle.result() if idle.done() else now) - began
            self.activity.move("data", "compute", min(max(busy, 0.0), now - began))
        return batch

    def _step(self, step: int, batch: dict[str, np.ndarray]) -> Any:
        """Starts a step on the devices; its metrics come when it is done."""
        self.profile.begin(step)
        placed = partition.place_batch(batch, self.program.batch_sharding)
        with self._running("step", placed, f"step {step}"), jax.transfer_guard("disallow"):
            with self.profile.marked(step):
                self.state, metrics = self.program.step(self.state, self.frozen, placed)
            if step == self.start + 1:
                jax.block_until_ready(metrics)
        return metrics

    def _running(self, program: str, batch: Any, what: str) -> contextlib.AbstractContextManager:
        """The activity of a program: compiling, when a batch has shapes that it has not seen."""
        key = (program, tuple(leaf.shape for leaf in jax.tree.leaves(batch)))
        if key in self.compiled:
            return self.activity.doing("compute" if program == "step" else "evaluation", what)
        self.compiled.add(key)
        return self.activity.doing("compile", f"{what}, which is compiled", patient=True)

    def _save(self, step: int, wait: bool = False) -> None:
        with self.activity.doing("checkpoint", f"the checkpoint of step {step}"):
            self.checkpoints.save(self.state, wait)

    def _batches(self) -> Generator[dict[str, np.ndarray], None, None]:
        config, hosts = self.config, jax.process_count()
        size = guards.local_batch_size(config.data, hosts, jax.device_count())
        stream = iter(config.data.iterate(self.start, jax.process_index(), hosts))
        try:
            for batch in stream:
                yield guards.check_batch(batch, config.task, size)
            raise InputError("the data stream ended; a training stream has to go on without end")
        finally:
            if hasattr(stream, "close"):
                stream.close()

    def _finish(self, step: int, metrics: Any, batch: dict[str, np.ndarray]) -> None:
        """Reads the metrics of a step: counts, guards, logs."""
        with self.activity.doing("compute", f"the result of step {step}"):
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.activity.step_done()
        self.profile.end(step)
        finite = bool(values.pop("finite"))
        if not finite:
            self._count_bad(step, values, batch)
        self.meter.add(step, values, finite)
        if self.console:
            self.console.advance(step)
        if step % self.config.log_every == 0 or step == self.config.steps:
            means, seconds_left = self.meter.record(step)
            shares = self.activity.shares().items()
            means |= {f"{GOODPUT}{kind}": share for kind, share in shares}
            self.metrics = {**self.metrics, **means, "skipped": float(self.skipped)}
            self._write(step, means)
            if self.console:
                self.console.write(step, means, seconds_left)

    def _write(self, step: int, values: dict[str, float]) -> None:
        for writer in self.files:
            writer.write(step, values)

    def _count_bad(self, step: int, values: dict[str, float], batch: dict[str, np.ndarray]) -> None:
        self.skipped = int(values["skipped"])
        self.say(
            f"step {step}: loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g}; "
            f"skipped ({self.skipped} of at most {self.config.nonfinite_budget})"
        )
        if self.skipped > self.config.nonfinite_budget:
            folder = guards.write_debug_bundle(
                self.directory / "debug" / f"step_{step:08d}-host_{jax.process_index()}",
                step,
                batch,
                values,
                self.state["params"],
            )
            raise guards.NonFiniteError(
                f"{self.skipped} steps were not finite (nonfinite_budget "
                f"{self.config.nonfinite_budget}); the last batch and a report are in {folder}"
            )

    def _is_boundary(self, step: int) -> bool:
        config = self.config
        every = (config.checkpoint_every, config.eval_every)
        return step == config.steps or any(n and step % n == 0 for n in every)

    def _at_boundary(self, step: int) -> None:
        config = self.config
        last = step == config.steps
        if config.checkpoint_every and step % config.checkpoint_every == 0:
            self._save(step)
        due = last or (config.eval_every and step % config.eval_every == 0)
        if config.validation is not None and due:
            with self.activity.doing("evaluation", f"the validation of step {step}"):
                self._validate(step)

    def _validate(self, step: int) -> None:
        params = eval_params(self.state)
        launched, reports = [], []
        for index, batch in enumerate(self._validation_batches()):
            with self._running("evaluate", batch, f"validation batch {index} of step {step}"):
                launched.append(self.program.evaluate(params, self.frozen, batch))
        for index, report in enumerate(launched):
            with self.activity.doing("evaluation", f"validation batch {index} of step {step}"):
                reports.append(jax.device_get(report))
        values = {name: finite_mean([float(r[name]) for r in reports]) for name in reports[0]}
        named = {f"validation/{name}": value for name, value in values.items()}
        self.metrics = {**self.metrics, **named}
        self._write(step, named)
        self.say(
            f"step {step}  validation: " + "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        )
        # A program of its own, which one of several processes could not run alone.
        if isinstance(self.config.task, SamplingTask) and jax.process_count() == 1:
            whole = merge_params(params, self.frozen)
            with self.activity.doing("evaluation", f"the samples of step {step}", patient=True):
                for line in self.config.task.samples(whole, self._validation_batches()[0]):
                    self.say(f"  {line}")
        if self.config.best_metric:
            self._keep_best(step, values)

    def _validation_batches(self) -> list[dict[str, jax.Array]]:
        """Made once and kept: the same batches at every validation."""
        if self.validation_batches is None:
            config, host, hosts = self.config, jax.process_index(), jax.process_count()
            data = config.validation
            assert data is not None
            size = guards.local_batch_size(data, hosts, jax.device_count())
            self.validation_batches = []
            for index in range(config.validation_batches):
                with self.activity.doing("evaluation", f"validation batch {index}", patient=True):
                    drawn = data.batch(index, host, hosts)
                batch = guards.check_batch(drawn, config.task, size)
                placed = partition.place_batch(batch, self.program.batch_sharding)
                self.validation_batches.append(placed)
        return self.validation_batches

    def _keep_best(self, step: int, values: dict[str, float]) -> None:
        metric = str(self.config.best_metric)
        if metric not in values:
            raise InputError(f"best_metric {metric!r} is not among the metrics {sorted(values)}")
        best = self.checkpoints.best()
        sign = 1 if self.config.best_mode == "min" else -1
        if best is None or sign * values[metric] < sign * best["value"]:
            self._save(step)
            with self.activity.doing("checkpoint", f"the checkpoint of step {step}"):
                self.checkpoints.mark_best(step, metric, values[metric])

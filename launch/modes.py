# SPDX-License-Identifier: Apache-2.0
"""The run modes. Each builds its objects from the parsed gin settings and returns an exit code.

A mode imports what it runs when it runs, so that --help and a mistyped name answer at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import previews
from spatial_core.config import gin_setup
from spatial_core.errors import InputError
from spatial_core.train.watchdog import EXIT_STALLED as EXIT_STALLED

EXIT_INPUT, EXIT_NONFINITE, EXIT_DATA, EXIT_TERMINATED, EXIT_INTERRUPTED = 2, 3, 4, 75, 130
SIGNALS = {signal.SIGTERM: EXIT_TERMINATED, signal.SIGINT: EXIT_INTERRUPTED}


@dataclass(frozen=True)
class Mode:
    """A run mode.

    help: what it does in a few words. run: does it in a workdir. preview: what --dry_run prints,
    for a workdir and the name of the experiment. needs: configurables of which one must have
    settings. example: a shipped file that has them. also: further configurables that it builds.
    on_beam: whether it writes shards, which a pipeline or several processes can make (`run` then takes
    engine=). shared: whether several processes can share it (`run` then takes share=).
    """

    help: str
    run: Callable[..., int]
    preview: Callable[[Path, str], str]
    needs: tuple[str, ...]
    example: str
    also: tuple[str, ...] = ()
    on_beam: bool = False
    shared: bool = False

    @property
    def roots(self) -> tuple[str, ...]:
        """What it builds."""
        return (*self.needs, *self.also)


def _train(workdir: Path) -> int:
    from spatial_core.train.loop import train

    config = gin_setup.build("TrainConfig")
    _say(f"training in {workdir}; the same command resumes it")
    result = train(config, workdir)
    if result.stopped_by is None:
        _say(f"done: step {result.step}; metrics in {workdir / 'metrics.jsonl'}")
    return _exit_code(result)


def _precompile(workdir: Path) -> int:
    import jax

    target = gin_setup.settings("precompile")["target"]
    if target != "here":
        # The TPU compiler's package would make jax look for a TPU here.
        jax.config.update("jax_platforms", "cpu")
    _say(f"compiling the training step for {target}: a minute or more")
    report = gin_setup.build("precompile", config=gin_setup.build("TrainConfig")).text()
    print(report)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / f"{target}.txt").write_text(report + "\n", encoding="utf-8")
    return 0


def _evaluate(workdir: Path, **share: Any) -> int:
    report = gin_setup.build("EvalConfig").run(workdir, **share)
    print(report.to_markdown())
    _say(f"report and figures in {workdir}")
    return 0


def _inspect(workdir: Path) -> int:
    from launch.inspect import inspect

    return inspect(workdir, _say)


def _generate(workdir: Path, **engine: Any) -> int:
    from spatial_core.data.bank import generate_bank

    _say(f"making a bank in {workdir}; the same command finishes it")
    try:
        generate_bank(gin_setup.build("BankConfig"), workdir, progress=_say, **engine)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def beam_engine(options: Sequence[str]) -> Any:
    """What makes shards in an Apache Beam pipeline with these flags of its own."""
    try:
        from spatial_core.data import on_beam
    except ImportError as error:
        raise InputError(
            f"--engine=beam needs Apache Beam ({error}): install spatial-audio-stack[beam]"
        ) from error
    return on_beam.engine(options)


def shared_engine(workdir: Path) -> Any:
    """What makes this process's share of the shards in a run of several processes, all of which reach the folder."""
    import jax

    from spatial_core.data import on_hosts
    from spatial_core.train import distributed

    return on_hosts.engine(jax.process_index(), jax.process_count(), distributed.meet_in(workdir))


def in_share(run: Callable[..., int], exchange: Path, workdir: Path) -> int:
    """Runs this process's share of an evaluation of several; answers are handed over in `exchange`."""
    import jax

    from spatial_core.eval.sharing import HandedOver, Share
    from spatial_core.train import distributed

    run_name = distributed.meet_in(exchange)
    share = Share(jax.process_index(), jax.process_count(), exchange, run_name)
    try:
        return run(workdir, share=share)
    except HandedOver as done:
        _say(str(done))
        return 0


def _export_tokens(workdir: Path, **engine: Any) -> int:
    from llm_bridge.tokens.export import export_tokens

    _say(f"exporting tokens to {workdir}; the same command finishes it")
    try:
        export_tokens(gin_setup.build("ExportConfig"), workdir, progress=_say, **engine)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _export_scenes(workdir: Path, **engine: Any) -> int:
    from sciphi.scene_set import export_scenes

    _say(f"writing scenes to {workdir}; the same command finishes it")
    try:
        export_scenes(gin_setup.build("SceneSetConfig"), workdir, progress=_say, **engine)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _evaluate_bridge(workdir: Path, **share: Any) -> int:
    report = gin_setup.build("BridgeEvalConfig").run(workdir, say=_say, **share)
    print(report.glance())
    _say(f"report, answers and figures in {workdir}")
    return 0


def _evaluate_scenes(workdir: Path, **share: Any) -> int:
    report = gin_setup.build("SceneEvalConfig").run(workdir, say=_say, **share)
    print(report.glance())
    _say(f"report, answers and figures in {workdir}")
    return 0


def _evaluate_seld(workdir: Path, **share: Any) -> int:
    report = gin_setup.build("SeldEvalConfig").run(workdir, say=_say, **share)
    print(report.glance())
    _say(f"report in {workdir}")
    return 0


def _quickstart(workdir: Path) -> int:
    from phasecoder.quickstart import run_quickstart

    config = gin_setup.build("QuickstartConfig")
    _say(f"quickstart in {workdir}; the same command goes on with it")
    return _exit_code(run_quickstart(config, workdir))


def _release(workdir: Path) -> int:
    folder = gin_setup.build("ReleaseConfig").build(workdir)
    _say(f"released: {folder}")
    return 0


def _exit_code(result: Any) -> int:
    if result.stopped_by is None:
        return 0
    return EXIT_INTERRUPTED if result.stopped_by == "SIGINT" else EXIT_TERMINATED


def _say(line: str) -> None:
    print(line, flush=True)


# A new run mode is an entry here, with its configurables in launch/configurables.py.
MODES: dict[str, Mode] = {
    "train": Mode(
        "train a model, or go on with a run",
        _train,
        previews.train,
        ("TrainConfig",),
        "experiments/quickstart.gin",
    ),
    "precompile": Mode(
        "say whether the training step fits a machine that is not here (--target)",
        _precompile,
        previews.precompile,
        ("TrainConfig",),
        "experiments/quickstart.gin",
        also=("precompile",),
    ),
    "eval": Mode(
        "score models and baselines on the same clips",
        _evaluate,
        previews.evaluate,
        ("EvalConfig",),
        "runs/eval.gin",
        shared=True,
    ),
    "inspect": Mode(
        "settings, parameters, shards and a batch of a training to look at; the scenes of a bank",
        _inspect,
        previews.inspect,
        ("TrainConfig", "BankConfig"),
        "experiments/quickstart.gin",
        also=("inspect_scenes", "inspect_training"),
    ),
    "generate": Mode(
        "make a bank of room responses, or finish one",
        _generate,
        previews.generate,
        ("BankConfig",),
        "experiments/rir_bank.gin",
        on_beam=True,
    ),
    "export_tokens": Mode(
        "write the spatial tokens of conversations or recordings, for a language model",
        _export_tokens,
        previews.export_tokens,
        ("ExportConfig",),
        "experiments/export_tokens.gin",
        on_beam=True,
    ),
    "export_scenes": Mode(
        "write simulated Ambisonic scenes with their truths",
        _export_scenes,
        previews.export_scenes,
        ("SceneSetConfig",),
        "experiments/sciphi_scenes.gin",
        on_beam=True,
    ),
    "eval_bridge": Mode(
        "score a language model with spatial tokens, its controls and baselines",
        _evaluate_bridge,
        previews.evaluate_bridge,
        ("BridgeEvalConfig",),
        "runs/eval_bridge.gin",
        shared=True,
    ),
    "eval_scenes": Mode(
        "score a model's descriptions of scenes, its controls and chance",
        _evaluate_scenes,
        previews.evaluate_scenes,
        ("SceneEvalConfig",),
        "runs/eval_scenes.gin",
        shared=True,
    ),
    "eval_seld": Mode(
        "score a spatial encoder: what sounds where in scenes",
        _evaluate_seld,
        previews.evaluate_seld,
        ("SeldEvalConfig",),
        "runs/eval_seld.gin",
        shared=True,
    ),
    "release": Mode(
        "calibrate and measure a run, write its checkpoint",
        _release,
        previews.release,
        ("ReleaseConfig",),
        "runs/release.gin",
    ),
    "quickstart": Mode(
        "simulate, train, compare, localise, report",
        _quickstart,
        previews.quickstart,
        ("QuickstartConfig",),
        "experiments/quickstart.gin",
    ),
}
# Modes that write to gs:// as they go, and those whose files are copied there when they are done.
IN_BUCKETS = ("train", "precompile")
BY_SEVERAL = ("train", *(name for name, mode in MODES.items() if mode.on_beam or mode.shared))
COPIED_TO_BUCKETS = ("eval", "inspect", "eval_bridge", "eval_scenes", "eval_seld")
ROOTS = sorted({root for mode in MODES.values() for root in mode.roots})

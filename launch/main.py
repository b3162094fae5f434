# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and inspects: one command for every run mode.

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin

An experiment is a .gin file (shipped ones are named as in the gin/ folder, yours by path). Any
setting of it can be overridden on the command line:

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin \\
        --gin.TrainConfig.steps=200 --gin.OptimizerConfig.peak_lr=1e-3 --workdir=runs/short

See what a run would be (resolved config, parameters, shards, shapes, memory) without running it:

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin --dry_run

Stop a run with Ctrl-C or SIGTERM and give the same command again: it goes on where it was.
Exit codes: 0 done, 2 the input cannot be used, 3 too many non-finite steps, 75 stopped by SIGTERM,
130 stopped by Ctrl-C; after 75 and 130 the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from launch import configurables
from spatial_core.config import gin_setup
from spatial_core.config.paths import config_files
from spatial_core.errors import InputError
from spatial_core.train import distributed
from spatial_core.train.dry_run import dry_run
from spatial_core.train.guards import NonFiniteError
from spatial_core.train.loop import train

EXIT_INPUT, EXIT_NONFINITE, EXIT_TERMINATED, EXIT_INTERRUPTED = 2, 3, 75, 130


@dataclass(frozen=True)
class Mode:
    """A run mode: the configurable that gin builds for it, and what is done with it."""

    root: str
    run: Callable[[str, Path], int]
    help: str


def _train(root: str, workdir: Path) -> int:
    config = gin_setup.build(root)
    print(f"training in {workdir}; the same command resumes it", flush=True)
    try:
        result = train(config, workdir)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NONFINITE
    if result.stopped_by is None:
        print(f"done: step {result.step}; metrics in {workdir / 'metrics.jsonl'}")
        return 0
    return EXIT_INTERRUPTED if result.stopped_by == "SIGINT" else EXIT_TERMINATED


# A new run mode is one line here, with its configurables in launch/configurables.py.
MODES: dict[str, Mode] = {
    "train": Mode("TrainConfig", _train, "train a model, or go on with a run"),
}

_RUN_MODE = flags.DEFINE_enum(
    "run_mode",
    "train",
    list(MODES),
    "What to do: " + "; ".join(f"{name}: {mode.help}" for name, mode in MODES.items()) + ".",
)
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "Experiment file, shipped (experiments/quickstart.gin) or your own; repeatable."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for everything that is written; default: runs/NAME-OF-THE-GIN-FILE."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what the run would be, and stop.")
_COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "Folder that keeps compiled programs between starts (also: JAX_COMPILATION_CACHE_DIR).",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for a run over several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes share the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def run(bindings: list[str]) -> int:
    """Runs the mode that the parsed flags name; returns the exit code."""
    if not _GIN_FILE.value:
        shipped = ", ".join(config_files())
        raise InputError(f"give --gin_file=EXPERIMENT. Shipped: {shipped}")
    distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _COMPILE_CACHE.value:
        distributed.enable_compile_cache(_COMPILE_CACHE.value)
    configurables.register_all()
    mode = MODES[_RUN_MODE.value]
    gin_setup.parse(_GIN_FILE.value, bindings, roots=[each.root for each in MODES.values()])
    if _DRY_RUN.value:
        print(_describe(mode))
        return 0
    return mode.run(mode.root, _workdir())


def _describe(mode: Mode) -> str:
    if mode.root == "TrainConfig":
        return dry_run(gin_setup.build(mode.root))
    return gin_setup.bound_config()


def _workdir() -> Path:
    if _WORKDIR.value:
        return Path(_WORKDIR.value)
    name = Path(_GIN_FILE.value[-1]).stem
    return Path("runs") / (name if _RUN_MODE.value == "train" else f"{name}-{_RUN_MODE.value}")


def _guarded(function: Callable[..., int], *args: Any) -> int:
    try:
        return function(*args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT


def main() -> None:
    """Entry point: takes --gin.X=Y out of the command line, absl parses the rest."""
    try:
        rest, bindings = gin_setup.split_argv(sys.argv)
    except InputError as error:
        sys.exit(f"error: {error}")
    app.run(lambda argv: _main(argv, bindings), argv=rest)


def _main(argv: list[str], bindings: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if argv[1:]:
        print(f"error: unexpected {' '.join(argv[1:])!r}; see --help", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    sys.exit(_guarded(run, bindings))


if __name__ == "__main__":
    main()

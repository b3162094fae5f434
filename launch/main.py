# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and inspects: one command for every run mode.

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin

An experiment is a .gin file (shipped ones are named as in the gin/ folder, yours by path). Any
setting of it can be overridden on the command line:

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin \\
        --gin.TrainConfig.steps=200 --gin.OptimizerConfig.peak_lr=1e-3 --workdir=runs/short

See what a run would be (a summary, then all settings; of a training also shapes and memory) without
running it:

    python -m launch.main --run_mode=train --gin_file=experiments/quickstart.gin --dry_run

Stop a run with Ctrl-C or SIGTERM and give the same command again: it goes on where it was.

Exit codes: 0 done, 2 the input cannot be used, 3 too many non-finite steps, 4 too many bad records
in the data, 75 stopped by SIGTERM, 76 stood still or lost another host, 130 stopped by Ctrl-C; after 75,
76 and 130 the same command goes on.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from absl import app, flags, logging

from launch import configurables
from launch.modes import (
    BY_SEVERAL,
    COPIED_TO_BUCKETS,
    EXIT_DATA,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_NONFINITE,
    EXIT_STALLED,
    IN_BUCKETS,
    MODES,
    ROOTS,
    SIGNALS,
    Mode,
    beam_engine,
    in_share,
    shared_engine,
)
from spatial_core.config import gin_setup
from spatial_core.config.bindings import near
from spatial_core.config.names import (
    check_mistyped_macros,
    check_names,
    parameters_in_sources,
)
from spatial_core.config.paths import config_files
from spatial_core.errors import InputError
from spatial_core.io import places
from spatial_core.train.watchdog import HEARTBEAT_SECONDS

_RUN_MODE = flags.DEFINE_string(
    "run_mode",
    "train",
    "What to do: " + "; ".join(f"{name}: {mode.help}" for name, mode in MODES.items()) + ".",
)
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file",
    [],
    "Experiment file, shipped (experiments/quickstart.gin) or your own; a later one overrides.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything that is written, also gs://...; default: runs/NAME-OF-THE-GIN-FILE.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what the run would be, and stop.")
_ENGINE = flags.DEFINE_enum(
    "engine",
    "here",
    ["here", "beam"],
    "Who makes shards (generate, export_tokens, export_scenes): this process, or an Apache Beam "
    "pipeline, whose own flags come last, after --.",
)
_TARGET = flags.DEFINE_string(
    "target", None, "Machine of --run_mode=precompile, such as v5p-8 or h100-80g."
)
_COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "Folder that keeps compiled programs between starts (also: JAX_COMPILATION_CACHE_DIR).",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "On a GPU use only programs that give the same bits in every run, which takes longer. CPUs and TPUs "
    "do without.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for a run over several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes share the run.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds",
    HEARTBEAT_SECONDS,
    "How long a process may be silent before the others take it for dead and end.",
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def main() -> None:
    """Entry point: takes --gin.X=Y out of the command line, absl parses the rest."""
    try:
        rest, bindings = gin_setup.split_argv(sys.argv)
    except InputError as error:
        sys.exit(_fail(error, EXIT_INPUT))
    app.run(lambda argv: sys.exit(_guarded(argv, bindings)), argv=rest, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """What absl leaves of the command line; a mistake is answered as all others are, with code 2."""
    try:
        rest: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_fail(InputError(f"{str(error).strip()}; see --help"), EXIT_INPUT))
    except SystemExit:  # --help, for which absl exits with 1
        sys.exit(0)
    return rest


def run(bindings: list[str], after: Sequence[str] = ()) -> int:
    """Runs the mode that the parsed flags name; returns the exit code.

    after: what stands after -- on the command line, the flags of a Beam pipeline.
    """
    mode = _with_engine(_mode(_RUN_MODE.value), after)
    if _TARGET.value:
        bindings = [*bindings, f"precompile.target = {_TARGET.value!r}"]
    configurables.register_all()
    gin_setup.parse(_GIN_FILE.value, bindings, roots=ROOTS)
    if not any(map(gin_setup.sets, mode.needs)):
        raise InputError(
            f"--run_mode={_RUN_MODE.value} needs settings of {' or '.join(mode.needs)}, and "
            f"{' with '.join(_GIN_FILE.value)} has none: give --gin_file={mode.example}, or set them"
        )
    _set_up_jax()
    if _DRY_RUN.value:
        _show(mode.preview(_workdir(), " with ".join(_GIN_FILE.value)))
        return 0
    return _run_in(_workdir(), _by_several(mode))


def _check_words(bindings: Sequence[str], after: Sequence[str]) -> None:
    """InputError for what can be told from the command line and the settings files alone.

    Before jax and what the settings name is imported, which takes seconds.
    """
    _check_engine(_mode(_RUN_MODE.value), after)
    if not _GIN_FILE.value:
        raise InputError(f"give --gin_file=EXPERIMENT. Shipped: {', '.join(_experiments())}")
    if _TARGET.value and _RUN_MODE.value != "precompile":
        raise InputError("--target is for --run_mode=precompile")
    scan = gin_setup.scan(_GIN_FILE.value, bindings)
    # A program of one's own may have registered more before it called this one.
    own = dict.fromkeys(gin_setup.registered())
    check_names(scan, {**own, **parameters_in_sources(configurables.CONFIGURABLES)})
    check_mistyped_macros(scan)


def _by_several(mode: Mode) -> Mode:
    """The mode, of which each process of several makes a share; refused if it cannot be shared."""
    if not _several():
        return mode
    if mode.shared:
        return replace(mode, run=partial(in_share, mode.run, _workdir()))
    if mode.on_beam and _ENGINE.value == "here":
        return replace(mode, run=partial(mode.run, engine=shared_engine(_workdir())))
    if _RUN_MODE.value in BY_SEVERAL and not mode.on_beam:
        return mode
    raise InputError(
        f"--run_mode={_RUN_MODE.value} works in one process, and this is one of several: start it on "
        f"one host, without --coordinator (a TPU slice of one host, such as v5p-8). Several share "
        + ", ".join(BY_SEVERAL)
    )


def _check_engine(mode: Mode, after: Sequence[str]) -> None:
    """InputError for an engine that the mode lacks, or words on the command line that are no engine's flags."""
    if _ENGINE.value == "here" and after:
        raise InputError(f"unexpected {' '.join(after)!r}; see --help")
    if _ENGINE.value == "beam" and not mode.on_beam:
        able = ", ".join(name for name, each in MODES.items() if each.on_beam)
        raise InputError(f"--engine=beam is for --run_mode={able}, not {_RUN_MODE.value}")


def _with_engine(mode: Mode, after: Sequence[str]) -> Mode:
    """The mode with the engine of --engine."""
    _check_engine(mode, after)
    if _ENGINE.value == "here":
        return mode
    return replace(mode, run=partial(mode.run, engine=beam_engine(after)))


def _run_in(workdir: Path, mode: Mode) -> int:
    """Runs in a folder, which may be in a bucket; refused before anything is done if it cannot be."""
    name = _RUN_MODE.value
    by_pipeline = _ENGINE.value == "beam" or (_several() and mode.on_beam)
    if name in IN_BUCKETS or by_pipeline or not places.is_remote(workdir):
        return mode.run(workdir)
    if name not in COPIED_TO_BUCKETS:
        raise InputError(
            f"--run_mode={name} cannot write to {workdir}: give a folder of this machine, and copy it "
            "with `gcloud storage cp --recursive`"
            + (", or give --engine=beam" if mode.on_beam else "")
        )
    places.make_folder(workdir)
    with tempfile.TemporaryDirectory() as folder:
        code = mode.run(Path(folder))
        written = any(Path(folder).iterdir())  # of several processes only by the first
        places.copy_files(Path(folder), workdir)
    if written:
        print(f"copied to {workdir}", flush=True)
    return code


def _mode(name: str) -> Mode:
    if name not in MODES:
        raise InputError(
            f"--run_mode={name} is unknown; choose among {', '.join(MODES)}{near(name, MODES)}"
        )
    return MODES[name]


def _set_up_jax() -> None:
    from spatial_core.train import distributed, heap, preempt

    mode = _mode(_RUN_MODE.value)
    if _RUN_MODE.value == "train" and heap.cpu_alone():
        heap.keep_freed_memory()
    if _DETERMINISTIC.value:
        distributed.enable_determinism()
    distributed.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _HEARTBEAT.value,
        # Who has made its share waits for the others when it ends.
        end_seconds=distributed.A_WEEK if mode.on_beam or mode.shared else 300,
        hear_sigterm=_RUN_MODE.value == "train",
    )
    if distributed.several():
        if _RUN_MODE.value != "train":
            preempt.end_together(SIGNALS)
        # absl's list of all extension modules would hide why JAX aborts this process: another is gone.
        faulthandler.disable()
    if _COMPILE_CACHE.value:
        distributed.enable_compile_cache(_COMPILE_CACHE.value)


def _several() -> bool:
    from spatial_core.train import distributed

    return distributed.several()


def _show(text: str) -> None:
    """Prints; a reader who has seen enough (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _experiments() -> list[str]:
    return [name for name in config_files() if name.startswith("experiments/")]


def _workdir() -> Path:
    if _WORKDIR.value:
        return places.place(_WORKDIR.value)
    name, mode = Path(_GIN_FILE.value[0]).stem, _RUN_MODE.value
    return Path("runs") / (name if mode in ("train", name) else f"{name}-{mode}")


def _guarded(argv: list[str], bindings: list[str]) -> int:
    """Runs, and ends at once where other processes would be waited for that wait for this one."""
    try:
        _check_words(bindings, argv[1:])
    except InputError as error:
        return _fail(error, EXIT_INPUT)
    from spatial_core.train import distributed

    try:
        code = _answered(argv, bindings)
    except KeyboardInterrupt:
        distributed.leave(EXIT_INTERRUPTED)
        raise
    except Exception as error:
        lost = distributed.lost_another(error)
        if lost is None:
            if distributed.several():
                traceback.print_exc()
                distributed.leave(1)
            raise
        code = _fail(lost, EXIT_STALLED)
    if code in (EXIT_INPUT, EXIT_NONFINITE, EXIT_DATA, EXIT_STALLED):
        distributed.leave(code)
    return code


def _answered(argv: list[str], bindings: list[str]) -> int:
    """Runs, and turns the errors that a person can act on into one line and an exit code."""
    from spatial_core.data.budget import DataBudgetError
    from spatial_core.train.guards import NonFiniteError

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        return run(bindings, argv[1:])
    except InputError as error:
        return _fail(gin_setup.plain(error), EXIT_INPUT)
    except NonFiniteError as error:
        return _fail(error, EXIT_NONFINITE)
    except DataBudgetError as error:
        return _fail(error, EXIT_DATA)


def _fail(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()

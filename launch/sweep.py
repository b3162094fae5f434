# SPDX-License-Identifier: Apache-2.0
"""Runs one experiment under many settings, each in a folder of its own, and collects a table.

    python -m launch.sweep --gin_file=experiments/quickstart.gin --run_mode=train --workdir=runs/rates \\
        --grid=OptimizerConfig.peak_lr=1e-3,3e-3 --grid=TrainConfig.seed=0,1,2

runs the six combinations one after another; the same command goes on where it was and skips what is
finished. --points=FILE takes a list instead: JSON, [{"TrainConfig.seed": "0"}, ...]. Overrides that all
share are given as to launch.main (--gin.TrainConfig.steps=200), its other flags after a --.

    python -m launch.sweep --workdir=runs/rates --collect --sort_by=validation/loss

writes runs/rates/table.md and table.csv. --launcher=xpk (queued_resources, tpu_vm), with the flags of
that launcher and a --workdir on gs://, prints one command for each run instead; --submit runs them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from absl import flags

from launch import queued_resources, submit, sweep_points, sweep_table, tpu_vm, xpk
from launch.modes import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED, MODES
from launch.submit import Given, Launcher
from launch.sweep_points import Point
from spatial_core.config.bindings import near
from spatial_core.errors import InputError
from spatial_core.io import places

LAUNCHERS: dict[str, Launcher] = {
    "xpk": xpk.LAUNCHER,
    "queued_resources": queued_resources.LAUNCHER,
    "tpu_vm": tpu_vm.LAUNCHER,
}
_LOCAL = "local"
_STOPPED = (EXIT_TERMINATED, EXIT_INTERRUPTED)


def _define(values: flags.FlagValues, launcher: str) -> None:
    many, text = flags.DEFINE_multi_string, flags.DEFINE_string
    text("workdir", None, "Folder of the sweep; every run has one in it.", flag_values=values)
    many("gin_file", [], "As for launch.main; repeat it.", flag_values=values)
    text("run_mode", "train", "As for launch.main.", flag_values=values)
    many("grid", [], "NAME.PARAMETER=VALUE,VALUE,...; all combinations.", flag_values=values)
    text("points", None, "JSON file: a list of {NAME.PARAMETER: VALUE}.", flag_values=values)
    flags.DEFINE_enum("launcher", _LOCAL, [_LOCAL, *LAUNCHERS], "Where.", flag_values=values)
    flags.DEFINE_bool("collect", False, "Write the table of what is there.", flag_values=values)
    text("sort_by", None, "Metric that the table is sorted by, lowest first.", flag_values=values)
    many("metric", [], "Columns of the table; default: all.", flag_values=values)
    if launcher != _LOCAL:
        text("name", None, "Start of the jobs' names (RFC 1035).", flag_values=values)
        submit.define_place_flags(values)
        LAUNCHERS[launcher].define(values)


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    try:
        given = _parse(argv)
        if given is None:
            return 0
        values = given.values
        if not values.workdir:
            raise InputError("give --workdir: the folder of the sweep")
        if values.collect:
            return _collect(places.place(values.workdir), values)
        points = _points(values)
        if values.launcher != _LOCAL:
            return _launch(given, points)
        if places.is_remote(values.workdir):
            raise InputError("--workdir on gs:// goes with --launcher; here give a folder")
        return _run_all(given, points)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT


def _parse(argv: Sequence[str]) -> Given | None:
    """The parsed command line; None after --help. Which flags there are depends on --launcher."""
    chosen = [each.partition("=")[2] for each in argv if each.startswith("--launcher=")]
    launcher = chosen[-1] if chosen and chosen[-1] in LAUNCHERS else _LOCAL
    values = flags.FlagValues()
    _define(values, launcher)
    if any(each in ("--help", "-h", "--helpfull") for each in argv):
        print(f"{str(__doc__).strip()}\n\nflags:\n{values.get_help()}")
        return None
    return submit.parse(argv, values)


def _points(values: flags.FlagValues) -> list[Point]:
    if values.run_mode not in MODES:
        raise InputError(
            f"--run_mode={values.run_mode} is unknown; choose among {', '.join(MODES)}"
            f"{near(values.run_mode, MODES)}"
        )
    if not values.gin_file:
        raise InputError("give --gin_file=EXPERIMENT, as experiments/quickstart.gin")
    if bool(values.grid) == bool(values.points):
        raise InputError("give either --grid=NAME.PARAMETER=VALUE,VALUE (once or more) or --points")
    if values.grid:
        return sweep_points.grid(values.grid)
    return sweep_points.read(Path(values.points))


def _collect(folder: Path, values: flags.FlagValues) -> int:
    table = sweep_table.collect(folder, values.sort_by, values.metric)
    (folder / "table.md").write_text(table.markdown(), encoding="utf-8")
    (folder / "table.csv").write_text(table.csv(), encoding="utf-8")
    print(table.markdown())
    print(f"table.md and table.csv in {folder}")
    return 0


def _launch(given: Given, points: Sequence[Point]) -> int:
    """Prints or submits one job for each point, after all of them were checked."""
    values = given.values
    commands: list[submit.Command] = []
    if not values["name"].value:
        raise InputError("give --name: what the names of the jobs begin with")
    launcher = LAUNCHERS[values.launcher]
    for number, point in enumerate(points):
        workdir = f"{values.workdir.rstrip('/')}/{point.name}"
        job = submit.spec(given, f"{values.name}-{number:03d}", workdir, point.arguments())
        if values.check:
            submit.check_settings(job)
        commands += launcher.plan(job, values).start
    if values.submit:
        folder = places.place(values.workdir)
        places.make_folder(folder)
        sweep_points.remember(folder, _base(given), points)
        return submit.run(commands)
    print("\n\n".join(map(submit.line, commands)))
    print(f"{len(points)} jobs, printed, not run: --submit runs them", file=sys.stderr)
    return 0


def _base(given: Given) -> dict[str, object]:
    """What all runs of a sweep share."""
    values = given.values
    return {
        "run_mode": values.run_mode,
        "gin_files": list(values.gin_file),
        "overrides": list(given.overrides),
    }


def _run_all(given: Given, points: Sequence[Point]) -> int:
    """Runs what is not finished, one after another; 0, or the code of the stop or of the first failure."""
    folder = Path(given.values.workdir)
    places.make_folder(folder)
    sweep_points.remember(folder, _base(given), points)
    failed = 0
    for number, point in enumerate(points, 1):
        what = f"{number}/{len(points)} {point.name}"
        if sweep_points.outcome(folder / point.name) == 0:
            print(f"{what}: finished", flush=True)
            continue
        print(f"{what}: starting", flush=True)
        begin = time.monotonic()
        code, asked = _run_one(_command(given, point, folder / point.name))
        if code in _STOPPED:
            asked = asked or code
        elif code == 0 or not asked:
            sweep_points.finish(folder / point.name, code, time.monotonic() - begin)
            if code:
                print(f"{what}: failed with exit code {code} (docs/runbook.md)", file=sys.stderr)
                failed = failed or code
        if asked:
            print(f"stopped in {what}; the same command goes on", file=sys.stderr)
            return asked
    return failed


def _command(given: Given, point: Point, workdir: Path) -> list[str]:
    values = given.values
    return [
        *(sys.executable, "-m", "launch.main", f"--run_mode={values.run_mode}"),
        *(f"--gin_file={name}" for name in values.gin_file),
        *(f"--gin.{override}" for override in (*given.overrides, *point.arguments())),
        f"--workdir={workdir}",
        *given.arguments,
    ]


def _run_one(command: Sequence[str]) -> tuple[int, int]:
    """Runs a child to its end: its exit code, and the one to stop with (0: go on).

    A SIGTERM goes on to the child; a Ctrl-C reaches it without us. It may have been in its last step.
    """
    child, asked = subprocess.Popen(command), 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = EXIT_TERMINATED
        child.send_signal(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        while True:
            try:
                code = child.wait()
                return code if code >= 0 else 128 - code, asked  # a signal, as a shell counts it
            except KeyboardInterrupt:  # the child got it too, saves and ends
                asked = EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

# SPDX-License-Identifier: Apache-2.0
"""What the launchers share: their flags, printing command lines, and running them on --submit."""

from __future__ import annotations

import importlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from absl import flags

from launch import job
from launch.job import JobSpec
from launch.modes import EXIT_INPUT
from spatial_core.config.bindings import near
from spatial_core.errors import InputError

Command = tuple[str, ...]
ACTIONS = ("start", "watch", "stop")
_EXIT_TOOL = 1
_INSTALL = {
    "xpk": "`pip install xpk`, then `xpk cluster create` or `xpk cluster list` (docs/launch.md)",
    "gcloud": "see https://cloud.google.com/sdk/docs/install",
    "kubectl": "`gcloud components install kubectl gke-gcloud-auth-plugin`",
}


@dataclass(frozen=True)
class Plan:
    """The commands of a job, each a list of arguments: to start it, to look at it, to end it."""

    start: tuple[Command, ...]
    watch: tuple[Command, ...]
    stop: tuple[Command, ...]

    def of(self, action: str) -> tuple[Command, ...]:
        """The commands of one of ACTIONS."""
        found: tuple[Command, ...] = getattr(self, action)
        return found


@dataclass(frozen=True)
class Launcher:
    """A tool that starts jobs.

    about: what --help says first. define: adds the flags that only it has. plan: the commands of a job,
    from the parsed flags.
    """

    about: str
    define: Callable[[flags.FlagValues], None]
    plan: Callable[[JobSpec, flags.FlagValues], Plan]


def define_flags(values: flags.FlagValues) -> None:
    """The flags of a JobSpec, and what to do with it."""
    define_place_flags(values)
    flags.DEFINE_string("name", None, "Name of the job (RFC 1035).", flag_values=values)
    flags.DEFINE_string("workdir", None, "gs://BUCKET/FOLDER of the run.", flag_values=values)
    flags.DEFINE_multi_string("gin_file", [], "As for launch.main; repeat it.", flag_values=values)
    flags.DEFINE_string("run_mode", "train", "As for launch.main.", flag_values=values)
    flags.DEFINE_enum(
        "action", "start", ACTIONS, "What --submit does; printed are all.", flag_values=values
    )


def define_place_flags(values: flags.FlagValues) -> None:
    """The flags that jobs of one sweep have in common: machine, image, account."""
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("tpu", "v5p-8", "TPU slice: v5p-8, v5p-128, v5e-16, v6e-8, ...", flag_values=values)
    number("slices", 1, "How many such slices train together.", flag_values=values)
    text("project", None, "Google Cloud project.", flag_values=values)
    text("zone", None, "Zone of the TPU, as us-east5-a.", flag_values=values)
    text("image", None, "Container image made from launch/Dockerfile.", flag_values=values)
    flags.DEFINE_enum(
        "capacity", "on-demand", job.CAPACITIES, "How it is paid for.", flag_values=values
    )
    text("reservation", "", "Its name, with --capacity=reserved.", flag_values=values)
    number("restarts", 0, "Starts after a stop or a kill, at most.", flag_values=values)
    number("grace_seconds", 120, "From SIGTERM to SIGKILL, at most.", flag_values=values)
    flags.DEFINE_multi_string("env", [], "NAME=VALUE in the container.", flag_values=values)
    flags.DEFINE_bool("submit", False, "Run what would be printed.", flag_values=values)
    flags.DEFINE_bool("check", True, "Check the gin names here first.", flag_values=values)


@dataclass(frozen=True)
class Given:
    """A parsed command line: flags, overrides ('TrainConfig.steps=200'), flags for launch.main."""

    values: flags.FlagValues
    overrides: tuple[str, ...]
    arguments: tuple[str, ...]


def parse(argv: Sequence[str], values: flags.FlagValues) -> Given:
    """Takes apart `[FLAGS] [--gin.X=Y ...] [-- FLAGS OF launch.main]`; InputError for what is unknown."""
    ours, after = list(argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, after = ours[:cut], ours[cut + 1 :]
    overrides = [each.removeprefix("--gin.") for each in ours if each.startswith("--gin.")]
    for override in overrides:
        if "=" not in override.lstrip("="):
            raise InputError(f"--gin.{override}: write an override as --gin.Name.parameter=value")
    try:
        rest = values([each for each in ours if not each.startswith("--gin.")])
    except flags.Error as error:
        raise InputError(f"{str(error).strip()}; see --help") from None
    if rest[1:]:
        raise InputError(f"unexpected {' '.join(rest[1:])!r}; flags of launch.main go after --")
    return Given(values, tuple(overrides), tuple(after))


def spec(given: Given, name: str, workdir: str, overrides: Sequence[str] = ()) -> JobSpec:
    """The job of a parsed command line; `overrides` follow those that it gives."""
    values = given.values
    for flag in ("project", "zone", "image"):
        if not values[flag].value:
            raise InputError(f"give --{flag}; see --help")
    if values.grace_seconds < 1:
        raise InputError(f"--grace_seconds={values.grace_seconds}: at least 1")
    pairs = [each.partition("=") for each in values.env]
    lacking = [name for name, equals, _ in pairs if not equals]
    if lacking:
        raise InputError(f"--env={lacking[0]}: write it as NAME=VALUE")
    return JobSpec(
        name=name,
        workdir=workdir.rstrip("/"),
        gin_files=tuple(values.gin_file),
        image=values.image,
        project=values.project,
        zone=values.zone,
        tpu=job.parse_tpu(values.tpu),
        slices=values.slices,
        run_mode=values.run_mode,
        overrides=(*given.overrides, *overrides),
        arguments=given.arguments,
        capacity=values.capacity,
        reservation=values.reservation,
        restarts=values.restarts,
        env=tuple((name, value) for name, _, value in pairs),
    )


def check_settings(spec: JobSpec) -> None:
    """InputError for a flag or a gin name that nobody knows, as the job itself would say, minutes later."""
    from launch import configurables
    from launch.modes import ROOTS
    from spatial_core.config import gin_setup

    importlib.import_module("launch.main")  # it defines its flags
    for argument in spec.arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if name not in flags.FLAGS and name.removeprefix("no") not in flags.FLAGS:
            raise InputError(f"launch.main has no flag --{name}{near(name, flags.FLAGS)}")
    if any(name.startswith("/") for name in spec.gin_files):
        return  # they are in the image only
    configurables.register_all()
    _, bindings = gin_setup.split_argv([f"--gin.{override}" for override in spec.overrides])
    gin_setup.parse(spec.gin_files, bindings, roots=ROOTS)


def line(command: Command) -> str:
    """A command as it can be pasted into a shell, a flag on each line."""
    words = [shlex.quote(word) for word in command]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return " \\\n    ".join([" ".join(words[:first]), *words[first:]])


def show(plan: Plan) -> str:
    """All commands of a plan, as a script with headings."""
    return "\n\n".join(
        f"# {action}\n" + "\n".join(map(line, plan.of(action))) for action in ACTIONS
    )


def run(commands: Sequence[Command]) -> int:
    """Runs the commands one after another, until one fails; 0, or 1 after saying which.

    InputError, before any is run, if a tool is not installed.
    """
    for tool in dict.fromkeys(command[0] for command in commands):
        if shutil.which(tool) is None:
            raise InputError(f"{tool} is not installed here: {_INSTALL[tool]}")
    for command in commands:
        print(line(command), flush=True)
        done = subprocess.run(command, check=False)
        if done.returncode:
            print(
                f"error: {command[0]} ended with code {done.returncode}; nothing after it was run",
                file=sys.stderr,
            )
            return _EXIT_TOOL
    return 0


def main(launcher: Launcher, argv: Sequence[str]) -> int:
    """A launcher's command: prints the plan of a job, or runs it with --submit; the exit code."""
    values = flags.FlagValues()
    define_flags(values)
    launcher.define(values)
    if any(each in ("--help", "-h", "--helpfull") for each in argv):
        print(f"{launcher.about.strip()}\n\nflags:\n{values.get_help()}")
        return 0
    try:
        given = parse(argv, values)
        for flag in ("name", "workdir"):
            if not values[flag].value:
                raise InputError(f"give --{flag}; see --help")
        wanted = spec(given, values.name, values.workdir)
        plan = launcher.plan(wanted, values)
        if values.check:
            check_settings(wanted)
        if values.submit:
            return run(plan.of(values.action))
        print(show(plan))
        print(f"printed, not run: --submit runs what is under '{values.action}'", file=sys.stderr)
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT

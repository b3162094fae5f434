# SPDX-License-Identifier: Apache-2.0
"""A training job for a machine elsewhere: what runs, on which TPU, in which folder.

`JobSpec` checks everything that can be known before anything is started; the launchers (launch/xpk.py,
launch/queued_resources.py, launch/tpu_vm.py) turn it into lists of arguments.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launch.modes import (
    BY_SEVERAL,
    COPIED_TO_BUCKETS,
    EXIT_STALLED,
    EXIT_TERMINATED,
    IN_BUCKETS,
    MODES,
)
from spatial_core.config.bindings import near
from spatial_core.config.paths import config_files
from spatial_core.errors import InputError

# As in spatial_core.train.distributed, whose jax a launcher need not load.
HOSTS_VARIABLE = "LAUNCH_HOSTS"
Capacity = Literal["on-demand", "spot", "reserved"]
CAPACITIES: tuple[Capacity, ...] = ("on-demand", "spot", "reserved")
RESTART_CODES = (EXIT_TERMINATED, EXIT_STALLED)
"""Exit codes below 128 after which the same command goes on; 128 and above are signals (a kill, an abort)."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MAX_LABEL = 63
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]")
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*[a-z0-9](:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?")
_VOLUME = re.compile(r"(/[\w.-]+)+:(/[\w.-]+)+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TPU = re.compile(r"(v4|v5p|v5e|v6e)-([0-9]+)")
# Kubernetes replaces $(NAME) in a container's command, whatever the quotes around it.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f$]")


@dataclass(frozen=True)
class Tpu:
    """A slice as people name it: v5p-8 (cores, two in a chip; v4 too) or v5e-8 (chips; v6e too)."""

    kind: str
    number: int

    @property
    def chips(self) -> int:
        """JAX devices of the slice."""
        return self.number // 2 if self.kind in ("v4", "v5p") else self.number

    @property
    def hosts(self) -> int:
        """Machines of the slice, each of which runs one process: four chips in each (up to eight of
        v5e and v6e in a slice of one machine)."""
        alone = 8 if self.kind in ("v5e", "v6e") else 4
        return 1 if self.chips <= alone else self.chips // 4

    @property
    def accelerator_type(self) -> str:
        """The name that Google's tools use."""
        return f"{'v5litepod' if self.kind == 'v5e' else self.kind}-{self.number}"

    @property
    def runtime_version(self) -> str:
        """System image of its TPU VMs (https://cloud.google.com/tpu/docs/runtimes, 2025-09)."""
        return {
            "v4": "tpu-ubuntu2204-base",
            "v5p": "v2-alpha-tpuv5",
            "v5e": "v2-alpha-tpuv5-lite",
            "v6e": "v2-alpha-tpuv6e",
        }[self.kind]


@functools.cache
def _sizes(kind: str) -> tuple[int, ...]:
    """Sizes on offer: whole cubes of 64 chips for v4 and v5p above one; powers of two for the others."""
    if kind in ("v5e", "v6e"):
        return (1, 4, 8, 16, 32, 64, 128, 256)
    most = 96 if kind == "v5p" else 32
    return (8, 16, 32, 64, *(128 * cubes for cubes in range(1, most + 1)))


def parse_tpu(name: str) -> Tpu:
    """'v5p-8' as a Tpu; InputError for a kind or a size that is not on offer."""
    match = _TPU.fullmatch(name.replace("v5litepod-", "v5e-"))
    if not match:
        raise InputError(f"--tpu={name} is no TPU: write KIND-SIZE, as in v5p-8, v5e-16 or v6e-256")
    kind, number = match[1], int(match[2])
    if number not in _sizes(kind):
        shown = ", ".join(f"{kind}-{size}" for size in _sizes(kind)[:8])
        raise InputError(f"--tpu={name}: there is no slice of that size; there are {shown}, ...")
    return Tpu(kind, number)


@dataclass(frozen=True)
class JobSpec:
    """What to run where. Every field is checked when it is made: InputError says what to change.

    name: of the job and of what it creates (RFC 1035: lower-case letters, digits, dashes).
    workdir: gs://BUCKET/FOLDER; the hosts of a slice share no disk. gin_files: shipped names, or
    absolute paths inside the image. overrides: "TrainConfig.steps=200", as after --gin.
    arguments: further flags of launch.main. slices: how many slices train together. reservation: name
    of the reservation, with capacity "reserved". restarts: how often a job that was stopped or killed
    is started again where it is. env: environment variables of the container.
    """

    name: str
    workdir: str
    gin_files: tuple[str, ...]
    image: str
    project: str
    zone: str
    tpu: Tpu = Tpu("v5p", 8)
    slices: int = 1
    run_mode: str = "train"
    overrides: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    capacity: Capacity = "on-demand"
    reservation: str = ""
    restarts: int = 0
    env: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        check_workdir(self.workdir)
        self._check_place()
        self._check_command()
        if self.slices < 1:
            raise InputError(f"--slices={self.slices}: at least 1")
        if self.restarts < 0:
            raise InputError(f"--restarts={self.restarts}: 0 or more")
        if self.capacity not in CAPACITIES:
            raise InputError(f"--capacity={self.capacity}: choose among {', '.join(CAPACITIES)}")
        if self.reservation and self.capacity != "reserved":
            raise InputError("--reservation goes with --capacity=reserved")

    def _check_place(self) -> None:
        if not _PROJECT.fullmatch(self.project):
            raise InputError(
                f"--project={self.project!r} is no project id: 6 to 30 lower-case letters, digits and "
                "dashes (gcloud projects list shows yours)"
            )
        if not _ZONE.fullmatch(self.zone):
            raise InputError(f"--zone={self.zone!r} is no zone: write it as us-east5-a")
        if not _IMAGE.fullmatch(self.image):
            raise InputError(
                f"--image={self.image!r} is no image: write it as "
                "us-docker.pkg.dev/PROJECT/REPOSITORY/spatial:TAG"
            )
        if self.reservation and not _LABEL.fullmatch(self.reservation):
            raise InputError(f"--reservation={self.reservation!r} is no name of a reservation")

    def _check_command(self) -> None:
        if self.run_mode not in MODES:
            known = ", ".join(MODES)
            raise InputError(
                f"--run_mode={self.run_mode} is unknown; choose among {known}"
                f"{near(self.run_mode, MODES)}"
            )
        hosts = self.tpu.hosts * self.slices
        if hosts > 1 and self.run_mode not in BY_SEVERAL:
            raise InputError(
                f"--run_mode={self.run_mode} works in one process, and this job has {hosts} hosts: give a "
                "--tpu of one host, as v5p-8"
            )
        if hosts == 1 and self.run_mode not in (*IN_BUCKETS, *COPIED_TO_BUCKETS):
            raise InputError(
                f"--run_mode={self.run_mode} cannot write to gs://: run it with launch.main on one machine"
            )
        if not self.gin_files:
            raise InputError("give --gin_file=EXPERIMENT, as experiments/phasecoder_paper_m.gin")
        shipped = config_files()
        for name in self.gin_files:
            if name not in shipped and not name.startswith("/"):
                raise InputError(
                    f"--gin_file={name} is not in the image, which holds the shipped files"
                    f"{near(name, shipped)}; put yours into gin/ and build the image again, or give "
                    "the absolute path that it has there"
                )
        for argument in self.arguments:
            if not argument.startswith("--"):
                raise InputError(f"{argument!r} after -- is no flag of launch.main")
        for name, value in self.env:
            if not _VARIABLE.fullmatch(name):
                raise InputError(f"--env={name}={value}: {name!r} is no name of a variable")
        for text in (*self.command(), *(value for _, value in self.env)):
            found = _UNSAFE.search(text)
            if found:
                raise InputError(
                    f"{text!r} holds {found[0]!r}, which would not reach the job as it is: leave it out"
                )

    def command(self) -> tuple[str, ...]:
        """The arguments of the job's own process."""
        return (
            "python",
            "-m",
            "launch.main",
            f"--run_mode={self.run_mode}",
            *(f"--gin_file={name}" for name in self.gin_files),
            *(f"--gin.{override}" for override in self.overrides),
            f"--workdir={self.workdir}",
            *self.arguments,
        )

    def environment(self) -> tuple[tuple[str, str], ...]:
        """Variables of the container: how many hosts share the job if several do, and those of `env`."""
        hosts = self.tpu.hosts * self.slices
        shared = ((HOSTS_VARIABLE, str(hosts)),) if hosts > 1 else ()
        return (*shared, *self.env)


def check_name(name: str, most: int = _MAX_LABEL, flag: str = "name") -> None:
    """InputError unless `name` is a label of RFC 1035 of at most so many characters."""
    if not _LABEL.fullmatch(name):
        raise InputError(
            f"--{flag}={name!r}: use lower-case letters, digits and dashes; a letter first, no dash last"
        )
    if len(name) > most:
        raise InputError(f"--{flag}={name} has {len(name)} characters: at most {most}")


def check_workdir(workdir: str) -> None:
    """InputError unless it is gs://BUCKET/FOLDER, written in the one way that stays the same."""
    from etils import epath

    scheme, _, rest = workdir.partition("://")
    bucket, _, folder = rest.partition("/")
    if scheme != "gs" or not _BUCKET.fullmatch(bucket) or not folder:
        raise InputError(
            f"--workdir={workdir!r}: give gs://BUCKET/FOLDER; the hosts of a TPU share no disk"
        )
    plain = epath.Path(workdir).as_posix()
    if plain != workdir or ".." in folder.split("/"):
        raise InputError(f"--workdir={workdir!r}: write it as {plain!r}, without '..'")


def _volume(text: str) -> str:
    if not _VOLUME.fullmatch(text):
        raise InputError(f"--volume={text}: write it as /HOST/FOLDER:/FOLDER")
    return text


def container_script(spec: JobSpec, grace_seconds: int, volumes: Sequence[str] = ()) -> str:
    """What a host runs, as root: the container, started again after a stop, at most `restarts` times.

    volumes: folders of the host that the job may read, 'HOST_FOLDER:FOLDER', both absolute.
    The script ends with the code of the last start. It stops at a code that says that another start
    would end in the same way (docs/runbook.md).
    """
    run = [
        "docker",
        "run",
        f"--name={spec.name}",
        "--init",  # as process 1 the job itself would not hear a SIGTERM while it compiles
        "--privileged",
        "--net=host",
        "--ulimit=memlock=-1",
        f"--stop-timeout={grace_seconds}",
        *(f"--volume={volume}:ro" for volume in map(_volume, volumes)),
        *(f"--env={name}={value}" for name, value in spec.environment()),
        spec.image,
        *spec.command()[3:],
    ]
    registry = spec.image.split("/", 1)[0]
    login = []
    if registry.endswith("docker.pkg.dev") or registry.endswith("gcr.io"):
        login = [shlex.join(["gcloud", "auth", "configure-docker", registry, "--quiet"])]
    again = " ".join(f'&& [ "$code" -ne {code} ]' for code in RESTART_CODES)
    return "\n".join(
        [
            "#!/bin/bash",
            *login,
            f"for start in $(seq 0 {spec.restarts}); do",
            f"  docker rm --force {shlex.quote(spec.name)} >/dev/null 2>&1",
            f"  {shlex.join(run)}",
            "  code=$?",
            f'  if [ "$code" -lt 128 ] {again}; then break; fi',
            "done",
            'exit "$code"',
        ]
    )

# SPDX-License-Identifier: Apache-2.0
"""Starts a job on one TPU VM slice, made at once or there already (options as of gcloud 528.0.0).

    python -m launch.tpu_vm --name=try-m --tpu=v5p-8 --project=my-project --zone=us-east5-a \\
        --image=us-docker.pkg.dev/my-project/spatial/spatial:0.1.0 \\
        --gin_file=experiments/phasecoder_paper_m.gin --workdir=gs://my-bucket/runs/try-m

Prints the command lines; --submit runs them. --node names a slice that is there (--name is then only the
name of the job). Overrides are given as to launch.main (--gin.TrainConfig.steps=200), its other flags
after a --. See docs/launch.md.
"""

from __future__ import annotations

import shlex
import sys

from absl import flags

from launch import job, submit
from launch.job import JobSpec
from launch.queued_resources import follow, optional
from launch.submit import Launcher, Plan
from spatial_core.errors import InputError


def define(values: flags.FlagValues) -> None:
    """Flags that only TPU VMs have."""
    text = flags.DEFINE_string
    text("node", "", "TPU VM that is there already; none is made then.", flag_values=values)
    text("service_account", "", "That the hosts act as; it needs the bucket.", flag_values=values)
    text("network", "", "VPC network, if not the default one.", flag_values=values)
    text("subnetwork", "", "Subnetwork of it.", flag_values=values)
    flags.DEFINE_multi_string(
        "volume", [], "/HOST/FOLDER:/FOLDER that the job may read; repeat it.", flag_values=values
    )


def plan(spec: JobSpec, values: flags.FlagValues) -> Plan:
    """The gcloud commands of a job: make the slice, then start the container on all its hosts."""
    if spec.slices > 1:
        raise InputError(
            f"--slices={spec.slices}: one TPU VM is one slice; use launch.queued_resources or launch.xpk"
        )
    if spec.reservation:
        raise InputError(
            "--reservation: a TPU VM takes any reservation of the project with --capacity=reserved "
            "alone; for a named one use launch.xpk"
        )
    node = values.node or spec.name
    job.check_name(node)
    place = (f"--project={spec.project}", f"--zone={spec.zone}")
    verbs = ("gcloud", "compute", "tpus", "tpu-vm")
    capacity = {"spot": ("--spot",), "reserved": ("--reserved",), "on-demand": ()}
    create = (
        *verbs,
        "create",
        node,
        *place,
        f"--accelerator-type={spec.tpu.accelerator_type}",
        f"--version={spec.tpu.runtime_version}",
        *capacity[spec.capacity],
        *optional(values, "service_account", "network", "subnetwork"),
    )
    script = job.container_script(spec, values.grace_seconds, values.volume)
    start = _on_hosts(node, spec, _unit(spec, values.grace_seconds, script))
    stop = _on_hosts(node, spec, ("systemctl", "stop", spec.name))
    delete = (*verbs, "delete", node, *place, "--quiet")
    return Plan(
        start=(start,) if values.node else (create, start),
        watch=((*verbs, "describe", node, *place), follow(node, spec)),
        stop=(stop,) if values.node else (stop, delete),
    )


def _unit(spec: JobSpec, grace_seconds: int, script: str) -> tuple[str, ...]:
    """As a unit of systemd the job outlives the connection, and `systemctl stop` saves and ends it."""
    return (
        "systemd-run",
        "--collect",
        f"--unit={spec.name}",
        f"--property=TimeoutStopSec={grace_seconds}",
        "bash",
        "-c",
        script,
    )


def _on_hosts(node: str, spec: JobSpec, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command that runs `command`, as root, on all hosts of the slice."""
    return (
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", node),
        *(f"--project={spec.project}", f"--zone={spec.zone}", "--worker=all"),
        f"--command=sudo {shlex.join(command)}",
    )


LAUNCHER = Launcher(str(__doc__), define, plan)

if __name__ == "__main__":
    sys.exit(submit.main(LAUNCHER, sys.argv))

# SPDX-License-Identifier: Apache-2.0
"""Starts a job on a GKE cluster with xpk (options as of xpk 1.16.0).

    python -m launch.xpk --cluster=my-cluster --name=paper-m --tpu=v5p-128 --project=my-project \\
        --zone=us-east5-a --image=us-docker.pkg.dev/my-project/spatial/spatial:0.1.0 \\
        --gin_file=experiments/phasecoder_paper_m.gin --workdir=gs://my-bucket/runs/paper-m

Prints the command lines; --submit runs them. Overrides are given as to launch.main
(--gin.TrainConfig.steps=200), its other flags after a --. See docs/launch.md.
"""

from __future__ import annotations

import shlex
import sys

from absl import flags

from launch import job, submit
from launch.job import JobSpec
from launch.submit import Launcher, Plan
from spatial_core.errors import InputError

# xpk's own limit; the pods of the job get names that are 20 characters longer.
_MAX_NAME = 40
_PRIORITIES = ("very-low", "low", "medium", "high", "very-high")


def define(values: flags.FlagValues) -> None:
    """Flags that only xpk has."""
    flags.DEFINE_string("cluster", None, "GKE cluster that xpk made.", flag_values=values)
    flags.DEFINE_multi_string(
        "storage", [], "Name from `xpk storage attach` (data sets); repeat it.", flag_values=values
    )
    flags.DEFINE_enum("priority", "medium", _PRIORITIES, "In the queue.", flag_values=values)


def plan(spec: JobSpec, values: flags.FlagValues) -> Plan:
    """The xpk commands of a job."""
    cluster = values.cluster
    if not cluster:
        raise InputError("give --cluster: the cluster that `xpk cluster create` made")
    job.check_name(spec.name, _MAX_NAME)
    for name in values.storage:
        job.check_name(name, flag="storage")
    capacity: tuple[str, ...] = ()
    if spec.capacity == "spot":
        capacity = ("--spot",)
    elif spec.capacity == "reserved":
        if not spec.reservation:
            raise InputError("--capacity=reserved: xpk needs the name of it, as --reservation=NAME")
        capacity = (f"--reservation={spec.reservation}",)
    place = (f"--cluster={cluster}", f"--project={spec.project}", f"--zone={spec.zone}")
    codes = ",".join(map(str, job.RESTART_CODES))
    create = (
        "xpk",
        "workload",
        "create",
        *place,
        f"--workload={spec.name}",
        f"--tpu-type={spec.tpu.accelerator_type}",
        f"--num-slices={spec.slices}",
        f"--docker-image={spec.image}",
        f"--priority={values.priority}",
        f"--max-restarts={spec.restarts}",
        f"--restart-on-exit-codes={codes}",
        f"--termination-grace-period-seconds={values.grace_seconds}",
        *capacity,
        *(f"--storage={name}" for name in values.storage),
        *(f"--env={name}={value}" for name, value in spec.environment()),
        # exec: the shell around it would keep the SIGTERM of a preemption to itself.
        f"--command=exec {shlex.join(spec.command())}",
    )
    only = f"--filter-by-job={spec.name}"
    return Plan(
        start=(create,),
        watch=(
            ("xpk", "workload", "list", *place, only),
            (
                "kubectl",
                "logs",
                "--follow",
                "--tail=100",
                "--max-log-requests=64",
                f"--selector=xpk.google.com/workload={spec.name}",
            ),
        ),
        stop=(("xpk", "workload", "delete", *place, f"--workload={spec.name}"),),
    )


LAUNCHER = Launcher(str(__doc__), define, plan)

if __name__ == "__main__":
    sys.exit(submit.main(LAUNCHER, sys.argv))

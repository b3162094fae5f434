# SPDX-License-Identifier: Apache-2.0
"""Starts a job on TPU VMs that a queued resource brings up (options as of gcloud 528.0.0).

    python -m launch.queued_resources --name=paper-m --tpu=v5p-128 --capacity=spot --restarts=5 \\
        --project=my-project --zone=us-east5-a --image=us-docker.pkg.dev/my-project/spatial/spatial:0.1.0 \\
        --gin_file=experiments/phasecoder_paper_m.gin --workdir=gs://my-bucket/runs/paper-m

Prints the command lines; --submit runs them. The job starts on every host when it boots. Overrides are
given as to launch.main (--gin.TrainConfig.steps=200), its other flags after a --. See docs/launch.md.
"""

from __future__ import annotations

import sys

from absl import flags

from launch import job, submit
from launch.job import JobSpec
from launch.submit import Launcher, Plan
from spatial_core.errors import InputError

# So that gcloud does not take a comma of the script for the start of the next entry.
_DELIMITER = "^##^"
# The nodes of several slices get '-0', '-1', ... behind it.
_MAX_NAME = 60


def define(values: flags.FlagValues) -> None:
    """Flags that only TPU VMs have."""
    text = flags.DEFINE_string
    text("valid_until", "", "Give up waiting after this, as 6h.", flag_values=values)
    text("service_account", "", "That the hosts act as; it needs the bucket.", flag_values=values)
    text("network", "", "VPC network, if not the default one.", flag_values=values)
    text("subnetwork", "", "Subnetwork of it.", flag_values=values)
    flags.DEFINE_multi_string(
        "volume", [], "/HOST/FOLDER:/FOLDER that the job may read; repeat it.", flag_values=values
    )


def plan(spec: JobSpec, values: flags.FlagValues) -> Plan:
    """The gcloud commands of a job."""
    job.check_name(spec.name, _MAX_NAME)
    if spec.reservation:
        raise InputError(
            "--reservation: a queued resource takes any reservation of the project with "
            "--capacity=reserved alone; for a named one use launch.xpk"
        )
    place = (f"--project={spec.project}", f"--zone={spec.zone}")
    nodes: tuple[str, ...] = (f"--node-id={spec.name}",)
    first = spec.name
    if spec.slices > 1:
        nodes = (f"--node-count={spec.slices}", f"--node-prefix={spec.name}")
        first = f"{spec.name}-0"
    capacity = {"spot": ("--spot",), "reserved": ("--reserved",), "on-demand": ()}
    verbs = ("gcloud", "compute", "tpus", "queued-resources")
    create = (
        *verbs,
        "create",
        spec.name,
        *place,
        f"--accelerator-type={spec.tpu.accelerator_type}",
        f"--runtime-version={spec.tpu.runtime_version}",
        *nodes,
        *capacity[spec.capacity],
        *optional(values, "service_account", "network", "subnetwork"),
        *((f"--valid-until-duration={values.valid_until}",) if values.valid_until else ()),
        startup_script(job.container_script(spec, values.grace_seconds, values.volume)),
    )
    return Plan(
        start=(create,),
        watch=((*verbs, "describe", spec.name, *place), follow(first, spec)),
        stop=((*verbs, "delete", spec.name, *place, "--force", "--quiet"),),
    )


def startup_script(script: str) -> str:
    """The flag of gcloud that makes every host run a script when it boots."""
    if _DELIMITER.strip("^") in script:
        raise InputError(f"an argument holds {_DELIMITER.strip('^')!r}: leave it out")
    return f"--metadata={_DELIMITER}startup-script={script}"


def optional(values: flags.FlagValues, *names: str) -> tuple[str, ...]:
    """The given ones of flags that gcloud has under the same name, with dashes."""
    return tuple(f"--{n.replace('_', '-')}={values[n].value}" for n in names if values[n].value)


def follow(node: str, spec: JobSpec) -> tuple[str, ...]:
    """The command that shows the output of the first host of a node as it comes."""
    return (
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", node),
        *(f"--project={spec.project}", f"--zone={spec.zone}", "--worker=0"),
        f"--command=sudo docker logs --follow --tail=100 {spec.name}",
    )


LAUNCHER = Launcher(str(__doc__), define, plan)

if __name__ == "__main__":
    sys.exit(submit.main(LAUNCHER, sys.argv))

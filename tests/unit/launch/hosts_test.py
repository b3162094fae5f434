# SPDX-License-Identifier: Apache-2.0
"""Jobs on several TPU hosts find each other: what the launchers say, and what the run makes of it."""

from __future__ import annotations

import os

import jax
import pytest

from launch import job
from spatial_core.errors import InputError
from spatial_core.train import distributed


@pytest.mark.parametrize(
    ("variables", "starts"),
    [
        ({}, False),
        ({"LAUNCH_HOSTS": "1"}, False),
        ({"LAUNCH_HOSTS": "16"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_several_hosts_are_joined_and_one_is_left_alone(variables, starts, monkeypatch):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: joined.append((a, k)))
    for name in ("LAUNCH_HOSTS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.initialize()
    assert joined == (
        [
            (
                (),
                {
                    "heartbeat_timeout_seconds": 30,
                    "shutdown_timeout_seconds": 300,
                    "initialization_timeout": 360,
                },
            )
        ]
        if starts
        else []
    )
    with pytest.raises(InputError, match="--heartbeat_seconds=1: at least 5"):
        distributed.initialize(heartbeat_seconds=1)


def test_deterministic_programs_are_asked_for_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    distributed.enable_determinism()
    distributed.enable_determinism()
    assert os.environ["XLA_FLAGS"] == (
        "--xla_force_host_platform_device_count=2 --xla_gpu_deterministic_ops=true"
    )


def test_an_error_of_the_runtime_is_a_lost_host_only_among_several(monkeypatch):
    error = jax.errors.JaxRuntimeError("UNAVAILABLE: gloo: connection closed by peer\nmore")
    assert distributed.lost_another(error) is None
    monkeypatch.setattr(distributed, "several", lambda: True)
    lost = distributed.lost_another(error)
    assert "lost another host of the run" in str(lost) and "more" not in str(lost)
    assert distributed.lost_another(ValueError("no")) is None
    memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    assert distributed.lost_another(memory) is None


def a_job(tpu, **more):
    return job.JobSpec(
        name="a-job",
        workdir="gs://my-bucket/runs/a",
        gin_files=("experiments/plus.gin",),
        image="gcr.io/my-project/spatial:1",
        project="my-project",
        zone="us-east5-a",
        tpu=job.parse_tpu(tpu),
        **more,
    )


@pytest.mark.parametrize(
    ("mode", "tpu", "said"),
    [
        ("release", "v5p-128", "works in one process, and this job has 16 hosts"),
        ("eval", "v5p-128", None),
        ("export_tokens", "v5p-8", "cannot write to gs://"),
        ("export_tokens", "v5p-128", None),
        ("eval", "v5p-8", None),
    ],
)
def test_a_job_of_several_hosts_is_one_that_they_can_share(mode, tpu, said):
    if said is None:
        assert f"--run_mode={mode}" in a_job(tpu, run_mode=mode).command()
        return
    with pytest.raises(InputError, match=said):
        a_job(tpu, run_mode=mode)


def test_a_number_of_hosts_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("LAUNCH_HOSTS", "many")
    with pytest.raises(InputError, match="LAUNCH_HOSTS='many'"):
        distributed.initialize()


@pytest.mark.parametrize(
    ("tpu", "slices", "hosts"), [("v5p-8", 1, None), ("v5p-8", 2, "2"), ("v5p-128", 2, "32")]
)
def test_a_job_says_how_many_hosts_share_it(tpu, slices, hosts):
    spec = a_job(tpu, slices=slices)
    assert job.HOSTS_VARIABLE == distributed.HOSTS_VARIABLE
    assert dict(spec.environment()).get(job.HOSTS_VARIABLE) == hosts

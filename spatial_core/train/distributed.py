# SPDX-License-Identifier: Apache-2.0
"""Joining several processes into one run, only when asked."""

from __future__ import annotations

import os

import jax

from spatial_core.errors import InputError

HOSTS_VARIABLE = "LAUNCH_HOSTS"
"""Says, in the environment, on how many TPU hosts this command was started."""


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Starts jax.distributed when the flags ask for it or the machine is one of several TPU hosts.

    `coordinator` is HOST:PORT of process 0. Several TPU hosts are known by what GKE says (their names) or
    by what our launchers say (their number, in LAUNCH_HOSTS); jax finds them itself then. Does nothing on
    one host. Call it before anything else of jax.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if all(given):
        jax.distributed.initialize(coordinator, processes, process)
    elif any(given):
        raise InputError("give --coordinator, --num_processes and --process_id together, or none")
    elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or _launched_hosts() > 1:
        jax.distributed.initialize()


def _launched_hosts() -> int:
    text = os.environ.get(HOSTS_VARIABLE, "1")
    if not text.isdigit():
        raise InputError(f"{HOSTS_VARIABLE}={text!r}: give the number of hosts that share the run")
    return int(text)


def enable_compile_cache(directory: str) -> None:
    """Keeps compiled programs in a folder, so that the next start of the same run is quick."""
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)

# SPDX-License-Identifier: Apache-2.0
"""Joining several processes into one run, only when asked."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime  # its key-value store has no public name
from jax.experimental import multihost_utils

from spatial_core.errors import InputError
from spatial_core.io import places
from spatial_core.train.watchdog import EXIT_STALLED, HEARTBEAT_SECONDS

HOSTS_VARIABLE = "LAUNCH_HOSTS"
"""Says, in the environment, on how many TPU hosts this command was started."""


_LEAST_HEARTBEAT = 5
_LAST_WORDS_SECONDS = 5.0
_END = "spatial_audio/end"
_MET = ".met-"
A_WEEK = 7 * 24 * 3600
JOIN_SECONDS = 300.0
"""How long a process waits for the others to be started."""
MEET_SECONDS = 90.0
"""A network disk (NFS) may hide a new file for a minute."""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    end_seconds: int = 300,
    hear_sigterm: bool = True,
) -> None:
    """Starts jax.distributed when the flags ask for it or the machine is one of several TPU hosts.

    `coordinator` is HOST:PORT of process 0. Several TPU hosts are known by what GKE says (their names) or
    by what our launchers say (their number, in LAUNCH_HOSTS); jax finds them itself then. Does nothing on
    one host. heartbeat_seconds: how long a process may be silent before the others take it for dead and
    end. end_seconds: how long a process that is done waits for the others. hear_sigterm: whether jax takes
    SIGTERM for itself, for a loop that asks it at every step; nobody else would notice one. Call it before
    anything else of jax.
    """
    if heartbeat_seconds < _LEAST_HEARTBEAT:
        raise InputError(
            f"--heartbeat_seconds={heartbeat_seconds}: at least {_LEAST_HEARTBEAT}, or a busy machine is "
            "taken for a dead one"
        )
    limits: dict[str, Any] = {
        "heartbeat_timeout_seconds": heartbeat_seconds,
        "shutdown_timeout_seconds": end_seconds,
        # Later than our own end, which says what to do.
        "initialization_timeout": int(JOIN_SECONDS) + 60,
    }
    jax.config.update("jax_enable_preemption_service", hear_sigterm)
    given = [value is not None for value in (coordinator, processes, process)]
    if all(given):
        with _others_awaited(
            f"process {process} of {processes} at {coordinator}",
            "was started, with the same --coordinator and --num_processes and a --process_id of its own, and "
            "reaches the port of process 0",
        ):
            jax.distributed.initialize(coordinator, processes, process, **limits)
    elif any(given):
        raise InputError("give --coordinator, --num_processes and --process_id together, or none")
    elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or _launched_hosts() > 1:
        with _others_awaited(
            "this host",
            "was started: all pods or workers of the slices, as many as TPU_WORKER_HOSTNAMES or "
            f"{HOSTS_VARIABLE} says",
        ):
            jax.distributed.initialize(**limits)


@contextlib.contextmanager
def _others_awaited(who: str, check: str) -> Iterator[None]:
    """Ends this process if the others do not join; jax would abort it with a stack of its own."""

    def end() -> None:
        print(
            f"error: {who} has waited {JOIN_SECONDS:.0f} s for the other processes of the run, and not all have "
            f"come: see whether each {check}. The same command, on all hosts, tries again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_STALLED)

    waited = threading.Timer(JOIN_SECONDS, end)
    waited.daemon = True
    waited.start()
    try:
        yield
    finally:
        waited.cancel()


def require_joined() -> None:
    """InputError on one of several TPU hosts that were started without knowing of each other."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise InputError(
            f"this is one of {jax.process_count()} hosts, and they have not joined: nobody would save at "
            f"SIGTERM or notice a lost host. Start with {HOSTS_VARIABLE}={jax.process_count()} in the "
            "environment, as the launchers do"
        )


def several() -> bool:
    """Whether this process is one of several; asks nothing of jax where it is not."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def meet_in(folder: Path, say: Callable[[str], None] = print) -> str:
    """A name that all processes of this run get, and those of no other run; all have to ask for it.

    InputError on all unless each of them can hand files to process 0 and take its files there: each leaves
    one of that name, process 0 looks for all of them and the others for its own.
    """
    drawn = np.frombuffer(os.urandom(8), np.uint8)
    if not several():
        return drawn.tobytes().hex()
    own, hosts = jax.process_index(), range(jax.process_count())
    failed: Exception | None = None
    if own == 0:
        try:
            places.make_folder(folder)
            for old in [path for path in folder.iterdir() if path.name.startswith(_MET)]:
                old.unlink(missing_ok=True)  # of a run that was killed here
        except (InputError, OSError) as error:
            failed = error
    # Nobody writes before this, so that nothing of this run is removed.
    name = bytes(np.asarray(multihost_utils.broadcast_one_to_all(drawn), np.uint8)).hex()
    files = {host: folder / f"{_MET}{name}-{host}" for host in hosts}
    wanted = {host: files[host] for host in (hosts if own == 0 else (0,))}

    def missing() -> str:
        lacking = [str(host) for host, path in wanted.items() if not path.is_file()]
        return f"a file of host {', '.join(lacking)}" if lacking else ""

    seen = False
    try:
        if failed is None:
            files[own].write_text("")
            places.forget_listings(folder)
            seen = places.wait_for(folder, missing, say, MEET_SECONDS)
    except (
        Exception
    ) as error:  # a bucket's client has classes of its own; all hosts hear of it below
        failed = error
    all_seen = np.asarray(multihost_utils.process_allgather(np.array(seen)))
    with contextlib.suppress(Exception):
        files[own].unlink(missing_ok=True)
    if isinstance(failed, InputError):
        raise failed
    if not all_seen.all():
        blind = ", ".join(str(host) for host in np.flatnonzero(~all_seen))
        raise InputError(
            f"host {blind} of {len(all_seen)} does not see files of the others in {places.absolute(folder)}, where "
            "the hosts of a run hand over files: give all of them the same --workdir, on a disk that all have "
            "mounted there and may write to, or in a bucket (gs://...)"
            + (f" (here: {type(failed).__name__}: {failed})" if failed else "")
        ) from failed
    return name


def tell_end(code: int, why: str) -> None:
    """Leaves word for the other processes of the run that this one ends; the first word stays."""
    client = runtime.global_state.client
    if client is not None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(_END, f"{code} host {jax.process_index()} {why}")


def told_end() -> tuple[int, str] | None:
    """With what code and why another process has ended, once one has left word; else None."""
    client = runtime.global_state.client
    if client is None:
        return None
    try:
        code, why = str(client.key_value_try_get(_END)).split(" ", 1)
    except jax.errors.JaxRuntimeError:  # no word
        return None
    own = why.startswith(f"host {jax.process_index()} ")
    return None if own else (int(code), why)


def lost_another(error: Exception) -> RuntimeError | None:
    """What to say of an error by which the runtime gave up on what several processes share; else None."""
    if not several() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:  # that is this process's own
        return None
    return RuntimeError(
        f"host {jax.process_index()} of {jax.process_count()} lost another host of the run, whose own log "
        f"says why ({text.splitlines()[0][:300]}). The same command, on all hosts, goes on at the last "
        "checkpoint"
    )


def leave(code: int) -> None:
    """Ends this process of several at once, after an error; does nothing where there is only one."""
    if several():
        tell_end(code, f"has ended with exit code {code} and says why")
        end_now(code)


def end_now(code: int) -> None:
    """Ends this process of several; an orderly exit would wait for the others, who wait for this one.

    Process 0 gives the others a moment, because with it their connection goes: they have to hear of the end,
    and if they failed for the same reason they can say so.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_WORDS_SECONDS)
    os._exit(code)


def _launched_hosts() -> int:
    text = os.environ.get(HOSTS_VARIABLE, "1")
    if not text.isdigit():
        raise InputError(f"{HOSTS_VARIABLE}={text!r}: give the number of hosts that share the run")
    return int(text)


def enable_determinism() -> None:
    """Keeps XLA to programs that give the same bits in every run on the same GPU; before jax has devices.

    Sums by atomics and kernels chosen by a race are out. CPU and TPU programs are so anyway.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops=false" in given:
        raise InputError(
            f"--deterministic, and XLA_FLAGS={given!r} says the opposite: take one away"
        )
    if "--xla_gpu_deterministic_ops" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_deterministic_ops=true".strip()


def enable_compile_cache(directory: str) -> None:
    """Keeps compiled programs in a folder, so that the next start of the same run is quick."""
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)

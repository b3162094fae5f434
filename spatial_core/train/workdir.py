# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: which experiment it belongs to, and parameters taken from another one."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import places
from spatial_core.io.export import CONFIG_FILE, TENSOR_FILE, find_kind, read_release, to_json
from spatial_core.train import distributed
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.config import TrainConfig
from spatial_core.train.provenance import environment

# What a run is; the rest (logging, mesh, how long to keep checkpoints) may change between starts.
_IDENTITY = ("task", "data", "optimizer", "seed", "init_from")
# Fields of a data stream that change how fast examples come, not what they are.
_NO_MATTER = ("threads", "max_bad_records", "cache_dir")


def describe(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as JSON-ready data."""
    described: dict[str, Any] = resolved.describe(config)
    if config.optimizer.decay_steps is None and config.optimizer.schedule != "constant":
        # The schedule depends on the length of the run then, so a new length is a new experiment.
        described["optimizer"]["decay_steps"] = config.steps
    return described


def claim(directory: Path, config: TrainConfig) -> None:
    """Writes config.json and environment.json, or checks that the folder is of the same experiment.

    Raises InputError that lists what differs.
    """
    described = describe(config)
    different = _different(directory, described)
    if different:
        raise InputError(
            f"{directory} holds a different experiment; use another --workdir, or delete it.\n  "
            + "\n  ".join(different)
        )
    if is_writer():
        directory.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: other hosts read it, and it decides whose folder this is.
        text = json.dumps(described, indent=2, allow_nan=False)
        places.write_whole(directory / "config.json", text + "\n")
        places.write_whole(
            directory / "environment.json", json.dumps(environment(), indent=2) + "\n"
        )


def outlook(directory: Path, config: TrainConfig) -> str:
    """What training in the folder would do: 'fresh', 'resumes at step 500 of 800', ... Reads only."""
    different = _different(directory, describe(config))
    if different:
        more = f", and {len(different) - 1} more" if len(different) > 1 else ""
        return f"holds a different experiment and would be refused ({different[0]}{more})"
    steps = Checkpoints(directory).steps()
    if not steps:
        started = (directory / "config.json").exists()
        return "no checkpoint yet: begins at step 0" if started else "fresh"
    if steps[-1] >= config.steps:
        return f"finished at step {steps[-1]}: nothing left to train"
    return f"resumes at step {steps[-1]} of {config.steps}"


def _different(directory: Path, described: dict[str, Any]) -> list[str]:
    """What sets an experiment apart from that of the folder; empty for a new folder."""
    path = directory / "config.json"
    if not path.exists():
        return []
    saved = json.loads(path.read_text())
    return list(resolved.differences(_identity(saved), _identity(described)))


def _identity(described: dict[str, Any]) -> dict[str, Any]:
    def prune(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: prune(item) for k, item in value.items() if k not in _NO_MATTER}
        return [prune(item) for item in value] if isinstance(value, list) else value

    return {key: prune(described.get(key)) for key in _IDENTITY}


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the folder for this run; InputError if another process trains in it or if it is not writable, or
    if it is not one folder for all processes of the run.

    The lock dies with its process. Buckets and file systems without locks go without.
    """
    if is_writer():
        places.make_folder(directory)
    distributed.meet_in(directory)
    if not is_writer() or places.is_remote(directory):
        yield
        return
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process is training in {directory}: wait for it, stop it, or give another "
                "--workdir"
            ) from None
        except OSError:
            pass
        yield


def metadata(config: TrainConfig) -> dict[str, Any] | None:
    """What the checkpoints of a run depend on besides their parameters; None: nothing.

    The `metadata` (JSON values by name) of the task, the data and the validation data, those that have
    some. InputError if two of them give one name different values.
    """
    joined: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for part in ("task", "data", "validation"):
        for key, value in (getattr(getattr(config, part), "metadata", None) or {}).items():
            if key in joined and joined[key] != value:
                raise InputError(
                    f"TrainConfig.{origin[key]} and TrainConfig.{part} do not belong together: {key} is "
                    f"{joined[key]!r} in one and {value!r} in the other"
                )
            joined[key], origin[key] = value, part
    return joined or None


def initial_params(
    source: str | Callable[[], Any], metadata: Mapping[str, Any] | None = None
) -> Any:
    """Parameters of another run (its folder: the best, else the latest), of a release of any kind (its
    folder), or what a function returns. A run or a release with other `metadata` is refused."""
    if callable(source):
        return source()
    path = places.place(source)
    if (path / "checkpoints").is_dir():
        checkpoints = Checkpoints(path, metadata=metadata)
        params, _ = checkpoints.load_params("best" if checkpoints.best() else "latest")
        return params
    kind = find_kind(path)
    if kind is None:
        raise InputError(
            f"init_from {source!r} is neither the folder of a run (with checkpoints/) nor of a released "
            f"model (such as {TENSOR_FILE} with {CONFIG_FILE})"
        )
    released = read_release(path, kind)
    if metadata is not None:
        found = released.config.get("metadata") or {}
        different = list(resolved.differences(found, to_json(metadata)))
        if different:
            raise InputError(
                f"release {path} does not belong to this run (release -> run):\n  "
                + "\n  ".join(different)
            )
    return released.params()


def is_writer() -> bool:
    """Whether this process writes files and talks to people."""
    return jax.process_index() == 0

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: Orbax writes the arrays, a digest manifest says whether they are still what was written.

    workdir/checkpoints/00001000/state/...      Orbax
    workdir/checkpoints/00001000/manifest.json  written last: shapes and types by path, sha256 of files,
                                                and metadata if the run has any
    workdir/checkpoints/best.json               step, metric and value of the best one

A folder without a manifest is an interrupted save and is removed. Orbax alone neither notices a flipped
byte nor refuses another dtype, so a restore first checks the files against the manifest and then the
manifest against the state that is wanted. This is the only file that imports Orbax.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import places
from spatial_core.io.export import flatten_tree, to_json, unflatten_tree
from spatial_core.train.partition import path_name

_MANIFEST = "manifest.json"
_FORMAT = 1


class Checkpoints:
    """The checkpoints of one run. On several hosts all processes call it; process 0 owns the files.

    `say` receives one line for each thing a person should know (a damaged checkpoint set aside).
    `metadata`, JSON values, is what the parameters are worthless without (a digest of the encoder
    that made their inputs, say): it goes into every manifest, and a checkpoint with other metadata
    is refused. None: neither.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        say: Callable[[str], None] = print,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = places.absolute(workdir) / "checkpoints"
        self.keep = keep
        self.say = say
        self.wanted = None if metadata is None else to_json(metadata)
        # Known alike to all processes; what the file system shows at a moment may not be.
        self._current: int | None = None
        self._best: dict[str, Any] | None = None
        self._writing: _Writing | None = None

    def steps(self) -> list[int]:
        """Steps of the completed checkpoints, ascending."""
        places.forget_listings(self.directory)
        if not self.directory.is_dir():
            return []
        complete = (path.parent.name for path in self.directory.glob(f"*/{_MANIFEST}"))
        return sorted(int(name) for name in complete if name.isdigit())

    def save(self, state: dict[str, Any], wait: bool = True) -> int:
        """Writes the state under its own step and drops the oldest beyond `keep`; returns the step.

        With wait=False it returns when the state is copied to the host's memory; files, manifest and
        dropping follow in a thread, until the next save or `wait`, which raise what went wrong there.
        """
        step = int(jax.device_get(state["step"]))
        if step != self._current:
            self.wait()
            folder = self._folder(step)
            if _is_writer():
                places.remove_folder(folder)
                folder.mkdir(parents=True)
            _sync(f"checkpoint-{step}-folder")
            response = ocp.save_async(folder / "state", _to_plain(state))
            self._writing = _Writing(
                step, partial(self._complete, step, _leaf_table(state), response)
            )
            self._current = step
        if wait:
            self.wait()
        return step

    def _complete(self, step: int, leaves: dict[str, list[Any]], response: Any) -> None:
        """What follows when the arrays are on their way; in a thread."""
        response.result()  # on each process: when all of them have written their part
        if not _is_writer():
            return
        folder = self._folder(step)
        manifest = {
            "format": _FORMAT,
            "step": step,
            "leaves": leaves,
            "files": _file_digests(folder / "state"),
        }
        if self.wanted is not None:
            manifest["metadata"] = self.wanted
        _write_json(folder / _MANIFEST, manifest)
        self._drop_old()

    def wait(self) -> None:
        """Returns when what `save` began is on disk, on all processes."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.join()
            _sync(f"checkpoint-{writing.step}-manifest")

    def close(self) -> None:
        """Lets this process finish what `save` began, after an error: it waits for no other."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(Exception):
                writing.join()

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Says that the checkpoint of this step is the best so far; it is then kept."""
        self.wait()
        self._best = {"step": step, "metric": metric, "value": value}
        if _is_writer():
            _write_json(self.directory / "best.json", self._best)
            self._drop_old()

    def best(self) -> dict[str, Any] | None:
        """{"step", "metric", "value"} of the best checkpoint, if one was marked and is still there."""
        if self._best is not None:
            return self._best
        path = self.directory / "best.json"
        if not path.exists():
            return None
        best: dict[str, Any] = json.loads(path.read_text())
        return best if best["step"] in self.steps() else None

    def clean(self) -> None:
        """Removes interrupted saves."""
        if not _is_writer() or not self.directory.is_dir():
            return
        for folder in self.directory.iterdir():
            if folder.name.isdigit() and not (folder / _MANIFEST).exists():
                places.remove_folder(folder)
                self.say(f"removed the unfinished checkpoint {folder.name}")

    def restore_latest(self, abstract: dict[str, Any]) -> dict[str, Any] | None:
        """The newest sound checkpoint in the shapes, types and shardings of `abstract`; None: no checkpoint.

        A damaged one is renamed to NAME.damaged and the one before it is used. Raises InputError when
        none of those that are there is sound, or when its structure differs from `abstract` or its
        metadata from this run's.
        """
        steps = self.steps()
        for step in reversed(steps):
            problem = self.damage(step)
            if problem is None:
                return self._load(step, abstract)
            self._set_aside(step, problem)
        if steps:
            raise InputError(
                f"all {len(steps)} checkpoints in {self.directory} are damaged; they were renamed, not "
                "deleted. Start the same command again to train from the beginning"
            )
        return None

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint, or None."""
        folder = self._folder(step)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            recorded = manifest["files"]
        except (ValueError, KeyError) as error:
            return f"its manifest cannot be read ({error})"
        found = _file_digests(folder / "state")
        for name in sorted(recorded.keys() | found.keys()):
            if name not in found:
                return f"state/{name} is missing"
            if name not in recorded:
                return f"state/{name} does not belong to it"
            if recorded[name] != found[name]:
                return f"state/{name} has changed since it was written"
        return None

    def load_params(self, which: str | int = "latest", average: bool = True) -> tuple[Any, int]:
        """Parameters as a nested dict of numpy arrays, and their step; needs no model.

        Keys made of digits are integers, as in released models.

        `which`: "latest", "best" or a step. The running average is preferred unless `average` is
        False. Raises InputError for no such or a damaged checkpoint, or one with other metadata.
        """
        step = self._choose(which)
        problem = self.damage(step)
        if problem:
            raise InputError(f"checkpoint {self._folder(step)} is damaged: {problem}")
        self._check_metadata(step)
        leaves = self._manifest(step)["leaves"]
        names = {name.split("/", 1)[0] for name in leaves}
        prefix = "ema" if average and "ema" in names else "params"
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            tuple(name.split("/")): jax.ShapeDtypeStruct(
                tuple(shape), np.dtype(dtype), sharding=sharding
            )
            if name.startswith(prefix + "/")
            else ...
            for name, (shape, dtype) in leaves.items()
        }
        loaded = ocp.load(self._folder(step) / "state", _nest(wanted))
        return unflatten_tree(flatten_tree(loaded[prefix])), step

    def metadata(self, which: str | int = "latest") -> dict[str, Any] | None:
        """The metadata of a checkpoint, chosen as in `load_params`; None if it was saved without."""
        found: dict[str, Any] | None = self._manifest(self._choose(which)).get("metadata")
        return found

    def _manifest(self, step: int) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self._folder(step) / _MANIFEST).read_text())
        return manifest

    def _check_metadata(self, step: int) -> None:
        if self.wanted is None:
            return
        found = self._manifest(step).get("metadata") or {}
        different = list(resolved.differences(found, self.wanted))
        if different:
            raise InputError(
                f"checkpoint {self._folder(step)} does not belong to this run (checkpoint -> run):\n  "
                + "\n  ".join(different)
            )

    def _choose(self, which: str | int) -> int:
        steps = self.steps()
        if not steps:
            raise InputError(f"no checkpoint in {self.directory}")
        if which == "best":
            best = self.best()
            if best is None:
                raise InputError(f"no best checkpoint is marked in {self.directory}")
            return int(best["step"])
        if which == "latest":
            return steps[-1]
        if int(which) not in steps:
            raise InputError(
                f"no checkpoint of step {which} in {self.directory}; there are {steps}"
            )
        return int(which)

    def _load(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        self._check_metadata(step)
        leaves = self._manifest(step)["leaves"]
        different = _leaf_differences(leaves, _leaf_table(abstract))
        if different:
            raise InputError(
                f"checkpoint {self._folder(step)} does not fit this model or optimizer:\n  "
                + "\n  ".join(different)
            )
        loaded = ocp.load(self._folder(step) / "state", _to_plain(abstract))
        self._current = step
        return _from_plain(abstract, loaded)

    def _set_aside(self, step: int, problem: str) -> None:
        folder = self._folder(step)
        target = folder.with_name(folder.name + ".damaged")
        number = 1
        while target.exists():
            number += 1
            target = folder.with_name(f"{folder.name}.damaged-{number}")
        _sync(f"checkpoint-{step}-damaged")
        if _is_writer():
            folder.rename(target)
        _sync(f"checkpoint-{step}-aside")
        self.say(f"checkpoint {step} is damaged ({problem}); set aside as {target.name}")

    def _drop_old(self) -> None:
        steps = self.steps()
        best = self.best()
        for step in steps[: -self.keep]:
            if best is None or step != best["step"]:
                # The manifest goes first: a half-deleted folder must not look complete.
                (self._folder(step) / _MANIFEST).unlink()
                places.remove_folder(self._folder(step))

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:08d}"


class _Writing:
    """A checkpoint that a thread is completing."""

    def __init__(self, step: int, complete: Callable[[], None]) -> None:
        self.step = step
        self._complete = complete
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"checkpoint-{step}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._complete()
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        """Waits for it, and raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def tree_digest(tree: Any) -> str:
    """sha256 over the paths, shapes, types and bytes of all leaves (of arrays on this host)."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path_name(path)} {array.shape} {array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _leaf_table(tree: Any) -> dict[str, list[Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _leaf_differences(saved: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> list[str]:
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in wanted:
            lines.append(f"{name}: only in the checkpoint {_shape(saved[name])}")
        elif name not in saved:
            lines.append(f"{name}: not in the checkpoint, wanted {_shape(wanted[name])}")
        elif saved[name] != wanted[name]:
            lines.append(f"{name}: {_shape(saved[name])} saved, {_shape(wanted[name])} wanted")
    return lines[:20] + ([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])


def _shape(entry: list[Any]) -> str:
    return f"{entry[1]}{entry[0]}"


def _to_plain(tree: Any) -> dict[str, Any]:
    """The leaves in nested dicts by path: optax's own node types stay out of the files."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return _nest({tuple(path_name(path).split("/")): leaf for path, leaf in leaves})


def _nest(flat: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return nested


def _from_plain(template: Any, plain: dict[str, Any]) -> Any:
    def pick(path: tuple[Any, ...], _: Any) -> Any:
        node: Any = plain
        for key in path_name(path).split("/"):
            node = node[key]
        return node

    return jax.tree_util.tree_map_with_path(pick, template)


def _file_digests(folder: Path) -> dict[str, str]:
    digests = {}
    for name, path in places.files_below(folder):
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _write_json(path: Path, value: Any) -> None:
    places.write_whole(path, json.dumps(value, indent=1))


def _is_writer() -> bool:
    return jax.process_index() == 0


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

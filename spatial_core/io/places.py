# SPDX-License-Identifier: Apache-2.0
"""Folders of this machine and of a bucket (gs://BUCKET/FOLDER), written and read in one way.

A place of this machine is a pathlib.Path; one of a bucket is a path of etils.epath, which has the same
methods but neither appends, nor locks, nor renames a folder at once. What those need is here.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spatial_core.errors import InputError

_UPLOAD_SECONDS = 20.0
"""A file of a bucket that grows is written anew at most this often (a bucket allows about once a second)."""

_COPIED_AT_ONCE = 16 * 2**20
_POLL_SECONDS, _SAY_SECONDS = 0.5, 60.0


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a place is in a bucket."""
    return "://" in os.fspath(path)


def place(path: str | os.PathLike[str]) -> Path:
    """The place that a text names. A plain Path('gs://a/b') would be the folder 'gs:/a/b' here."""
    if not is_remote(path):
        return Path(path)
    from etils import epath

    found: Any = epath.Path(os.fspath(path))
    return found  # type: ignore[no-any-return]


def absolute(path: str | os.PathLike[str]) -> Path:
    """The place, the same from every working directory."""
    found = place(path)
    return found if is_remote(found) else found.resolve()


def make_folder(folder: Path) -> None:
    """Makes a folder for the files of a run, and writes to it to see that one can.

    InputError, with what to change, if one cannot: no such disk or bucket, no right to write, no space,
    or the package for buckets is missing.
    """
    try:
        if not is_remote(
            folder
        ):  # a bucket has no folders; asked for one, its client makes the bucket
            folder.mkdir(parents=True, exist_ok=True)
        # Hosts in containers often have one process number.
        probe = folder / f".writable-{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except (OSError, ImportError) as error:
        raise InputError(_unwritable(folder, error)) from error
    except Exception as error:
        # What a bucket's client raises for a missing bucket, right or login is of its own classes.
        if not is_remote(folder):
            raise
        raise InputError(_unwritable(folder, error)) from error


def _unwritable(folder: Path, error: Exception) -> str:
    what = f"cannot write to {folder}: {type(error).__name__}: {error}".rstrip(". ")
    if not is_remote(folder):
        return f"{what}. Give another --workdir, or the right to write there"
    if isinstance(error, ImportError):
        return f"{what}. Install spatial-audio-stack[gcs]"
    return (
        f"{what}. Give a --workdir in a bucket that is there and that this account may write to (role "
        "Storage Object User); on your own machine log in with `gcloud auth application-default login`"
    )


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, also if the machine stops in between or others write it too."""
    if is_remote(path):
        path.write_text(text)  # a bucket shows a file when it is complete
        return
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file."""
    found: Any = path.stat()
    return int(found.length if is_remote(path) else found.st_size)


def upload(source: Path, target: Path) -> None:
    """Copies a file of this machine to a bucket, in parts: it may be larger than the memory."""
    with source.open("rb") as local, target.open("wb") as remote:
        shutil.copyfileobj(local, remote, _COPIED_AT_ONCE)


def remove_folder(folder: Path) -> None:
    """Removes a folder and what is in it, if it is there."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        folder.rmtree()  # type: ignore[attr-defined]


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to the folder, with slashes; file) for all files in it, sorted by path."""
    forget_listings(folder)
    found = []
    waiting = [(folder, "")]
    while waiting:
        parent, prefix = waiting.pop()
        for path in parent.iterdir() if parent.is_dir() else ():
            name = prefix + path.name
            if path.is_dir():
                waiting.append((path, f"{name}/"))
            else:
                found.append((name, path))
    yield from sorted(found)


def forget_listings(folder: Path) -> None:
    """Makes the next look into a folder of a bucket a fresh one: others write there too."""
    if is_remote(folder):
        from etils.epath import backend

        backend.fsspec_backend.fs(os.fspath(folder)).invalidate_cache()


class GrowingText:
    """A text file that is appended to.

    In a bucket the whole of it is written anew, some seconds after the last time and at the end.
    """

    def __init__(self, path: Path, text: str = "") -> None:
        self._path, self._remote = path, is_remote(path)
        path.write_text(text)
        self._text = [text]
        self._written = time.monotonic()
        self._file = None if self._remote else path.open("a", encoding="utf-8")

    def append(self, text: str) -> None:
        """Adds to the end; on this machine it is in the file when this returns."""
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
            return
        self._text.append(text)
        if time.monotonic() - self._written > _UPLOAD_SECONDS:
            self._write()

    def close(self) -> None:
        """Brings the file up to date."""
        if self._file is not None:
            self._file.close()
        else:
            self._write()

    def _write(self) -> None:
        self._text = ["".join(self._text)]
        self._path.write_text(self._text[0])
        self._written = time.monotonic()


class Outbox:
    """A folder of this machine (`folder`) whose files are copied to their place, now and then.

    For writers that know no buckets. Of a place on this machine the folder is that place.
    """

    def __init__(self, target: Path) -> None:
        self._target, self._remote = target, is_remote(target)
        self.folder = Path(tempfile.mkdtemp(prefix="outbox-")) if self._remote else target
        self._sent = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to copy again."""
        return self._remote and time.monotonic() - self._sent > _UPLOAD_SECONDS

    def send(self) -> None:
        """Copies what is there."""
        if self._remote:
            copy_files(self.folder, self._target)
            self._sent = time.monotonic()

    def close(self) -> None:
        """Copies for the last time, and removes the folder if it was for this alone."""
        self.send()
        if self._remote:
            shutil.rmtree(self.folder, ignore_errors=True)


def copy_files(source: Path, target: Path) -> None:
    """Copies all files below a folder to the same names below another place."""
    for name, path in files_below(source):
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())


def wait_for(
    folder: Path,
    missing: Callable[[], str],
    say: Callable[[str], None],
    seconds: float = math.inf,
) -> bool:
    """Waits until other hosts have written what is missing in a folder: until `missing` gives ''.

    What it gives is said once a minute. Without end, unless seconds are given: who waits is ended by
    jax.distributed if another dies, and by the other if it stops. Returns whether it is there.
    """
    began = said = time.monotonic()
    while what := missing():
        if time.monotonic() - began > seconds:
            return False
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            say(f"{folder}, which all hosts have to reach: waiting for {what}")
        time.sleep(_POLL_SECONDS)
        forget_listings(folder)
    return True

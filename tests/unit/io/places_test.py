# SPDX-License-Identifier: Apache-2.0
"""Places of this machine: writing whole files, growing ones, and what cannot be written to.

Those in a bucket are tested by tests/integration/bucket_test.py, which has one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from spatial_core.errors import InputError
from spatial_core.io import places


def test_an_address_of_a_bucket_stays_one():
    """pathlib would make the folder 'gs:/a-bucket' in the working directory of it."""
    address = "gs://a-bucket/runs/one"
    assert str(places.place(address) / "x") == f"{address}/x"
    assert str(places.absolute(address)) == address
    assert str(places.place(places.place(address))) == address
    assert places.is_remote(places.place(address)) and not places.is_remote("runs/one")
    assert isinstance(places.place("runs/one"), Path)


@pytest.mark.parametrize("kind", ["file in the way", "no right"])
def test_a_folder_that_cannot_be_written_to_is_refused_with_the_way_out(tmp_path, kind):
    folder = tmp_path / "runs"
    if kind == "file in the way":
        folder.write_text("")
    else:
        folder = Path("/proc/runs")  # not even root may
    with pytest.raises(InputError, match=r"cannot write to .*--workdir"):
        places.make_folder(folder)


def test_trying_leaves_nothing_behind(tmp_path):
    places.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_the_missing_package_for_buckets_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr("etils.epath.backend.fsspec_backend._get_filesystem", _needs_gcsfs)
    with pytest.raises(InputError, match=r"spatial-audio-stack\[gcs\]"):
        places.make_folder(places.place("gs://a-bucket/runs"))


def _needs_gcsfs(name: str) -> None:
    raise ImportError("Please install gcsfs to access Google Storage")


def test_a_file_grows_and_is_there_at_once(tmp_path):
    text = places.GrowingText(tmp_path / "a.txt", "one\n")
    text.append("two\n")
    assert (tmp_path / "a.txt").read_text() == "one\ntwo\n"
    text.close()


def test_files_below_are_named_from_the_folder(tmp_path):
    for name in ("b", "a/c", "a/b/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in places.files_below(tmp_path)] == ["a/b/d", "a/c", "b"]
    places.copy_files(tmp_path, tmp_path.with_name("copy"))
    assert (tmp_path.with_name("copy") / "a" / "b" / "d").read_text() == "a/b/d"
    places.remove_folder(tmp_path.with_name("copy"))
    assert not os.path.exists(tmp_path.with_name("copy"))
    places.remove_folder(tmp_path.with_name("copy"))

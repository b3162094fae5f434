# SPDX-License-Identifier: Apache-2.0
"""What one test compiled is not compiled again: not by another file or worker, nor by a child process."""

from __future__ import annotations

import os

import jax
import pytest

# Small programs too: operations outside of jit compile one by one, and there are thousands of them.
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs(request, tmp_path_factory):
    """A folder of compiled programs for all workers of the session and the processes that tests start."""
    if any(item.get_closest_marker("aot") for item in request.session.items):
        yield  # programs for a machine that is not here can be stored, but not read again
        return
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # below it each worker has a folder of its own
    settings = {"jax_compilation_cache_dir": str(folder / "compiled"), **_SETTINGS}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run on one worker, which makes its fixtures once; in the order of the folders.

    By default files with few tests go last: those that train in processes of their own, minutes long.
    """
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)

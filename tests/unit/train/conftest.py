# SPDX-License-Identifier: Apache-2.0
"""The tests of the loop compile the same few programs again and again: compile each once."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _compile_cache(tmp_path_factory):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)

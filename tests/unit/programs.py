# SPDX-License-Identifier: Apache-2.0
"""Programs that a test runs a few times only."""

from __future__ import annotations

import functools

import jax

# Compiles in half the time and runs slower: right where the compilation is what takes long.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

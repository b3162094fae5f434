# SPDX-License-Identifier: Apache-2.0
"""Property tests must not fail because the machine is busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None, max_examples=60)
settings.load_profile("patient")

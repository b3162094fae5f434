# SPDX-License-Identifier: Apache-2.0
"""File names made of localizer names."""

from __future__ import annotations

import re


def file_name(name: str) -> str:
    """A name as part of a file name: 'SRP-PHAT (ours)' -> 'srp-phat-ours'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "localizer"

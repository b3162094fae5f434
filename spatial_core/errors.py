# SPDX-License-Identifier: Apache-2.0
"""The one exception that users meet."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used: the message says what was wrong, with what value, and what to do."""

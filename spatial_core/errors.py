# SPDX-License-Identifier: Apache-2.0
"""The one exception that users meet, and what a command does with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Input that cannot be used: the message says what was wrong, with what value, and what to do."""


def run_command(program: str, run: Callable[[], int]) -> int:
    """The exit code of a command: what `run` returns, 2 for unusable input (one line), 130 for Ctrl-C."""
    try:
        return run()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"{program}: error: {message}", file=sys.stderr)
    return 2

# SPDX-License-Identifier: Apache-2.0
"""What the commands share besides their end (`spatial_core.errors.run_command`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from spatial_core.errors import InputError


def make_parser(
    make: Callable[..., argparse.ArgumentParser], *args: str, **kwargs: str | None
) -> argparse.ArgumentParser:
    """What `make` (a class, or a parser's `add_parser`) gives, its texts laid out as written."""
    return make(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)


def check_new_wav(path: str) -> None:
    """Refuse a file that exists, is no wav, or cannot be written, before the work."""
    if Path(path).suffix.lower() != ".wav":
        raise InputError(f"a wav file is written: {path!r} must end in .wav")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"the folder of {path!r} does not exist: make it first")
    if Path(path).exists():
        raise InputError(f"{path!r} exists, and nothing is overwritten: give another name")


def check_plot(path: str | None) -> None:
    """Refuse an impossible picture file before the work, not after it."""
    if path is None:
        return
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"plots are PNG files: {path!r} must end in .png")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"the folder of {path!r} does not exist: make it first")

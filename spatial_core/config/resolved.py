# SPDX-License-Identifier: Apache-2.0
"""A built configuration as JSON, and the differences between two."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SMALL = 64
UNSAID = {"unsaid": True}
"""Metadata of a dataclass field that descriptions mention only where it differs from its default."""


def describe(value: Any) -> Any:
    """JSON-ready description of a built object: dataclasses by field, with their class.

    Large arrays appear as shape, dtype and digest; other objects by their `describe()` if they have
    one, else by class name alone (never by address, so that two runs of one command agree). A field
    added later, marked UNSAID, is left out while it has its default: older descriptions stay equal.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(value)
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return _describe_array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: describe(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.repr and not ("unsaid" in f.metadata and getattr(value, f.name) == f.default)
        }
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(describe(item) for item in value)
    if callable(getattr(value, "describe", None)):
        return {"class": type(value).__name__, "value": describe(value.describe())}
    return getattr(value, "__qualname__", type(value).__qualname__)


def _describe_array(value: np.ndarray) -> Any:
    if value.size <= _SMALL:
        return describe(value.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}


def to_json(value: Any) -> str:
    """Indented JSON with a final newline; infinities and NaN as strings."""
    return json.dumps(describe(value), indent=2, allow_nan=False) + "\n"


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Lines 'path: old -> new' for every leaf in which two descriptions differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{place}: not set -> {new[key]!r}"
            elif key not in new:
                yield f"{place}: {old[key]!r} -> not set"
            else:
                yield from differences(old[key], new[key], place)
    elif old != new:
        yield f"{path}: {old!r} -> {new!r}"

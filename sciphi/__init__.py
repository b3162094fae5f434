# SPDX-License-Identifier: Apache-2.0
"""Sci-Phi: what sounds where in a first-order Ambisonics recording, told by a language model.

    import sciphi
    result = sciphi.describe("scene.wav", order="ACN", norm="SN3D")
    print(result.to_text())

The names below are loaded when first used, so that importing the package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciphi.api import describe, describe_stream
    from sciphi.result import SceneResult
    from sciphi.schema import SceneDescription
    from sciphi.trained import Describer, load_describer

_HOMES = {
    "Describer": "sciphi.trained",
    "SceneDescription": "sciphi.schema",
    "SceneResult": "sciphi.result",
    "describe": "sciphi.api",
    "describe_stream": "sciphi.api",
    "load_describer": "sciphi.trained",
}

__all__ = [
    "Describer",
    "SceneDescription",
    "SceneResult",
    "describe",
    "describe_stream",
    "load_describer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sciphi' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

# SPDX-License-Identifier: Apache-2.0
"""PhaseCoder: from the sound at a few microphones to the direction of the talker.

    import phasecoder
    result = phasecoder.localize("room.wav", "array.json")
    print(result.to_table())

The names below are loaded when first used, so that importing the package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phasecoder.api import Localization, localize, stream
    from phasecoder.pretrained import Encoder, load, save_pretrained

_HOMES = {
    "Encoder": "phasecoder.pretrained",
    "Localization": "phasecoder.api",
    "load": "phasecoder.pretrained",
    "localize": "phasecoder.api",
    "save_pretrained": "phasecoder.pretrained",
    "stream": "phasecoder.api",
}

__all__ = ["Encoder", "Localization", "load", "localize", "save_pretrained", "stream"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phasecoder' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

# SPDX-License-Identifier: Apache-2.0
"""Spatial tokens into a language model: token export, questions, training, answers, evaluation.

    import llm_bridge
    print(llm_bridge.ask("room.wav", "array.json", "Who is on my left, and what do they say?"))

The names below are loaded when first used, so that importing the package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.api import Answer, BridgeModel, ask, ask_stream, load_model

_HOME = "llm_bridge.api"

__all__ = ["Answer", "BridgeModel", "ask", "ask_stream", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'llm_bridge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

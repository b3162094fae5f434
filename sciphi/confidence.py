# SPDX-License-Identifier: Apache-2.0
"""How sure a model was of what it says: the probabilities of the ids that say it, by its own reckoning."""

from __future__ import annotations

from dataclasses import replace

from llm_bridge.generate import Told
from sciphi.schema import SceneDescription
from sciphi.text_format import Span, parse_marked


def parse_told(told: Told) -> tuple[SceneDescription, tuple[str, ...]]:
    """`text_format.parse_text` of an answer, with confidences: of the number of sources, of each zone.

    Each is the product of the probabilities of the ids that write it, given what was written before; None
    for a value that could not be read.
    """
    description, problems, marks = parse_marked(told.text)

    def chance(span: Span | None) -> float | None:
        return None if span is None else told.chance(*span)

    sources = tuple(
        replace(source, confidence=chance(span))
        for source, span in zip(description.sources, marks.zones, strict=True)
    )
    return replace(description, sources=sources, count_confidence=chance(marks.count)), problems

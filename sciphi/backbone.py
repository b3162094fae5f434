# SPDX-License-Identifier: Apache-2.0
"""The backbone `tiny` with a vocabulary of descriptions, trained from scratch: it needs no packages."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from llm_bridge.backbones.pieces import LONGEST, PieceTokenizer
from llm_bridge.backbones.tiny import TinyBackbone
from sciphi.text_format import LEGEND
from sciphi.zones import ZONES_26, ZoneGrid

PIECES = "pieces.json"


@dataclass(frozen=True)
class TinyDescriber(TinyBackbone):
    """Four layers on pieces of descriptions: a zone, a label or a value with its unit is one id.

    zones: of its descriptions, 45 or 15 degrees.
    """

    zones: int = 45
    name: str = "tiny-describer"

    @property
    def tokenizer(self) -> PieceTokenizer:
        """The shipped pieces, and the zones of 15 degrees where they are wanted."""
        return _tokenizer(self.zones)


@cache
def _tokenizer(zones: int) -> PieceTokenizer:
    text = (importlib.resources.files("sciphi") / PIECES).read_text(encoding="utf-8")
    pieces = json.loads(text)
    return PieceTokenizer(
        [*pieces, *(zone for zone in ZoneGrid(zones).names if zone not in pieces)]
    )


def description_pieces(labels: Iterable[str], questions: Iterable[str]) -> list[str]:
    """Pieces for descriptions with these labels, and for the words of questions.

    Values come with their unit: to say how far is one choice. What shipped once must stay as it is,
    since trained models know pieces by their place.
    """
    fixed = ["room_volume=", "; RT60=", "; n_src=", ". noise_label: ", ";noise_loudness="]
    half = LEGEND.index(" distance")
    fixed += [f". {LEGEND[:half]}", f"{LEGEND[half:]} ", "Unknown", "None", "not present"]
    fixed += [":(", "); ", ").", ", "]
    volumes = [f"{100 * i}m^3" for i in range(1, 41)] + ["00m^3", "m^3"]
    seconds = [f"{i / 10:.1f}s" for i in range(0, 101)]
    metres = [f"{i / 10:.1f}m" for i in range(0, 151)]
    levels = [f"{i}dB" for i in range(-99, 61)]
    words = dict.fromkeys(word for text in questions for word in _words(text))
    known = (fixed, volumes, seconds, metres, levels, map(str, range(10)), ZONES_26.names, labels)
    pieces = dict.fromkeys(piece for group in (*known, words) for piece in group)
    return [piece for piece in pieces if 1 < len(piece.encode()) <= LONGEST]


def _words(text: str) -> list[str]:
    """Words with the space before them."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]

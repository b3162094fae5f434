# SPDX-License-Identifier: Apache-2.0
"""A tokenizer without dependencies: the longest known piece wins, bytes stand for the rest.

The pieces of the shipped list are whole words with the space before them, common word parts, and the
fields and values of answers: a direction such as `120` is one token, so that to answer is to choose.
"""

from __future__ import annotations

import collections
import importlib.resources
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache

from spatial_core.errors import InputError

SPECIAL = ("pad", "end", "user", "model", "bsa", "esa", "boa", "eoa")
BYTES = 256
LONGEST = 40  # bytes of a piece
FIELDS = ("azimuth_degrees_", "elevation_degrees_", "distance_meters_")
DECIMETERS = ("01", "06", "12", "17", "22", "28", "33", "39", "44", "49", "55", "60")


class PieceTokenizer:
    """Ids: `SPECIAL` first, then the 256 bytes, then the pieces. Decoding is exact for any text."""

    def __init__(self, pieces: Sequence[str]):
        self._bytes = [b""] * len(SPECIAL) + [bytes([value]) for value in range(BYTES)]
        self._bytes += [piece.encode() for piece in pieces]
        too_long = [piece for piece in pieces if not 1 < len(piece.encode()) <= LONGEST]
        if too_long or len(set(self._bytes[len(SPECIAL) :])) < BYTES + len(pieces):
            raise InputError(
                f"pieces {too_long[:5]}: each of 2 to {LONGEST} bytes, and none of them twice"
            )
        self._ids = {piece: i for i, piece in enumerate(self._bytes) if piece}
        self._longest = max(map(len, self._bytes))

    @classmethod
    def shipped(cls) -> PieceTokenizer:
        """The tokenizer of the `tiny` backbone."""
        return _shipped()

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return len(self._bytes)

    def special(self, name: str) -> int:
        """Id of one of `SPECIAL`; no text gives it."""
        return SPECIAL.index(name)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never special ones."""
        data, ids, start = text.encode(), [], 0
        while start < len(data):
            for end in range(min(len(data), start + self._longest), start, -1):
                found = self._ids.get(data[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones give nothing, bytes that are no text give U+FFFD."""
        return b"".join(self._bytes[int(i)] for i in ids).decode(errors="replace")


@cache
def _shipped() -> PieceTokenizer:
    source = importlib.resources.files("llm_bridge.backbones") / "tiny_pieces.json"
    return PieceTokenizer(json.loads(source.read_text(encoding="utf-8")))


def answer_pieces() -> list[str]:
    """Fields and values of the answers of appendix D, and round numbers of its questions."""
    fields = [f"{sep}{name}{i}=" for sep in ("", ", ") for name in FIELDS for i in (1, 2)]
    fields += ["transcript_1=[", "transcript_1=none", ", transcript_2=[", ", transcript_2=none"]
    degrees = [f"{value:03d}" for value in range(0, 360, 10)]
    spoken = [str(value) for value in range(10, 360, 5)]
    spoken += [f"{value / 10:.1f}" for value in range(1, 71)]
    values = dict.fromkeys([*degrees, *DECIMETERS, *spoken])
    return [*fields, "=none", "none", "yes", "no", *values]


def learn_pieces(texts: Iterable[str], size: int) -> list[str]:
    """`size` pieces: those of answers, then words of `texts` (most frequent first), then word parts."""
    words = collections.Counter(
        match for text in texts for match in re.findall(r" ?[A-Za-z']+", text)
    )
    parts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for length in (2, 3, 4):
            for start in range(len(word) - length + 1):
                parts[word[start : start + length]] += count
    pieces = dict.fromkeys(answer_pieces())
    for counter, share in ((words, 0.75), (parts, 1.0)):
        for piece, _ in _ranked(counter):
            if len(pieces) >= share * size:
                break
            if 1 < len(piece.encode()) <= LONGEST and not any(c.isdigit() for c in piece):
                pieces.setdefault(piece)
    return list(pieces)[:size]


def _ranked(counter: collections.Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first; equal counts in the order of the alphabet, so that a list repeats."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))

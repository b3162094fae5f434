# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's SentencePiece tokenizer, from the user's file (it is under Gemma's terms)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from spatial_core.errors import InputError

VOCABULARY = 262_144
"""Pieces of the file; the ids behind it are those of camera and audio."""
START_OF_AUDIO = 256_000
MAX_BYTES = 64 << 20
# What the layout writes by id: a text must not be able to, as it could end its turn.
_MARKERS = r"(?:start|end)_of_(?:turn|image|audio)|unused\d+|pad|eos|bos|unk|mask|(?:image|audio)_soft_token"
_MARKER = re.compile(rf"<(?:{_MARKERS})>")
_BEFORE_MARKER = re.compile(rf"(?<=<)(?=(?:{_MARKERS})>)")
_EXPECTED = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    6: "<unused0>",
    7: "<unused1>",
    105: "<start_of_turn>",
    106: "<end_of_turn>",
}


class Gemma3nTokenizer:
    """Text to ids and back; markers written in a text stay text, and markers among ids stay unseen.

    Args:
        path: tokenizer.model.
        vocabulary, start_of_audio: what the file must have; other values are for tests.

    InputError if the file cannot be read or is not Gemma 3n's, or if sentencepiece is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        vocabulary: int = VOCABULARY,
        start_of_audio: int = START_OF_AUDIO,
    ):
        self._pieces = _read(Path(path))
        found = self._pieces.get_piece_size()
        if found != vocabulary:
            raise InputError(
                f"{path} has {found} pieces, Gemma 3n's tokenizer {vocabulary}: is it another model's?"
            )
        wrong = [
            f"{id} is {self._pieces.id_to_piece(id)!r}, not {piece!r}"
            for id, piece in _EXPECTED.items()
            if self._pieces.id_to_piece(id) != piece
        ]
        if not _MARKER.fullmatch(self._pieces.id_to_piece(start_of_audio)):
            piece = self._pieces.id_to_piece(start_of_audio)
            wrong.append(f"{start_of_audio} is {piece!r}, not '<start_of_audio>'")
        if wrong:
            raise InputError(f"{path} lacks ids that the soft tokens need: {'; '.join(wrong)}")
        self._hidden = {
            id for id in range(vocabulary) if _MARKER.fullmatch(self._pieces.id_to_piece(id))
        }

    @property
    def vocab_size(self) -> int:
        """Ids of text are below this."""
        return int(self._pieces.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any marker."""
        return [id for part in _BEFORE_MARKER.split(text) for id in self._pieces.encode(part)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; markers, and ids that are not text, give nothing."""
        kept = [int(id) for id in ids if 0 <= id < self.vocab_size and int(id) not in self._hidden]
        return str(self._pieces.decode(kept))


def _read(path: Path):  # type: ignore[no-untyped-def]
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(
            "Gemma's tokenizer needs the package sentencepiece: "
            "uv pip install 'spatial-audio-stack[gemma]'"
        ) from error
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: give tokenizer.model of a Gemma 3n that you downloaded"
        )
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MB: no SentencePiece model is")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is not a SentencePiece model: {error}") from error

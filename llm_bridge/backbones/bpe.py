# SPDX-License-Identifier: Apache-2.0
"""Byte-pair tokenizers from the vocabulary and merges, or scores, in a GGUF file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from spatial_core.errors import InputError

# Token types of GGUF.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPACE = "\u2581"


class ByteLevelTokenizer:
    """The byte-level BPE of a GGUF file of the GPT-2 kind, digits one by one."""

    def __init__(self, tokens: Sequence[str], merges: Sequence[str], kinds: Sequence[int]):
        parts = _tokenizers()
        vocabulary = {token: i for i, token in enumerate(tokens)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        self._bpe = parts.Tokenizer(parts.models.BPE(vocab=vocabulary, merges=pairs))
        before = parts.pre_tokenizers
        self._bpe.pre_tokenizer = before.Sequence(
            [before.Digits(individual_digits=True), before.ByteLevel(add_prefix_space=False)]
        )
        self._bpe.decoder = parts.decoders.ByteLevel()
        self._special = frozenset(i for i, kind in enumerate(kinds) if kind == CONTROL)
        self.vocab_size = len(tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; `<|im_end|>` in it is taken as letters, so that a user cannot end a turn."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones give nothing."""
        plain = [int(i) for i in ids if int(i) not in self._special]
        return self._bpe.decode(plain, skip_special_tokens=False)


class ScoredTokenizer:
    """The BPE of a GGUF file of the SentencePiece kind: spaces are U+2581, rest falls back to bytes.

    Such files have scores in place of merges: of all neighbours whose union is a piece, those with
    the best union are joined first.
    """

    def __init__(self, tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]):
        parts = _tokenizers()
        vocabulary = {token: i for i, token in enumerate(tokens)}
        merges = _merges(vocabulary, scores, kinds)
        self._bpe = parts.Tokenizer(
            parts.models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True)
        )
        self._bpe.normalizer = parts.normalizers.Replace(" ", SPACE)
        # Pieces such as line breaks, which SentencePiece takes out of the text before all else.
        given = [t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
        self._bpe.add_tokens(
            [parts.AddedToken(t, normalized=False) for t in given if not t.startswith("[")]
        )
        decoders = parts.decoders
        self._bpe.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        self._special = frozenset(i for i, kind in enumerate(kinds) if kind == CONTROL)
        self.vocab_size = len(tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; names of control tokens in it are taken as letters."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones give nothing."""
        plain = [int(i) for i in ids if int(i) not in self._special]
        return self._bpe.decode(plain, skip_special_tokens=False)


def _merges(
    vocabulary: dict[str, int], scores: Sequence[float], kinds: Sequence[int]
) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best score first, then as in the vocabulary."""
    ranked = sorted(
        (-scores[i], i, token)
        for token, i in vocabulary.items()
        if kinds[i] == NORMAL and len(token) > 1
    )
    joinable = {token for token, i in vocabulary.items() if kinds[i] in (NORMAL, USER_DEFINED)}
    return [pair for _, _, token in ranked for pair in _splits(token, joinable)]


def _splits(token: str, joinable: set[str]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(token)):
        pair = token[:cut], token[cut:]
        if pair[0] in joinable and pair[1] in joinable:
            yield pair


def _tokenizers() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise InputError(
            "the tokenizer of this model needs the package tokenizers: "
            "run `pip install gguf tokenizers`"
        ) from error

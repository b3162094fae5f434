# SPDX-License-Identifier: Apache-2.0
"""Byte-pair tokenizers: from the vocabulary and merges, or scores, in a GGUF file, or from a tokenizer.json."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spatial_core.errors import InputError

# Token types of GGUF.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPACE = "\u2581"
MAX_BYTES = 128 << 20


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


class FileTokenizer:
    """The BPE of a Hugging Face tokenizer.json, whose special tokens no text can write.

    Args:
        path: the file.
        expected: ids that its special tokens must have, by their text.

    InputError if the file is missing, damaged or lacks one of those, or tokenizers is not installed.
    """

    def __init__(self, path: str | Path, expected: Mapping[str, int]):
        parts, content = _tokenizers(), _read_json(Path(path))
        try:
            added = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
            # Without them `<|end|>` in a text is letters, so that a user cannot end a turn.
            plain = {**content, "added_tokens": [], "post_processor": None}
            self._bpe = parts.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises no narrower class
            raise InputError(f"{path} is not a tokenizer.json: {error}") from error
        wrong = [
            f"{text!r} is {added.get(text, 'missing')}, not {id}"
            for text, id in expected.items()
            if added.get(text) != id
        ]
        if wrong:
            raise InputError(f"{path} is another model's tokenizer: {'; '.join(wrong)}")
        self._special = frozenset(added.values())
        self.vocab_size = 1 + max([*self._special, self._bpe.get_vocab_size() - 1])

    def encode(self, text: str) -> list[int]:
        """Ids of a text; names of special tokens in it are taken as letters."""
        return [int(id) for id in self._bpe.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones, and ids that are not text, give nothing."""
        plain = [int(i) for i in ids if int(i) >= 0 and int(i) not in self._special]
        return str(self._bpe.decode(plain, skip_special_tokens=False))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the tokenizer.json of the model")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MB: no tokenizer.json is")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a tokenizer.json: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a tokenizer.json: it holds a {type(content).__name__}")
    return content


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

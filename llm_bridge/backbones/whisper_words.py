# SPDX-License-Identifier: Apache-2.0
"""All of Whisper tiny.en as a mono ear: the encoder's features, and the words that its decoder understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from llm_bridge.backbones.bpe import FileTokenizer
from llm_bridge.backbones.packaged import PackagedFile
from llm_bridge.backbones.whisper import (
    FEATURES,
    WEIGHTS,
    stack,
    whisper_identity,
    whisper_tiny_vectors,
)
from llm_bridge.backbones.whisper_decoder import END, START, Spoken, trusted, whisper_decoder
from llm_bridge.backbones.word_slots import NUMBERS, Word, place_words, to_numbers
from llm_bridge.layout import token_count
from llm_bridge.protocol import AudioEncoder, Tokenizer

TOKENIZER = PackagedFile(
    WEIGHTS.package,
    "model/tokenizer.json",
    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    WEIGHTS.install,
)
VERSION = 1  # of what is made of the weights' output: raise it when words or their slots change
HEARD = FEATURES + NUMBERS
Listener = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], Spoken]]


@cache
def whisper_tokenizer() -> FileTokenizer:
    """The tokenizer of Whisper's English models."""
    special = {"<|endoftext|>": END, "<|startoftranscript|>": START}
    return FileTokenizer(TOKENIZER.locate(), special)


def words_of(spoken: Spoken, decode: Callable[[Sequence[int]], str]) -> list[Word]:
    """Words of tokens: one begins with each token that has a space before it. Empty ones are left out."""
    starts = [k for k, id in enumerate(spoken.ids) if k == 0 or decode([id]).startswith(" ")]
    words = []
    for first, end in zip(starts, [*starts[1:], len(spoken.ids)], strict=True):
        text = decode(spoken.ids[first:end]).strip()
        if text:
            words.append(Word(text, float(spoken.edges[first]), float(spoken.edges[end])))
    return words


def whisper_listener(block: float = 10.0) -> Listener:
    """[t] at 16 kHz, up to 30 s -> vectors of 20 ms [n, 384], and what is spoken in them."""
    encode, decode = whisper_tiny_vectors(block), whisper_decoder()
    text = whisper_tokenizer().decode

    def call(audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], Spoken]:
        vectors = encode(audio)
        return vectors, trusted(decode(vectors, len(audio)), text)

    return call


def whisper_words_identity(
    language_model: str, digest: str, block: float = 10.0
) -> tuple[str, str]:
    """Name and digest of `whisper_tiny_words` for the tokenizer of a language model."""
    name, of = whisper_identity(block)
    return f"{name}-words-{language_model}", f"{of}, words {VERSION} as ids of {digest}"


def whisper_tiny_words(tokenizer: Tokenizer, block: float = 10.0) -> AudioEncoder:
    """[t] at 16 kHz, up to 30 s -> [ceil(t / 2560), 1538]: features and words of each soft token.

    The first 1,536 numbers are those of `whisper_tiny_encoder`; the last two are the id of the word
    spoken there (`word_slots`), in the language model whose `tokenizer` it is.
    """
    listen, decode = whisper_listener(block), whisper_tokenizer().decode

    def call(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors, spoken = listen(audio)
        ids, _ = place_words(words_of(spoken, decode), tokenizer, token_count(len(audio)))
        return np.concatenate([stack(vectors, len(audio)), to_numbers(ids)], axis=1)

    return call

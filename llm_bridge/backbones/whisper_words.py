# SPDX-License-Identifier: Apache-2.0
"""All of Whisper tiny.en as a mono ear: the encoder's features, and the words that its decoder understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from llm_bridge.backbones.whisper_decoder import END, START, Spoken, whisper_decoder
from llm_bridge.backbones.word_slots import NUMBERS, Word, place_words, to_numbers
from llm_bridge.layout import token_count
from llm_bridge.protocol import AudioEncoder, Tokenizer

TOKENIZER = PackagedFile(
    WEIGHTS.package,
    "model/tokenizer.json",
    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    WEIGHTS.install,
)
VERSION = 3  # of what is made of the weights' output: raise it when words or their slots change
LONG = 0.7  # seconds, of a median word
HEARD = FEATURES + NUMBERS
Listener = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], Spoken]]


@cache
def whisper_tokenizer() -> FileTokenizer:
    """The tokenizer of Whisper's English models."""
    special = {"<|endoftext|>": END, "<|startoftranscript|>": START}
    return FileTokenizer(TOKENIZER.locate(), special)


def words_of(spoken: Spoken, decode: Callable[[Sequence[int]], str]) -> list[Word]:
    """Words of tokens: one begins with each token that has a space before it. Lone marks are left out.

    A word ends where the marks behind it begin: those take the pause.
    """
    starts = [k for k, id in enumerate(spoken.ids) if k == 0 or decode([id]).startswith(" ")]
    ends = [*starts[1:], len(spoken.ids)][: len(starts)]  # none of nothing said
    words = []
    for first, end in zip(starts, ends, strict=True):
        text = decode(spoken.ids[first:end]).strip()
        last = end
        while last > first + 1 and not any(map(str.isalnum, decode([spoken.ids[last - 1]]))):
            last -= 1
        if any(map(str.isalnum, text)):
            words.append(Word(text, float(spoken.edges[first]), float(spoken.edges[last])))
    return words


def without_pauses(words: Sequence[Word]) -> list[Word]:
    """The words, none much longer than the others: Whisper counts a pause to a word beside it.

    At most twice the median of those that take time, as in timing.py. What is cut off stood before the
    word where it is the first or follows a mark, else behind it.
    """
    taken = [word.end - word.start for word in words if word.end > word.start]
    longest = 2 * min(LONG, float(np.median(taken))) if taken else 0.0
    out = []
    opens = True
    for word in words:
        if word.end - word.start > longest:
            start = word.end - longest if opens else word.start
            word = replace(word, start=start, end=start + longest)
        out.append(word)
        opens = not word.text[-1].isalnum()
    return out


def whisper_listener(block: float = 10.0) -> Listener:
    """[t] at 16 kHz, up to 30 s -> vectors of 20 ms [n, 384], and what is spoken in them."""
    encode = whisper_tiny_vectors(block)
    decode = whisper_decoder(whisper_tokenizer().decode)

    def call(audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], Spoken]:
        vectors = encode(audio)
        return vectors, decode(vectors, len(audio))

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
        words = without_pauses(words_of(spoken, decode))
        ids, _ = place_words(words, tokenizer, token_count(len(audio)))
        return np.concatenate([stack(vectors, len(audio)), to_numbers(ids)], axis=1)

    return call

# SPDX-License-Identifier: Apache-2.0
"""What language models out of a package have in common: GGUF weights, and Whisper tiny.en as the mono ear."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from flax import nnx

from llm_bridge.backbones.decoder import Decoder, DecoderConfig
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.backbones.gguf_weights import read_decoder
from llm_bridge.backbones.whisper import FEATURES, whisper_identity, whisper_tiny_encoder
from llm_bridge.backbones.whisper_words import HEARD, whisper_tiny_words, whisper_words_identity
from llm_bridge.peft_format import decoder_names
from llm_bridge.protocol import AudioEncoder, SoftTokenIds, Tokenizer
from spatial_core.data.records import HOP
from spatial_core.typing import Params


@dataclass(frozen=True)
class PackagedModel(abc.ABC):
    """A frozen `Decoder` whose weights are in a package.

    dtype, param_dtype: of the computation and of the weights. audio_hidden: width between the two maps
    that bring Whisper's output to the model; those are trained, the rest is frozen. audio_block: see
    whisper_tiny_encoder. words: it also gets the words that Whisper's decoder understands, each as its own
    embedding in the soft token in which it is spoken.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False
    audio_hidden: int = 1024
    audio_block: float = 10.0
    words: bool = True
    name: str = ""
    width: int = 0
    trainable: str = r"audio/.*"
    partition_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    @property
    @abc.abstractmethod
    def ids(self) -> SoftTokenIds:
        """Special ids."""

    @property
    @abc.abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Its text ids."""

    @property
    @abc.abstractmethod
    def weights_digest(self) -> str:
        """Of the published weights."""

    @property
    @abc.abstractmethod
    def config(self) -> DecoderConfig:
        """Shape of the decoder."""

    @abc.abstractmethod
    def file(self) -> GgufFile:
        """The weights; InputError if their package is not installed."""

    @property
    @abc.abstractmethod
    def hf_model(self) -> str:
        """Its repository at Hugging Face."""

    def hf_linear(self, path: str, index: tuple[int, ...]) -> str:
        """Hugging Face's module of one of our linear maps; `index`: its place in the stack."""
        return decoder_names(path, index)

    def build(self, rngs: nnx.Rngs) -> Decoder:
        """A decoder with fresh parameters."""
        return Decoder(self.config, rngs=rngs)

    def load(self, shardings: Params | None = None) -> Params:
        """The published weights; `audio` is not among them and starts fresh."""
        return read_decoder(self.file(), self.config, self.ids, shardings)

    @property
    def audio_width(self) -> int:
        """Of a soft token: Whisper's features, and behind them an id where there are words."""
        return HEARD if self.words else FEATURES

    @property
    def audio_identity(self) -> tuple[str, str]:
        """Name and digest of the mono encoder."""
        if not self.words:
            return whisper_identity(self.audio_block)
        return whisper_words_identity(self.name, self.weights_digest, self.audio_block)

    @property
    def audio_hop(self) -> int:
        """A mono token per 160 ms."""
        return HOP

    def audio_encoder(self) -> AudioEncoder:
        """Whisper tiny.en: its features, and with `words` what it understands."""
        if not self.words:
            return whisper_tiny_encoder(self.audio_block)
        return whisper_tiny_words(self.tokenizer, self.audio_block)

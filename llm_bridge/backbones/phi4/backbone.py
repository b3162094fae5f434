# SPDX-License-Identifier: Apache-2.0
"""Phi-4-multimodal and Phi-4-mini as backbones: the user's weights and tokenizer.json, our modules.

Microsoft publishes both under the MIT licence; they are too large for this package. Downloaded, a folder of
Hugging Face (`microsoft/Phi-4-multimodal-instruct`, `microsoft/Phi-4-mini-instruct`) has all that is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from llm_bridge.backbones.bpe import FileTokenizer
from llm_bridge.backbones.phi4 import audio_frontend as frontend
from llm_bridge.backbones.phi4 import weights
from llm_bridge.backbones.phi4.config import Phi4AudioConfig, Phi4TextConfig
from llm_bridge.backbones.phi4.conformer import Phi4AudioEncoder
from llm_bridge.backbones.phi4.names import hf_linear_name
from llm_bridge.backbones.phi4.text import PARTITION_RULES, Phi4Text
from llm_bridge.backbones.weight_files import required, tokenizer_path
from llm_bridge.backbones.whisper import FEATURES, whisper_identity, whisper_tiny_encoder
from llm_bridge.layout import check_length
from llm_bridge.protocol import AudioEncoder, SoftTokenIds
from spatial_core.data.records import HOP
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from spatial_core.typing import Params

END_OF_TEXT, ASSISTANT, END, USER, SYSTEM = 199_999, 200_019, 200_020, 200_021, 200_022
# The brackets take rows of the embedding that no token has.
IDS = SoftTokenIds(
    pad=END_OF_TEXT,
    bos=None,
    stop=(END, END_OF_TEXT),
    bsa=200_040,
    esa=200_041,
    boa=200_042,
    eoa=200_043,
)
SPECIAL = {
    "<|endoftext|>": END_OF_TEXT,
    "<|assistant|>": ASSISTANT,
    "<|end|>": END,
    "<|user|>": USER,
    "<|system|>": SYSTEM,
}
TOKENIZER_FILE = "tokenizer.json"
PRESETS = ("multimodal", "mini")
# Clips are padded to so many tokens, so that few programs are compiled; the answer stays the same.
_BUCKET = 25


@dataclass(frozen=True)
class Phi4Backbone:
    """Phi-4-multimodal with its own audio encoder and adapter, all frozen; or Phi-4-mini.

    Attributes:
      preset: "multimodal"; or "mini", which has no ear: it gets the encoder of Whisper tiny, as the
        backbone `small`, and a projection of what that says, which is trained.
      weights: Hugging Face's folder or .safetensors file; needed where weights are read, not to see
        shapes or memory.
      tokenizer_file: None: tokenizer.json in the folder of the weights.
      dtype: of the weights and matrix products.
      remat: recompute each layer in the backward pass.
    """

    preset: str = "multimodal"
    weights: str | None = None
    tokenizer_file: str | None = None
    dtype: str = "bfloat16"
    remat: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(
                f"Phi4Backbone.preset is {self.preset!r}: choose among {', '.join(PRESETS)}"
            )
        if self.dtype not in ("bfloat16", "float32"):
            # It was trained in bfloat16, whose range float16 lacks.
            raise InputError(f"Phi4Backbone.dtype is {self.dtype!r}: bfloat16 or float32")

    @property
    def config(self) -> Phi4TextConfig:
        """Sizes of the text decoder."""
        dtype = jnp.dtype(self.dtype)
        found = Phi4TextConfig(dtype=dtype, param_dtype=dtype, remat=self.remat)
        if self._hears:
            return found
        return dataclasses.replace(
            found, speech_lora=None, audio_width=FEATURES, audio_trained=True
        )

    @property
    def audio_config(self) -> Phi4AudioConfig:
        """Sizes of the audio encoder of "multimodal"."""
        dtype = jnp.dtype(self.dtype)
        return Phi4AudioConfig(dtype=dtype, param_dtype=dtype)

    @property
    def name(self) -> str:
        """phi4-multimodal or phi4-mini."""
        return f"phi4-{self.preset}"

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return self.config.width

    @property
    def audio_width(self) -> int:
        """Of the audio encoder's output."""
        return self.config.audio_width

    @property
    def audio_hop(self) -> int:
        """Samples at 16 kHz from one mono token to the next."""
        return frontend.TOKEN_HOP if self._hears else HOP

    @property
    def ids(self) -> SoftTokenIds:
        """Special ids."""
        return IDS

    @property
    def tokenizer(self) -> FileTokenizer:
        """The model's own, from the user's file; InputError if that is not Phi-4's."""
        path = tokenizer_path(
            "Phi4Backbone", "Phi-4", self.tokenizer_file, self.weights, TOKENIZER_FILE
        )
        return _tokenizer(str(path))

    @property
    def trainable(self) -> str:
        """The projection of sound where it did not come with the weights."""
        return "" if self._hears else r"^audio/"

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The table by column, matrices by the axis of the model's width."""
        return PARTITION_RULES

    def build(self, rngs: nnx.Rngs) -> Phi4Text:
        """The text decoder with fresh parameters."""
        return Phi4Text(self.config, rngs)

    def load(self, shardings: Params | None = None) -> Params:
        """The published parameters of the text decoder; InputError lists what the files lack."""
        return weights.load_text(self._weights(), self.config, shardings)

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """The chat template; the sound stands at the beginning of the user's turn."""
        encode = self.tokenizer.encode
        before = [SYSTEM, *encode(system), END] if system else []
        return [*before, USER], [*encode(user), END, ASSISTANT]

    @property
    def hf_model(self) -> str:
        """Its repository at Hugging Face."""
        return f"microsoft/Phi-4-{self.preset}-instruct"

    def hf_linear(self, path: str, index: tuple[int, ...]) -> str:
        """Hugging Face's module of one of our linear maps; `index`: its place in the stack."""
        return hf_linear_name(path, index)

    @property
    def weights_digest(self) -> str:
        """Of a sample of every tensor of the text decoder; see `weight_files.digest`."""
        return _text_digest(self._weights(), self.config)

    @property
    def audio_identity(self) -> tuple[str, str]:
        """The encoder's name and a digest of a sample of its tensors; or Whisper's."""
        if not self._hears:
            return whisper_identity()
        digest = _audio_digest(self._weights(), self.audio_config)
        return f"{self.name} audio encoder, {self.dtype}", digest

    def audio_encoder(self) -> AudioEncoder:
        """[t] at 16 kHz, up to 30 s -> float32 [ceil(t / audio_hop), a].

        "multimodal": a vector per 80 ms; zeros for a last one that begins with less than 25 ms of sound,
        for which the model has none. InputError for weights that are missing or partial, and from the
        result for an empty clip or one over 30 s.
        """
        if not self._hears:
            return whisper_tiny_encoder()
        config = self.audio_config
        return make_audio_encoder(config, weights.load_audio(self._weights(), config))

    @property
    def _hears(self) -> bool:
        return self.preset == "multimodal"

    def _weights(self) -> str:
        how = f"download {self.hf_model} and name its folder"
        return required("Phi4Backbone", self.weights, how)


def make_audio_encoder(config: Phi4AudioConfig, params: dict[str, Any]) -> AudioEncoder:
    """Waveform to tokens of 80 ms with given parameters, on the default device."""
    bind = Functional(lambda rngs: Phi4AudioEncoder(config, rngs)).bind
    placed = jax.device_put(params)

    @jax.jit
    def run(params: Any, audio: jax.Array, samples: jax.Array) -> jax.Array:
        return bind(params).from_audio(audio, samples)[0].astype(jnp.float32)  # type: ignore[attr-defined]

    def encode(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1:
            raise InputError(f"the audio encoder hears one channel [t], not {list(audio.shape)}")
        check_length(len(audio))
        out = np.zeros((-(-len(audio) // frontend.TOKEN_HOP), config.width), np.float32)
        count = frontend.token_count(len(audio))
        if count:
            filled = -(-len(out) // _BUCKET) * _BUCKET * frontend.TOKEN_HOP
            padded = np.zeros((1, filled), np.float32)
            padded[0, : len(audio)] = audio
            out[:count] = np.asarray(run(placed, padded, np.array([len(audio)])))[:count]
        return out

    return encode


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str) -> FileTokenizer:
    return FileTokenizer(path, SPECIAL)


@functools.lru_cache(maxsize=2)
def _text_digest(path: str, config: Phi4TextConfig) -> str:
    return weights.text_digest(path, config)


@functools.lru_cache(maxsize=2)
def _audio_digest(path: str, config: Phi4AudioConfig) -> str:
    return weights.audio_digest(path, config)

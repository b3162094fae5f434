# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n E2B and E4B as backbones: the user's weights and SentencePiece file, our modules.

Gemma is under Google's own terms; neither weights nor vocabulary come with this package. Downloaded,
a folder of Hugging Face (`google/gemma-3n-E4B-it`: model*.safetensors, tokenizer.model) has both.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from llm_bridge.backbones.gemma3n import mel, weights
from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig, Gemma3nAudioEncoder
from llm_bridge.backbones.gemma3n.config import Gemma3nConfig, e2b, e4b
from llm_bridge.backbones.gemma3n.names import AUDIO, hf_linear_name
from llm_bridge.backbones.gemma3n.text import PARTITION_RULES, Gemma3nText
from llm_bridge.backbones.gemma3n.tokenizer import Gemma3nTokenizer
from llm_bridge.backbones.weight_files import required, tokenizer_path
from llm_bridge.layout import check_length
from llm_bridge.protocol import AudioEncoder, SoftTokenIds
from spatial_core.data.records import HOP
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from spatial_core.typing import Params

EOS, BOS, START_OF_TURN, END_OF_TURN = 1, 2, 105, 106
# BSA and ESA are <unused0> and <unused1>; an answer ends like a turn.
IDS = SoftTokenIds(pad=0, bos=BOS, stop=(END_OF_TURN, EOS), bsa=6, esa=7, boa=256_000, eoa=262_272)
TOKENIZER_FILE = "tokenizer.model"
_PRESETS = {"E2B": e2b, "E4B": e4b}
# Clips are padded to so many tokens, so that few programs are compiled; the answer stays the same.
_BUCKET = 32


@dataclass(frozen=True)
class Gemma3nBackbone:
    """Gemma 3n with its own audio encoder; all of it is frozen.

    Attributes:
      preset: "E2B" or "E4B".
      weights: Hugging Face's folder or .safetensors file, or Google's Orbax folder; needed where
        weights are read, not to see shapes or memory.
      tokenizer_file: the SentencePiece file; None: tokenizer.model in the folder of the weights.
      dtype: of the weights and matrix products.
      remat: recompute each layer in the backward pass.
    """

    preset: str = "E4B"
    weights: str | None = None
    tokenizer_file: str | None = None
    dtype: str = "bfloat16"
    remat: bool = True
    trainable: str = ""

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise InputError(
                f"Gemma3nBackbone.preset is {self.preset!r}: choose among {', '.join(_PRESETS)}"
            )
        if self.dtype not in ("bfloat16", "float32"):
            # In float16 the model overflows.
            raise InputError(f"Gemma3nBackbone.dtype is {self.dtype!r}: bfloat16 or float32")

    @property
    def config(self) -> Gemma3nConfig:
        """Sizes of both halves."""
        dtype = jnp.dtype(self.dtype)
        return _PRESETS[self.preset](dtype=dtype, param_dtype=dtype, remat=self.remat)

    @property
    def name(self) -> str:
        """gemma3n-e4b or gemma3n-e2b."""
        return self.config.name

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return self.config.text.width

    @property
    def audio_width(self) -> int:
        """Of the audio encoder's output."""
        return self.config.audio.width

    @property
    def ids(self) -> SoftTokenIds:
        """Special ids."""
        return IDS

    @property
    def tokenizer(self) -> Gemma3nTokenizer:
        """The model's own, from the user's file; InputError if that is not Gemma 3n's."""
        path = tokenizer_path(
            "Gemma3nBackbone", "Gemma 3n", self.tokenizer_file, self.weights, TOKENIZER_FILE
        )
        return _tokenizer(str(path))

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Tables by column, matrices by the axis of the model's width."""
        return PARTITION_RULES

    def build(self, rngs: nnx.Rngs) -> Gemma3nText:
        """The text decoder with fresh parameters."""
        return Gemma3nText(self.config.text, rngs)

    def load(self, shardings: Params | None = None) -> Params:
        """The published parameters of the text decoder; InputError lists what the files lack."""
        return weights.load_text(self._weights(), self.config.text, shardings)

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """The chat template: one turn that holds system text, sound and question.

        The system text heads the user's turn, as Gemma has no turn for it, and blank lines stand
        around the sound.
        """
        encode = self.tokenizer.encode
        head = f"{system}\n\n" if system else ""
        before = [BOS, START_OF_TURN, *encode(f"user\n{head}\n\n")]
        after = [*encode(f"\n\n{user}"), END_OF_TURN, *encode("\n")]
        return before, [*after, START_OF_TURN, *encode("model\n")]

    @property
    def hf_model(self) -> str:
        """Its repository at Hugging Face."""
        return f"google/gemma-3n-{self.preset}-it"

    def hf_linear(self, path: str, index: tuple[int, ...]) -> str:
        """Hugging Face's module of one of our linear maps; `index`: its place in the stack."""
        return hf_linear_name(self.config.text, path, index)

    @property
    def weights_digest(self) -> str:
        """Of a sample of every tensor of the text decoder; see `weights.text_digest`."""
        return weights.text_digest(self._weights(), self.config.text)

    @property
    def audio_identity(self) -> tuple[str, str]:
        """The encoder's name and the SHA-256 of its weights; reads all of them once a process."""
        return f"{self.name} audio encoder, {self.dtype}", _audio_digest(self._weights())

    @property
    def audio_hop(self) -> int:
        """A mono token per 160 ms."""
        return HOP

    def audio_encoder(self) -> AudioEncoder:
        """[t] at 16 kHz, up to 30 s -> [ceil(t / 2560), 1536] float32, one vector per 160 ms.

        InputError for weights that are missing or partial, and from the result for an empty clip or
        one over 30 s.
        """
        config = dataclasses.replace(self.config.audio, remat=False)
        return make_audio_encoder(config, weights.load_audio(self._weights(), config))

    def _weights(self) -> str:
        how = f"accept Gemma's licence, download gemma-3n-{self.preset}-it and name its folder"
        return required("Gemma3nBackbone", self.weights, how)


def make_audio_encoder(config: Gemma3nAudioConfig, params: dict[str, Any]) -> AudioEncoder:
    """Waveform to tokens with given parameters, on the default device."""
    bind = Functional(lambda rngs: Gemma3nAudioEncoder(config, rngs)).bind
    placed = jax.device_put(params)

    @jax.jit
    def run(params: Any, audio: jax.Array, samples: jax.Array) -> jax.Array:
        tokens, _ = bind(params).from_audio(audio, samples)  # type: ignore[attr-defined]
        return tokens[0].astype(jnp.float32)

    def encode(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1:
            raise InputError(f"the audio encoder hears one channel [t], not {list(audio.shape)}")
        check_length(len(audio))
        count = mel.token_count(len(audio))
        filled = min(-(-count // _BUCKET) * _BUCKET * HOP, mel.MAX_SAMPLES)
        padded = np.zeros((1, mel.padded_length(max(filled, len(audio)))), np.float32)
        padded[0, : len(audio)] = audio
        return np.asarray(run(placed, padded, np.array([len(audio)])))[:count]

    return encode


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str) -> Gemma3nTokenizer:
    return Gemma3nTokenizer(path)


@functools.lru_cache(maxsize=2)
def _audio_digest(path: str) -> str:
    source = weights.open_weights(path)
    names = sorted(name for name in source.shapes if name.startswith(AUDIO))
    if not names:
        raise InputError(f"{path} holds no audio encoder: a text-only model cannot hear")
    parts = {}
    for name, values in source.tensors(names):
        parts[name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return hashlib.sha256("\n".join(f"{n} {parts[n]}" for n in names).encode()).hexdigest()

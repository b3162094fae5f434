# SPDX-License-Identifier: Apache-2.0
"""The backbone `tiny`: a small decoder trained from scratch, so that all of it runs on a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from llm_bridge.backbones.decoder import Decoder, DecoderConfig
from llm_bridge.backbones.pieces import PieceTokenizer
from llm_bridge.protocol import AudioEncoder, SoftTokenIds
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.typing import Params

MELS = 40
FRAME = 400  # samples, 25 ms
FRAME_HOP = 160  # samples, 10 ms
FRAMES_PER_TOKEN = HOP // FRAME_HOP
FFT = 512


@cache
def _filters() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Periodic Hann window [FRAME] and mel filters [FFT / 2 + 1, MELS]."""
    import librosa  # takes a second, and only this needs it

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FFT, n_mels=MELS)
    return window.astype(np.float32), bank.T.astype(np.float32)


def stacked_log_mel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """[t] at 16 kHz -> [ceil(t / 2560), 640]: the 16 frames of 40 log-mels that begin in each 160 ms.

    Frames of 25 ms every 10 ms, zeros behind the end; power in natural log over a floor of 1e-8,
    then a fixed shift and scale that brings speech to about zero mean and unit variance.
    """
    window, bank = _filters()
    tokens = -(-len(audio) // HOP)
    count = tokens * FRAMES_PER_TOKEN
    padded = np.zeros(max(count * FRAME_HOP + FRAME - FRAME_HOP, FRAME), np.float32)
    padded[: len(audio)] = audio
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::FRAME_HOP][:count]
    power = np.abs(np.fft.rfft(frames * window, FFT)).astype(np.float32) ** 2
    mels = np.log(power @ bank + 1e-8)
    return ((mels + 8.0) / 5.0).astype(np.float32).reshape(tokens, FRAMES_PER_TOKEN * MELS)


@dataclass(frozen=True)
class TinyBackbone:
    """Four layers on the shipped piece tokenizer; every parameter is trained.

    system: whether a prompt holds the system text, too. Without it a question alone has to tell
    which form of answer is wanted, which it does, and a prompt is some 30 ids instead of hundreds.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 384
    system: bool = False
    remat: bool = False
    name: str = "tiny"
    audio_width: int = FRAMES_PER_TOKEN * MELS
    trainable: str = ".*"
    partition_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    @property
    def tokenizer(self) -> PieceTokenizer:
        """The shipped pieces."""
        return PieceTokenizer.shipped()

    @property
    def ids(self) -> SoftTokenIds:
        """Ids that no text gives."""
        of = self.tokenizer.special
        return SoftTokenIds(
            pad=of("pad"),
            bos=None,
            stop=(of("end"),),
            bsa=of("bsa"),
            esa=of("esa"),
            boa=of("boa"),
            eoa=of("eoa"),
        )

    @property
    def config(self) -> DecoderConfig:
        """Shape of the decoder."""
        return DecoderConfig(
            vocabulary=self.tokenizer.vocab_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_width=self.width // self.heads,
            hidden=self.hidden,
            audio_width=self.audio_width,
            embed_scale=self.width**0.5,
            remat=self.remat,
            unroll=True,
        )

    def build(self, rngs: nnx.Rngs) -> Decoder:
        """A decoder with fresh parameters."""
        return Decoder(self.config, rngs=rngs)

    def load(self, shardings: Params | None = None) -> None:
        """Nothing: it is trained from scratch."""
        return None

    def prompt(self, system: str, user: str) -> tuple[list[int], list[int]]:
        """System text if wanted, then the soft tokens, then `<user> question <model>`."""
        of, text = self.tokenizer.special, self.tokenizer.encode
        return text(system) if self.system else [], [of("user"), *text(user), of("model")]

    @property
    def weights_digest(self) -> str:
        """Empty: it is trained from scratch."""
        return ""

    @property
    def audio_identity(self) -> tuple[str, str]:
        """Its sizes say all there is to know of it."""
        return "log-mel", f"{MELS} mels, frame {FRAME}, hop {FRAME_HOP}, 1"

    @property
    def audio_hop(self) -> int:
        """A mono token per 160 ms."""
        return HOP

    def audio_encoder(self) -> AudioEncoder:
        """Stacked log-mels: what listens to them is trained with the decoder."""
        return stacked_log_mel

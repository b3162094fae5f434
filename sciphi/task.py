# SPDX-License-Identifier: Apache-2.0
"""Sci-Phi's whole model as a task of the shared loop: sound field in, description out.

    prompt [BSA] spatial x k [ESA] [boa] spectral x l [eoa] question description

The spatial encoder (SELDNet, 10 tokens a second) is trained on with its projector and the adapters; the
spectral one is frozen, and its features come ready-made in the batch. The spans stand one after the
other, spatial first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int
from numpy.typing import NDArray

from llm_bridge.layout import MAX_SOFT
from llm_bridge.lora import LoraConfig
from llm_bridge.protocol import Backbone
from llm_bridge.task import Bridge, BridgeTask
from sciphi.features import FRAME_RATE, MAPS, MELS
from sciphi.seldnet import FRAMES_PER_TOKEN, TOKEN_WIDTH, SeldNet, SeldNetConfig
from spatial_core.errors import InputError
from spatial_core.train.task import Exhibit
from spatial_core.typing import Array, Batch

SPATIAL_ENCODER = "spatial"


class Describer(Bridge):
    """A bridge whose spatial tokens come from an encoder inside of it."""

    def __init__(
        self,
        backbone: Backbone,
        lora: LoraConfig | None,
        encoder: SeldNetConfig,
        train_encoder: bool = True,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, lora, TOKEN_WIDTH, rngs=rngs)
        self.spatial = SeldNet(encoder, rngs=rngs)
        self.train_encoder = train_encoder

    def embed(
        self,
        ids: Int[Array, "b n"],
        tokens: Float[Array, "b 7 f 64"],
        audio: Float[Array, "b l a"],
    ) -> Float[Array, "b n d"]:
        """Word embeddings with the soft tokens in their places; `tokens` are the encoder's features."""
        spatial = self.spatial.encode(tokens)
        return super().embed(
            ids, spatial if self.train_encoder else jax.lax.stop_gradient(spatial), audio
        )


@dataclass(frozen=True)
class DescribeTask(BridgeTask):
    """Cross-entropy of descriptions, given both streams and a question.

    Attributes:
      backbone, lora, length, answer_length: as in `BridgeTask`.
      soft: spatial tokens of a clip, 10 a second.
      spectral: tokens of the spectral stream, as many as the backbone's audio encoder gives.
      encoder: the spatial encoder.
      train_encoder: whether it learns, too, as in the paper. A language model that begins from nothing
        would undo what the encoder has learned before it can read it: then False, and
        `OptimizerConfig.frozen` keeps weight decay off it.
    """

    soft: int = 100
    spectral: int = 125
    encoder: SeldNetConfig = field(default_factory=SeldNetConfig)
    train_encoder: bool = True

    def __post_init__(self) -> None:
        for name in ("soft", "spectral"):
            if not 1 <= getattr(self, name) <= MAX_SOFT:
                raise InputError(f"DescribeTask.{name} is {getattr(self, name)}: 1 to {MAX_SOFT}")
        if self.cycle != 1:
            raise InputError(
                f"DescribeTask.cycle is {self.cycle}: its projector has one output layer"
            )
        heard = self.soft + self.spectral + 4
        if self.length < heard:
            raise InputError(
                f"DescribeTask.length is {self.length}: {heard} ids go to the soft tokens alone"
            )

    @property
    def name(self) -> str:
        """For messages and reports."""
        return f"sciphi_{self.backbone.name}"

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The bridge's; the spatial encoder is whole on every device."""
        return ((rf"^{SPATIAL_ENCODER}/", ()), *super().partition_rules)

    @property
    def seconds(self) -> float:
        """Length of the clips that it describes."""
        return self.frames / FRAME_RATE

    @property
    def frames(self) -> int:
        """Feature frames of a clip."""
        return self.soft * FRAMES_PER_TOKEN

    def build(self, rngs: nnx.Rngs) -> Describer:
        """The model with fresh parameters."""
        return Describer(self.backbone, self.lora, self.encoder, self.train_encoder, rngs=rngs)

    def is_trained(self, path: str) -> bool:
        """Whether the parameter of a "/"-path belongs to the state."""
        return path.startswith(f"{SPATIAL_ENCODER}/") or super().is_trained(path)

    @property
    def mono_soft(self) -> int:
        """Soft tokens of the spectral stream."""
        return self.spectral

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Of the spatial features of a clip."""
        return (MAPS, self.frames, MELS)

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """What is heard in some rows, with the description."""
        from llm_bridge.batch_figure import draw_batch  # matplotlib
        from sciphi.batch_figure import feature_panels

        return draw_batch(self, batch, folder, rows, feature_panels)

    def stack_spatial(self, clips: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
        """Features [7, f, 64] of several clips as a batch; InputError for clips of another length."""
        wrong = [clip.shape for clip in clips if clip.shape != self.spatial_shape]
        if wrong:
            raise InputError(
                f"spatial features have shape {wrong[0]}: {self.spatial_shape} ({self.seconds:g} s) "
                "is wanted"
            )
        return np.stack(clips).astype(np.float32)

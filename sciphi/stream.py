# SPDX-License-Identifier: Apache-2.0
"""Batches of scenes and their descriptions: a pure function of the seed and the step."""

from __future__ import annotations

import functools
import importlib.resources
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_bridge.adapters import token_metadata
from llm_bridge.layout import Row, make_row, pad_answers, pad_rows, pad_soft
from llm_bridge.protocol import Backbone
from sciphi.heard import Heard, HeardScenes
from sciphi.records import FOA_RATE, SceneTruth
from sciphi.schema import ORDERS, Order, describe_truth
from sciphi.seldnet import FRAMES_PER_TOKEN
from sciphi.swap import SWAPS, Swap
from sciphi.text_format import to_text
from sciphi.zones import ZoneGrid
from spatial_core.audio import ambisonics
from spatial_core.data.prefetch import iterate_steps
from spatial_core.errors import InputError

STREAMS = ("spatial", "spectral")


@functools.cache
def questions() -> tuple[str, ...]:
    """Wordings of the one question that there is; the first is asked in evaluation."""
    text = (importlib.resources.files("sciphi") / "questions.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def asked_row(
    backbone: Backbone,
    heard: Heard,
    question: str,
    answer: str | None = None,
    streams: Sequence[str] = STREAMS,
) -> Row:
    """The ids of a question about what is heard; a stream that is not in `streams` is left out."""
    spatial = heard.features.shape[1] // FRAMES_PER_TOKEN if "spatial" in streams else 0
    mono = len(heard.audio) if "spectral" in streams else 0
    return make_row(backbone, "", question, spatial, answer, mono=mono)


@dataclass(frozen=True, kw_only=True)
class DescribeStream:
    """Scenes of an exported folder, as batches of `DescribeTask`.

    Attributes:
      scenes: the exported folder (`--run_mode=export_scenes`); `split` names the one in it.
      backbone: whose ids and audio features the batches hold.
      batch_size: rows of the global batch.
      order: in which sources are listed.
      zones: of the description, 45 or 15 degrees.
      transcripts: whether descriptions hold what is said.
      streams: what is heard, "spatial", "spectral" or both; the other is left out of the prompt, for
        training as well as for validation (the ablation of the two encoders).
      swap: whether each scene is heard turned and mirrored in one of 16 ways, drawn anew each time.
      fraction: of the scenes that is used (the first ones), for data ablations.
      length, answer_length: shapes of a batch, as in `DescribeTask`.
    """

    scenes: str | Path
    backbone: Backbone
    split: str = "train"
    batch_size: int = 8
    seed: int = 0
    order: Order = "loudness"
    zones: int = 45
    transcripts: bool = True
    streams: tuple[str, ...] = STREAMS
    swap: bool = False
    fraction: float = 1.0
    length: int = 640
    answer_length: int = 320
    threads: int = 2
    _lock: threading.RLock = field(
        init=False, repr=False, compare=False, default_factory=threading.RLock
    )
    _open: list[HeardScenes] = field(init=False, repr=False, compare=False, default_factory=list)
    _passes: dict[int, NDArray[np.int64]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise InputError(f"DescribeStream.order is {self.order!r}: one of {', '.join(ORDERS)}")
        if not self.streams or not set(self.streams) <= set(STREAMS):
            raise InputError(f"DescribeStream.streams is {self.streams}: some of {STREAMS}")
        if not 0 < self.fraction <= 1:
            raise InputError(f"DescribeStream.fraction is {self.fraction}: above 0, up to 1")
        ZoneGrid(self.zones)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each field that depends on this stream's settings."""
        return {"ids": (self.batch_size, self.length)}

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What checkpoints depend on in the data. The spatial encoder is trained with the rest."""
        return {
            **token_metadata("trained with the projector", 0),
            "base_model": self.backbone.name,
            "audio_digest": self.backbone.audio_identity[1],
        }

    @property
    def heard(self) -> HeardScenes:
        """The scenes, opened at first use."""
        with self._lock:
            if not self._open:
                self._open.append(HeardScenes(Path(self.scenes) / self.split, self.backbone))
            return self._open[0]

    def answer(self, truth: SceneTruth) -> str:
        """The description that a scene should get."""
        if not self.transcripts:
            truth = without_transcripts(truth)
        return to_text(describe_truth(truth, ZoneGrid(self.zones), self.order))

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, NDArray[Any]]:
        """This host's contiguous share of the global batch of a step."""
        if not 0 <= host < hosts or self.batch_size % hosts:
            raise InputError(f"host {host} of {hosts} for a batch of {self.batch_size}")
        share = self.batch_size // hosts
        first = step * self.batch_size + host * share
        made = [self._made(index) for index in range(first, first + share)]
        rows, scenes = [row for row, _ in made], [heard for _, heard in made]
        return {
            **pad_rows(rows, self.backbone.ids.pad, self.length),
            **pad_answers(rows, self.answer_length),
            "tokens": np.stack([heard.features for heard in scenes]).astype(np.float32),
            "audio": pad_soft([heard.audio for heard in scenes], max(len(h.audio) for h in scenes)),
        }

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Batches of start_step, start_step + 1, ... without end."""
        return iterate_steps(lambda step: self.batch(step, host, hosts), start_step, self.threads)

    def sounds(self, step: int, rows: Sequence[int]) -> list[tuple[NDArray[np.float32], int]]:
        """Two cardioids to the left and the right, of some rows of a step: [2, t] at 24 kHz."""
        heard = []
        for index in (step * self.batch_size + row for row in rows):
            foa, swap = self.heard.scenes[self._scene(index)].foa, self._drawn(index)[1]
            heard.append(ambisonics.to_stereo(foa if swap is None else swap.channels(foa)))
        return [(samples, FOA_RATE) for samples in heard]

    def _made(self, index: int) -> tuple[Row, Heard]:
        """Row `index` of the whole run, and what is heard in it."""
        heard = self.heard[self._scene(index)]
        question, swap = self._drawn(index)
        if swap is not None:
            heard = Heard(swap.features(heard.features), heard.audio, swap.truth(heard.truth))
        answer = self.answer(heard.truth)
        return asked_row(self.backbone, heard, question, answer, self.streams), heard

    def _drawn(self, index: int) -> tuple[str, Swap | None]:
        """Question of row `index`, and how its scene is turned."""
        rng = np.random.default_rng([self.seed, index, 1])
        question = questions()[rng.integers(len(questions()))]
        return question, SWAPS[rng.integers(len(SWAPS))] if self.swap else None

    def _scene(self, index: int) -> int:
        """Number of the scene of row `index`: all of them once a pass, in a new order each time."""
        count = max(1, int(self.fraction * len(self.heard)))
        turn, place = divmod(index, count)
        return int(self._order(turn, count)[place])

    def _order(self, turn: int, count: int) -> NDArray[np.int64]:
        with self._lock:
            if turn not in self._passes:
                for old in [key for key in self._passes if key < turn - 1]:
                    del self._passes[old]
                self._passes[turn] = np.random.default_rng([self.seed, turn]).permutation(count)
            return self._passes[turn]


def without_transcripts(truth: SceneTruth) -> SceneTruth:
    """The truth for a description that names voices but not their words."""
    return replace(
        truth, sources=tuple(replace(source, transcript=None) for source in truth.sources)
    )

# SPDX-License-Identifier: Apache-2.0
"""Pre-training of the spatial encoder: sound event localization and detection on scene sets."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sciphi.adpit import TRACKS, adpit_loss
from sciphi.features import HOP, MAPS, MELS, seld_features
from sciphi.records import FOA_RATE, SceneTruth
from sciphi.scene_set import SceneSet
from sciphi.seld_labels import seld_labels
from sciphi.seldnet import FRAMES_PER_TOKEN, SeldModel, SeldNetConfig
from sciphi.swap import SWAPS, Swap
from spatial_core.audio import ambisonics
from spatial_core.data.prefetch import iterate_steps
from spatial_core.data.seeds import check_split, generator
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from spatial_core.train.task import STATISTICS, Exhibit
from spatial_core.typing import Array, Batch, Params

# Features that a stream keeps in memory, bytes; beyond that they are computed each time.
KEPT_BYTES = 3 << 30
KINDS = ("speech", "event")


@dataclass(frozen=True)
class SeldTask:
    """SELDNet's loss on scenes, for the shared loop.

    Attributes:
      encoder: sizes.
      classes: names, each with three tracks; see `class_of`.
      seconds: length of the scenes.
      distance_weight: of squared metres in the loss; the baseline's 1 lets distances of large rooms
        outweigh directions.
    """

    encoder: SeldNetConfig = field(default_factory=SeldNetConfig)
    classes: tuple[str, ...] = KINDS
    seconds: float = 5.0
    distance_weight: float = 0.01

    def __post_init__(self) -> None:
        _check_classes("SeldTask", self.classes)
        if self.tokens < 1:
            raise InputError(f"SeldTask.seconds is {self.seconds}: 0.1 s or more")

    @property
    def name(self) -> str:
        """For messages and reports."""
        return "seldnet"

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Whole on every device: it is small."""
        return (("", ()),)

    @property
    def metadata(self) -> dict[str, Any]:
        """What checkpoints depend on: the classes."""
        return {"seld_classes": list(self.classes)}

    @property
    def frames(self) -> int:
        """Feature frames of a scene."""
        return int(self.seconds * FOA_RATE + 0.5) // HOP

    @property
    def tokens(self) -> int:
        """Tokens of a scene."""
        return self.frames // FRAMES_PER_TOKEN

    @functools.cached_property
    def _functional(self) -> Functional:
        return Functional(lambda rngs: SeldModel(self.encoder, len(self.classes), rngs=rngs))

    def bind(self, params: Params) -> SeldModel:
        """The model holding `params`; make it inside the traced function that uses it."""
        return self._functional.bind(params)  # type: ignore[return-value]

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters, running statistics among them."""
        return self._functional.init(rng)

    def loss(
        self, params: Params, batch: Batch, rng: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean ADPIT loss over frames and classes.

        Metrics, over times at which exactly one source sounds: `direction_error`, degrees between it
        and the sum of all answered vectors, and `activity`, the length of that sum (0..1).
        """
        model = self.bind(params)
        moved: dict[str, Any] = {}
        if train:
            tokens, statistics = model.encoder.encode_in_training(batch["features"], rng)
            moved = {STATISTICS: {"encoder": statistics}}
        else:
            tokens = model.encoder.encode(batch["features"])
        answer = model.head(tokens)
        target, count = batch["target"], batch["count"]
        loss = adpit_loss(answer, target, count, self.distance_weight).mean()
        return loss, {**_alone(answer, target, count), **moved}

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """`answer` [b, n, 3, 4, c] as `SeldModel.head`, and the tokens [b, n, 128]."""
        model = self.bind(params)
        tokens = model.encoder.encode(batch["features"])
        return {"answer": model.head(tokens), "tokens": tokens}

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """Features of some rows with what sounds where."""
        from sciphi.batch_figure import draw_seld_batch  # matplotlib

        return draw_seld_batch(batch, folder, rows, self.classes)

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch; see `SeldStream`."""
        label = (batch_size, self.tokens)
        features = (batch_size, MAPS, self.frames, MELS)
        return {
            "features": jax.ShapeDtypeStruct(features, jnp.float32),
            "target": jax.ShapeDtypeStruct((*label, TRACKS, 4, len(self.classes)), jnp.float32),
            "count": jax.ShapeDtypeStruct((*label, len(self.classes)), jnp.int32),
        }


def _alone(answer: Array, target: Array, count: Array) -> dict[str, jax.Array]:
    """Direction metrics of the times with one source."""
    one = (count.sum(-1) == 1).astype(jnp.float32)
    found, right = answer[..., :3, :].sum((2, 4)), target[..., :3, :].sum((2, 4))
    length = jnp.sqrt(jnp.square(found).sum(-1) + 1e-12)
    cosine = jnp.clip((found * right).sum(-1) / length, -1.0, 1.0)
    share = one / jnp.maximum(one.sum(), 1.0)
    return {
        "direction_error": jnp.degrees((jnp.arccos(cosine) * share).sum()),
        "activity": (length * share).sum() / TRACKS,
    }


class FeatureScenes:
    """Features and truths of an exported folder: `len(scenes)`, `scenes[i]`; may be shared by threads.

    Features are float16 [7, f, 64], computed at first use and kept while they fit `KEPT_BYTES`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.scenes = SceneSet(directory)
        self._kept: dict[int, NDArray[np.float16]] = {}
        self._truths: dict[int, SceneTruth] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.scenes)

    def features(self, index: int) -> NDArray[np.float16]:
        """Feature maps of a scene."""
        found = self._kept.get(index)
        if found is None:
            found = np.asarray(seld_features(self.scenes[index].foa)).astype(np.float16)
            with self._lock:
                if self._bytes + found.nbytes <= KEPT_BYTES:
                    self._kept[index] = found
                    self._bytes += found.nbytes
        return found

    def truth(self, index: int) -> SceneTruth:
        """The truth of a scene, read once."""
        if index not in self._truths:
            self._truths[index] = self.scenes.truth(index)
        return self._truths[index]


@dataclass(frozen=True, kw_only=True)
class SeldStream:
    """Batches of scenes for `SeldTask`: a pure function of the seed and the step.

    Attributes:
      scenes: exported folder (`--run_mode=export_scenes`); `split` names the one in it.
      classes: as in `SeldTask`.
      max_sources: scenes with more sources are left out; None keeps all.
      swap: show each scene turned or mirrored in one of sixteen ways, another one in each pass.
      shuffle: in an order of its own in each pass.
    """

    scenes: str | Path
    split: str = "train"
    classes: tuple[str, ...] = KINDS
    batch_size: int = 32
    seed: int = 0
    max_sources: int | None = None
    swap: bool = True
    shuffle: bool = True
    threads: int = 1
    _open: list[FeatureScenes] = field(init=False, repr=False, compare=False, default_factory=list)
    _lock: threading.RLock = field(
        init=False, repr=False, compare=False, default_factory=threading.RLock
    )

    def __post_init__(self) -> None:
        check_split(self.split)
        _check_classes("SeldStream", self.classes)
        if self.batch_size < 1 or self.threads < 1:
            raise InputError(
                f"SeldStream.batch_size={self.batch_size}, threads={self.threads}: 1 or more of each"
            )

    @property
    def data(self) -> FeatureScenes:
        """The scenes, opened at first use."""
        with self._lock:
            if not self._open:
                self._open.append(FeatureScenes(Path(self.scenes) / self.split))
            return self._open[0]

    @functools.cached_property
    def indices(self) -> NDArray[np.int64]:
        """Scenes of the set that are shown; InputError if there is none."""
        data = self.data
        kept = [
            i
            for i in range(len(data))
            if self.max_sources is None or len(data.truth(i).sources) <= self.max_sources
        ]
        if not kept:
            raise InputError(
                f"no scene in {Path(self.scenes) / self.split} has at most {self.max_sources} sources"
            )
        return np.array(kept)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Scenes of a pass in the order in which they are shown."""
        if not self.shuffle:
            return self.indices
        return generator(self.seed, self.split, "order", epoch).permutation(self.indices)

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Example `index` of the endless stream: features, target, count."""
        scene, way = self._shown(index)
        maps, truth = self.data.features(scene), self.data.truth(scene)
        if way is not None:
            maps, truth = way.features(maps), way.truth(truth)
        target, count = seld_labels(truth, self.classes, maps.shape[1] // FRAMES_PER_TOKEN)
        return {"features": maps.astype(np.float32), "target": target, "count": count}

    def sounds(self, step: int, rows: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Two cardioids to the left and the right, of some rows of a step: [2, t] at 24 kHz."""
        heard = []
        for row in rows:
            scene, way = self._shown(step * self.batch_size + row)
            foa = self.data.scenes[scene].foa
            heard.append(ambisonics.to_stereo(foa if way is None else way.channels(foa)))
        return [(samples, FOA_RATE) for samples in heard]

    def _shown(self, index: int) -> tuple[int, Swap | None]:
        """Scene of an example, and how it is turned."""
        epoch, place = divmod(index, len(self.indices))
        scene = int(self._order(epoch)[place])
        if not self.swap:
            return scene, None
        rng = generator(self.seed, self.split, "crop", index)
        return scene, SWAPS[rng.integers(len(SWAPS))]

    @functools.cached_property
    def _order(self) -> Any:
        return functools.lru_cache(maxsize=4)(self.order)

    def batch(self, step: int, host: int = 0, hosts: int = 1) -> dict[str, np.ndarray]:
        """This host's contiguous share of the global batch of a step."""
        if not 0 <= host < hosts or self.batch_size % hosts:
            raise InputError(f"host {host} of {hosts} for a batch of {self.batch_size}")
        share = self.batch_size // hosts
        first = step * self.batch_size + host * share
        examples = [self.example(index) for index in range(first, first + share)]
        return {name: np.stack([one[name] for one in examples]) for name in examples[0]}

    def iterate(
        self, start_step: int = 0, host: int = 0, hosts: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of start_step, start_step + 1, ... without end."""
        return iterate_steps(lambda step: self.batch(step, host, hosts), start_step, self.threads)


def _check_classes(owner: str, classes: tuple[str, ...]) -> None:
    if not classes or len(set(classes)) != len(classes):
        raise InputError(f"{owner}.classes is {classes}: give names, each once")

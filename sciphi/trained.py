# SPDX-License-Identifier: Apache-2.0
"""A trained Sci-Phi model that describes sound fields: from a run's folder, a release, or the package.

describer.safetensors   spatial encoder, projector, adapters and trained parts of the language model
describer.json          sizes, the base model's digests, training, checksum
README.md               the card
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray

import sciphi.seldnet
from llm_bridge.adapters import model_metadata, portable
from llm_bridge.generate import Asked, Generator, Told
from llm_bridge.lora import LoraConfig
from llm_bridge.protocol import Backbone
from llm_bridge.trained import BACKBONES, build_backbone, located, rebuilt
from sciphi.heard import Heard, listen
from sciphi.records import FOA_RATE, SceneTruth
from sciphi.shipped import RELEASE, SHIPPED
from sciphi.stream import STREAMS, asked_row, questions
from sciphi.task import SPATIAL_ENCODER, DescribeTask
from spatial_core import waits
from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import export
from spatial_core.train import partition
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.task import merge_params
from spatial_core.typing import Params

BATCH = 16
_KNOWN = {**BACKBONES, "TinyDescriber": "sciphi.backbone"}


@dataclass(frozen=True)
class Saved:
    """What is on disk: trained parameters, the task's and the stream's settings as JSON values."""

    params: Params
    task: dict[str, Any]
    data: dict[str, Any]
    metadata: dict[str, Any]
    step: int
    card: str
    path: Path


class Describer:
    """A trained model with sound fields in and the text of descriptions out."""

    def __init__(self, task: DescribeTask, params: Params, saved: Saved):
        self.task, self.params, self.saved = task, params, saved
        self._generators: dict[int, Generator] = {}

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.saved.path.name}, step {self.saved.step}"

    @property
    def card(self) -> str:
        """The model card, Markdown; empty for a run that was not released."""
        return self.saved.card

    @property
    def seconds(self) -> float:
        """Length of the sound fields that it describes."""
        return self.task.seconds

    @functools.cached_property
    def _listen(self) -> Any:
        return self.task.backbone.audio_encoder()

    def describe(
        self, foas: Sequence[NDArray[np.float32]], heard: Sequence[str] = STREAMS
    ) -> list[str]:
        """Texts of the descriptions of sound fields [4, t] at 24 kHz (ACN, SN3D).

        heard: the streams that are; the others are there as zeros, which shows what each is worth.
        Sound fields that are shorter than `seconds` are followed by silence; InputError for longer ones.
        """
        return [told.text for told in self.tell(foas, heard)]

    def tell(
        self, foas: Sequence[NDArray[np.float32]], heard: Sequence[str] = STREAMS
    ) -> list[Told]:
        """The same texts, each with the probability of every id."""
        asked = [self._asked(self._fitted(foa), heard) for foa in foas]
        return self._generator(len(asked)).told(asked, self.params) if asked else []

    def _fitted(self, foa: NDArray[np.float32]) -> NDArray[np.float32]:
        samples = round(self.seconds * FOA_RATE)
        if foa.ndim != 2 or foa.shape[0] != 4 or not 0 < foa.shape[1] <= samples:
            raise InputError(
                f"a sound field has shape {foa.shape}: [4, 1 to {samples}] ({self.seconds:g} s at "
                f"{FOA_RATE} Hz) is wanted"
            )
        return np.pad(foa, ((0, 0), (0, samples - foa.shape[1])))

    def _asked(self, foa: NDArray[np.float32], heard: Sequence[str]) -> Asked:
        features, audio = listen(foa, self._listen)
        if "spatial" not in heard:
            features = np.zeros_like(features)
        if "spectral" not in heard:
            audio = np.zeros_like(audio)
        nothing = SceneTruth(1.0, 0.0, None, None, ())
        row = asked_row(
            self.task.backbone,
            Heard(features, audio, nothing),
            questions()[0],
            streams=tuple(self.saved.data.get("streams", STREAMS)),
        )
        return Asked(row, features, audio)

    def _generator(self, count: int) -> Generator:
        size = 1 if count == 1 else BATCH
        if size not in self._generators:
            waits.compiling(f"windows of {self.seconds:g} s")
            self._generators[size] = Generator(self.task, self.task.answer_length, size)
        return self._generators[size]


def load_describer(
    model: str | Path | None = None,
    which: str | int = "latest",
    weights: str | Path | None = None,
    all_devices: bool = False,
) -> Describer:
    """A trained model, ready to describe.

    model: folder of a training run or of a release, name of a shipped one, None for the shipped default.
    which: "latest", "best" or a step of a run. weights: the folder of a base model whose weights are the
    user's to bring (Phi-4); None: where the run had them, else the environment variable
    LLM_BRIDGE_WEIGHTS. all_devices: whole on every device of this process, so that each describes its share
    of many sound fields. InputError: no such model, a damaged one, one of another base model than is here
    (with both digests), missing weights.
    """
    saved = load_saved(SHIPPED.resolve(model), which)
    task = _task(saved, weights)
    wanted = export.to_json(model_metadata(task.backbone, task.lora))
    different = list(resolved.differences({key: saved.metadata.get(key) for key in wanted}, wanted))
    if different:
        raise InputError(
            f"{saved.path} was trained with other models than these (then -> here):\n  "
            + "\n  ".join(different)
        )
    like = jax.eval_shape(task.init, jax.random.key(0))
    trained = export.fill_tree(like, export.flatten_tree(saved.params), str(saved.path))
    here = partition.whole_here() if all_devices else partition.first_here()
    shapes = flatten_dict(task.frozen_shapes(), sep="/")
    frozen = task.load_frozen(unflatten_dict(dict.fromkeys(shapes, here), sep="/"))
    return Describer(task, merge_params(jax.device_put(trained, here), frozen), saved)


def load_saved(path: Path, which: str | int = "latest") -> Saved:
    """What a run's folder or a release holds; InputError if it is neither."""
    if not (path / "checkpoints").is_dir():
        released = export.read_release(path, RELEASE)
        config = released.config
        parts = {key: dict(config.get(key) or {}) for key in ("task", "data", "metadata")}
        step = int(config.get("step", 0))
        return Saved(released.params(), **parts, step=step, card=released.card, path=path)
    checkpoints = Checkpoints(path)
    params, step = checkpoints.load_params(which)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if config.get("task", {}).get("class") != DescribeTask.__name__:
        raise InputError(
            f"{path} is the run of another task: {config.get('task', {}).get('class')}"
        )
    # Where scenes lay means nothing on another machine; the language model is among the task's.
    data = {key: v for key, v in config["data"].items() if key not in ("scenes", "backbone")}
    metadata = dict(checkpoints.metadata(step) or {})
    return Saved(params, config["task"], data, metadata, step, "", path)


def release_describer(
    run: str | Path,
    directory: str | Path,
    results: str,
    which: str | int = "latest",
    half: bool = False,
) -> Path:
    """A release of a training run's checkpoint; `results`: Markdown for its card, such as the table.

    half: as in `export.write_release`.
    """
    saved = load_saved(Path(run), which)
    config = {
        "task": {**saved.task, "backbone": portable(saved.task["backbone"])},
        "data": saved.data,
        "metadata": saved.metadata,
        "step": saved.step,
    }
    card = f"# {Path(directory).name}\n\n{results.strip()}\n"
    return export.write_release(directory, saved.params, config, card, RELEASE, half)


def initial_params(
    task: DescribeTask, encoder: str | Path, seed: int = 0, scenes: str | Path | None = None
) -> Params:
    """Fresh parameters with the spatial encoder of a SELDNet training run, for `TrainConfig.init_from`.

    scenes: exported folder on which the projector is aligned (sciphi/align.py); None leaves it at random,
    as it must be for a language model without pretrained words.
    """
    params = dict(task.init(jax.random.key(seed)))
    trained, _ = Checkpoints(Path(encoder)).load_params("latest")
    flat = export.flatten_tree(trained)
    params[SPATIAL_ENCODER] = export.fill_tree(
        params[SPATIAL_ENCODER], sciphi.seldnet.encoder_part(flat), str(encoder)
    )
    if scenes is None:
        return params
    from sciphi.align import with_aligned_projector

    return with_aligned_projector(task, params, scenes, seed)


def _task(saved: Saved, weights: str | Path | None = None) -> DescribeTask:
    settings, where = saved.task, str(saved.path)
    lora: Mapping[str, Any] | None = settings.get("lora")
    found = located(settings["backbone"], where, weights)
    backbone: Backbone = build_backbone(found, where, _KNOWN)
    return DescribeTask(
        backbone,
        lora=None if lora is None else rebuilt(lora, _Lora, where),
        encoder=rebuilt(settings["encoder"], sciphi.seldnet, where),
        soft=int(settings["soft"]),
        spectral=int(settings["spectral"]),
        length=int(settings["length"]),
        answer_length=int(settings["answer_length"]),
    )


class _Lora:
    """Where `rebuilt` finds the adapters' settings."""

    LoraConfig = LoraConfig

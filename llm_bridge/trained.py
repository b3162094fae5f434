# SPDX-License-Identifier: Apache-2.0
"""A trained bridge as a model that answers: from a training run's folder, a release, or the package."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_bridge.adapters import LOCAL, SavedBridge, load_bridge, model_metadata
from llm_bridge.protocol import Backbone
from llm_bridge.shipped import SHIPPED
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.train import partition
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.train.task import merge_params
from spatial_core.typing import Params

# Backbones by the name of their class, as a run's config.json and a release name them.
BACKBONES = {
    "TinyBackbone": "llm_bridge.backbones.tiny",
    "SmolLMBackbone": "llm_bridge.backbones.smollm",
    "Gemma3Backbone": "llm_bridge.backbones.gemma3",
    "Gemma3nBackbone": "llm_bridge.backbones.gemma3n.backbone",
    "Phi4Backbone": "llm_bridge.backbones.phi4.backbone",
}
# Environment variables for the files of `adapters.LOCAL`.
FILES = ("LLM_BRIDGE_WEIGHTS", "LLM_BRIDGE_TOKENIZER")


@dataclass(frozen=True)
class Trained:
    """A bridge with all of its parameters, those of the language model included.

    saved: what it was read from, its metadata and training.
    """

    task: BridgeTask
    params: Params
    saved: SavedBridge

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.saved.path.name}, step {self.saved.step}"

    def trained_with(self, key: str, default: Any) -> Any:
        """A setting of the questions it was trained on, such as `style` or `book`."""
        return dict(self.saved.training.get("data") or {}).get(key, default)


def load(
    model: str | Path | None = None,
    which: str | int | None = None,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    all_devices: bool = False,
) -> Trained:
    """A trained bridge, ready to answer.

    Args:
        model: folder of a training run or of a release, the name of a shipped bridge, None for the
            shipped default.
        which: "latest", "best" or a step of a run; None: the best if one is marked, else the latest.
        weights, tokenizer: see `located`.
        all_devices: whole on every device of this process, so that each answers its share of many questions.

    InputError: no such bridge, a damaged one, one of another base model than is here (with both
    digests), missing weights.
    """
    path = SHIPPED.resolve(model)
    saved = load_bridge(path, which=best_or_latest(path) if which is None else which)
    built = build_backbone(located(saved.backbone, str(path), weights, tokenizer), str(path))
    # What is wrong with its file is said before gigabytes of weights are read.
    _ = built.tokenizer
    saved.require(model_metadata(built, saved.lora))
    task = BridgeTask(built, lora=saved.lora, cycle=saved.cycle)
    trained = saved.fitted(jax.eval_shape(task.init, jax.random.key(0)))
    here = partition.whole_here() if all_devices else partition.first_here()
    shapes = flatten_dict(task.frozen_shapes(), sep="/")
    frozen = task.load_frozen(unflatten_dict(dict.fromkeys(shapes, here), sep="/"))
    return Trained(task, merge_params(jax.device_put(trained, here), frozen), saved)


def located(
    settings: Mapping[str, Any],
    where: str,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> dict[str, Any]:
    """Settings of a language model with the places of the files that no release has.

    Args:
        settings: as a run or a release has them; a run knows where they were.
        where: named in errors.
        weights: the user's folder or file of the base model. None: as in the settings, else what the
            environment variable LLM_BRIDGE_WEIGHTS says.
        tokenizer: its tokenizer's file, where that is not in the folder; LLM_BRIDGE_TOKENIZER.

    InputError for weights that are missing, or given to a model that needs none.
    """
    found, name = dict(settings), settings.get("name") or settings.get("class")
    for key, given, variable in zip(LOCAL, (weights, tokenizer), FILES, strict=True):
        if given is not None and key not in found:
            raise InputError(
                f"{where}: its language model is {name}, which needs no {key} of yours: leave it out"
            )
        if key in found:
            found[key] = str(given or found[key] or os.environ.get(variable) or "") or None
    if "weights" in found and not found["weights"]:
        model = " ".join(str(found[key]) for key in ("class", "preset") if found.get(key))
        raise InputError(
            f"{where}: the weights of its language model ({model}) do not come with it. Download them "
            f"(docs/backbones.md) and name their folder: weights=... in Python, --weights of a command that "
            f"has it, or the environment variable {FILES[0]}"
        )
    return found


def build_backbone(
    settings: Mapping[str, Any],
    where: str = "the settings",
    known: Mapping[str, str] = MappingProxyType(BACKBONES),
) -> Backbone:
    """The language model that settings (JSON values, its class under "class") describe.

    where: named in errors. known: modules by class name. InputError for an unknown class or settings
    that it does not have.
    """
    kind = settings.get("class")
    if kind not in known:
        raise InputError(f"{where}: the language model is a {kind!r}; known are {', '.join(known)}")
    return rebuilt(settings, importlib.import_module(known[str(kind)]), where)  # type: ignore[no-any-return]


def best_or_latest(path: Path) -> str:
    """Which checkpoint of a run is meant if nobody says: the best if one is marked."""
    runs = (path / "checkpoints").is_dir()
    return "best" if runs and Checkpoints(path).best() is not None else "latest"


def rebuilt(value: Any, module: Any, where: str) -> Any:
    """Dataclasses of a module from {"class": name, field: value}, tuples from lists, the rest as it is."""
    if isinstance(value, list):
        return tuple(rebuilt(item, module, where) for item in value)
    if not isinstance(value, Mapping) or "class" not in value:
        return value
    cls: Any = getattr(module, str(value["class"]), None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InputError(f"{where}: {module.__name__} has no {value['class']!r}")
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    given = {name: item for name, item in value.items() if name != "class"}
    unknown = sorted(given.keys() - fields)
    if unknown:
        raise InputError(
            f"{where}: {value['class']} has no {', '.join(unknown)}; it was written by another version"
        )
    return cls(**{name: rebuilt(item, module, where) for name, item in given.items()})

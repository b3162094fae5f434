# SPDX-License-Identifier: Apache-2.0
"""Bridges into other forms: adapters folded into the language model, and adapters of Hugging Face's peft."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax

from llm_bridge import lora
from llm_bridge.adapters import SavedBridge, load_bridge, save_bridge
from llm_bridge.lora import DECODER, LoraConfig
from llm_bridge.peft_format import export_adapters, import_adapters, read_peft
from llm_bridge.protocol import Backbone
from llm_bridge.shipped import SHIPPED
from llm_bridge.task import BridgeTask
from llm_bridge.trained import best_or_latest, build_backbone, load
from spatial_core.errors import InputError
from spatial_core.train.task import merge_params
from spatial_core.typing import Params

Which = str | int | None


@runtime_checkable
class Published(Protocol):
    """A language model that Hugging Face has, too."""

    @property
    def hf_model(self) -> str:
        """Its repository, such as "google/gemma-3n-E4B-it"."""
        ...

    def hf_linear(self, path: str, index: tuple[int, ...]) -> str:
        """Hugging Face's module of one of our linear maps; `index`: its place in a stack of layers."""
        ...


def merge_bridge(
    model: str | Path | None,
    directory: str | Path,
    which: Which = None,
    weights: str | Path | None = None,
) -> Path:
    """A release with every adapter folded into its matrix, and the whole language model in it.

    Args:
        model, which, weights: as in `trained.load`; the weights of the language model are needed here,
            and no longer where the result is used.
        directory: of the new release.

    InputError for a bridge without adapters, and for a model that is too large for a release.
    """
    saved = _saved(model, which)
    settings = _adapted(saved)
    if "trainable" not in saved.backbone:
        raise InputError(
            f"{saved.path}: a {saved.backbone.get('class')} cannot be kept with merged adapters; use "
            "them apart"
        )
    params = load(model, which, weights).params
    return save_bridge(
        directory,
        lora.merge(jax.device_get(params), settings),
        {**saved.metadata, "lora": None},
        step=saved.step,
        # All of it is in the release now, so nothing is read from the published weights.
        backbone={**saved.backbone, "trainable": ".*"},
        training={**saved.training, "merged": saved.path.name},
        results=f"The adapters of {saved.path.name} are folded into the language model.",
    )


def export_peft(model: str | Path | None, directory: str | Path, which: Which = None) -> Path:
    """The adapters of a bridge as a folder for `peft.PeftModel.from_pretrained`.

    The projector of spatial tokens has no place in it and stays in the bridge. Arguments as in
    `merge_bridge`; no weights are needed. InputError for a bridge without adapters or a language model
    that Hugging Face does not have.
    """
    saved = _saved(model, which)
    settings, published = _adapted(saved), _published(saved)
    params = lora.adapters_of(saved.params["model"])
    return export_adapters(directory, params, settings, published.hf_linear, published.hf_model)


def import_peft(
    adapter: str | Path,
    model: str | Path | None,
    directory: str | Path,
    which: Which = None,
    targets: str | None = None,
) -> Path:
    """A release of a bridge with the adapters of a peft folder in place of its own.

    Args:
        adapter: folder that peft's `save_pretrained` wrote, of the bridge's language model.
        model, which: the bridge, whose projector and other trained parts stay.
        directory: of the new release.
        targets: regex of the linear maps that the folder adapts (`LoraConfig.targets`); None: those of
            the bridge, all of the decoder if it has no adapters.

    InputError lists every tensor that is missing, left over or of another shape.
    """
    saved, found = _saved(model, which), read_peft(adapter)
    published = _published(saved)
    own = saved.lora.targets if saved.lora is not None else DECODER
    settings = found.config(targets or own)
    task = BridgeTask(cast("Backbone", published), settings)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    adapters = import_adapters(found, shapes["model"], published.hf_linear)
    params = dict(saved.params)
    kept = _without_adapters(dict(params.get("model", {})))
    params["model"] = merge_params(kept, adapters)
    described = dataclasses.asdict(settings)
    described.pop("dropout")
    return save_bridge(
        directory,
        params,
        {**saved.metadata, "lora": described},
        step=saved.step,
        backbone=saved.backbone,
        training={**saved.training, "adapters_from": found.path.name},
        results=f"The bridge is {saved.path.name}, its adapters come from {found.path.name} (peft).",
    )


def _saved(model: str | Path | None, which: Which) -> SavedBridge:
    path = SHIPPED.resolve(model)
    return load_bridge(path, which=best_or_latest(path) if which is None else which)


def _adapted(saved: SavedBridge) -> LoraConfig:
    """The settings of a bridge's adapters."""
    if saved.lora is None:
        raise InputError(f"{saved.path} has no adapters: its language model was trained as a whole")
    return saved.lora


def _published(saved: SavedBridge) -> Published:
    backbone: Any = build_backbone(saved.backbone, str(saved.path))
    if not isinstance(backbone, Published):
        raise InputError(
            f"{saved.path}: Hugging Face has no model like {backbone.name}, so peft cannot adapt it"
        )
    return backbone


def _without_adapters(params: Params) -> Params:
    """The other trained parts of a language model, such as the map of mono soft tokens; often none."""
    kept = {}
    for name, value in params.items():
        inside = _without_adapters(value) if isinstance(value, dict) else value
        if name not in lora.LEAVES and not (isinstance(value, dict) and not inside):
            kept[name] = inside
    return kept

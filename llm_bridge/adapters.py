# SPDX-License-Identifier: Apache-2.0
"""A trained bridge on disk: the parameters that were trained, and what they are worthless without.

    adapter.safetensors   projector, adapters and the trained parts of the language model, by path
    bridge.json           metadata, step, training, checksum; never the base model's weights
    README.md             the card

Metadata names the base model, the encoders of both streams and their grid. The checkpoints of a training run
carry the same (`BridgeTask.metadata`, `QuestionStream.metadata`), so that neither a run nor an
answer goes on from a bridge to something else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.lora import LoraConfig, parameter_count
from llm_bridge.protocol import Backbone
from llm_bridge.shipped import RELEASE
from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import export
from spatial_core.train.checkpoint import Checkpoints
from spatial_core.typing import Params

# Settings of a language model that name files of one machine: a release leaves them to its user.
LOCAL = ("weights", "tokenizer_file")
_REQUIRED = ("base_model", "base_digest", "ids", "lora", "audio_digest", "encoder_digest", "hop")


@dataclasses.dataclass(frozen=True)
class SavedBridge:
    """A bridge as it was saved.

    Attributes:
        params: what was trained, nested dict of arrays.
        metadata: what it belongs to: `model_metadata` and `token_metadata`.
        step: of training.
        backbone: the language model's settings, its class under "class".
        training: how it was trained and what it scored, JSON values.
        card: Markdown.
        path: where it is.
    """

    params: Params
    metadata: dict[str, Any]
    step: int
    backbone: dict[str, Any]
    training: dict[str, Any]
    card: str
    path: Path

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters' settings (without the dropout of training); None: it has none."""
        found = self.metadata.get("lora")
        return None if found is None else LoraConfig(**found, dropout=0.0)

    @property
    def cycle(self) -> int:
        """Words in which its projector says a place; one if nothing is said of it, as the paper's."""
        return int(self.metadata.get("cycle", 1))

    def require(self, wanted: Mapping[str, Any]) -> None:
        """InputError with both values of all that differs, unless the bridge belongs to `wanted`.

        wanted: all of the metadata or a part of it.
        """
        wanted = export.to_json(wanted)
        have = {key: self.metadata.get(key) for key in wanted}
        different = list(resolved.differences(have, dict(wanted)))
        if different:
            raise InputError(
                f"{self.path} was trained with other models than these (bridge -> here):\n  "
                + "\n  ".join(different)
                + "\ntake the base model and the encoders that it was trained with, or another bridge"
            )

    def fitted(self, like: Params) -> Params:
        """The parameters in the structure of `like` (`BridgeTask.init`'s shapes); InputError lists
        what is missing, left over or of another shape."""
        return export.fill_tree(like, export.flatten_tree(self.params), str(self.path))


def model_metadata(backbone: Backbone, lora: LoraConfig | None) -> dict[str, Any]:
    """What a bridge depends on in its language model, JSON values.

    `base_digest` is empty for a model that is trained from scratch. Weights may be read for it.
    """
    adapters = None
    if lora is not None:
        adapters = {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets}
    audio, digest = backbone.audio_identity
    described: dict[str, Any] = export.to_json(
        {
            "base_model": backbone.name,
            "base_digest": backbone.weights_digest,
            "ids": backbone.ids,
            "lora": adapters,
            "audio_encoder": audio,
            "audio_digest": digest,
        }
    )
    return described


def token_metadata(encoder_digest: str, hop: int) -> dict[str, Any]:
    """What a bridge depends on in its spatial tokens: the encoder's digest, samples from token to token."""
    return {"encoder_digest": encoder_digest, "hop": int(hop)}


def save_bridge(
    directory: str | Path,
    params: Params,
    metadata: Mapping[str, Any],
    *,
    step: int,
    backbone: Mapping[str, Any] | Backbone,
    training: Mapping[str, Any] | None = None,
    results: str = "",
    half: bool = False,
) -> Path:
    """Writes a release; returns its folder.

    Args:
        directory: made if missing.
        params: what was trained: a run's parameters, without the frozen ones.
        metadata: `model_metadata` and `token_metadata`, joined.
        step: of training.
        backbone: the language model, or its settings as JSON values; where its files are is left out.
        training: JSON values, how it was trained and what it scored.
        results: Markdown for the card, such as a table.
        half: as in `export.write_release`.

    InputError for incomplete metadata, parameters without a projector or that are not finite.
    """
    missing = [key for key in _REQUIRED if key not in metadata]
    if missing:
        raise InputError(f"the metadata of a bridge lacks {', '.join(missing)}")
    if "projector" not in params:
        raise InputError(f"these parameters have no projector, only {', '.join(map(str, params))}")
    flat = export.flatten_tree(params)
    bad = [path for path, leaf in flat.items() if not np.isfinite(leaf.astype(np.float32)).all()]
    if bad:
        raise InputError(f"parameters that are not finite are not released: {', '.join(bad[:5])}")
    settings = dict(backbone) if isinstance(backbone, Mapping) else resolved.describe(backbone)
    config = {
        "metadata": dict(metadata),
        "step": int(step),
        "backbone": portable(settings),
        "training": dict(training or {}),
    }
    card = _card(Path(directory).name, params, config, results)
    return export.write_release(directory, params, config, card, RELEASE, half)


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's settings (JSON values) without the places of files on this machine."""
    return {key: None if key in LOCAL else value for key, value in settings.items()}


def load_bridge(
    directory: str | Path,
    expected: Mapping[str, Any] | None = None,
    which: str | int = "latest",
) -> SavedBridge:
    """Reads a release, or the checkpoint of a training run.

    Args:
        directory: of a release (bridge.json) or of a run (checkpoints/).
        expected: metadata that it has to have, all of it or a part.
        which: "latest", "best" or a step, of a run.

    InputError for missing or damaged files, and with both values for other metadata.
    """
    path = Path(directory)
    found = _from_run(path, which) if (path / "checkpoints").is_dir() else _from_release(path)
    if expected is not None:
        found.require(expected)
    return found


def release_run(
    run: str | Path,
    directory: str | Path,
    which: str | int = "latest",
    training: Mapping[str, Any] | None = None,
    results: str = "",
    half: bool = False,
) -> Path:
    """A release of a training run's checkpoint; the arguments are those of `load_bridge` and `save_bridge`."""
    found = load_bridge(run, which=which)
    return save_bridge(
        directory,
        found.params,
        found.metadata,
        step=found.step,
        backbone=found.backbone,
        training={**found.training, **(training or {})},
        results=results,
        half=half,
    )


def _from_release(path: Path) -> SavedBridge:
    released = export.read_release(path, RELEASE)
    config = released.config
    return SavedBridge(
        released.params(),
        _checked(config.get("metadata"), path),
        int(config.get("step", 0)),
        dict(config.get("backbone") or {}),
        dict(config.get("training") or {}),
        released.card,
        path,
    )


def _from_run(path: Path, which: str | int) -> SavedBridge:
    checkpoints = Checkpoints(path)
    params, step = checkpoints.load_params(which)
    metadata = _checked(checkpoints.metadata(step), path)
    config_path = path / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    settings = dict(config.get("task", {}).get("backbone") or {})
    training = {key: config[key] for key in ("seed", "optimizer", "data") if key in config}
    if "data" in training:
        # Where tokens lay means nothing on another machine; the language model is in `settings`.
        left_out = ("tokens", "backbone")
        training["data"] = {k: v for k, v in training["data"].items() if k not in left_out}
    return SavedBridge(params, metadata, step, settings, training, "", path)


def _checked(metadata: Any, path: Path) -> dict[str, Any]:
    missing = [key for key in _REQUIRED if not isinstance(metadata, dict) or key not in metadata]
    if missing:
        raise InputError(f"{path} is no bridge: it does not say {', '.join(missing)}")
    return dict(metadata)


def _card(name: str, params: Params, config: Mapping[str, Any], results: str) -> str:
    about, flat = config["metadata"], export.flatten_tree(params)
    total = sum(leaf.size for leaf in flat.values())
    projector = sum(leaf.size for path, leaf in flat.items() if path.startswith("projector/"))
    lora = about["lora"]
    adapters = (
        f"rank {lora['rank']}, alpha {lora['alpha']:g}, {parameter_count(params):,} parameters"
        if lora
        else "none"
    )
    digest = about["base_digest"]
    rows = [
        ("base model", f"{about['base_model']}" + (f", sha256 `{digest[:16]}`" if digest else "")),
        ("spatial encoder", f"sha256 `{about['encoder_digest'][:16]}`"),
        ("mono encoder", f"{about.get('audio_encoder', '')} `{about['audio_digest'][:24]}`"),
        ("hop", f"{about['hop']} samples at 16 kHz"),
        ("projector", f"{projector:,} parameters"),
        ("adapters", adapters),
        ("all that was trained", f"{total:,} parameters"),
        ("training step", f"{config['step']:,}"),
    ]
    lines = [
        f"# {name}",
        "",
        "Spatial tokens for a language model: a projector and adapters, to be used with the base model "
        "and the encoders that they were trained with (other ones are refused).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
    ]
    return "\n".join(lines + (["", results.strip()] if results.strip() else []))

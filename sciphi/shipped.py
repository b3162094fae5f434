# SPDX-License-Identifier: Apache-2.0
"""Which folder a describer's name means: known before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from spatial_core.errors import InputError
from spatial_core.io import export

RELEASE = export.Kind("sciphi-describer/1", "describer.safetensors", "describer.json")
DEFAULT_NAME = "tiny"
_SHIPPED = Path(__file__).parent / "pretrained"


def shipped() -> dict[str, Path]:
    """The models inside the package, by name."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{RELEASE.config}"))}


def resolve(model: str | Path | None) -> Path:
    """The folder of a model: a path, the name of a shipped one, or None for the default."""
    known = shipped()
    if model is None and known:
        return known.get(DEFAULT_NAME) or next(iter(known.values()))
    if model is None:
        raise InputError(
            "no model ships with this installation: train one (--run_mode=train "
            "--gin_file=experiments/sciphi_tiny.gin) and give its folder"
        )
    if str(model) in known:
        return known[str(model)]
    path = Path(model)
    if not path.is_dir():
        names = ", ".join(known) or "none in this installation"
        raise InputError(f"model {str(model)!r} is neither a folder nor a shipped one ({names})")
    return path

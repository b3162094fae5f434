# SPDX-License-Identifier: Apache-2.0
"""Released models on disk: safetensors, a JSON config with checksums, and a model card.

A directory holds three files and nothing that can run code:

    model.safetensors   the parameters, one tensor per path ("encoder/block_0/kernel")
    config.json         what the model is, and the SHA-256 of the tensor file
    README.md           the model card

Other kinds of release have other names for the first two (`Kind`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from spatial_core.errors import InputError

FORMAT = "spatial-audio-checkpoint/1"
TENSOR_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
MAX_TENSOR_BYTES = 4 << 30
MAX_CONFIG_BYTES = 4 << 20
_SEPARATOR = "/"

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of release: what its config says in "format", and the names of its two files."""

    format: str
    tensors: str
    config: str


MODEL = Kind(FORMAT, TENSOR_FILE, CONFIG_FILE)


@dataclasses.dataclass(frozen=True)
class Released:
    """What a released directory holds: {"a/b/c": array}, the JSON config, the card's text."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    card: str
    path: Path

    def params(self) -> Tree:
        """The parameters as a nested dict."""
        return unflatten_tree(self.tensors)


def flatten_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dict of arrays -> {"a/b/c": array}; keys are joined with a slash.

    Integer keys (as in a list of blocks) become text; a key with a slash or an empty dict is
    refused, since reading would not give the same tree back.
    """
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        text = str(key)
        if _SEPARATOR in text or not text:
            raise ValueError(
                f"parameter name {prefix + text!r}: a key may not be empty or hold '/'"
            )
        if isinstance(value, Mapping):
            if not value:
                raise ValueError(f"parameter group {prefix + text!r} is empty and would be lost")
            flat.update(flatten_tree(value, prefix + text + _SEPARATOR))
        else:
            flat[prefix + text] = np.asarray(value, order="C")
    return flat


def unflatten_tree(flat: Mapping[str, Any]) -> Tree:
    """{"a/b/c": array} -> nested dict; keys made of digits come back as integers."""
    tree: dict[Any, Any] = {}
    for name, value in flat.items():
        *groups, leaf = (int(part) if part.isdecimal() else part for part in name.split("/"))
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def fill_tree(like: Mapping[str, Any], flat: Mapping[str, np.ndarray], where: str) -> Tree:
    """Nested dict with the keys and shapes of `like` and the values of `flat`.

    Args:
        like: nested dict whose leaves have a shape (arrays or jax.ShapeDtypeStruct).
        flat: {"a/b/c": array}.
        where: named in the error.

    Raises InputError that lists what is missing, left over or of another shape.
    """
    wanted = _leaf_shapes(like)
    found = {name: tuple(array.shape) for name, array in flat.items()}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} is not in this model" for name in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {found[name]}, the model has {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"{where} does not fit its config: {'; '.join(problems[:3])}{more}")
    return _filled(like, flat, "")


def _leaf_shapes(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            shapes.update(_leaf_shapes(value, f"{prefix}{key}{_SEPARATOR}"))
        else:
            shapes[f"{prefix}{key}"] = tuple(value.shape)
    return shapes


def _filled(like: Mapping[str, Any], flat: Mapping[str, np.ndarray], prefix: str) -> Tree:
    return {
        key: _filled(value, flat, f"{prefix}{key}{_SEPARATOR}")
        if isinstance(value, Mapping)
        else flat[f"{prefix}{key}"]
        for key, value in like.items()
    }


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and NumPy scalars -> plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return [to_json(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise ValueError(f"{value} has no form in JSON")
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_release(
    directory: str | Path,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    card: str,
    kind: Kind = MODEL,
    half: bool = False,
) -> Path:
    """Write model.safetensors, config.json (with the checksum added) and README.md.

    Args:
        directory: made if it is missing; files of an earlier release in it are replaced.
        params: nested dict of arrays.
        config: plain JSON; "format", "files" and "num_params" are filled in here.
        card: the model card, Markdown.
        kind: names of the files.
        half: float32 is written as bfloat16, half as large and with 8 significant bits, and read as float32.
    """
    path = Path(directory)
    flat = flatten_tree(params)
    halved = [name for name, array in flat.items() if half and array.dtype == np.float32]
    flat |= {name: flat[name].astype(ml_dtypes.bfloat16) for name in halved}
    size = sum(array.nbytes for array in flat.values())
    if size > MAX_TENSOR_BYTES:
        raise InputError(
            f"{path}: the parameters have {size:,} bytes, more than a release may: {MAX_TENSOR_BYTES:,}"
        )
    path.mkdir(parents=True, exist_ok=True)
    blob = save_tensors(flat)
    full = {
        "format": kind.format,
        **to_json(config),
        **({"halved": halved} if halved else {}),
        "num_params": sum(int(array.size) for array in flat.values()),
        "files": {kind.tensors: {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}},
    }
    _replace(path / kind.tensors, blob)
    _replace(path / CARD_FILE, (card.rstrip() + "\n").encode())
    # The config comes last: a directory with a config is a complete one.
    _replace(path / kind.config, (json.dumps(full, indent=2, allow_nan=False) + "\n").encode())
    return path


def find_kind(directory: str | Path) -> Kind | None:
    """The kind of release that a folder holds, from the JSON file that names its format and its tensors."""
    for path in sorted(Path(directory).glob("*.json")):
        if path.stat().st_size <= MAX_CONFIG_BYTES:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                content = json.loads(path.read_text(encoding="utf-8"))
                (tensors,) = content["files"].keys()
                if Path(tensors).name == tensors:
                    return Kind(str(content["format"]), tensors, path.name)
    return None


def read_release(directory: str | Path, kind: Kind = MODEL) -> Released:
    """Read and verify what `write_release` wrote.

    Raises InputError for a missing file, a foreign format, or a tensor file whose size or SHA-256
    is not the recorded one.
    """
    path = Path(directory)
    config = _read_config(path, kind)
    record = config.get("files", {}).get(kind.tensors)
    if not isinstance(record, dict) or "sha256" not in record:
        raise InputError(
            f"{path / kind.config} records no SHA-256 for {kind.tensors}: not a release"
        )
    tensor_path = path / kind.tensors
    if not tensor_path.is_file():
        raise InputError(f"{tensor_path} is missing: the checkpoint is incomplete; copy it again")
    size = tensor_path.stat().st_size
    if size > MAX_TENSOR_BYTES:
        raise InputError(f"{tensor_path} has {size} bytes, more than the limit {MAX_TENSOR_BYTES}")
    blob = tensor_path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != record["sha256"]:
        raise InputError(
            f"{tensor_path} is damaged or was changed: SHA-256 {digest[:16]}.. ({size} bytes), "
            f"{kind.config} says {str(record['sha256'])[:16]}.. ({record.get('bytes')} bytes); "
            "copy the checkpoint again"
        )
    try:
        with safe_open(tensor_path, framework="np") as content:
            flat = {name: content.get_tensor(name) for name in content.keys()}
        halved = flat.keys() & set(config.get("halved", ()))
        flat |= {name: flat[name].astype(np.float32) for name in halved}
    except SafetensorError as error:
        raise InputError(f"{tensor_path} is not a safetensors file: {error}") from error
    card_path = path / CARD_FILE
    card = card_path.read_text(encoding="utf-8") if card_path.is_file() else ""
    return Released(flat, config, card, path)


def _read_config(path: Path, kind: Kind) -> dict[str, Any]:
    config_path = path / kind.config
    if not config_path.is_file():
        what = f"has no {kind.config}" if path.is_dir() else "is not a directory"
        raise InputError(
            f"{path} {what}: give a directory with {kind.tensors}, {kind.config} and {CARD_FILE}"
        )
    if config_path.stat().st_size > MAX_CONFIG_BYTES:
        raise InputError(f"{config_path} is larger than {MAX_CONFIG_BYTES} bytes: not a config")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config_path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != kind.format:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{config_path}: format is {found!r}, this version reads {kind.format!r}")
    return config


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename, so that a killed run leaves no half file under the final name."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)

# SPDX-License-Identifier: Apache-2.0
"""Adapters in the files of Hugging Face's peft: adapter_model.safetensors and adapter_config.json.

peft names a pair `base_model.model.NAME.lora_A.weight` [r, in] and `...lora_B.weight` [out, r], one
for each layer; ours are [in, r] and [r, out], stacked. A backbone tells NAME: its function
`names(path, index)` gives the Hugging Face module of a linear map, `index` its place in the stack
(() for one that is not stacked). `decoder_names` is that of Llama- and Gemma-3-shaped models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy the bfloat16 that safetensors asks for)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llm_bridge.lora import LoraConfig, adapter_sites
from spatial_core.errors import InputError
from spatial_core.io.export import unflatten_tree
from spatial_core.typing import Params

TENSOR_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MAX_TENSOR_BYTES = 8 << 30
MAX_CONFIG_BYTES = 4 << 20

Names = Callable[[str, tuple[int, ...]], str]

_PREFIX = "base_model.model."
# Settings of peft that change what an adapter computes; only these values are understood.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    # Others, such as "pissa", have changed the base weights as well.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
_DECODER = {
    "layers/attention/query": "model.layers.{}.self_attn.q_proj",
    "layers/attention/key": "model.layers.{}.self_attn.k_proj",
    "layers/attention/value": "model.layers.{}.self_attn.v_proj",
    "layers/attention/out": "model.layers.{}.self_attn.o_proj",
    "layers/gate": "model.layers.{}.mlp.gate_proj",
    "layers/up": "model.layers.{}.mlp.up_proj",
    "layers/down": "model.layers.{}.mlp.down_proj",
    "head": "lm_head",
}


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """An adapter as peft wrote it: settings, tensors by peft's name (without the prefix), base model."""

    rank: int
    alpha: float
    dropout: float
    tensors: dict[str, NDArray[np.float32]]
    base_model: str
    path: Path

    def config(self, targets: str) -> LoraConfig:
        """The settings for `lora.attach`, with the regex of the paths that it is to adapt."""
        return LoraConfig(self.rank, self.alpha, self.dropout, targets)


def decoder_names(path: str, index: tuple[int, ...]) -> str:
    """Names of Llama's and Gemma 3's causal language models, for `backbones.decoder.Decoder`."""
    if path not in _DECODER:
        raise InputError(f"{path!r} has no counterpart in Hugging Face's model")
    return _DECODER[path].format(*index)


def read_peft(directory: str | Path) -> PeftAdapter:
    """Reads a folder that peft's `save_pretrained` wrote.

    InputError for missing or damaged files, a pickled adapter_model.bin, and settings that change
    the computation in ways that are not supported here (DoRA, rsLoRA, ranks by pattern, ...).
    """
    path = Path(directory)
    config = _read_config(path)
    foreign = [
        f"{key}={config[key]!r}"
        for key, plain in _PLAIN.items()
        if key in config and config[key] not in plain
    ]
    if foreign:
        raise InputError(f"{path / CONFIG_FILE}: only plain LoRA is read, not {', '.join(foreign)}")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        dropout = float(config.get("lora_dropout") or 0.0)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / CONFIG_FILE} lacks a valid r or lora_alpha: {error}") from error
    base = str(config.get("base_model_name_or_path") or "")
    return PeftAdapter(rank, alpha, dropout, _read_tensors(path), base, path)


def import_adapters(adapter: PeftAdapter, like: Params, names: Names) -> Params:
    """The adapters' leaves in the structure of `like`, float32.

    Args:
        adapter: what `read_peft` gave.
        like: parameters (arrays or shapes) of a model after `lora.attach`.
        names: the backbone's names.

    InputError lists every tensor that is missing, left over or of another shape.
    """
    remaining = dict(adapter.tensors)
    problems: list[str] = []
    flat: dict[str, NDArray[np.float32]] = {}
    shapes = _leaf_shapes(like)
    for path, stack in adapter_sites(like).items():
        for leaf, side in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            shape = shapes[f"{path}/{leaf}"]
            whole = np.zeros(shape, np.float32)
            for index in np.ndindex(*stack):
                name = f"{names(path, index)}.{side}.weight"
                tensor = remaining.pop(name, None)
                if tensor is None:
                    problems.append(f"{name} is missing")
                elif tensor.T.shape != shape[-2:]:
                    wanted = list(reversed(shape[-2:]))
                    problems.append(f"{name} is {list(tensor.shape)}, the model needs {wanted}")
                else:
                    whole[index] = tensor.T
            flat[f"{path}/{leaf}"] = whole
    problems += [f"{name} has no place in the model" for name in sorted(remaining)]
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(
            f"{adapter.path / TENSOR_FILE} does not fit the adapters of this model (their targets have "
            "to be those of the file):\n  " + "\n  ".join(problems[:20]) + more
        )
    return unflatten_tree(flat)


def export_adapters(
    directory: str | Path, params: Params, config: LoraConfig, names: Names, base_model: str
) -> Path:
    """Writes adapters for `peft.PeftModel.from_pretrained`; returns the folder.

    Args:
        directory: made if missing.
        params: parameters with adapters; the others are left out.
        config: the settings that they were trained with.
        names: the backbone's names.
        base_model: the Hugging Face model that they belong to, for the reader.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[np.float32]] = {}
    modules: list[str] = []
    for site, stack in adapter_sites(params).items():
        linear = _descend(params, site)
        for index in np.ndindex(*stack):
            module = names(site, index)
            modules.append(module)
            for leaf, side in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
                matrix = np.asarray(linear[leaf], np.float32)[index]
                tensors[f"{_PREFIX}{module}.{side}.weight"] = np.ascontiguousarray(matrix.T)
    if not tensors:
        raise InputError("there are no adapters to export among these parameters")
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        # Whole names: a suffix such as "gate" could fit modules that have no adapter.
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    save_file(tensors, path / TENSOR_FILE, metadata={"format": "pt"})
    (path / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return path


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    if not file.is_file():
        raise InputError(
            f"{path} has no {CONFIG_FILE}: give a folder that peft's save_pretrained wrote"
        )
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise InputError(f"{file} is larger than {MAX_CONFIG_BYTES} bytes: not a config")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file} holds {type(config).__name__}, not settings")
    return config


def _read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    file = path / TENSOR_FILE
    if not file.is_file():
        pickled = (path / "adapter_model.bin").is_file()
        why = "adapter_model.bin is a pickle and not read; save as safetensors" if pickled else ""
        raise InputError(f"{file} is missing{': ' if why else ''}{why}")
    if file.stat().st_size > MAX_TENSOR_BYTES:
        raise InputError(f"{file} has {file.stat().st_size} bytes: limit {MAX_TENSOR_BYTES}")
    try:
        with safe_open(file, framework="np") as content:
            return {
                name.removeprefix(_PREFIX): content.get_tensor(name).astype(np.float32)
                for name in content.keys()
            }
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from error


def _leaf_shapes(like: Params) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in adapter_sites(like):
        linear = _descend(like, path)
        shapes.update(
            {f"{path}/{leaf}": tuple(linear[leaf].shape) for leaf in ("lora_a", "lora_b")}
        )
    return shapes


def _descend(params: Params, path: str) -> Mapping[str, Any]:
    node: Any = params
    for key in path.split("/"):
        node = node[key] if key in node else node[int(key)]
    return node

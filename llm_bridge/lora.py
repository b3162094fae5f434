# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA, Hu et al. 2021) beside the frozen weights of a language model.

An adapter is a pair `lora_a` [in, r], `lora_b` [r, out] (with the leading axes of its kernel in stacked
layers) that a `Linear` adds as alpha / r * A B. Adapters are float32 whatever the weights are.
`llm_bridge.peft_format` exchanges them with Hugging Face's peft. A linear map may have a second pair,
`fixed_a` and `fixed_b`, that came with the weights: it is frozen as they are, and both are active.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_bridge.nn import Linear
from spatial_core.errors import InputError
from spatial_core.typing import Params

# Every linear map of the decoder; neither the map of mono soft tokens nor an untied output head.
DECODER = r"^(?!.*audio)(?!(.*/)?head$)"
# Path regex of the adapters' leaves, for `split` and for partition rules.
ADAPTERS = r"(^|/)lora_[ab]$"
LEAVES = ("lora_a", "lora_b")
_LISTED = 40


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Size and place of the adapters.

    Attributes:
        rank: r.
        alpha: the adapter's output is scaled by alpha / r.
        dropout: probability that an input of an adapter is dropped in training.
        targets: regex, searched in the "/"-path of each linear map ("layers/attention/query").
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: str = DECODER

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"LoraConfig.rank is {self.rank}: at least 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"LoraConfig.alpha is {self.alpha}: above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"LoraConfig.dropout is {self.dropout}: from 0 to below 1")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise InputError(
                f"LoraConfig.targets {self.targets!r} is not a regex: {error}"
            ) from error

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank


def attach(model: nnx.Module, config: LoraConfig, rngs: nnx.Rngs) -> tuple[str, ...]:
    """Gives every matching linear map of `model` an adapter; returns their paths.

    A is uniform in +-1 / sqrt(in), as peft draws it, B zero: the model's answers stay what they were.
    A map's draw depends on `rngs` and its path only. Traceable; call it where the model is built.
    InputError if the regex matches nothing, or a map that has an adapter.
    """
    chosen = _targets(model, config)
    taken = [path for path, linear in chosen.items() if linear.lora_a is not None]
    if taken:
        raise InputError(f"these linear maps have adapters already: {_names(taken)}")
    key = rngs.params()
    for path, linear in chosen.items():
        salt = zlib.crc32(path.encode()) >> 1
        a, b = _pair(linear, config.rank, key, salt, jnp.float32)
        linear.lora_a, linear.lora_b = nnx.data(nnx.Param(a)), nnx.data(nnx.Param(b))
        linear.lora_scale, linear.lora_dropout, linear.salt = config.scale, config.dropout, salt
    return tuple(chosen)


def attach_fixed(model: nnx.Module, config: LoraConfig, rngs: nnx.Rngs) -> tuple[str, ...]:
    """Gives every matching linear map the place of an adapter that is read with the weights.

    It is of the kernel's type, has no dropout and is not among `ADAPTERS`: `attach` adds the trained one
    beside it. Else as `attach`.
    """
    chosen = _targets(model, config)
    key = rngs.params()
    for path, linear in chosen.items():
        salt = zlib.crc32(path.encode()) >> 1
        a, b = _pair(linear, config.rank, key, salt, linear.kernel.dtype)
        linear.fixed_a, linear.fixed_b = nnx.data(nnx.Param(a)), nnx.data(nnx.Param(b))
        linear.fixed_scale = config.scale
    return tuple(chosen)


def split(params: Params, trained: str) -> tuple[Params, Params]:
    """(trained, frozen): the leaves whose "/"-path the regex is found in, and the others.

    `spatial_core.train.task.merge_params` joins them again. InputError if the regex finds nothing.
    """
    matching, others = _partition(params, re.compile(trained), "")
    if not matching:
        raise InputError(
            f"{trained!r} matches no parameter; there are {_names(dict(_leaves(params)))}"
        )
    return matching, others


def adapters_of(params: Params) -> Params:
    """The adapters' leaves alone; InputError if there are none."""
    return split(params, ADAPTERS)[0]


def parameter_count(params: Params) -> int:
    """Numbers in the adapters of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for path, leaf in _leaves(params) if re.search(ADAPTERS, path))


def check_first_gradients(gradients: Params) -> None:
    """Holds the gradients of the very first step to what LoRA's start implies.

    B is zero then, so that the gradient is non-zero in every B, of each layer, and zero in every A:
    anything else means adapters that are not in use, or not fresh. InputError lists them.
    """
    leaves = {path: np.asarray(jax.device_get(leaf)) for path, leaf in _leaves(gradients)}
    problems = []
    for path in sorted(leaves):
        if path.rsplit("/", 1)[-1] == "lora_a" and np.any(leaves[path]):
            problems.append(f"{path}: the gradient is not zero, so lora_b was not")
        if path.rsplit("/", 1)[-1] == "lora_b":
            moved = np.any(leaves[path], axis=(-2, -1))
            problems += [
                f"{path}{list(index) if index else ''}: the gradient is zero, so the adapter is not used"
                for index in np.ndindex(moved.shape)
                if not moved[index]
            ]
    if not any(re.search(ADAPTERS, path) for path in leaves):
        problems = ["there are no adapters among the gradients"]
    if problems:
        raise InputError("first step of LoRA:\n  " + "\n  ".join(problems[:_LISTED]))


def merge(params: Mapping[Any, Any], config: LoraConfig) -> Params:
    """Parameters of the plain model with every adapter folded in: kernel + alpha / r * A B.

    Sums are float32, rounded once to the kernel's type. Dropout has no part in it.
    """
    merged: Params = {}
    for name, value in params.items():
        if name not in LEAVES:
            merged[name] = merge(value, config) if isinstance(value, Mapping) else value
    if "lora_a" in params:
        # Host arrays stay on the host: the weights may be larger than one device.
        xp = np if isinstance(params["kernel"], np.ndarray) else jnp
        a, b = (xp.asarray(params[leaf], np.float32) for leaf in LEAVES)
        kernel = params["kernel"].astype(np.float32) + config.scale * xp.matmul(a, b)
        merged["kernel"] = kernel.astype(params["kernel"].dtype)
    return merged


def adapter_sites(params: Params) -> dict[str, tuple[int, ...]]:
    """Path of each adapted linear map -> its leading axes, () for one that is not stacked."""
    return {
        path.rsplit("/", 1)[0]: tuple(leaf.shape[:-2])
        for path, leaf in _leaves(params)
        if path.rsplit("/", 1)[-1] == "lora_a"
    }


def _targets(model: nnx.Module, config: LoraConfig) -> dict[str, Linear]:
    """The linear maps that the regex finds, by path; InputError if there are none."""
    linears = {
        "/".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    chosen = {path: linears[path] for path in sorted(linears) if re.search(config.targets, path)}
    if not chosen:
        raise InputError(
            f"LoraConfig.targets {config.targets!r} matches no linear map; there are {_names(linears)}"
        )
    return chosen


def _pair(
    linear: Linear, rank: int, key: jax.Array, salt: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """A drawn, B zero."""
    *stacked, inputs, outputs = linear.kernel.shape
    bound = 1.0 / math.sqrt(inputs)
    shape = (*stacked, inputs, rank)
    draw = jax.random.uniform(jax.random.fold_in(key, salt), shape, dtype, -bound, bound)
    return draw, jnp.zeros((*stacked, rank, outputs), dtype)


def _partition(params: Params, pattern: re.Pattern[str], prefix: str) -> tuple[Params, Params]:
    matching: Params = {}
    others: Params = {}
    for name, value in params.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            inside, outside = _partition(dict(value), pattern, path + "/")
            matching.update({name: inside} if inside else {})
            others.update({name: outside} if outside else {})
        else:
            (matching if pattern.search(path) else others)[name] = value
    return matching, others


def _leaves(params: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _names(paths: Any) -> str:
    listed = sorted(paths)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (", ".join(listed[:_LISTED]) or "none") + more

# SPDX-License-Identifier: Apache-2.0
"""Parameters of the DCASE 2024 SELD baseline's checkpoints, in this package's layout.

The baseline (github.com/partha2409/DCASE2024_seld_baseline, audio only, multi-ACCDDOA) saves a torch
state dict in a file named .h5. What standardizes its features is in another file, of another library,
that only its own code can read; `standardizer` makes it again from recordings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from sciphi.seld_labels import DCASE_CLASSES
from sciphi.seldnet import SeldModel, SeldNetConfig
from sciphi.torch_zip import read_torch_zip
from spatial_core.errors import InputError
from spatial_core.io.export import fill_tree
from spatial_core.nn.functional import Functional
from spatial_core.typing import Params


def import_baseline(
    path: str | Path,
    config: SeldNetConfig | None = None,
    classes: int = len(DCASE_CLASSES),
    standardizer: Mapping[str, NDArray] | None = None,
) -> Params:
    """Parameters of `SeldModel` (of `SeldTask` with as many classes) from a baseline checkpoint.

    standardizer: what `standardizer` returns; None changes nothing, for features that are standardized
    already. Raises InputError for a file that is not such a checkpoint, or of other sizes.
    """
    config = config or SeldNetConfig()
    weights = read_torch_zip(path)
    functional = Functional(lambda rngs: SeldModel(config, classes, rngs=rngs))
    shapes = jax.eval_shape(functional.init, jax.random.key(0))
    try:
        flat = _renamed(weights, config)
    except KeyError as error:
        raise InputError(f"{path} has no {error.args[0]}: it is not the baseline's model") from None
    left = sorted(name for name in weights if not name.endswith("num_batches_tracked"))
    if left:
        raise InputError(f"{path} holds {left[0]}, which the baseline's audio model has not")
    for name in ("mean", "power", "count"):
        fresh = np.zeros(shapes["encoder"]["input"][name].shape, np.float32)
        given = None if standardizer is None else standardizer[name]
        flat[f"encoder/input/{name}"] = (
            np.asarray(given, np.float32) if given is not None else fresh + (name == "power")
        )
    return fill_tree(shapes, flat, str(path))


def standardizer(features: Iterable[NDArray[np.floating]]) -> dict[str, NDArray[np.float32]]:
    """Statistics of `encoder/input` from features [7, f, 64] of recordings (a scene set's, a corpus')."""
    count, total, power = 0, np.zeros(1), np.zeros(1)
    for maps in features:
        flat = np.moveaxis(np.asarray(maps, np.float64), 0, 1).reshape(maps.shape[1], -1)
        count, total, power = count + len(flat), total + flat.sum(0), power + (flat**2).sum(0)
    if not count:
        raise InputError("no recording to standardize by: give at least one")
    values = {"mean": total / count, "power": power / count, "count": np.ones(())}
    return {name: value.astype(np.float32) for name, value in values.items()}


def _renamed(weights: dict[str, NDArray], config: SeldNetConfig) -> dict[str, Any]:
    """Our paths and layouts; takes what it uses out of `weights`."""
    flat: dict[str, NDArray] = {}
    for i, _ in enumerate(config.frequency_pool):
        # The baseline counts pooling and dropout as blocks.
        theirs, ours = f"conv_block_list.{3 * i}", f"encoder/block_{i}"
        flat[f"{ours}/kernel"] = weights.pop(f"{theirs}.conv.weight").transpose(2, 3, 1, 0)
        flat[f"{ours}/bias"] = weights.pop(f"{theirs}.conv.bias")
        for name, other in (
            ("scale", "weight"),
            ("bias", "bias"),
            ("mean", "running_mean"),
            ("variance", "running_var"),
        ):
            flat[f"{ours}/norm/{name}"] = weights.pop(f"{theirs}.bn.{other}")
    for i in range(config.gru_layers):
        for part, letter in (("input", "ih"), ("state", "hh")):
            names = [f"{letter}_l{i}", f"{letter}_l{i}_reverse"]
            kernels = [weights.pop(f"gru.weight_{name}").T for name in names]
            flat[f"encoder/gru_{i}/{part}/kernel"] = np.stack(kernels)
            biases = [weights.pop(f"gru.bias_{name}") for name in names]
            flat[f"encoder/gru_{i}/{part}/bias"] = np.stack(biases)
    for i in range(config.attention_layers):
        theirs, ours = f"mhsa_block_list.{i}", f"encoder/attention_{i}"
        flat[f"{ours}/query_key_value/kernel"] = weights.pop(f"{theirs}.in_proj_weight").T
        flat[f"{ours}/query_key_value/bias"] = weights.pop(f"{theirs}.in_proj_bias")
        flat[f"{ours}/out/kernel"] = weights.pop(f"{theirs}.out_proj.weight").T
        flat[f"{ours}/out/bias"] = weights.pop(f"{theirs}.out_proj.bias")
        flat[f"{ours}/norm/scale"] = weights.pop(f"layer_norm_list.{i}.weight")
        flat[f"{ours}/norm/bias"] = weights.pop(f"layer_norm_list.{i}.bias")
    for i, ours in enumerate(("hidden", "answer")):
        flat[f"{ours}/kernel"] = weights.pop(f"fnn_list.{i}.weight").T
        flat[f"{ours}/bias"] = weights.pop(f"fnn_list.{i}.bias")
    return flat

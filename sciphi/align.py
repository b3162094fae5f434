# SPDX-License-Identifier: Apache-2.0
"""Begin the projector of spatial tokens with the words of directions, before the language model is ever run.

The spatial encoder knows where something sounds; a projector that starts at random hides it from the
language model. Here it learns by least squares, on labelled scenes, to say of each 100 ms the words in which
a description would name the zones of what sounds: "upper", "back", "-", "left".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from llm_bridge.projector import fit_projector
from llm_bridge.protocol import Tokenizer
from sciphi.records import SourceTruth
from sciphi.seldnet import SeldNet
from sciphi.task import SPATIAL_ENCODER, DescribeTask
from sciphi.zones import ZONES_26
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle
from spatial_core.nn.functional import Functional
from spatial_core.typing import Params

TOKENS_A_SECOND = 10
SPREAD = 20.0  # degrees; a direction between two zones says some of both
NOBODY = "none"
BATCH = 32


def zone_words(tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of the words of each of the 26 zones, as they stand in a description, and of nobody's."""
    return [tokenizer.encode(f" {name}") for name in (*ZONES_26.names, NOBODY)]


def zone_weights(sources: Sequence[SourceTruth], count: int) -> NDArray[np.float64]:
    """How much of each zone's words the tokens of a scene say: [count, 26 + 1], the last of nobody's.

    Each source says 1 in all while it sounds, Gaussians of the angles to the centres of zones.
    """
    middle = (np.arange(count) + 0.5) / TOKENS_A_SECOND
    centres = np.array([ZONES_26.centre(name) for name in ZONES_26.names])
    weights = np.zeros((count, len(centres) + 1))
    for source in sources:
        away = great_circle(source.azimuth, source.elevation, centres[:, 0], centres[:, 1])
        near = np.exp(-0.5 * (away / SPREAD) ** 2)
        weights[(middle >= source.onset) & (middle <= source.offset), :-1] += near / near.sum()
    weights[~weights.any(axis=1), -1] = 1.0
    return weights


def with_aligned_projector(
    task: DescribeTask, params: Params, scenes: str | Path, seed: int = 0
) -> Params:
    """Parameters whose projector says the words of zones to the encoder's tokens.

    scenes: exported folder; its training scenes are heard, each turned in one of 16 ways. InputError
    where the scenes are longer or shorter than the task hears.
    """
    from sciphi.seld_task import FeatureScenes  # simulation, which a description does without
    from sciphi.swap import SWAPS

    heard = FeatureScenes(Path(scenes) / "train")
    encoder = Functional(lambda rngs: SeldNet(task.encoder, rngs=rngs))
    encode = jax.jit(lambda params, maps: encoder.bind(params).encode(maps))  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    turned = [SWAPS[n] for n in rng.integers(len(SWAPS), size=len(heard))]
    tokens, weights = [], []
    for first in range(0, len(heard) - BATCH + 1, BATCH):
        here = range(first, first + BATCH)
        maps = task.stack_spatial([turned[i].features(heard.features(i)) for i in here])
        tokens.append(np.asarray(encode(params[SPATIAL_ENCODER], maps)))
        weights += [zone_weights(turned[i].truth(heard.truth(i)).sources, task.soft) for i in here]
    if not tokens:
        raise InputError(f"{scenes}: {len(heard)} training scenes, at least {BATCH} are needed")
    words = zone_words(task.backbone.tokenizer)
    flat = task.embeddings(np.concatenate(words))
    ends = np.cumsum([len(ids) for ids in words])[:-1]
    each = np.stack([rows.sum(axis=0) / np.sqrt(len(rows)) for rows in np.split(flat, ends)])
    inputs = np.concatenate(tokens).reshape(-1, tokens[0].shape[-1])
    fitted, told = fit_projector(
        inputs.astype(np.float32), np.concatenate(weights).astype(np.float32) @ each, seed=seed
    )
    print(f"projector: says {told:.0%} of the words of {len(inputs):,} tokens", flush=True)
    return {**params, "projector": fitted}

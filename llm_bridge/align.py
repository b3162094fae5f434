# SPDX-License-Identifier: Apache-2.0
"""Begin a projector in the language model's own tongue, before that model is ever run.

A projector that starts at random says nothing that a language model knows, and it takes tens of thousands
of answers until the two understand each other. Here the projector learns by least squares, on labelled tokens,
to say a talker's place in words: seconds, in which the language model is not needed. An azimuth is said
as answers write it, 210 as " two" and "1", which a language model has only to copy. Elevations and distances
get the embedding of some word each; what these mean, the adapters learn afterwards, as one learns a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from llm_bridge.projector import fit_projector
from llm_bridge.protocol import Tokenizer
from llm_bridge.qa.formats import azimuth_text
from llm_bridge.task import BridgeTask
from llm_bridge.tokens.record import Talker
from llm_bridge.tokens.token_set import TokenSet
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH
from spatial_core.typing import Params

# Of values apart by as much as one step of a list, which share a place between two of them.
SPREAD = 10.0  # degrees
DISTANCE_SPREAD = 0.25  # of the natural logarithm
NEAREST, FURTHEST, DISTANCES = 0.3, 8.0, 13
HUNDREDS = (" zero", " one", " two", " three")
# Rows of a vocabulary that are words, not bytes or markers.
FIRST_WORD, WORDS = 1000, 20_000


def place_weights(
    azimuth: NDArray[np.float64], elevation: NDArray[np.float64], distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much of each value's word tells of places [n], degrees and metres: [n, 36 + 19 + 13].

    Neighbours share: Gaussians about the place, each of the three with squares that sum to 1.
    """
    around = AZIMUTH.centres[:-1]
    turns = (azimuth[:, None] - around + 180.0) % 360.0 - 180.0
    rises = elevation[:, None] - np.linspace(-90.0, 90.0, 19)
    steps = np.linspace(np.log(NEAREST), np.log(FURTHEST), DISTANCES)
    ratios = np.log(np.clip(distance, NEAREST, FURTHEST))[:, None] - steps
    parts = [
        np.exp(-0.5 * (away / spread) ** 2)
        for away, spread in ((turns, SPREAD), (rises, SPREAD), (ratios, DISTANCE_SPREAD))
    ]
    return np.concatenate(
        [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1
    )


def azimuth_words(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Ids of the hundreds of each azimuth, a word, and then of the tens of each, a digit: [36 + 36]."""
    texts = [azimuth_text(float(centre)) for centre in AZIMUTH.centres[:-1]]
    # The last of several ids is the word without the space before it.
    hundreds = [tokenizer.encode(HUNDREDS[int(text[0])])[-1] for text in texts]
    return np.array(hundreds + [tokenizer.encode(text[1])[-1] for text in texts])


def token_places(
    talkers: Sequence[Talker], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens in whose first 160 ms one talker talks, and its azimuth, elevation and distance [n, 3]."""
    middle = (np.arange(count) + 0.5) * HOP / SAMPLE_RATE
    where, places = [], []
    for talker in talkers:
        heard = np.flatnonzero((middle >= talker.start) & (middle <= talker.end))
        where.append(heard)
        places += [(talker.azimuth, talker.elevation, talker.distance)] * len(heard)
    return np.concatenate(where) if where else np.zeros(0, np.int64), np.reshape(places, (-1, 3))


def initial_params(task: BridgeTask, tokens: str | Path, seed: int = 0) -> Params:
    """Fresh parameters with a projector that says words of places, for `TrainConfig.init_from`.

    tokens: an exported folder with labels; its training clips are read. InputError if nobody talks in
    them, and for a language model without pretrained words. Words that say nothing by themselves are
    drawn by the seed; one more stands for nobody.
    """
    if not task.frozen_shapes():
        raise InputError(
            f"{task.backbone.name} is trained from nothing and knows no words for a projector to say: "
            "leave TrainConfig.init_from out"
        )
    found = TokenSet(Path(tokens) / "train")
    inputs, silent, places = [], [], []
    for index in range(len(found)):
        record = found.without_audio(index)
        where, here = token_places(record.talkers, len(record.tokens))
        inputs.append(record.tokens[where])
        places.append(here)
        silent.append(np.delete(record.tokens, where, axis=0))
    spoken, nobody = np.concatenate(inputs), np.concatenate(silent)
    if not len(spoken):
        raise InputError(f"{found.directory}: nobody talks in it, so it tells no places")
    weights = place_weights(*np.concatenate(places).T)
    weights = np.pad(weights, ((0, len(nobody)), (0, 1)))
    weights[len(spoken) :, -1] = 1.0
    drawn = np.random.default_rng(seed).choice(WORDS, weights.shape[1], replace=False)
    words = task.embeddings(FIRST_WORD + np.asarray(drawn))
    hundreds, tens = np.split(task.embeddings(azimuth_words(task.backbone.tokenizer)), 2)
    words[: len(tens)] = (hundreds + tens) / np.sqrt(2.0)
    fitted, told = fit_projector(
        np.concatenate([spoken, nobody]).astype(np.float32),
        weights.astype(np.float32) @ words,
        seed=seed,
    )
    print(f"projector: says {told:.0%} of the words of {len(spoken):,} places", flush=True)
    params = dict(task.init(jax.random.key(seed)))
    params["projector"] = fitted
    return params

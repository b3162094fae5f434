# SPDX-License-Identifier: Apache-2.0
"""Begin a projector in the language model's own tongue, before that model is ever run.

A projector that starts at random says nothing that a language model knows, and it takes tens of thousands
of answers until the two understand each other. Here the projector learns by least squares, on labelled tokens,
to spell a talker's place: each of its output layers says one word of it, and they take turns, so that who talks
for two seconds is heard as "right three 4 back One zero two twice right three ...". Copying words from what it
reads is what a language model can do before it is trained; several words in one embedding it hardly learns to
tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from llm_bridge.projector import fit_projector
from llm_bridge.qa.formats import azimuth_text, distance_text, elevation_text
from llm_bridge.task import BridgeTask
from llm_bridge.tokens.record import Talker
from llm_bridge.tokens.token_set import TokenSet
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.coords import wrap_degrees
from spatial_core.typing import Params

# Number words in several ways of writing, so that most tell of what they are a digit.
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("zero", *"ten twenty thirty forty fifty sixty seventy eighty ninety".split())
_TIMES = ("nil", *"once twice triple four five sixth seventh eighth ninth".split())
NOBODY = "."
# Tokens that are fitted, drawn if there are more: a gigabyte of embeddings.
TOKENS = 50_000


def place_words(azimuth: float, elevation: float, distance: float) -> tuple[str, ...]:
    """The words of a place, degrees and metres: its sides, and the digits that its numbers begin with in answers.

    Azimuths and elevations end in 0 there, which goes without saying.
    """
    sideways = " right" if abs(wrap_degrees(azimuth)) < 90.0 else " left"
    along = " front" if wrap_degrees(azimuth) > 0.0 else " back"
    turn, rise, far = azimuth_text(azimuth), elevation_text(elevation), distance_text(distance)
    return (
        sideways,
        f" {_NAMES[int(turn[0])]}",
        turn[1],
        along,
        f" {_NAMES[int(rise[0])].title()}",
        f" {_TENS[int(rise[1])]}",
        _NAMES[int(far[0])],
        f" {_TIMES[int(far[1])]}",
    )


CYCLE = len(place_words(0.0, 0.0, 1.0))


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
    them, for a language model without pretrained words, and for a projector whose cycle is not `CYCLE`.
    """
    if not task.frozen_shapes():
        raise InputError(
            f"{task.backbone.name} is trained from nothing and knows no words for a projector to say: "
            "leave TrainConfig.init_from out"
        )
    if task.cycle != CYCLE:
        raise InputError(
            f"BridgeTask.cycle is {task.cycle}: a place is said in {CYCLE} words, so set it to {CYCLE}"
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
    rng, encode = np.random.default_rng(seed), task.backbone.tokenizer.encode
    # Of a word of several ids (a digit behind a space, "nil") the last one.
    said = [[encode(word)[-1] for word in place_words(*place)] for place in np.concatenate(places)]
    said += [[encode(NOBODY)[-1]] * CYCLE] * len(nobody)
    drawn = rng.permutation(len(said))[:TOKENS]
    ids, index = np.unique(np.array(said)[drawn], return_inverse=True)
    wanted = task.embeddings(ids)[index.reshape(-1, CYCLE)]
    heard = np.concatenate([spoken, nobody])[drawn].astype(np.float32)
    fitted, told = fit_projector(heard, wanted, seed=seed)
    print(f"projector: says {told:.0%} of the words of {len(spoken):,} places", flush=True)
    params = dict(task.init(jax.random.key(seed)))
    params["projector"] = fitted
    return params

# SPDX-License-Identifier: Apache-2.0
"""A projector that says words of places: geometry of the words, and that they can be read back."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from llm_bridge import align
from llm_bridge.projector import Projector, fit_projector
from llm_bridge.tokens.record import Talker
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from tests.unit.llm_bridge.released import token_set


def test_a_place_is_spelled_as_answers_write_it() -> None:
    # Azimuth 130 of the list of answers, elevation 20 (110 there), 3.9 m.
    said = align.place_words(130.0, 20.0, 3.9)
    assert said == (" left", " one", "3", " front", " One", " ten", "three", " ninth")
    # -10 is 350, to the right and a little behind; 1.1 m become the 1.2 of the list.
    said = align.place_words(-10.0, -30.0, 1.1)
    assert said == (" right", " three", "5", " back", " Zero", " sixty", "one", " twice")
    assert align.place_words(-180.0, 0.0, 6.0)[1:3] == (" one", "8")


def test_every_listed_value_has_words_of_its_own() -> None:
    places = itertools.product(range(-180, 180, 10), range(-90, 91, 10), np.arange(0.1, 6.5, 0.5))
    turns = [
        set(words) for words in zip(*itertools.starmap(align.place_words, places), strict=True)
    ]
    assert [len(words) for words in turns] == [2, 4, 10, 2, 2, 10, 7, 10]


def test_tokens_are_labelled_while_their_talker_talks() -> None:
    talkers = (
        Talker(0.0, 0.5, 10.0, 0.0, 1.0, "One.", "a"),
        Talker(1.0, 1.3, -90.0, 5.0, 2.0, "Two.", "b"),
    )
    where, places = align.token_places(talkers, 10)
    # Middles lie at 0.08 s + 0.16 k.
    assert where.tolist() == [0, 1, 2, 6, 7]
    assert places.tolist() == [[10.0, 0.0, 1.0]] * 3 + [[-90.0, 5.0, 2.0]] * 2
    assert align.token_places((), 4)[1].shape == (0, 3)


def test_a_fitted_projector_says_another_word_of_what_tokens_tell_at_each_turn() -> None:
    rng = np.random.default_rng(0)
    turn = rng.uniform(-np.pi, np.pi, 4000)
    tokens = np.stack([np.cos(turn), np.sin(turn), rng.normal(size=4000)], axis=1)
    tokens = tokens.astype(np.float32)
    first, second = (turn > 0).astype(int), (np.abs(turn) < np.pi / 2).astype(int)
    words = rng.normal(size=(2, 2, 192)) * 0.1
    wanted = np.stack([words[0][first], words[1][second]], axis=1).astype(np.float32)
    params, told = fit_projector(tokens[:3000], wanted[:3000])
    assert told > 0.9  # edges between sides are smoothed by 800 steps
    model: Any = Functional(lambda rngs: Projector(192, 3, 2, rngs=rngs)).bind(params)
    # All held-out tokens as one clip: even ones say words of the first list, odd ones of the second.
    said = np.asarray(model(tokens[None, 3000:]))[0]
    for number, which in enumerate((first, second)):
        read = np.argmax(said[number::2] @ words[number].T, axis=1)
        assert np.mean(read == which[3000 + number :: 2]) > 0.95
    np.testing.assert_allclose(said[1], np.asarray(model.turns(tokens[3001]))[1], atol=1e-6)


class Letters:
    """A vocabulary of characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_the_start_of_a_training_says_places_of_its_own_clips(tmp_path, capsys) -> None:
    folder = token_set(tmp_path / "tokens" / "train").parent
    width = 64

    def embeddings(ids: np.ndarray) -> np.ndarray:
        assert len(set(ids.tolist())) == len(ids)
        rows = [np.random.default_rng(i).normal(size=width) * 0.1 for i in ids]
        return np.stack(rows).astype(np.float32)

    task: Any = SimpleNamespace(
        embeddings=embeddings,
        cycle=align.CYCLE,
        backbone=SimpleNamespace(tokenizer=Letters()),
        frozen_shapes=lambda: {"model": {}},
        init=lambda key: {"projector": None, "model": {"lora": jax.random.normal(key, (2,))}},
    )
    params, again = (align.initial_params(task, folder, seed=3) for _ in range(2))
    assert set(params) == {"projector", "model"}
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert params["projector"]["expand"]["kernel"].shape == (256, width)
    assert params["projector"]["out"]["kernel"].shape == (width, align.CYCLE * width)
    assert "words of" in capsys.readouterr().out


def test_a_language_model_without_words_is_refused() -> None:
    task: Any = SimpleNamespace(
        frozen_shapes=dict, backbone=SimpleNamespace(name="tiny"), init=lambda key: {}
    )
    with pytest.raises(InputError, match="tiny is trained from nothing"):
        align.initial_params(task, "nowhere")


def test_a_projector_with_too_few_turns_is_refused() -> None:
    task: Any = SimpleNamespace(frozen_shapes=lambda: {"model": {}}, cycle=1)
    with pytest.raises(InputError, match=r"BridgeTask.cycle is 1: a place is said in 8 words"):
        align.initial_params(task, "nowhere")

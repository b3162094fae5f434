# SPDX-License-Identifier: Apache-2.0
"""A projector that says words of places: geometry of the words, and that they can be read back."""

from __future__ import annotations

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


def test_a_place_on_a_listed_value_says_that_value_most_and_its_neighbours_alike() -> None:
    weights = align.place_weights(np.array([-180.0 + 130.0]), np.array([20.0]), np.array([0.3]))[0]
    azimuth, elevation, distance = np.split(weights, [36, 36 + 19])
    assert azimuth.argmax() == 13 and elevation.argmax() == 11 and distance.argmax() == 0
    assert azimuth[12] == pytest.approx(azimuth[14]) == pytest.approx(azimuth[13] * np.exp(-0.5))
    for part in (azimuth, elevation, distance):
        assert np.sum(part**2) == pytest.approx(1.0)


def test_azimuths_close_to_each_other_across_180_degrees_say_the_same() -> None:
    weights = align.place_weights(np.array([179.9, -179.9]), np.zeros(2), np.ones(2))
    np.testing.assert_allclose(weights[0], weights[1], atol=0.02)  # 0.2 of 10 degrees apart


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


def test_a_fitted_projector_tells_what_tokens_tell() -> None:
    rng = np.random.default_rng(0)
    turn = rng.uniform(-np.pi, np.pi, 4000)
    tokens = np.stack([np.cos(turn), np.sin(turn), rng.normal(size=4000)], axis=1)
    words = rng.normal(size=(69, 192)) * 0.1
    weights = align.place_weights(np.degrees(turn), np.zeros(4000), np.ones(4000))
    wanted = weights @ words[:-1]
    params, told = fit_projector(tokens[:3000].astype(np.float32), wanted[:3000].astype(np.float32))
    # Edges of 10 degrees' width are smoothed by 800 steps; what counts is what can be read.
    assert told > 0.8
    model: Any = Functional(lambda rngs: Projector(192, 3, rngs=rngs)).bind(params)
    said = np.asarray(model(tokens[3000:].astype(np.float32)))
    read = np.linalg.lstsq(words.T, said.T, rcond=None)[0][:36].argmax(axis=0)
    right = weights[3000:, :36].argmax(axis=1)
    # Ten degrees, one value, is as fine as tokens are read; few are two off.
    assert np.mean(np.abs((read - right + 18) % 36 - 18) <= 1) > 0.94


class Letters:
    """A vocabulary of characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_azimuths_are_said_in_hundreds_and_tens() -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [[*align.HUNDREDS, *"0123456789"].index(text)]

    hundreds, tens = np.split(align.azimuth_words(Words()), 2)  # type: ignore[arg-type]
    # Centres begin at -180 degrees, which answers write 180; -10 is 350.
    assert (hundreds[0], tens[0] - 4) == (1, 8)
    assert (hundreds[17], tens[17] - 4) == (3, 5)
    assert (hundreds[19], tens[19] - 4) == (0, 1)


def test_the_start_of_a_training_says_places_of_its_own_clips(tmp_path, capsys) -> None:
    folder = token_set(tmp_path / "tokens" / "train").parent
    width = 64

    def embeddings(ids: np.ndarray) -> np.ndarray:
        assert len(ids) == 36 + 36 or len(set(ids.tolist())) == len(ids) == 36 + 19 + 13 + 1
        rows = [np.random.default_rng(i).normal(size=width) * 0.1 for i in ids]
        return np.stack(rows).astype(np.float32)

    task: Any = SimpleNamespace(
        embeddings=embeddings,
        backbone=SimpleNamespace(tokenizer=Letters()),
        frozen_shapes=lambda: {"model": {}},
        init=lambda key: {"projector": None, "model": {"lora": jax.random.normal(key, (2,))}},
    )
    params, again = (align.initial_params(task, folder, seed=3) for _ in range(2))
    assert set(params) == {"projector", "model"}
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert params["projector"]["expand"]["kernel"].shape == (256, width)
    assert "words of" in capsys.readouterr().out


def test_a_language_model_without_words_is_refused() -> None:
    task: Any = SimpleNamespace(
        frozen_shapes=dict, backbone=SimpleNamespace(name="tiny"), init=lambda key: {}
    )
    with pytest.raises(InputError, match="tiny is trained from nothing"):
        align.initial_params(task, "nowhere")

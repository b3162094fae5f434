# SPDX-License-Identifier: Apache-2.0
"""Ids of words on the grid of soft tokens, against an exhaustive search."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.word_slots import Word, from_numbers, place_words, to_numbers


class Letters:
    """A tokenizer with an id for each character."""

    vocab_size = 128

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


def read(ids):
    return Letters().decode([int(i) for i in ids if i >= 0])


def test_ids_stand_in_the_slots_in_which_they_are_spoken():
    words = [Word("I", 0.16, 0.48), Word("am", 0.96, 1.44)]
    ids, lost = place_words(words, Letters(), 12)
    # Two ids on slots 1 and 2, three on slots 6, 7 and 8.
    assert ids.tolist() == [-1, 32, 73, -1, -1, -1, 32, 97, 109, -1, -1, -1]
    assert lost == 0


def test_fast_words_move_to_free_slots_and_keep_their_order():
    words = [Word("abcd", 0.8, 0.8), Word("ef", 0.8, 0.96)]
    ids, lost = place_words(words, Letters(), 20)
    assert read(ids) == " abcd ef" and lost == 0
    places = np.flatnonzero(ids >= 0)
    assert np.ptp(places) == 7 and abs(places.mean() - 5) <= 1  # around slot 5, both ways


def test_what_has_no_slot_is_counted():
    ids, lost = place_words([Word("abcdefgh", 0.0, 0.4)], Letters(), 4)
    assert (read(ids), lost) == (" abc", 5)
    assert place_words([], Letters(), 3)[0].tolist() == [-1, -1, -1]
    ids, lost = place_words([Word("a", 0.0, 1.0)], Letters(), 0)
    assert ids.shape == (0,) and lost == 2


@pytest.mark.parametrize("seed", range(5))
def test_no_other_order_keeping_placement_is_nearer(seed):
    rng = np.random.default_rng(seed)
    slots, count = 9, 5
    starts = np.sort(rng.uniform(0, slots * 0.16, count))
    words = [Word("", t, t) for t in starts]  # one id each: the space
    ids, _ = place_words(words, Letters(), slots)

    def distance(places):
        return float(np.abs(np.asarray(places) - (starts / 0.16 - 0.5)).sum())

    best = min(map(distance, itertools.combinations(range(slots), count)))
    assert distance(np.flatnonzero(ids >= 0)) == pytest.approx(best)


def test_numbers_survive_float16_for_every_id_of_the_largest_vocabulary():
    ids = np.arange(-1, 262_144, dtype=np.int32)
    numbers = to_numbers(ids).astype(np.float16)
    assert not numbers[0].any()  # what padding is
    np.testing.assert_array_equal(from_numbers(jnp.asarray(numbers, jnp.float32)), ids)

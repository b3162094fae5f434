# SPDX-License-Identifier: Apache-2.0
"""The ADPIT loss beside every permutation and duplication tried one by one."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from sciphi import adpit
from sciphi.adpit import ARRANGEMENTS

adpit_loss = jax.jit(adpit.adpit_loss)


def brute_force(answer, sources):
    """Smallest mean squared error of answers [3, 4] over all lists of three sources in which none of
    the given ones is missing; of zeros where nothing sounds."""
    if not len(sources):
        return np.mean(answer**2)
    return min(
        np.mean((answer - np.array(chosen)) ** 2)
        for chosen in itertools.product(sources, repeat=3)
        if all(any(source is other for other in chosen) for source in sources)
    )


def case(rng, frames=12, classes=3):
    answer = rng.normal(size=(2, frames, 3, 4, classes)).astype(np.float32)
    count = rng.integers(0, 4, size=(2, frames, classes)).astype(np.int32)
    target = rng.normal(size=answer.shape).astype(np.float32)
    target *= np.arange(3)[:, None, None] < count[:, :, None, None, :]
    return answer, target, count


def test_there_are_thirteen_arrangements_of_which_one_is_silence() -> None:
    """1 + 6 + 6 with sources (Shimada et al. 2022, section 3.2)."""
    counts = [sources for sources, _ in ARRANGEMENTS]
    assert [counts.count(n) for n in (1, 2, 3)] == [1, 6, 6]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_that_of_the_best_arrangement(seed) -> None:
    answer, target, count = case(np.random.default_rng(seed))
    found = adpit_loss(answer, target, count)
    for b, f, c in np.ndindex(count.shape):
        sources = [target[b, f, i, :, c] for i in range(count[b, f, c])]
        # float32 sums of twelve squares
        assert found[b, f, c] == pytest.approx(brute_force(answer[b, f, ..., c], sources), rel=1e-5)


def test_order_of_sources_and_of_tracks_does_not_matter() -> None:
    answer, target, count = case(np.random.default_rng(2))
    count[:] = 3
    before = adpit_loss(answer, target, count)
    np.testing.assert_allclose(
        adpit_loss(answer[:, :, [2, 0, 1]], target, count), before, rtol=1e-6
    )
    np.testing.assert_allclose(
        adpit_loss(answer, target[:, :, [1, 0, 2]], count), before, rtol=1e-6
    )


def test_two_sources_may_be_answered_by_three_tracks_but_not_by_one_direction() -> None:
    a, b = np.array([1, 0, 0, 2.0]), np.array([0, 1, 0, 3.0])
    target = np.stack([a, b, 0 * a])[None, ..., None]
    count = np.array([[2]])
    for tracks in itertools.product((a, b), repeat=3):
        loss = adpit_loss(np.stack(tracks)[None, ..., None], target, count)[0, 0]
        # one answer for both: its error to the other is 1 + 1 + 1 over 3 tracks of 4
        same = all(t is tracks[0] for t in tracks)
        assert loss == pytest.approx(0.25 if same else 0.0, abs=1e-7)


def test_metres_weigh_as_much_as_asked() -> None:
    answer, target = np.zeros((1, 3, 4, 1)), np.zeros((1, 3, 4, 1))
    answer[:, :, 3] = 2.0
    for weight in (0.0, 0.01, 1.0):
        loss = adpit_loss(answer, target, np.array([[0]]), weight)[0, 0]
        assert loss == pytest.approx(4 * weight / 4)


def test_gradients_go_to_the_chosen_arrangement_and_are_finite() -> None:
    answer, target, count = case(np.random.default_rng(3))
    gradient = jax.jit(jax.grad(lambda x: adpit.adpit_loss(x, target, count).sum()))(answer)
    assert np.isfinite(gradient).all()
    one = count == 1
    wanted = 2 * (answer - target[:, :, :1]) / 12
    picked = np.broadcast_to(one[:, :, None, None, :], answer.shape)
    np.testing.assert_allclose(gradient[picked], wanted[picked], rtol=1e-5, atol=1e-7)

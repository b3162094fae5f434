# SPDX-License-Identifier: Apache-2.0
"""What the task promises the training loop: finite losses that fall, in both families and types."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from phasecoder.paper import PaperConfig
from phasecoder.plus import PlusConfig
from phasecoder.relative import RelativeConfig
from phasecoder.task import PhaseCoderTask
from spatial_core.errors import InputError
from tests.unit.programs import quick

PAPER = PaperConfig(width=32, heads=2, head_width=16, hidden=32, blocks=2)
PLUS = PlusConfig(width=32, heads=2, head_width=16, hidden=32, blocks=1)
RELATIVE = RelativeConfig(width=32, heads=2, head_width=16, hidden=32, blocks=1)


def labelled_batch(size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(size, 4, 3)) * 0.05
    return {
        "audio": rng.normal(size=(size, 4, 4000)).astype(np.float32) * 0.05,
        "mic_positions": (positions - positions.mean(1, keepdims=True)).astype(np.float32),
        "mic_mask": np.ones((size, 4), bool),
        "direct": rng.normal(size=(size, 4000)).astype(np.float32) * 0.03,
        "azimuth": rng.uniform(-180, 180, size).astype(np.float32),
        "elevation": rng.uniform(-60, 60, size).astype(np.float32),
        "distance": rng.uniform(0.5, 4, size).astype(np.float32),
        "speech": np.arange(size) > 0,
    }


@functools.cache
def params_of(model):
    """Drawn by operations of their own, which compile once for each shape: one program takes longer."""
    return PhaseCoderTask(model).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("model", "targets"), [(PAPER, "paper"), (PLUS, "soft"), (RELATIVE, "soft")]
)
def test_a_few_steps_on_one_batch_lower_its_loss(model, targets: str):
    task = PhaseCoderTask(model, targets=targets)
    batch, params = labelled_batch(), params_of(model)
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @quick
    def step(params, state):
        grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, _), grads = grad(params, batch, jax.random.key(1), False)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(15):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.9 * losses[0]


def test_one_hot_targets_start_at_the_entropy_of_guessing():
    """Weights 1, 1 and 0.5 on uniform answers: log 38 + log 18 + log 13 / 2 (section 3.2)."""
    task = PhaseCoderTask(PAPER, targets="paper")
    params = params_of(PAPER)
    silent = {
        head: jax.tree.map(np.zeros_like, params["heads"][head])
        for head in ("azimuth", "elevation", "distance")
    }
    params = {**params, "heads": {**params["heads"], **silent}}
    loss, _ = quick(task.loss, static_argnums=3)(params, labelled_batch(), jax.random.key(0), False)
    assert float(loss) == pytest.approx(np.log(38) + np.log(18) + 0.5 * np.log(13), rel=1e-5)


@pytest.mark.parametrize("model", [PAPER, PLUS])
def test_bfloat16_computes_close_to_float32_and_keeps_float32_weights(model):
    batch = labelled_batch()
    exact = PhaseCoderTask(model)
    half = PhaseCoderTask(dataclasses.replace(model, dtype="bfloat16"))
    shapes = jax.eval_shape(half.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    given = (params_of(model), batch, jax.random.key(0), False)
    (loss, _), grads = quick(jax.value_and_grad(half.loss, has_aux=True), static_argnums=3)(*given)
    reference, _ = quick(exact.loss, static_argnums=3)(*given)
    # bfloat16 keeps 8 bits: 0.4% a rounding, a few of them in a row.
    assert float(loss) == pytest.approx(float(reference), rel=0.02)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_clips_with_unknown_direct_sound_teach_the_mask_nothing():
    task = PhaseCoderTask(PLUS)
    batch = labelled_batch()
    unknown = {**batch, "direct": np.zeros_like(batch["direct"])}
    params = params_of(PLUS)

    @quick
    @jax.value_and_grad
    def mask_loss(params, batch):
        return task.loss(params, batch, jax.random.key(0), False)[1]["loss_mask"]

    # The first clip has no speech: that its direct sound is zero is known.
    _, grads = mask_loss(params, {**unknown, "speech": np.ones(8, bool)})
    assert not any(np.any(g) for g in jax.tree.leaves(grads["mask"]))
    assert mask_loss(params, {**unknown, "speech": np.arange(8) > 0})[0] > 0
    assert mask_loss(params, batch)[0] > 0


@pytest.mark.parametrize("width", [-4, 2])
def test_an_impossible_mask_width_is_refused(width: int):
    with pytest.raises(InputError, match="mask_width"):
        PlusConfig(mask_width=width)

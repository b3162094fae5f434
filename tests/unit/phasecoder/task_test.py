# SPDX-License-Identifier: Apache-2.0
"""What the task promises the training loop: finite losses that fall, in both families and types."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from phasecoder.paper import PaperConfig
from phasecoder.plus import PlusConfig
from phasecoder.relative import RelativeConfig
from phasecoder.task import PhaseCoderTask
from spatial_core.errors import InputError

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


@pytest.mark.parametrize(
    ("model", "targets"), [(PAPER, "paper"), (PLUS, "soft"), (RELATIVE, "soft")]
)
def test_a_few_steps_on_one_batch_lower_its_loss(model, targets: str):
    task = PhaseCoderTask(model, targets=targets)
    batch = labelled_batch()
    params = task.init(jax.random.key(0))
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
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
    params = task.init(jax.random.key(0))
    for head in ("azimuth", "elevation", "distance"):
        params["heads"][head] = jax.tree.map(lambda x: 0 * x, params["heads"][head])
    loss, _ = task.loss(params, labelled_batch(), jax.random.key(0), False)
    assert float(loss) == pytest.approx(np.log(38) + np.log(18) + 0.5 * np.log(13), rel=1e-5)


@pytest.mark.parametrize("model", [PAPER, PLUS])
def test_bfloat16_computes_close_to_float32_and_keeps_float32_weights(model):
    batch = labelled_batch()
    exact = PhaseCoderTask(model)
    half = PhaseCoderTask(dataclasses.replace(model, dtype="bfloat16"))
    params = half.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    (loss, _), grads = jax.value_and_grad(half.loss, has_aux=True)(
        params, batch, jax.random.key(0), False
    )
    reference, _ = exact.loss(params, batch, jax.random.key(0), False)
    # bfloat16 keeps 8 bits: 0.4% a rounding, a few of them in a row.
    assert float(loss) == pytest.approx(float(reference), rel=0.02)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_clips_with_unknown_direct_sound_teach_the_mask_nothing():
    task = PhaseCoderTask(PLUS)
    batch = labelled_batch()
    unknown = {**batch, "direct": np.zeros_like(batch["direct"])}
    params = task.init(jax.random.key(0))

    def mask_loss(params, batch):
        return task.loss(params, batch, jax.random.key(0), False)[1]["loss_mask"]

    # The first clip has no speech: that its direct sound is zero is known.
    grads = jax.grad(mask_loss)(params, {k: v[1:] for k, v in unknown.items()})
    assert not any(np.any(g) for g in jax.tree.leaves(grads["mask"]))
    assert float(mask_loss(params, {k: v[:1] for k, v in unknown.items()})) > 0
    assert float(mask_loss(params, batch)) > 0


@pytest.mark.parametrize("width", [-4, 2])
def test_an_impossible_mask_width_is_refused(width: int):
    with pytest.raises(InputError, match="mask_width"):
        PlusConfig(mask_width=width)

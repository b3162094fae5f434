# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: round trip, retention, damage, differences in structure."""

from __future__ import annotations

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.train.checkpoint import Checkpoints, tree_digest


def state(step: int, scale: float = 1.0):
    return {
        "step": jnp.int32(step),
        "params": {"a": {"kernel": scale * jnp.arange(6.0).reshape(2, 3)}, "b": jnp.float32(2)},
        "opt_state": (jnp.int32(step), {"mu": jnp.ones(3, jnp.bfloat16)}),
    }


def abstract(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def flip_a_byte(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_round_trip_is_exact(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore_latest(abstract(state(0))) is None
    assert checkpoints.save(state(3)) == 3
    restored = checkpoints.restore_latest(abstract(state(0)))
    assert tree_digest(restored) == tree_digest(state(3))
    assert isinstance(restored["opt_state"], tuple)
    params, step = checkpoints.load_params()
    assert step == 3
    np.testing.assert_array_equal(params["a"]["kernel"], np.arange(6.0).reshape(2, 3))


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(1))
    checkpoints.mark_best(1, "loss", 0.5)
    for step in (2, 3, 4):
        checkpoints.save(state(step))
    assert checkpoints.steps() == [1, 3, 4]
    assert checkpoints.load_params("best")[1] == 1
    checkpoints.mark_best(4, "loss", 0.4)
    assert checkpoints.steps() == [3, 4]


def test_one_flipped_byte_is_noticed_and_the_previous_one_used(tmp_path):
    lines = []
    checkpoints = Checkpoints(tmp_path, keep=3, say=lines.append)
    for step in (1, 2):
        checkpoints.save(state(step, scale=step))
    flip_a_byte(checkpoints.directory / "00000002" / "state")
    with pytest.raises(InputError, match="changed since it was written"):
        checkpoints.load_params(2)
    restored = checkpoints.restore_latest(abstract(state(0)))
    assert tree_digest(restored) == tree_digest(state(1, scale=1))
    assert len(lines) == 1 and "checkpoint 2 is damaged" in lines[0]
    assert (checkpoints.directory / "00000002.damaged").is_dir()


def test_missing_files_and_broken_manifests_count_as_damage(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(state(step))
    next((checkpoints.directory / "00000001" / "state").rglob("manifest.ocdbt")).unlink()
    (checkpoints.directory / "00000002" / "manifest.json").write_text("{")
    assert "missing" in checkpoints.damage(1)
    assert "cannot be read" in checkpoints.damage(2)
    with pytest.raises(InputError, match="all 2 checkpoints"):
        checkpoints.restore_latest(abstract(state(0)))


def test_an_interrupted_save_is_removed(tmp_path):
    lines = []
    checkpoints = Checkpoints(tmp_path, say=lines.append)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (checkpoints.directory / "00000002" / "manifest.json").unlink()
    checkpoints.clean()
    assert checkpoints.steps() == [1] and "unfinished" in lines[0]
    assert not (checkpoints.directory / "00000002").exists()


def test_differences_are_listed_by_path(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    wanted = state(0)
    wanted["params"]["a"]["kernel"] = jnp.zeros((2, 4))
    wanted["params"]["c"] = wanted["params"].pop("b")
    wanted["opt_state"] = (jnp.int32(0), {"mu": jnp.ones(3, jnp.float32)})
    with pytest.raises(InputError) as caught:
        checkpoints.restore_latest(abstract(wanted))
    message = str(caught.value)
    assert "params/a/kernel: float32[2, 3] saved, float32[2, 4] wanted" in message
    assert "params/b: only in the checkpoint float32[]" in message
    assert "params/c: not in the checkpoint, wanted float32[]" in message
    assert "opt_state/1/mu: bfloat16[3] saved, float32[3] wanted" in message
    assert checkpoints.steps() == [1]


def test_unknown_steps_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpoints.load_params()
    checkpoints.save(state(1))
    with pytest.raises(InputError, match=r"there are \[1\]"):
        checkpoints.load_params(7)
    with pytest.raises(InputError, match="no best"):
        checkpoints.load_params("best")


def test_metadata_goes_into_the_manifest_and_another_runs_checkpoint_is_refused(tmp_path):
    encoder = {"encoder_digest": "aaa1", "hop": 2560, "ids": (6, 7)}
    checkpoints = Checkpoints(tmp_path, metadata=encoder)
    checkpoints.save(state(1))
    assert checkpoints.metadata() == {"encoder_digest": "aaa1", "hop": 2560, "ids": [6, 7]}
    same = Checkpoints(tmp_path, metadata=dict(reversed(encoder.items())))
    assert tree_digest(same.restore_latest(abstract(state(0)))) == tree_digest(state(1))
    other = Checkpoints(tmp_path, metadata={**encoder, "encoder_digest": "bbb2"})
    for refused in (lambda: other.restore_latest(abstract(state(0))), other.load_params):
        with pytest.raises(InputError) as caught:
            refused()
        assert "encoder_digest: 'aaa1' -> 'bbb2'" in str(caught.value)
        assert "hop" not in str(caught.value)
    assert other.steps() == [1], "it is sound, only another's"


def test_checkpoints_without_metadata_stay_as_they_were(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    assert checkpoints.metadata(1) is None
    manifest = json.loads((checkpoints.directory / "00000001" / "manifest.json").read_text())
    assert set(manifest) == {"format", "step", "leaves", "files"}
    with pytest.raises(InputError, match="encoder_digest: not set -> 'aaa1'"):
        Checkpoints(tmp_path, metadata={"encoder_digest": "aaa1"}).load_params()
    # Who only reads the parameters need not know what they depend on.
    Checkpoints(tmp_path, metadata={"x": 1}).save(state(2))
    assert Checkpoints(tmp_path).load_params()[1] == 2


def test_a_save_in_the_background_keeps_what_was_there_when_it_began(tmp_path, monkeypatch):
    """The training goes on in the same memory (donated) while the files are written."""
    begin, complete = threading.Event(), Checkpoints._complete

    def late(self, step, leaves, response):
        assert begin.wait(60)
        complete(self, step, leaves, response)

    monkeypatch.setattr(Checkpoints, "_complete", late)
    checkpoints = Checkpoints(tmp_path)
    tree = {"step": jnp.int32(3), "params": {"a": jnp.arange(2.0**18)}}
    expected = tree_digest(tree)
    checkpoints.save(tree, wait=False)
    assert checkpoints.steps() == []
    advance = jax.jit(
        lambda t: {"step": t["step"] + 1, "params": {"a": -t["params"]["a"]}}, donate_argnums=0
    )
    for _ in range(3):
        tree = jax.block_until_ready(advance(tree))
    begin.set()
    checkpoints.wait()
    assert checkpoints.steps() == [3]
    assert tree_digest(checkpoints.restore_latest(abstract(tree))) == expected


def test_what_goes_wrong_in_the_background_is_raised_by_the_next_save(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(Checkpoints, "_complete", full)
    checkpoints.save(state(1), wait=False)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(state(2))
    checkpoints.close()
    assert checkpoints.steps() == []

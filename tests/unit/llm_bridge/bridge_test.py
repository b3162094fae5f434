# SPDX-License-Identifier: Apache-2.0
"""Layout, loss, batches and greedy answers of the bridge."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from llm_bridge import layout
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.generate import Asked, Generator, Told
from llm_bridge.layout import MONO, SPATIAL, make_row, pad_answers, pad_rows
from llm_bridge.lora import LoraConfig
from llm_bridge.stream import TABLE_4, QuestionStream, question_batch
from llm_bridge.task import BridgeTask
from spatial_core.errors import InputError
from spatial_core.train.task import merge_params
from tests.unit.llm_bridge.made_up import made_up_clips
from tests.unit.programs import quick

BACKBONE = TinyBackbone(layers=2, width=48, heads=2, kv_heads=1, hidden=64)
TASK = BridgeTask(BACKBONE, lora=None, soft=8, length=96, answer_length=64)
SHAPES = dict(soft=8, length=96, answer_length=64)


@pytest.fixture(scope="module")
def params():
    return jax.jit(TASK.init)(jax.random.key(0))


@quick
def loss_of(params, batch):
    return TASK.loss(params, batch, jax.random.key(0), False)


@quick
def scores_of(params, batch):
    """Log-probabilities of the id behind each position of whole rows, without a cache."""
    bridge = TASK.bind(params)
    embeds = bridge.embed(batch["ids"], batch["tokens"], batch["audio"])
    hidden, _ = bridge.model(embeds, batch["ids"], batch["positions"], batch["valid"])
    return jax.nn.log_softmax(bridge.model.logits(hidden), axis=-1)


def _stream(**changes) -> QuestionStream:
    stream = QuestionStream(
        tokens="unused", backbone=BACKBONE, batch_size=8, style="brief", **{**SHAPES, **changes}
    )
    stream._open.append(made_up_clips(40))
    return stream


def test_a_row_brackets_both_streams_and_ends_with_stop():
    row = make_row(BACKBONE, "system", "Where is it?", 3, "yes")
    ids = BACKBONE.ids
    before, after = BACKBONE.prompt("system", "Where is it?")
    heard = [ids.bsa, *[SPATIAL] * 3, ids.esa, ids.boa, *[MONO] * 3, ids.eoa]
    assert list(row.prompt) == [*before, *heard, *after]
    assert row.answer[-1] == ids.stop[0]
    assert BACKBONE.tokenizer.decode(row.answer) == "yes"
    assert SPATIAL in make_row(BACKBONE, "", "?", 1).prompt
    assert min(make_row(BACKBONE, "", "?", 0).prompt) >= 0  # a question alone


@pytest.mark.parametrize(("seconds", "count"), [(0.01, 1), (0.16, 1), (1, 7), (10, 63), (30, 188)])
def test_tokens_of_a_clip(seconds, count):
    assert layout.token_count(round(seconds * 16000)) == count


def test_impossible_clips_are_refused():
    with pytest.raises(InputError, match="empty"):
        layout.check_length(0)
    layout.check_length(30 * 16000)
    with pytest.raises(InputError, match=r"31\.0 s"):
        layout.check_length(31 * 16000)
    with pytest.raises(InputError, match="more than the 10"):
        pad_rows([make_row(BACKBONE, "", "Where?", 8)], 0, 10)


def test_the_loss_is_that_of_the_answers_ids_alone(params):
    """Against the whole row's log-probabilities, picked by hand."""
    batch = _stream().batch(0)
    loss, metrics = loss_of(params, batch)
    scores = np.asarray(scores_of(params, batch))
    means = []
    for row in range(8):
        answer = [
            int(i) for i, w in zip(batch["answer_ids"][row], batch["answer_weight"][row]) if w
        ]
        end = int(batch["valid"][row].sum())
        assert list(batch["ids"][row, end - len(answer) : end]) == answer
        picked = [scores[row, end - len(answer) + j - 1, i] for j, i in enumerate(answer)]
        means.append(-np.mean(picked))
    np.testing.assert_allclose(loss, np.mean(means), rtol=1e-5)
    assert 0 <= metrics["answer_accuracy"] <= metrics["token_accuracy"] <= 1


def test_what_is_behind_the_answer_and_in_padding_changes_nothing(params):
    batch = _stream(soft=10).batch(0)  # clips have 8
    changed = dict(batch, ids=np.where(batch["valid"], batch["ids"], 7))
    for name in ("tokens", "audio"):
        changed[name] = batch[name].copy()
        changed[name][:, 8:] = 5.0
    first, other = loss_of(params, batch)[0], loss_of(params, changed)[0]
    np.testing.assert_allclose(other, first, rtol=1e-6)


def test_soft_tokens_reach_the_answer(params):
    batch = _stream().batch(0)
    gradient = quick(jax.grad(lambda t: TASK.loss(params, {**batch, "tokens": t}, None, False)[0]))(
        batch["tokens"]
    )
    assert float(jnp.abs(gradient).sum(axis=(1, 2)).min()) > 0


def test_batches_depend_on_seed_and_step_alone():
    one, other = _stream(), _stream()
    other.batch(3)
    first, second = one.batch(5), other.batch(5)
    halves = [other.batch(5, host, 2) for host in (0, 1)]
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))
    assert any(
        not np.array_equal(value, _stream(seed=1).batch(5)[name]) for name, value in first.items()
    )
    iterator = one.iterate(5)
    np.testing.assert_array_equal(next(iterator)["ids"], first["ids"])
    iterator.close()


def test_without_mono_audio_rows_are_the_same_but_for_its_brackets(params):
    places = ((5, 16, 16),)
    both, alone = _stream(stages=places), _stream(stages=places, mono=False)
    ids = BACKBONE.ids
    for heard, silent in zip(both.batch(3)["ids"], alone.batch(3)["ids"], strict=True):
        kept = [i for i in heard if i not in (MONO, ids.boa, ids.eoa, ids.pad)]
        assert kept == [i for i in silent if i != ids.pad]
    assert not alone.batch(3)["audio"].any()
    assert np.isfinite(float(loss_of(params, alone.batch(3))[0]))


def test_stages_ask_their_own_tasks():
    stream = _stream(stages=((2, 16, 0, 0, 0), (2, 0, 16, 0, 0), (1, 0, 0, 8, 8)))
    tasks = [{q.task for _, q in stream.asked(step)} for step in range(4)]
    assert tasks == [{1}, {1}, {2}, {2}]
    later = [q.task for step in range(4, 10) for _, q in stream.asked(step)]
    assert set(later) == {3, 4} and later.count(3) == later.count(4)
    first = {q.user for step in (0, 1) for _, q in stream.asked(step)}
    assert len(first) > 4
    assert [sum(stage[0] for stage in TABLE_4[: i + 1]) for i in range(5)] == [
        2000, 3500, 5000, 8000, 11000,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stages", [(), ((0, 1, 0, 0, 0),), ((5, 0, 0, 0, 0),), ((5,),), ((5, *[1] * 6),)]
)
def test_impossible_stages_are_refused(stages):
    with pytest.raises(InputError, match="stage"):
        _stream(stages=stages)


def test_words_are_not_asked_for_where_nobody_can_hear_them():
    for asked in ((5, 0, 0, 1), (5, 0, 0, 0, 1)):
        with pytest.raises(InputError, match="mono is False"):
            _stream(stages=(asked,), mono=False)


def _asked(count: int) -> list[Asked]:
    clips = made_up_clips(count, seed=3)
    users = ["Where?", "Which way is the voice, and how far off?", "Is anybody on my left now?"]
    return [
        Asked(
            make_row(BACKBONE, "", users[i % 3], 8 - i % 3),
            clips.tokens[i][: 8 - i % 3],
            clips.audio[i][: 8 - i % 3],
        )
        for i in range(count)
    ]


def test_greedy_answers_equal_those_of_the_model_without_a_cache(params):
    """One id after the other by a whole forward pass; batches, padding and chunks change nothing."""
    asked = _asked(3)
    generator = Generator(TASK, max_new=10, batch_size=4)
    made = zip(*generator._chunks([*asked, asked[0]], params))
    chunks, chances = (np.concatenate(each, axis=1) for each in made)
    for row, one in enumerate(asked):
        ids = list(one.row.prompt)
        for expected, chance in zip(chunks[row], chances[row]):
            # Of one length, for one program; what is not valid is not seen.
            array = np.pad([ids], ((0, 0), (0, 96 - len(ids))))
            positions = np.arange(96)[None]
            heard = {
                name: np.pad(part.astype(np.float32), ((0, 8 - len(part)), (0, 0)))[None]
                for name, part in (("tokens", one.tokens), ("audio", one.audio))
            }
            batch = {"ids": array, "positions": positions, "valid": positions < len(ids), **heard}
            scores = np.asarray(scores_of(params, batch)[0, len(ids) - 1], np.float64)
            best = int(np.argmax(scores))
            assert best == expected
            # Two float32 programs of the same sums.
            assert chance == pytest.approx(scipy.special.softmax(scores)[best], rel=1e-3)
            if best in BACKBONE.ids.stop:
                break
            ids.append(best)
    assert "".join(generator.stream(asked[0], params)) == generator.answers(asked, params)[0]


def test_the_probability_of_a_part_of_an_answer_is_that_of_its_ids():
    told = Told("n=12, left", ((0, 2, 0.9), (2, 3, 0.5), (3, 4, 0.4), (4, 6, 1.0), (6, 10, 0.3)))
    assert told.chance(2, 4) == pytest.approx(0.2) and told.chance(6, 10) == pytest.approx(0.3)
    assert told.chance(3, 5) == pytest.approx(0.4)


def test_samples_show_question_truth_and_answer(params):
    stream = _stream()
    lines = TASK.samples(params, stream.batch(0))
    for line, (_, question) in zip(lines, stream.asked(0)):
        asked, right, said = line.split("\n")
        assert question.user in asked and right.endswith(question.answer) and "model:" in said


def test_wrong_streams_are_refused(params):
    one = _asked(1)[0]
    with pytest.raises(InputError, match=r"\[k, 256\]"):
        Generator(TASK).answers([dataclasses.replace(one, tokens=one.tokens[:, :5])], params)


def test_with_adapters_only_they_and_the_projector_are_trained():
    frozen = dataclasses.replace(BACKBONE, trainable="")
    task = dataclasses.replace(TASK, backbone=frozen, lora=LoraConfig(rank=2))
    trained = jax.eval_shape(task.init, jax.random.key(0))
    held = task.frozen_shapes()
    assert set(trained) == {"projector", "model"} and "projector" not in held
    whole = jax.eval_shape(TASK.init, jax.random.key(0))
    merged = merge_params(trained, held)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (whole, merged)]
    rank = sum(leaf.size for leaf in jax.tree.leaves(trained["model"]))
    assert sizes[1] - sizes[0] == rank
    with pytest.raises(InputError, match="missing"):
        task.load_frozen(jax.tree.map(lambda leaf: None, held))


def test_question_batch_refuses_what_does_not_fit():
    clips, stream = made_up_clips(5), _stream()
    asked = [(0, stream.asked(0)[0][1])]
    with pytest.raises(InputError, match="answer of row 0"):
        question_batch(BACKBONE, clips, asked, 8, 96, 2)
    with pytest.raises(InputError, match="soft tokens"):
        question_batch(BACKBONE, clips, asked, 4, 96, 64)
    assert pad_answers([make_row(BACKBONE, "", "?", 1, "no")], 4)["answer_weight"].sum() == 2

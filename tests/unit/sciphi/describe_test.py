# SPDX-License-Identifier: Apache-2.0
"""The language model stage: rows, batches, the joint model, releases."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.adapters import model_metadata
from llm_bridge.layout import MONO, SPATIAL
from sciphi.backbone import TinyDescriber
from sciphi.heard import Heard, listen
from sciphi.records import FOA_RATE, SceneTruth, SourceTruth
from sciphi.schema import describe_truth
from sciphi.seldnet import SeldNetConfig
from sciphi.stream import DescribeStream, questions, without_transcripts
from sciphi.task import DescribeTask
from sciphi.text_format import parse_text, to_text
from sciphi.trained import RELEASE, Describer, Saved, load_describer, load_saved
from sciphi.zones import ZONES_15, ZONES_26
from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.io import export
from tests.unit.programs import quick

BACKBONE = TinyDescriber(layers=2, width=32, heads=2, kv_heads=1, hidden=48)
ENCODER = SeldNetConfig(channels=8)
SIZES = dict(length=112, answer_length=80)
TASK = DescribeTask(BACKBONE, lora=None, soft=10, spectral=7, encoder=ENCODER, **SIZES)


def _truth(index: int) -> SceneTruth:
    rng = np.random.default_rng(index)
    places = rng.uniform(-170, 170, 2), rng.uniform(-60, 60, 2)
    sources = tuple(
        SourceTruth(label, "event", label, words, 0.1, 0.9, *map(float, place), 2.0, level, 10.0)
        for label, words, level, place in zip(
            ("a dog barking", "English female speech"),
            (None, "Good morning."),
            (-30.0, -40.0),
            np.transpose(places),
            strict=True,
        )
    )
    return SceneTruth(200.0, 0.4, None, None, sources[: 1 + index % 2])


class _Scenes:
    """Twelve scenes of one second, noise for features."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Heard:
        rng = np.random.default_rng(index)
        features = rng.standard_normal((7, 50, 64)).astype(np.float16)
        return Heard(features, rng.standard_normal((7, 640)).astype(np.float16), _truth(index))


def _stream(**changes) -> DescribeStream:
    settings = {"transcripts": False, "batch_size": 4, **SIZES, **changes}
    stream = DescribeStream(scenes="unused", backbone=BACKBONE, **settings)
    stream._open.append(_Scenes())
    return stream


@pytest.fixture(scope="module")
def params():
    return jax.jit(TASK.init)(jax.random.key(0))


def test_batches_have_the_shapes_of_the_task_and_depend_on_the_step_alone():
    one, other = _stream(swap=True), _stream(swap=True)
    other.batch(2)
    first = one.batch(7)
    halves = [other.batch(7, host, 2) for host in (0, 1)]
    shapes = {name: leaf.shape for name, leaf in TASK.example_batch(4).items()}
    assert {name: value.shape for name, value in first.items()} == shapes
    for name, value in first.items():
        np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))


def test_every_scene_comes_once_a_pass_and_a_fraction_takes_the_first():
    stream = _stream()
    seen = [tuple(stream.heard[stream._scene(i)].features[0, 0, :2]) for i in range(12)]
    assert len(set(seen)) == 12
    few = _stream(fraction=0.25)
    kept = {tuple(_Scenes()[i].features[0, 0, :2]) for i in range(3)}
    assert {tuple(few.heard[few._scene(i)].features[0, 0, :2]) for i in range(12)} == kept


def test_the_span_of_a_stream_that_is_not_heard_is_left_out():
    for streams, spatial, mono in (
        (("spatial", "spectral"), 10, 7),
        (("spatial",), 10, 0),
        (("spectral",), 0, 7),
    ):
        ids = _stream(streams=streams).batch(0)["ids"]
        assert [(int(np.sum(row == SPATIAL)), int(np.sum(row == MONO))) for row in ids] == [
            (spatial, mono)
        ] * 4
    ids = _stream().batch(0)["ids"][0].tolist()
    # Concatenated, spatial first.
    assert ids.index(SPATIAL) < ids.index(MONO) and ids.index(MONO) - ids.index(SPATIAL) == 12


def test_answers_say_the_truth_in_the_wanted_order_and_grid():
    truth = _truth(1)
    whole = _stream(transcripts=True)
    assert parse_text(whole.answer(truth))[0] == describe_truth(truth)
    quiet = _stream().answer(truth)
    assert "Good morning" not in quiet and "English female speech" in quiet
    by_name = parse_text(_stream(order="name").answer(truth))[0]
    assert [source.name for source in by_name.sources] == sorted(
        (s.label for s in truth.sources), key=str.casefold
    )
    fine = parse_text(_stream(zones=15).answer(truth))[0]
    assert {source.zone for source in fine.sources} - set(ZONES_26.names)


def test_a_description_is_few_pieces_and_comes_back_exactly():
    """Labels, zones and values with their units are one id each: some 13 a source."""
    tokenizer = BACKBONE.tokenizer
    text = to_text(describe_truth(without_transcripts(_truth(1))))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) <= 14 + 2 * 15
    assert len(questions()) == len(set(questions())) >= 4


def test_the_encoder_learns_with_the_language_model(params):
    batch = _stream().batch(0)
    gradient = quick(jax.grad(lambda p: TASK.loss(p, batch, jax.random.key(0), True)[0]))(params)
    sizes = {
        name: float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradient[name])))
        for name in ("spatial", "projector", "model")
    }
    assert min(sizes.values()) > 0
    # Stored statistics normalise, and nothing moves them.
    assert float(jnp.abs(gradient["spatial"]["input"]["mean"]).max()) == 0


def test_a_release_answers_as_the_run_did_and_refuses_other_models(params, tmp_path):
    metadata = {**model_metadata(BACKBONE, None), **_stream().metadata}
    saved = Saved(params, resolved.describe(TASK), {}, metadata, 3, "", tmp_path)
    config = {"task": saved.task, "data": {}, "metadata": metadata, "step": 3}
    folder = export.write_release(tmp_path / "m", params, config, "# m", RELEASE)
    loaded = load_describer(folder)
    foa = np.random.default_rng(0).standard_normal((4, FOA_RATE)).astype(np.float32) / 10
    assert loaded.seconds == 1.0 and loaded.name == "m, step 3" and loaded.card.startswith("# m")
    said = loaded.describe([foa, foa[:, : FOA_RATE // 2]])
    assert said[:1] == Describer(TASK, params, saved).describe([foa])
    assert len(loaded.describe([foa], heard=("spectral",))) == 1
    with pytest.raises(InputError, match="1 s"):
        loaded.describe([np.zeros((4, 2 * FOA_RATE), np.float32)])
    config["metadata"]["audio_digest"] = "another"
    export.write_release(tmp_path / "m", params, config, "# m", RELEASE)
    with pytest.raises(InputError, match="audio_digest"):
        load_describer(folder)
    with pytest.raises(InputError, match="neither a folder"):
        load_describer(tmp_path / "nothing")


def test_the_run_of_another_task_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"task": {"class": "SeldTask"}, "data": {}}))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError):
        load_saved(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"), [({"cycle": 8}, "cycle is 8"), ({"length": 20}, "21 ids go to the soft")]
)
def test_impossible_tasks_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(TASK, **changes)


def test_what_is_heard_has_the_grids_of_both_encoders():
    foa = np.random.default_rng(0).standard_normal((4, FOA_RATE)).astype(np.float32)
    features, audio = listen(foa, BACKBONE.audio_encoder())
    assert features.shape == (7, 50, 64) and audio.shape == (7, 640)  # 20 ms and 160 ms


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"order": "size"}, "order"), ({"streams": ()}, "streams"), ({"fraction": 0.0}, "fraction")],
)
def test_impossible_streams_are_refused(changes, word):
    with pytest.raises(InputError, match=word):
        _stream(**changes)


def test_a_zone_of_either_grid_is_one_piece_and_the_pieces_of_trained_models_stay():
    """Rows hold descriptions in zones of 15 degrees, too; a trained model knows pieces by their place."""
    fine = TinyDescriber(zones=15).tokenizer
    assert [len(fine.encode(zone)) for zone in (*ZONES_15.names, *ZONES_26.names)] == [1] * 292
    coarse = BACKBONE.tokenizer
    text = "RT60=0.3s; n_src=1: horizontal front-left, 7.8m"
    assert fine.encode(text) == coarse.encode(text)

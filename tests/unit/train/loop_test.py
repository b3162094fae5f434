# SPDX-License-Identifier: Apache-2.0
"""The loop on a tiny task: files, metrics, validation, guards, warm starts, the workdir's owner."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.io.export import Kind, write_release
from spatial_core.train import loop, workdir
from spatial_core.train.checkpoint import Checkpoints, tree_digest
from spatial_core.train.config import TrainConfig
from spatial_core.train.dry_run import dry_run
from spatial_core.train.guards import NonFiniteError
from spatial_core.train.loop import train
from spatial_core.train.optim import OptimizerConfig
from tests.unit.train.toy import ToyStream, ToyTask


def config(**changes) -> TrainConfig:
    base = TrainConfig(
        task=ToyTask(),
        data=ToyStream(),
        steps=12,
        log_every=4,
        checkpoint_every=4,
        optimizer=OptimizerConfig(peak_lr=1e-2),
    )
    return dataclasses.replace(base, **changes)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_writes_its_files(tmp_path, capsys):
    run = config(steps=300, log_every=100, checkpoint_every=100)
    result = train(run, tmp_path)
    assert result.step == 300 and result.stopped_by is None
    losses = [record["loss"] for record in records(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]
    assert Checkpoints(tmp_path).steps() == [200, 300]
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 300
    assert "jax" in json.loads((tmp_path / "environment.json").read_text())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 3
    assert "loss" in lines[0] and "examples/s" in lines[0] and "ETA" in lines[0]


def test_tensorboard_files_hold_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {point.step: point.value for point in events.Scalars("loss")}
    for record in records(tmp_path):
        np.testing.assert_allclose(points[record["step"]], record["loss"], rtol=1e-6)


def test_stopping_and_going_on_gives_the_same_bits(tmp_path):
    whole = train(config(), tmp_path / "whole")

    class Interrupting(ToyStream):
        def iterate(self, start_step=0, host=0, hosts=1):
            for index, batch in enumerate(ToyStream.iterate(self, start_step, host, hosts)):
                if start_step == 0 and index == 6:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    Interrupting.__name__ = "ToyStream"  # the same data as far as the workdir is concerned
    interrupted = config(data=Interrupting())
    first = train(interrupted, tmp_path / "parts")
    assert first.stopped_by == "SIGTERM" and first.step == 7
    second = train(interrupted, tmp_path / "parts")
    assert second.stopped_by is None
    assert tree_digest(whole.state) == tree_digest(second.state)
    assert [r["step"] for r in records(tmp_path / "parts")] == [4, 8, 12]


def test_ctrl_c_while_compiling_stops_before_the_first_step(tmp_path, monkeypatch, capfd):
    compiled = loop.compile_program

    def interrupted(config):
        os.kill(os.getpid(), signal.SIGINT)
        return compiled(config)

    monkeypatch.setattr(loop, "compile_program", interrupted)
    stopped = train(config(), tmp_path)
    assert (stopped.stopped_by, stopped.step) == ("SIGINT", 0)
    assert "once more stops at once" in capfd.readouterr().err
    monkeypatch.undo()
    assert train(config(), tmp_path).step == config().steps


def test_a_finished_run_stays_finished(tmp_path):
    first = train(config(), tmp_path)
    again = train(config(), tmp_path)
    assert again.metrics == pytest.approx(first.metrics)
    assert again.step == 12 and tree_digest(first.state) == tree_digest(again.state)
    assert [r["step"] for r in records(tmp_path)] == [4, 8, 12]


def test_one_folder_takes_one_run_at_a_time(tmp_path):
    class Nested(ToyStream):
        def iterate(self, start_step=0, host=0, hosts=1):
            train(config(data=self), tmp_path)
            yield from ()

    with pytest.raises(InputError, match="another process is training"):
        train(config(data=Nested()), tmp_path)


def test_metrics_without_an_example_do_not_spoil_the_mean(tmp_path):
    class SometimesUndefined(ToyTask):
        def loss(self, params, batch, rng, train):
            loss, metrics = super().loss(params, batch, rng, train)
            return loss, {"rare": jnp.where(batch["x"][0, 0] > 0, metrics["mae"], jnp.nan)}

    train(config(task=SometimesUndefined()), tmp_path)
    assert [record.get("rare", 0.5) < 2 for record in records(tmp_path)] == [True] * 3
    assert any("rare" in record for record in records(tmp_path))


def test_validation_uses_fixed_batches_and_keeps_the_best(tmp_path):
    run = config(
        steps=60,
        checkpoint_every=10,
        keep=1,
        eval_every=10,
        validation=ToyStream(seed=5),
        validation_batches=3,
        best_metric="mae",
    )
    result = train(run, tmp_path)
    seen = {r["step"]: r["validation/mae"] for r in records(tmp_path) if "validation/mae" in r}
    assert sorted(seen) == [10, 20, 30, 40, 50, 60]
    best = Checkpoints(tmp_path).best()
    assert best["step"] == min(seen, key=seen.get) and best["step"] in Checkpoints(tmp_path).steps()
    errors = []
    for index in range(3):
        batch = ToyStream(seed=5).batch(index)
        predicted = run.task.predict(result.params, {k: jnp.asarray(v) for k, v in batch.items()})
        errors.append(np.abs(predicted["y"] - batch["y"]).mean())
    np.testing.assert_allclose(seen[60], np.mean(errors), rtol=1e-5)


def test_non_finite_steps_change_nothing_and_are_counted(tmp_path, capsys):
    run = config(steps=4, data=ToyStream(poisoned=(1, 2)), checkpoint_every=1, keep=9)
    result = train(run, tmp_path)
    assert int(result.state["skipped"]) == 2
    stored = [Checkpoints(tmp_path).load_params(step)[0] for step in (1, 2, 3, 4)]
    assert tree_digest(stored[0]) == tree_digest(stored[1]) == tree_digest(stored[2])
    assert tree_digest(stored[2]) != tree_digest(stored[3])
    assert "step 2: loss nan" in capsys.readouterr().out
    assert all(np.isfinite(r["loss"]) for r in records(tmp_path))


def test_past_the_budget_the_run_stops_with_a_bundle(tmp_path):
    poisoned = ToyStream(poisoned=(5, 6, 7, 8, 9))
    with pytest.raises(NonFiniteError, match="debug"):
        train(config(data=poisoned, nonfinite_budget=2), tmp_path)
    (bundle,) = (tmp_path / "debug").iterdir()
    report = json.loads((bundle / "report.json").read_text())
    assert report["step"] == 8 and report["not_finite_in_batch"] == ["poison"]
    batch = np.load(bundle / "batch.npz")
    np.testing.assert_array_equal(batch["x"], poisoned.batch(7)["x"])
    params = np.load(bundle / "params.npz")
    assert params["hidden/kernel"].shape == (16, 32)
    steady = OptimizerConfig(peak_lr=1e-2, decay_steps=12)
    good = train(config(steps=5, optimizer=steady), tmp_path / "good")
    # The parameters are those that the bad step saw: the ones after the last good step, 5.
    assert report["params_sha256"] == tree_digest(good.params)


def test_another_experiment_is_refused_and_the_difference_named(tmp_path):
    train(config(steps=4), tmp_path)
    other = config(steps=4, task=ToyTask(width=8), optimizer=OptimizerConfig(peak_lr=5e-3))
    with pytest.raises(InputError) as caught:
        train(other, tmp_path)
    assert "task.width: 32 -> 8" in str(caught.value)
    assert "optimizer.peak_lr: 0.01 -> 0.005" in str(caught.value)
    train(config(steps=4, log_every=1, keep=5), tmp_path)  # how it is logged may change
    with pytest.raises(InputError, match="decay_steps: 4 -> 8"):
        train(config(steps=8), tmp_path)


def test_a_longer_run_goes_on_where_the_schedule_is_given(tmp_path):
    optimizer = OptimizerConfig(peak_lr=1e-2, decay_steps=8)
    train(config(steps=4, optimizer=optimizer), tmp_path / "parts")
    longer = train(config(steps=8, optimizer=optimizer), tmp_path / "parts")
    whole = train(config(steps=8, optimizer=optimizer), tmp_path / "whole")
    assert tree_digest(longer.state) == tree_digest(whole.state)


def test_starting_from_a_run_a_release_or_a_function(tmp_path):
    first = train(config(steps=4), tmp_path / "first")
    params = jax.tree.map(np.asarray, first.params)
    write_release(tmp_path / "release", params, {"name": "toy"}, "# toy\n")
    for source in (str(tmp_path / "first"), str(tmp_path / "release"), lambda: params):
        run = config(steps=1, init_from=source, optimizer=OptimizerConfig(peak_lr=0.0))
        folder = tmp_path / f"from-{type(source).__name__}-{len(list(tmp_path.iterdir()))}"
        assert tree_digest(train(run, folder).params) == tree_digest(params)
    with pytest.raises(InputError, match=r"hidden/kernel: \[16, 32\] in init_from, \[16, 8\]"):
        train(config(task=ToyTask(width=8), init_from=str(tmp_path / "first")), tmp_path / "x")
    with pytest.raises(InputError, match="neither the folder of a run"):
        train(config(init_from=str(tmp_path)), tmp_path / "y")


@dataclasses.dataclass(frozen=True)
class MarkedTask(ToyTask):
    metadata: dict = dataclasses.field(default_factory=lambda: {"base_model": "toy-1"}, repr=False)


@dataclasses.dataclass(frozen=True)
class MarkedStream(ToyStream):
    metadata: dict = dataclasses.field(
        default_factory=lambda: {"encoder_digest": "aaa1"}, repr=False
    )


def test_a_run_goes_on_only_with_the_metadata_that_it_began_with(tmp_path):
    marked = config(
        steps=1, task=MarkedTask(), data=MarkedStream(), validation=MarkedStream(seed=1)
    )
    train(marked, tmp_path / "run")
    assert Checkpoints(tmp_path / "run").metadata() == {
        "base_model": "toy-1",
        "encoder_digest": "aaa1",
    }
    assert train(marked, tmp_path / "run").step == 1
    # Not part of the configuration (such as the content of a folder): only the checkpoint knows.
    other = dataclasses.replace(marked, data=MarkedStream(metadata={"encoder_digest": "bbb2"}))
    with pytest.raises(InputError, match="do not belong together: encoder_digest is 'bbb2' in one"):
        train(other, tmp_path / "run")
    other = dataclasses.replace(other, validation=other.data)
    with pytest.raises(InputError, match="encoder_digest: 'aaa1' -> 'bbb2'"):
        train(other, tmp_path / "run")
    with pytest.raises(InputError, match="encoder_digest: 'aaa1' -> 'bbb2'"):
        train(dataclasses.replace(other, init_from=str(tmp_path / "run")), tmp_path / "next")


def test_starting_from_a_release_of_another_kind_needs_its_metadata(tmp_path):
    params = jax.tree.map(np.asarray, ToyTask().init(jax.random.key(3)))
    kind = Kind("toy-bridge/1", "adapter.safetensors", "bridge.json")
    belongs = {"base_model": "toy-1", "encoder_digest": "aaa1"}
    for name, metadata in (("right", belongs), ("wrong", {**belongs, "encoder_digest": "bbb2"})):
        write_release(tmp_path / name, params, {"metadata": metadata}, "# toy\n", kind)
    (tmp_path / "right" / "notes.json").write_text("[]")
    run = config(
        steps=1,
        task=MarkedTask(),
        data=MarkedStream(),
        optimizer=OptimizerConfig(peak_lr=0.0),
        init_from=str(tmp_path / "right"),
    )
    assert tree_digest(train(run, tmp_path / "run").params) == tree_digest(params)
    with pytest.raises(InputError, match="encoder_digest: 'bbb2' -> 'aaa1'"):
        train(dataclasses.replace(run, init_from=str(tmp_path / "wrong")), tmp_path / "next")


def test_data_that_does_not_fit_is_refused(tmp_path):
    class Complex(ToyStream):
        def batch(self, step, host=0, hosts=1):
            batch = super().batch(step, host, hosts)
            return {**batch, "x": batch["x"] + 1j}

    class Short(ToyStream):
        def batch(self, step, host=0, hosts=1):
            return {name: leaf[:-1] for name, leaf in super().batch(step, host, hosts).items()}

    with pytest.raises(InputError, match=r"'x' is complex64\[16, 16\], toy expects float32"):
        train(config(data=Complex()), tmp_path / "a")
    with pytest.raises(InputError, match=r"'x' is float32\[15, 16\]"):
        train(config(data=Short()), tmp_path / "b")
    with pytest.raises(InputError, match="batch_size is 0"):
        train(config(data=ToyStream(batch_size=0)), tmp_path / "c")


def test_a_missing_leaf_is_named(tmp_path):
    class NoLabels(ToyStream):
        def batch(self, step, host=0, hosts=1):
            batch = super().batch(step, host, hosts)
            del batch["y"]
            return batch

    with pytest.raises(InputError, match="toy reads 'y'"):
        train(config(data=NoLabels()), tmp_path)


def test_dry_run_tells_everything_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dry_run(config(optimizer=OptimizerConfig(ema_decay=0.9)), tmp_path / "run", "mine.gin")
    summary = text.split("\n\n")[0].splitlines()
    assert 10 <= len(summary) <= 15
    told = {line.split("  ")[0]: line for line in summary}
    assert told["experiment"].endswith("mine.gin (toy)")
    assert told["workdir"].endswith("run: fresh")
    assert told["parameters"].endswith(" 576 in 3 arrays")
    assert "hidden/kernel  16x32" in text
    assert "total: 576 parameters in 3 arrays" in text
    assert "== batch ==" in text and "16x16" in text
    assert "opt_state" in text and "ema" in text and "working memory" in text
    assert list(tmp_path.iterdir()) == []


def test_the_outlook_of_a_folder_is_what_training_in_it_does(tmp_path):
    run = config(steps=4, optimizer=OptimizerConfig(decay_steps=9))
    assert workdir.outlook(tmp_path, run) == "fresh"
    train(run, tmp_path)
    assert workdir.outlook(tmp_path, run) == "finished at step 4: nothing left to train"
    longer = config(steps=8, optimizer=OptimizerConfig(decay_steps=9))
    assert workdir.outlook(tmp_path, longer) == "resumes at step 4 of 8"
    other = config(steps=8, seed=5, optimizer=OptimizerConfig(decay_steps=9))
    assert "would be refused (seed: 0 -> 5)" in workdir.outlook(tmp_path, other)
    with pytest.raises(InputError, match="seed: 0 -> 5"):
        train(other, tmp_path)

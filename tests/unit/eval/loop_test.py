# SPDX-License-Identifier: Apache-2.0
"""evaluate: the same clips for all, right numbers in the tables, files that can be read back."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.eval.baselines import SteeredResponse
from spatial_core.eval.loop import EvalConfig, evaluate
from spatial_core.eval.published import PAPER_LABEL
from spatial_core.eval.sharing import HandedOver, Share
from spatial_core.geometry.coords import wrap_degrees
from tests.unit.eval.scenes import free_field


class Stream:
    """Random labels and silent audio: what a localizer below needs. Two clips share a room."""

    crops_per_rir = 2
    batch_size = 8

    def batch(self, step):
        batch = free_field(8, mics=4, seed=step)
        rng = np.random.default_rng(step)
        batch["num_mics"] = rng.integers(3, 9, 8).astype(np.int32)
        batch["speech"] = rng.uniform(size=8) > 0.1
        for key in ("azimuth", "elevation", "distance"):
            batch[key] = np.where(batch["speech"], batch[key], 0).astype(np.float32)
        batch["example_id"] = step * 8 + np.arange(8)
        return batch


@dataclass(frozen=True)
class Peeker:
    """Answers with the truth plus a fixed error."""

    error: float = 0.0
    confidence: float = 1.0

    def predict(self, batch):
        size = len(batch["azimuth"])
        return {
            "azimuth": wrap_degrees(batch["azimuth"] + self.error).astype(np.float32),
            "elevation": batch["elevation"],
            "distance": batch["distance"] + 0.5,
            "speech_probability": batch["speech"].astype(np.float32),
            "confidence": np.full(size, self.confidence, np.float32),
            "token": np.stack([np.cos(batch["azimuth"]), np.sin(batch["azimuth"])], -1),
        }


def run(**options):
    arguments = {"num_examples": 60, "out": io.StringIO(), "show_paper": True} | options
    return evaluate({"right": Peeker(), "off by 12": Peeker(12, 0.3)}, Stream(), **arguments)


def test_scores_are_what_the_localizers_did():
    report = run()
    right, off = report.results["right"].overall, report.results["off by 12"].overall
    speech = int(report.truth["speech"].sum())
    assert len(report.truth["azimuth"]) == 60
    assert right["azimuth_mae"].value == pytest.approx(0, abs=1e-5)
    assert right["acc_at_10"].value == 100
    assert off["azimuth_mae"].value == pytest.approx(12, abs=1e-4)
    assert off["acc_at_10"].value == 0
    assert off["distance_mae"].value == pytest.approx(0.5, abs=1e-5)
    assert right["azimuth_mae"].count == speech
    assert right["speech_accuracy"].value == 100
    assert report.results["off by 12"].calibration.ece == pytest.approx(0.3, abs=1e-6)


def scores(report):
    document = json.loads(report.to_json())
    for localizer in document["localizers"].values():
        localizer.pop("timing")
    return document


@pytest.mark.parametrize("wanted", [{"num_examples": 60}, {"num_examples": None, "steps": 3}])
@pytest.mark.parametrize("hosts", [2, 3, 9])
def test_processes_that_share_it_give_the_report_of_one(wanted, hosts, tmp_path):
    """9: some have nothing to do. What a run that was killed left is not taken."""
    for other in range(1, hosts):
        (tmp_path / f".answers-killed-{other}.json").write_text("[]")
        with pytest.raises(HandedOver, match=f"host {other}: "):
            run(**wanted, share=Share(other, hosts, tmp_path, "now"))
    shared, alone = run(**wanted, share=Share(0, hosts, tmp_path, "now")), run(**wanted)
    assert scores(shared) == scores(alone)
    for name, prediction in alone.predictions.items():
        for key, values in prediction.items():
            found = shared.predictions[name][key]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_without_a_size_is_not_shared(monkeypatch):
    monkeypatch.delattr(Stream, "batch_size")
    with pytest.raises(InputError, match="Stream has no batch_size"):
        run(share=Share(1, 2))


def test_the_same_call_gives_the_same_report():
    assert scores(run()) == scores(run())
    assert scores(run(start_step=3)) != scores(run())


def test_steps_and_examples_are_two_ways_to_say_how_many():
    assert len(run(num_examples=None, steps=3).truth["speech"]) == 24
    assert run(num_examples=5).truth["example_id"].tolist() == [0, 1, 2, 3, 4]
    for wrong in ({"steps": 2}, {"num_examples": None}, {"num_examples": 0}):
        with pytest.raises(InputError):
            run(**wrong)
    with pytest.raises(InputError, match="no localizer"):
        evaluate({}, Stream(), 8)


def test_markdown_has_every_table_and_labels_the_paper():
    text = run().to_markdown()
    for heading in ("## All clips", "## By number of microphones", "## By SNR", "## Is the conf"):
        assert heading in text
    assert PAPER_LABEL in text
    assert "80.24°" in text
    assert PAPER_LABEL not in run(show_paper=False).to_markdown()
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1


def test_json_has_no_nan_and_names_units():
    text = run().to_json()
    assert "NaN" not in text
    document = json.loads(text)
    assert document["metrics"]["azimuth_mae"]["unit"] == "°"
    overall = document["localizers"]["off by 12"]["overall"]["azimuth_mae"]
    assert overall["low"] <= overall["value"] <= overall["high"]
    assert document["published"][PAPER_LABEL]["8"]["acc_at_10"] == 97.1


def test_save_writes_what_the_report_links(tmp_path):
    path = EvalConfig(
        {"right": Peeker(), "SRP (ours)": SteeredResponse(directions=200)},
        Stream(),
        num_examples=40,
        projection="pca",
    ).run(tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) >= 4
    for link in links:
        assert (tmp_path / "out" / link).read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "out" / "report.json").read_text())
    with np.load(tmp_path / "out" / "predictions.npz") as arrays:
        assert arrays["srp-ours/azimuth"].shape == (40,)
    assert path.results["SRP (ours)"].overall["distance_mae"].count == 0


def test_progress_says_how_far_and_how_long():
    out = io.StringIO()
    run(out=out)
    assert "60/60 clips" in out.getvalue()
    assert "ETA 0:00" in out.getvalue()


def test_an_unusable_answer_names_the_localizer():
    class Broken(Peeker):
        def predict(self, batch):
            return super().predict(batch) | {"azimuth": np.full(len(batch["azimuth"]), np.nan)}

    with pytest.raises(InputError, match="'broken'"):
        evaluate({"broken": Broken()}, Stream(), 8, out=io.StringIO())


def test_pictures_need_scenes():
    with pytest.raises(InputError, match="SceneStream"):
        run(pictures=1)

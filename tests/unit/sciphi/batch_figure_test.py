# SPDX-License-Identifier: Apache-2.0
"""Batches of sound fields as pictures and sounds: they are those of the labels, turned as the row is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sciphi.seld_task
from llm_bridge.batch_figure import draw_batch
from sciphi.backbone import TinyDescriber
from sciphi.batch_figure import feature_panels, target_lines
from sciphi.features import seld_features
from sciphi.records import FOA_RATE
from sciphi.seld_labels import seld_labels
from sciphi.seld_task import SeldStream, SeldTask
from sciphi.seldnet import SeldNetConfig
from sciphi.stream import DescribeStream
from sciphi.task import DescribeTask
from spatial_core.audio.ambisonics import to_stereo
from spatial_core.geometry.coords import to_cartesian
from tests.unit.sciphi.describe_test import _Scenes
from tests.unit.sciphi.seld_task_test import PlaneWaves

CLASSES = ("speech", "event")


def test_lines_are_the_truth_while_it_sounds() -> None:
    """`target_lines` undoes `seld_labels`; float32 keeps angles to a thousandth of a degree."""
    truth = PlaneWaves("unused").truth(3)
    lines = target_lines(*seld_labels(truth, CLASSES, 5), CLASSES)
    assert [name for name, _, _ in lines] == ["speech, 3.0 m", "event, 3.0 m"]
    for source, (_, azimuth, elevation) in zip(truth.sources, lines, strict=True):
        np.testing.assert_allclose(azimuth, source.azimuth, atol=1e-3)
        np.testing.assert_allclose(elevation, source.elevation, atol=1e-3)


def test_points_of_a_plane_wave_lie_at_its_direction() -> None:
    """Of one plane wave every band's intensity points to the source: points within a degree."""
    rng, figure = np.random.default_rng(0), Figure()
    x, y, z = to_cartesian(-70.0, 35.0)
    foa = 0.1 * np.outer([1, y, z, x], rng.standard_normal(FOA_RATE)).astype(np.float32)
    for (_, draw), expected in zip(
        feature_panels(seld_features(foa), 10)[1:], (-70, 35), strict=True
    ):
        axis: Axes = figure.add_subplot()
        draw(axis)
        points = np.asarray(axis.collections[0].get_offsets())[:, 1]
        np.testing.assert_allclose(points, expected, atol=1.0)


@pytest.mark.parametrize("swap", [False, True])
def test_what_is_heard_of_a_row_is_what_it_was_made_of(
    swap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left and right are W + Y and W - Y, so their ratio tells y, which the row's label holds, too."""
    monkeypatch.setattr(sciphi.seld_task, "SceneSet", PlaneWaves)
    stream = SeldStream(scenes="unused", batch_size=4, max_sources=1, swap=swap)
    batch, rows = stream.batch(2), [0, 3]
    for row, (ears, rate) in zip(rows, stream.sounds(2, rows), strict=True):
        left, right = ears.astype(np.float64)
        y = batch["target"][row, :, :, 1].sum((0, 1, 2)) / batch["count"][row].sum()
        assert rate == FOA_RATE
        wave = left + right
        assert (left - right) @ wave / (wave @ wave) == pytest.approx(y, abs=1e-3)


def test_a_wave_from_the_left_is_in_the_left_channel_alone() -> None:
    foa = np.outer([1, 1, 0, 0], np.arange(1, 9)).astype(np.float32)
    np.testing.assert_allclose(to_stereo(foa), np.outer([1, 0], np.arange(1, 9)))


def test_rows_become_pictures_with_their_descriptions(tmp_path: Path) -> None:
    backbone = TinyDescriber(layers=1, width=16, heads=1, kv_heads=1, hidden=16)
    sizes = dict(length=112, answer_length=80)
    task = DescribeTask(
        backbone, lora=None, soft=10, spectral=7, encoder=SeldNetConfig(channels=2), **sizes
    )
    stream = DescribeStream(
        scenes="unused", backbone=backbone, batch_size=3, transcripts=False, **sizes
    )
    stream._open.append(_Scenes())  # type: ignore[arg-type]
    exhibits = task.draw(stream.batch(0), tmp_path, [2])
    assert "3 questions" in exhibits[0].caption and exhibits[1].row == 2
    assert "a dog barking" in exhibits[1].caption and (tmp_path / "row_002.png").is_file()
    # A stream that is not in the prompt has no panel.
    deaf = DescribeStream(
        scenes="unused", backbone=backbone, batch_size=3, streams=("spectral",), **sizes
    )
    deaf._open.append(_Scenes())  # type: ignore[arg-type]

    def unexpected(values: object, count: int) -> list:
        raise AssertionError("spatial panels of a row without spatial tokens")

    assert draw_batch(task, deaf.batch(0), tmp_path, [0], unexpected)[1].row == 0


def test_targets_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sciphi.seld_task, "SceneSet", PlaneWaves)
    batch = SeldStream(scenes="unused", batch_size=2).batch(0)
    exhibits = SeldTask(seconds=0.5).draw(batch, tmp_path, [0, 1])
    assert [each.row for each in exhibits] == [0, 1]
    assert all("3.0 m" in each.caption and each.path.is_file() for each in exhibits)

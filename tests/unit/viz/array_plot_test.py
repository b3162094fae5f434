# SPDX-License-Identifier: Apache-2.0
"""The picture of an array is written for every preset and shows what it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spatial_core.geometry.arrays import PRESETS, MicArray, preset
from spatial_core.viz.array_plot import draw_array, label_box, place_labels


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_drawn_with_its_numbers_and_conventions(name: str, tmp_path: Path) -> None:
    path = tmp_path / "array.svg"
    draw_array(preset(name), path, source=(30.0, 20.0), marked=[0])
    svg = path.read_text()
    # matplotlib writes every text as a comment before its glyphs
    for text in ("0°  (+x)", "180°", "positive", "azimuth", "cm", "from above", "sound at 30°,"):
        assert f"{text} -->" in svg or f" {text}" in svg, text
    assert svg.count("<!-- 1") >= 1


def test_png_has_a_sensible_size(tmp_path: Path) -> None:
    draw_array(preset("nao_8"), tmp_path / "array.png")
    assert 20_000 < (tmp_path / "array.png").stat().st_size < 500_000


def test_labels_of_close_channels_keep_clear_of_each_other_and_of_the_dots() -> None:
    """Sixteen dots a tenth of the view's unit apart, as a dense line of microphones has them."""
    dots = np.stack([np.linspace(-0.8, 0.8, 16), 0.02 * np.arange(16) % 0.05], axis=1)
    names = [str(k + 1) for k in range(16)]
    places = place_labels(dots, names, list(range(16)))
    boxes = [label_box(places[row], names[row]) for row in range(16)]
    for row, box in enumerate(boxes):
        for other in boxes[:row]:
            assert np.any(np.minimum(box[2:], other[2:]) <= np.maximum(box[:2], other[:2]))
        inside = np.all((dots > box[:2]) & (dots < box[2:]), axis=1)
        assert not inside.any()
        assert np.linalg.norm(places[row] - dots[row]) < 0.8


def test_every_channel_of_a_dense_array_is_numbered(tmp_path: Path) -> None:
    ball = np.random.default_rng(2).standard_normal((16, 3))
    array = MicArray(0.04 * ball / np.linalg.norm(ball, axis=1, keepdims=True))
    draw_array(array, tmp_path / "array.svg")
    svg = (tmp_path / "array.svg").read_text()
    assert all(f"<!-- {k}" in svg or f", {k}" in svg for k in range(1, 17))

# SPDX-License-Identifier: Apache-2.0
"""The picture of an array is written for every preset and shows what it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from spatial_core.geometry.arrays import PRESETS, preset
from spatial_core.viz.array_plot import draw_array


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

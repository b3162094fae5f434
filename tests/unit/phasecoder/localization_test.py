# SPDX-License-Identifier: Apache-2.0
"""What localize gives as text, table, JSON and picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from phasecoder import api
from phasecoder.localization import Overall, robust_azimuth
from spatial_core.errors import InputError
from spatial_core.geometry.coords import azimuth_error
from tests.unit.phasecoder.plane_wave import RATE, PlaneWave, plane_wave


def test_average_across_the_back_does_not_point_forward():
    mean, spread, share, _ = robust_azimuth(np.array([178.0, -178.0, 180.0, 20.0]), np.ones(4))
    assert azimuth_error(mean, 180) < 1e-6 and spread < 3 and share == pytest.approx(0.75)


def test_the_back_is_printed_as_180_from_either_side():
    for azimuth in (179.8, -179.8):
        overall = Overall(azimuth, 0.0, True, 1.0, 0.9, 1.0, 1.0, 3)
        assert "azimuth +180 deg" in overall.sentence()


def _pausing(*seconds):
    """Sound and silence in turn, each of so many seconds."""
    audio = plane_wave("nao_8", 10, seconds=sum(seconds))
    edges = np.round(np.cumsum((0, *seconds)) * RATE).astype(int)
    for start, stop in zip(edges[1::2], edges[2::2]):
        audio[:, start:stop] *= 1e-4
    return api.localize(audio, "nao_8", RATE, PlaneWave())


@pytest.mark.parametrize("rows", [24, None])
def test_a_run_without_speech_is_one_row_with_its_span(rows):
    result = _pausing(1.0, 1.6, 0.8)
    lines = result.to_table(rows).splitlines()[1:]
    (pause,) = [line for line in lines if "silence" in line]
    start, stop = (float(x) for x in pause.split("silence")[0].split("-"))
    # Windows that start within 0.125 s of the edges still hear the sound.
    assert start == pytest.approx(1.1, abs=0.15) and stop == pytest.approx(2.5, abs=0.15)
    assert len([w for w in result.to_dict()["windows"] if w["state"] == "silence"]) > 5


def test_a_pause_shorter_than_a_row_is_still_a_row():
    """20 s make rows of almost a second; half a second of silence is not lost in them."""
    result = _pausing(10.0, 0.6, 9.4)
    lines = result.to_table(24).splitlines()[1:]
    (pause,) = [number for number, line in enumerate(lines) if "silence" in line]
    assert len(lines) <= 24 and 0 < pause < len(lines) - 1
    assert [w["state"] for w in result.to_dict()["windows"]].count("silence") < 6


def test_rows_that_must_mix_say_how_much_of_them_is_speech():
    result = _pausing(*[0.6] * 21)
    lines = result.to_table(6).splitlines()[1:]
    assert len(lines) <= 6 and all("speech in " in line for line in lines)


def test_the_spans_of_the_table_do_not_overlap():
    result = _pausing(4.0, 1.5, 4.0)
    spans = []
    for line in result.to_table().splitlines()[1:]:
        spans.append([float(x) for x in line[:15].split("-")])
    edges = np.array(spans)
    assert np.all(edges[1:, 0] == edges[:-1, 1]) and np.all(edges[:, 0] < edges[:, 1])


def test_json_holds_the_convention_and_round_trips():
    result = api.localize(plane_wave("nao_8", 34), "nao_8", RATE, model=PlaneWave())
    document = json.loads(result.to_json())
    assert "counter-clockwise" in document["convention"]
    assert document["overall"]["azimuth"] == pytest.approx(34, abs=3)
    assert len(document["windows"]) == len(result)


def test_plot_is_a_png_and_nothing_else(tmp_path):
    result = api.localize(plane_wave("nao_8", 34), "nao_8", RATE, model=PlaneWave())
    assert result.plot(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match=r"must end in .png"):
        result.plot(tmp_path / "a.txt")

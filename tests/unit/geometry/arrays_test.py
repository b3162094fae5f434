# SPDX-License-Identifier: Apache-2.0
"""Arrays: documented presets, refusals with a reason, shapes and their ambiguities, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from spatial_core.errors import InputError
from spatial_core.geometry.arrays import PRESETS, MicArray, load_array, preset


def random_positions(seed: int, mics: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.09, 0.09, (mics, 3))


@pytest.mark.parametrize(
    ("name", "mics", "shape", "aperture"),
    [
        ("respeaker_4mic", 4, "planar", 0.0457 * np.sqrt(2)),
        ("circle_6_1", 7, "planar", 0.0926),
        ("tetrahedron", 4, "volumetric", 0.04 * np.sqrt(8 / 3)),
        ("nao_8", 8, "volumetric", 0.137),
        ("square_4", 4, "planar", 0.1 * np.sqrt(2)),
        ("line_4", 4, "linear", 0.15),
    ],
)
def test_presets(name: str, mics: int, shape: str, aperture: float) -> None:
    array = preset(name)
    assert (array.name, array.num_mics, array.shape) == (name, mics, shape)
    assert array.aperture == pytest.approx(aperture, abs=5e-4)
    assert (array.ambiguity() is None) == (shape == "volumetric")


def test_all_presets_are_covered_by_the_list_above() -> None:
    assert len(PRESETS) == 6


def test_tetrahedron_is_regular() -> None:
    edges = pdist(preset("tetrahedron").positions)
    np.testing.assert_allclose(edges, edges[0])


@given(st.integers(0, 1000), st.integers(4, 12), st.floats(-3, 3), st.integers(0, 1000))
def test_size_and_shape_do_not_depend_on_place_or_turn(
    seed: int, mics: int, shift: float, turn: int
) -> None:
    positions = random_positions(seed, mics)
    array = MicArray(positions)
    rotation = Rotation.from_rotvec(np.random.default_rng(turn).uniform(-2, 2, 3))
    moved = MicArray(rotation.apply(positions) + shift)
    assert array.aperture == pytest.approx(pdist(positions).max())
    assert moved.aperture == pytest.approx(array.aperture)
    assert moved.shape == array.shape
    np.testing.assert_allclose(moved.centred.mean(axis=0), 0, atol=1e-12)


@given(st.integers(0, 1000))
def test_few_microphones_have_few_dimensions(seed: int) -> None:
    assert MicArray(random_positions(seed, 2)).shape == "linear"
    assert MicArray(random_positions(seed, 3)).shape in ("linear", "planar")


def test_ambiguity_names_the_plane_or_the_line() -> None:
    assert "above" in str(preset("square_4").ambiguity())
    upright = MicArray(preset("square_4").positions[:, [2, 0, 1]])
    assert "azimuth 0, elevation 0" in str(upright.ambiguity())
    assert "cone" in str(preset("line_4").ambiguity())


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ([[0, 0, 0]], "at least 2"),
        ([[1, 2, 3], [1, 2, 3]], "one position"),
        ([[0, 0, 0], [0.1, 0, 0], [0.1, 0, 0]], "channels 2 and 3"),
        ([[0, 0, 0], [0, np.nan, 0]], "channel 2 is not finite"),
        ([[0, 0, 0], [np.inf, 0, 0]], "not finite"),
        ([[-22.85, -22.85, 0], [22.85, 22.85, 0]], '"unit": "mm"'),
        ([[-4.63, 0, 0], [4.63, 0, 0]], '"unit": "cm"'),
        ([[0, 0, 0], [0.0001, 0, 0]], '"unit": "m"'),
        ([[0, 0], [1, 1]], "add z = 0"),
        ([[0, 0, 0], [1, 1]], "three numbers"),
        ([[0, 0, 0], [0, 0, "x"]], "numbers"),
        ([], "list of"),
        ([0.1, 0.2, 0.3], "list of"),
    ],
)
def test_impossible_arrays_are_refused_with_a_reason(positions: list, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        MicArray(positions)


def test_too_many_microphones_are_refused() -> None:
    with pytest.raises(InputError, match="at most 256"):
        MicArray(np.random.default_rng(0).uniform(-1, 1, (300, 3)))


def test_channel_count_must_match() -> None:
    array = preset("square_4")
    array.require_channels(4)
    with pytest.raises(InputError, match=r"room\.wav has 6 channels.*4 microphones.*remove"):
        array.require_channels(6, "room.wav")
    with pytest.raises(InputError, match="1 channel,"):
        array.require_channels(1)


def test_arrays_compare_by_their_positions_and_cannot_be_changed() -> None:
    array = preset("line_4")
    assert array == preset("line_4")
    assert hash(array) == hash(preset("line_4"))
    assert array != preset("square_4")
    with pytest.raises(ValueError, match="read-only"):
        array.positions[0, 0] = 1.0
    source = np.array([[0.0, 0, 0], [0.1, 0, 0]])
    copied = MicArray(source)
    source[0, 0] = 9.0
    assert copied.positions[0, 0] == 0.0


def test_json_round_trip_is_exact(tmp_path: Path) -> None:
    array = MicArray(random_positions(0, 5), "mine")
    array.to_json(tmp_path / "mine.json")
    back = MicArray.from_json(tmp_path / "mine.json")
    assert back == array
    assert back.name == "mine"


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
def test_json_units(tmp_path: Path, unit: str, factor: float) -> None:
    positions = random_positions(1, 4)
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"unit": unit, "positions": (factor * positions).tolist()}))
    np.testing.assert_allclose(load_array(file).positions, positions, atol=1e-12)


def test_bare_json_list_is_metres_and_named_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kitchen.json"
    file.write_text("[[0, 0, 0], [0.1, 0, 0]]")
    array = load_array(str(file))
    assert (array.name, array.aperture) == ("kitchen", pytest.approx(0.1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"mics": []}', "expected"),
        ("3", "expected"),
        ('{"positions": [[0,0,0],[1,0,0]], "unit": "inch"}', "'inch' is not known"),
        ('{"positions": [[0,0,0],[1,0,0]], "units": "mm"}', "unknown key 'units'"),
        ('{"positions": [[0,0,0],[NaN,0,0]]}', "not finite"),
        ('{"positions": [[0,0,0],[true,0,"1"]]}', "numbers"),
        ('{"positions": null}', "numbers"),
        ('{"positions": "abc"}', "numbers"),
    ],
)
def test_bad_json_is_refused_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        load_array(file)


def test_missing_file_and_unknown_preset_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_array(tmp_path / "none.json")
    with pytest.raises(InputError, match="respeaker_4mic"):
        load_array("respeaker")
    with pytest.raises(InputError, match="respeaker_4mic"):
        preset("respeaker")


def test_load_array_takes_names_arrays_and_positions() -> None:
    array = preset("nao_8")
    assert load_array("nao_8") == array
    assert load_array(array) is array
    assert load_array(np.array(array.positions)) == array

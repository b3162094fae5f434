# SPDX-License-Identifier: Apache-2.0
"""Released checkpoints: the same tree comes back, and damage is noticed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.io import export


@dataclasses.dataclass(frozen=True)
class Inner:
    bands: tuple[tuple[int, int], ...] = ((1, 2),)
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Outer:
    width: int = 4
    name: str = "plus"
    inner: Inner = Inner()
    limit: float | None = None
    inner_or_none: Inner | None = None


def _params() -> dict:
    rng = np.random.default_rng(0)
    return {
        "embed": {"kernel": rng.normal(size=(3, 4)).astype(np.float32), "scale": np.float32(2.0)},
        "blocks": {0: {"w": np.arange(4, dtype=np.float16)}, 11: {"w": np.ones(2, np.int32)}},
    }


def test_params_come_back_with_names_shapes_dtypes_and_integer_keys(tmp_path):
    export.write_release(tmp_path / "m", _params(), {"family": "plus"}, "# Card")
    released = export.read_release(tmp_path / "m")
    assert set(released.params()["blocks"]) == {0, 11}
    assert released.params()["blocks"][0]["w"].dtype == np.float16
    np.testing.assert_array_equal(
        released.params()["embed"]["kernel"], _params()["embed"]["kernel"]
    )
    assert released.params()["embed"]["scale"].shape == ()
    assert released.config["num_params"] == 12 + 1 + 4 + 2
    assert released.card == "# Card\n"


def test_non_contiguous_parameters_are_stored_by_value(tmp_path):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4).T
    export.write_release(tmp_path, {"w": matrix}, {}, "")
    np.testing.assert_array_equal(export.read_release(tmp_path).params()["w"], matrix)


def test_half_a_release_is_read_in_the_types_that_were_written(tmp_path):
    """bfloat16 keeps 8 significant bits: relative errors up to 2^-8; other types stay as they are."""
    whole = export.write_release(tmp_path / "whole", _params(), {}, "") / export.TENSOR_FILE
    half = export.write_release(tmp_path / "half", _params(), {}, "", half=True)
    assert (half / export.TENSOR_FILE).stat().st_size == whole.stat().st_size - 2 * 13
    there, wanted = export.read_release(half).params(), _params()
    assert there["embed"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(there["embed"]["kernel"], wanted["embed"]["kernel"], rtol=2**-8)
    assert there["blocks"][0]["w"].dtype == np.float16 and there["embed"]["scale"] == 2.0


def test_one_flipped_byte_is_noticed(tmp_path):
    export.write_release(tmp_path, _params(), {}, "")
    file = tmp_path / export.TENSOR_FILE
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(bytes(blob))
    with pytest.raises(InputError, match=r"damaged.*copy the checkpoint again"):
        export.read_release(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / export.TENSOR_FILE).unlink(), "model.safetensors is missing"),
        (lambda d: (d / export.CONFIG_FILE).unlink(), "has no config.json"),
        (lambda d: (d / export.CONFIG_FILE).write_text("{"), "not valid JSON"),
        (lambda d: (d / export.CONFIG_FILE).write_text('{"format": "x/9"}'), "format is 'x/9'"),
        (lambda d: (d / export.CONFIG_FILE).write_text("[]"), "format is 'list'"),
    ],
)
def test_incomplete_or_foreign_directories_are_refused(tmp_path, spoil, message):
    export.write_release(tmp_path, _params(), {}, "")
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        export.read_release(tmp_path)


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a directory"):
        export.read_release(tmp_path / "nowhere")


def test_nested_dataclasses_become_plain_json():
    config = Outer(width=8, inner=Inner(bands=((1, 2), (3, 4))), inner_or_none=Inner(scale=2.0))
    assert json.loads(json.dumps(export.to_json(config))) == {
        "width": 8,
        "name": "plus",
        "inner": {"bands": [[1, 2], [3, 4]], "scale": 1.0},
        "limit": None,
        "inner_or_none": {"bands": [[1, 2]], "scale": 2.0},
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_values_without_a_json_form_are_refused(value):
    with pytest.raises((ValueError, TypeError), match="no form in JSON"):
        export.to_json({"a": value})


@pytest.mark.parametrize("tree", [{"a/b": np.ones(1)}, {"a": {}}])
def test_trees_that_would_not_come_back_are_refused(tree):
    with pytest.raises(ValueError, match="a"):
        export.flatten_tree(tree)


def test_tensors_fill_a_tree_of_the_models_own_keys():
    like = {"blocks": {"0": {"w": np.zeros(4)}}, "bias": np.zeros(())}
    flat = {"blocks/0/w": np.arange(4.0), "bias": np.float32(1.0)}
    filled = export.fill_tree(like, flat, "x")
    np.testing.assert_array_equal(filled["blocks"]["0"]["w"], np.arange(4.0))


def test_tensors_of_another_model_are_listed():
    like = {"a": np.zeros(4), "b": np.zeros(2), "c": np.zeros(3)}
    with pytest.raises(
        InputError, match=r"b is missing; d is not in this model; c has shape \(2,\)"
    ):
        export.fill_tree(like, {"a": np.zeros(4), "c": np.zeros(2), "d": np.zeros(1)}, "x")

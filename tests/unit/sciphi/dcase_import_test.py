# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that torch wrote: read without torch, answers as torch's; hostile files run nothing."""

from __future__ import annotations

import importlib.util
import io
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from sciphi.dcase_import import import_baseline, standardizer
from sciphi.seld_task import SeldTask
from sciphi.seldnet import SeldNetConfig
from sciphi.torch_zip import read_torch_zip
from spatial_core.errors import InputError

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FILE = GOLDEN / "seldnet.h5"


def load_script():
    """The module that made the golden files: it makes the same input again."""
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "make_seldnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()
CONFIG = SeldNetConfig(
    channels=SCRIPT.CHANNELS, width=SCRIPT.WIDTH, heads=SCRIPT.HEADS, dropout=0.0
)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "seldnet.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def params():
    return import_baseline(FILE, CONFIG, SCRIPT.CLASSES, standardizer(SCRIPT.features()))


def test_views_into_one_storage_come_apart() -> None:
    weights = read_torch_zip(FILE)
    recurrent = [value for name, value in weights.items() if name.startswith("gru.")]
    assert len(recurrent) == 16
    # 99 stands before the first weight in the storage that they share.
    assert max(np.abs(value).max() for value in recurrent) < 99
    assert weights["gru.weight_hh_l1_reverse"].shape == (3 * SCRIPT.WIDTH, SCRIPT.WIDTH)
    assert weights["conv_block_list.0.bn.num_batches_tracked"].dtype == np.int64


def test_answers_are_those_of_torch(params, golden) -> None:
    task = SeldTask(CONFIG, ("a", "b"), seconds=0.54)
    found = jax.jit(task.predict)(params, {"features": SCRIPT.features()})
    # float32 through two recurrences, on weights of 0.3.
    np.testing.assert_allclose(found["tokens"], golden["tokens"], atol=2e-5)
    answer = found["answer"].reshape(golden["answer"].shape)
    np.testing.assert_allclose(answer, golden["answer"], atol=5e-5)


def test_training_normalises_and_moves_statistics_as_torch(params, golden) -> None:
    task = SeldTask(CONFIG, ("a", "b"), seconds=0.54)
    encode = jax.jit(lambda p, x: task.bind(p).encoder.encode_in_training(x, None))
    tokens, moved = encode(params, SCRIPT.features())
    np.testing.assert_allclose(tokens, golden["train_tokens"], atol=2e-5)
    for i in range(3):
        norm, name = moved[f"block_{i}"]["norm"], f"moved/conv_block_list.{3 * i}.bn.running"
        np.testing.assert_allclose(norm["mean"], golden[f"{name}_mean"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm["variance"], golden[f"{name}_var"], rtol=1e-4)


def test_other_sizes_are_named() -> None:
    with pytest.raises(InputError, match="encoder/block_0/kernel"):
        import_baseline(FILE, SeldNetConfig(width=16, heads=4), SCRIPT.CLASSES)
    with pytest.raises(InputError, match="weight_ih_l2"):
        import_baseline(FILE, SeldNetConfig(channels=4, width=16, heads=4, gru_layers=3))


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def archive(tmp_path, pickled, **members):
    path = tmp_path / "model.h5"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"model/data/{name.removeprefix('_')}", content)
    return path


def state(shape=(2,), stride=(1,), offset=0, count=2):
    """The pickle of a dict with one tensor, written by hand."""
    out = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, item):
            return ("storage", Float(), "0", "cpu", count) if item == "here" else None

        def save_global(self, item, name=None):
            self.write(b"ctorch\nFloatStorage\n" if isinstance(item, Float) else item)

    class Float:
        pass

    pickler = Pickler(out, protocol=2)
    pickler.dispatch = {**pickle._Pickler.dispatch, Float: Pickler.save_global}
    pickler.write(b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n")
    pickler.save(("here", offset, shape, stride))
    pickler.write(b"Rs.")
    return out.getvalue()


def test_a_hand_written_file_is_read(tmp_path) -> None:
    path = archive(tmp_path, state((2, 2), (1, 2), 1, 5), _0=np.arange(5, dtype="<f4").tobytes())
    np.testing.assert_array_equal(read_torch_zip(path)["w"], [[1, 3], [2, 4]])


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        path = archive(tmp_path, pickle.dumps({"w": Malicious()}, protocol=protocol))
        with pytest.raises(InputError, match="does not need"):
            read_torch_zip(path)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("pickled", "match"),
    [
        (state((3,), (1,)), "reaches to 2"),
        (state((2,), (2**40,)), "reaches to"),
        (state((10**6, 10**6), (0, 0)), "larger than"),
        (state((2,), (1,), -1), "no size"),
        (state(count=3), "12 bytes has 8"),
        (state()[:-8], "damaged"),
        (pickle.dumps([1], 2), "EMPTY_LIST"),
        (b"", "damaged"),
        (b"\x80\x02K\x01.", "no dict of tensors"),
    ],
)
def test_damaged_and_oversized_files_are_refused(tmp_path, pickled, match) -> None:
    path = archive(tmp_path, pickled, _0=bytes(8))
    with pytest.raises(InputError, match=match):
        read_torch_zip(path)


def test_what_is_no_archive_is_refused(tmp_path) -> None:
    path = tmp_path / "model.h5"
    with pytest.raises(InputError, match="no such file"):
        read_torch_zip(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="no zip archive"):
        read_torch_zip(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", state())
    with pytest.raises(InputError, match="compressed"):
        read_torch_zip(path)
    with pytest.raises(InputError, match="bytes, more than"):
        read_torch_zip(FILE, max_bytes=1000)


def test_any_damage_is_a_clear_error(tmp_path) -> None:
    """Bytes of the pickle replaced at random: an answer or an InputError, nothing else."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(state(), np.uint8)
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(len(damaged), size=2)] = rng.integers(256, size=2)
        path = archive(tmp_path, damaged.tobytes(), _0=bytes(8))
        try:
            read_torch_zip(path)
        except InputError:
            pass

# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs from a clean kernel in an empty folder, and finds what is there to be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.notebooks
FOLDER = Path(__file__).resolve().parents[2] / "launch" / "colab"
LIMIT = 1800  # seconds for a cell, on a machine that does other things, too


def run(name: str, folder: Path, wanted: str) -> dict[str, Any]:
    """Runs all cells in `folder`, and a last one that tells the values of a dict expression."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    last = nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({wanted}))")
    notebook.cells.append(last)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", resources=resources
    )
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    told = json.loads("".join(output["text"] for output in last["outputs"]))
    return {"pictures": len(pictures), **told}


def test_the_quickstart_finds_the_talker(tmp_path: Path) -> None:
    wanted = '{"error": error, "median": median, "tokens": token_error}'
    found = run("quickstart", tmp_path, wanted)
    assert found["pictures"] == 4
    # Four microphones in 6.5 cm, RT60 up to 0.5 s: 2.4 degrees in the median when it was written.
    assert found["error"] < 15 and found["median"]["this model"] < 5
    assert found["median"]["SRP-PHAT"] < 8
    assert found["tokens"] < 20  # chance is 90


def test_a_training_learns_directions(tmp_path: Path) -> None:
    wanted = '{"median": median, "steps": done.step, "error": training[:, 1].tolist()}'
    found = run("train_phasecoder_on_tpu", tmp_path, wanted)
    assert found["pictures"] == 5
    # Chance is 90; 2.9 when it was written. A training so short is not the same on every machine.
    assert found["median"]["this run"] < 15 and found["median"]["shipped"] < 6
    assert found["error"][-1] < 0.5 * found["error"][0]
    assert (tmp_path / "my-phasecoder" / "model.safetensors").is_file()
    assert (tmp_path / "inspect" / "index.html").is_file()


def test_two_talkers_of_a_recording_are_found_and_a_swapped_cable_is_noticed(
    tmp_path: Path,
) -> None:
    wanted = '{"truth": TRUTH, "found": found, "ok": report.ok, "swapped": check_array(array, swapped).ok}'
    found = run("localise_your_recording", tmp_path, wanted)
    assert found["pictures"] == 2
    for true, heard in zip(found["truth"], found["found"], strict=True):
        assert abs((heard - true + 180) % 360 - 180) < 15
    assert found["ok"] and not found["swapped"]


def test_answers_need_the_spatial_tokens_and_a_scene_is_described(tmp_path: Path) -> None:
    wanted = (
        '{"error": mean_error, "near": near_share, "talkers": len(answer.talkers), '
        '"sources": len(told.description.sources)}'
    )
    found = run("ask_about_a_scene", tmp_path, wanted)
    assert found["pictures"] == 4
    # 5.4 degrees over many conversations; chance is 90, and a dozen of them tells 60 to 120.
    assert found["error"]["with spatial tokens"] < 20
    assert 50 < found["error"]["tokens zeroed"] < 130
    assert found["talkers"] == 2 and found["sources"] >= 1
    # 41% in the very zone over many scenes; of 26 zones about nine are as near as that by chance.
    assert found["near"] > 0.4

# SPDX-License-Identifier: Apache-2.0
"""The notebooks as they are kept: run from top to bottom, with pictures, small, of no machine's folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "launch" / "colab"
NAMES = (
    "ask_about_a_scene",
    "localise_your_recording",
    "quickstart",
    "train_phasecoder_on_tpu",
)
MOST_BYTES = 1_000_000
# An absolute path in the text (not within an address or a tag), as of the machine that it was run on.
PATHS = re.compile(r"(?:^|[\s\"'(=])/[A-Za-z][\w.-]*/[\w.-]|[A-Z]:\\\\|site-packages|ipykernel_")


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in load(name)["cells"] if cell["cell_type"] == "code"]


def test_the_folder_holds_these_notebooks() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_was_run_in_order_and_shows_what_came_of_it(name: str) -> None:
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    warned = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert "".join("".join(text) for text in warned).strip() == ""
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("text", ["in /opt/x/y.py", "'/srv/data'", "C:\\\\Users", "/mnt/run/1"])
def test_a_folder_of_a_machine_is_noticed(text: str) -> None:
    assert PATHS.search(text) and not PATHS.search("12 m/s at runs/look, 3/4 of https://a.b/c/d")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_name_no_folder_of_a_machine(name: str) -> None:
    for cell in code_cells(name):
        for output in cell["outputs"]:
            texts = [output.get("text", "")]
            texts += [text for kind, text in output.get("data", {}).items() if "image" not in kind]
            for text in texts:
                told = re.sub(r"data:audio/mpeg;base64,[\w+/=]+", "", "".join(text))
                assert PATHS.search(told) is None, told


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_comes_first_and_is_the_same_everywhere(name: str) -> None:
    cells = load(name)["cells"]
    assert [cell["cell_type"] for cell in cells[:3]] == ["markdown", "code", "code"]
    first = "".join(cells[1]["source"])
    assert 'REPOSITORY = ""' in first and "subprocess.run" in first
    assert first == "".join(load("quickstart")["cells"][1]["source"])
    assert cells[2]["metadata"]["tags"] == ["parameters"]
    assert "".join(cells[0]["source"]).startswith("# ")
    assert "Where to go next" in "".join(cells[-1]["source"])


@pytest.mark.parametrize("name", NAMES)
def test_pages_that_it_names_are_there(name: str) -> None:
    text = "\n".join("".join(cell["source"]) for cell in load(name)["cells"])
    root = FOLDER.parents[1]
    assert [
        page for page in re.findall(r"docs/[\w-]+\.md", text) if not (root / page).is_file()
    ] == []
    named = [f"gin/{file}" for file in re.findall(r"(?:experiments|data)/\w+\.gin", text)]
    assert [file for file in named if not (root / file).is_file()] == []
    others = [file for file in re.findall(r"(\w+\.ipynb)", text) if not (FOLDER / file).is_file()]
    assert others == []

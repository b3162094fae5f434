# SPDX-License-Identifier: Apache-2.0
"""The wording of questions: as many as published, complete, replaceable, every mistake named."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from llm_bridge.qa import answers
from llm_bridge.qa.book import KINDS, STYLES, QuestionBook, kind_title
from spatial_core.errors import InputError

SHIPPED = json.loads(
    resources.files("llm_bridge.qa").joinpath("templates/en.json").read_text("utf-8")
)
# Wordings of each kind in appendix D.
PUBLISHED = {
    1: {"locate": 20},
    2: dict.fromkeys(KINDS[2], 6),
    3: {"transcribe": 10},
    4: {
        "place": 5,
        "distance": 3,
        "area_left": 3,
        "area_right": 3,
        "area_front": 3,
        "area_back": 3,
        "comparison_closer": 3,
        "comparison_further": 3,
        "comparison_left": 1,
        "comparison_right": 1,
    },
}


def test_as_many_kinds_and_wordings_as_published() -> None:
    book = QuestionBook.load()
    assert {
        task: {k: len(v) for k, v in kinds.items()}
        for task, kinds in book.questions.items()
        if task != 5  # not the paper's
    } == PUBLISHED
    assert len(KINDS[2]) == 10
    every = [
        text for kinds in book.questions.values() for texts in kinds.values() for text in texts
    ]
    assert len(set(every)) == len(every)


def test_full_prompts_list_the_allowed_values_and_brief_ones_are_one_line() -> None:
    book = QuestionBook.load()
    for task in (1, 3):
        for values in (answers.AZIMUTHS, answers.ELEVATIONS, answers.DISTANCES):
            assert ", ".join(values) in book.system_prompt(task)
    for task in KINDS:
        brief = book.system_prompt(task, "brief")
        assert "\n" not in brief and len(brief) < 150
        assert "none" in book.system_prompt(task) or task == 2
        assert "{" not in book.system_prompt(task)
    assert QuestionBook.load(style="brief").system_prompt(2) == book.system_prompt(2, "brief")


def test_examples_in_the_prompts_are_valid_answers() -> None:
    book = QuestionBook.load()
    for task in (1, 3):
        lines = [x for x in book.system_prompt(task).splitlines() if "azimuth_degrees_1=" in x]
        parsed = [
            answers.parse_answer(task, line) for line in lines[1:]
        ]  # the first shows the form
        assert len(parsed) == 3 and all(one.ok for one in parsed)
        assert [sum(x is not None for x in one.value) for one in parsed] == [2, 1, 0]


def test_titles_are_the_rows_of_table_6() -> None:
    assert kind_title("single_azimuth_left") == "Single speaker azimuth (left)"
    assert kind_title("multi_distance_closer") == "Multi speaker distance (closer)"
    assert kind_title("comparison_left") == "Comparison (left)"
    assert kind_title("place") == "Place"


def changed(*path: str, value: Any) -> dict:
    data = copy.deepcopy(SHIPPED)
    section = data
    for key in path[:-1]:
        section = section[key]
    if value is None:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    return data


def test_a_book_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "de.json"
    data = changed(
        "questions", "2", "multi_azimuth_within", value=["Weniger als {angle} Grad? {{ja}}"]
    )
    data["system"]["full"]["2"] = "Antworte yes oder no."
    path.write_text(json.dumps(data), "utf-8")
    book = QuestionBook.load(path)
    text = book.question(2, "multi_azimuth_within", 7, {"angle": "60"})
    assert text == "Weniger als 60 Grad? {ja}"
    assert book.system_prompt(2) == "Antworte yes oder no."


BROKEN = [
    (
        ("questions", "2", "multi_azimuth_within"),
        ["Less than 60?"],
        r"must have \{angle\}, has none",
    ),
    (
        ("questions", "2", "single_azimuth_left"),
        ["Ok?", "{angle}?"],
        "wording 2 must have no placeholder",
    ),
    (("questions", "4", "place"), ["At {azimuth}?"], r"must have \{azimuth\}, \{distance\}, has"),
    (("questions", "4", "place"), ["{azimuth:.0f} {distance}"], "write a placeholder as"),
    (("questions", "4", "place"), ["{azimuth {distance}"], "questions.4.place, wording 1"),
    (("questions", "1", "locate"), ["Where?", "Where?"], "wording 2 is a repetition"),
    (("questions", "1", "locate"), [], "at least one wording"),
    (("questions", "1", "locate"), "Where?", "must be a list"),
    (("questions", "1", "locate"), ["  "], "wording 1 must be a text"),
    (("questions", "4", "area_left"), None, "questions.4 lacks area_left"),
    (("questions", "4", "area_up"), ["Above?"], "unknown key 'area_up'"),
    (("system", "full", "3"), None, "system.full lacks 3"),
    (("system", "full", "3"), 3, "system.full.3 must be a text or a list of lines"),
    (("system", "full", "3"), ["{values}"], r"system.full.3 has the placeholder \{values\}"),
    (("system", "brief", "1"), [], "system.brief.1 must be a text"),
    (("system", "brief"), None, "system lacks brief"),
    (("name",), 5, "name must be a word"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN)
def test_every_mistake_is_named_with_file_and_key(
    tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    file = tmp_path / "book.json"
    file.write_text(json.dumps(changed(*path, value=value)), "utf-8")
    with pytest.raises(InputError, match=message) as caught:
        QuestionBook.load(file)
    assert str(file) in str(caught.value)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "book.json"
    with pytest.raises(InputError, match=r"book\.json cannot be read"):
        QuestionBook.load(file)
    for text, message in (
        ("{", "not usable JSON"),
        ("[]", "must be an object"),
        ('{"a":1,"a":2}', "stands twice"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(InputError, match=message):
            QuestionBook.load(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        QuestionBook.load(file)


def test_unknown_styles_kinds_and_tasks_are_named() -> None:
    book = QuestionBook.load()
    assert set(book.system) == set(STYLES)
    with pytest.raises(InputError, match="full, brief, got 'long'"):
        QuestionBook.load(style="long")
    with pytest.raises(InputError, match="has no questions of kind 'area_up'; it has place"):
        book.wordings(4, "area_up")
    with pytest.raises(InputError, match="tasks are 1 to 5"):
        book.wordings(6, "locate")
    with pytest.raises(InputError, match="no 'long' system prompt"):
        book.system_prompt(1, "long")

# SPDX-License-Identifier: Apache-2.0
"""Strict parsing of gin files: what is accepted, and what each mistake is told."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from spatial_core.config import gin_setup, paths
from spatial_core.errors import InputError


@dataclass(frozen=True)
class GinInner:
    size: int = 1
    label: str = "none"
    values: tuple[float, ...] = ()
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"size is {self.size}: at least 0.")
        if self.label == "refused":
            raise InputError("that one is refused")


@dataclass(frozen=True)
class GinOuter:
    inner: GinInner
    other: GinInner | None = None
    rate: float = 0.5
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GinWithParts:
    inner: GinInner = field(default_factory=GinInner)
    other: GinInner = GinInner()
    special: GinInner = GinInner(size=9)


@pytest.fixture(autouse=True)
def _names():
    gin_setup.register(GinInner, GinOuter, GinWithParts)


def parse(tmp_path, text, *overrides):
    path = tmp_path / "experiment.gin"
    path.write_text(text)
    _, bindings = gin_setup.split_argv([f"--gin.{override}" for override in overrides])
    return gin_setup.parse([str(path)], bindings, roots=["GinOuter"])


BASE = "GinOuter.inner = @GinInner()\n"


def test_built_objects_are_the_plain_dataclasses(tmp_path):
    parse(tmp_path, BASE + "GinInner.size = 3\nGinInner.values = (1.0, 2.5)\n")
    built = gin_setup.build("GinOuter")
    assert built == GinOuter(inner=GinInner(size=3, values=(1.0, 2.5)))
    assert type(built) is GinOuter and type(built.inner) is GinInner


def test_overrides_win_and_plain_words_are_strings(tmp_path):
    text = BASE + "GinInner.label = %NAME\nNAME = 'a'\nGinInner.size = 3\n"
    for value, expected in (
        ("respeaker_4mic", "respeaker_4mic"),
        ("'quoted'", "quoted"),
        ("/data/my arrays/kit-1.json", "/data/my arrays/kit-1.json"),
        ("a=b", "a=b"),
    ):
        parse(tmp_path, text, f"NAME={value}", "GinInner.size=7")
        assert gin_setup.build("GinOuter").inner == GinInner(size=7, label=expected)


def test_split_argv_leaves_the_other_flags_alone():
    rest, bindings = gin_setup.split_argv(["prog", "--dry_run", "--gin.A.b=1e-3", "--x=--gin.y=2"])
    assert rest == ["prog", "--dry_run", "--x=--gin.y=2"]
    assert bindings == ["A.b = 1e-3"]
    with pytest.raises(InputError, match=r"--gin.Name.parameter=value"):
        gin_setup.split_argv(["--gin.A.b"])


def test_scopes_build_two_variants_of_one_class(tmp_path):
    text = """
GinOuter.inner = @train/GinInner()
GinOuter.other = @validation/GinInner()
GinInner.size = 2
validation/GinInner.label = 'held out'
"""
    parse(tmp_path, text)
    built = gin_setup.build("GinOuter")
    assert built.inner == GinInner(size=2)
    assert built.other == GinInner(size=2, label="held out")


def test_default_parts_take_their_settings_too(tmp_path):
    path = tmp_path / "x.gin"
    path.write_text("GinInner.size = 4\n")
    gin_setup.parse([str(path)], roots=["GinWithParts"])
    four = GinInner(size=4)
    assert gin_setup.build("GinWithParts") == GinWithParts(inner=four, other=four)


def test_includes_are_read_in_place(tmp_path):
    (tmp_path / "model.gin").write_text("GinInner.size = 5\nGinInner.label = 'included'\n")
    text = "GinInner.size = 1\ninclude 'model.gin'\nGinInner.label = 'mine'\n" + BASE
    read = parse(tmp_path, text)
    assert gin_setup.build("GinOuter").inner == GinInner(size=5, label="mine")
    assert [path.name for path in read] == ["experiment.gin", "model.gin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GinOutr.rate = 1\n", "line 1: unknown name 'GinOutr'; did you mean 'GinOuter'"),
        ("GinOuter.rte = 1\n", "no parameter 'rte'; did you mean 'rate'"),
        (BASE + "GinOuter.other = @GinIner()\n", "unknown name 'GinIner'; did you mean 'GinInner'"),
        (BASE + "WIDTH = 3\n", "line 2: nothing uses WIDTH"),
        (BASE + "GinInner.size = %WIDTH\n", "%WIDTH has no value; set it with --gin.WIDTH=VALUE"),
        (BASE + "WIDHT = 3\nGinInner.size = %WIDTH\n", "%WIDTH has no value; did you mean 'WIDHT'"),
        ("GinInner.size = 3\n", "GinInner.size is set but nothing refers to @GinInner"),
        (BASE + "tran/GinInner.size = 3\n", "nothing enters the scope 'tran'"),
        (BASE + "import os\n", "may not import modules"),
        (BASE + "include 'nowhere.gin'\n", "no configuration file 'nowhere.gin'"),
        (BASE + "include 'experiment.gin'\n", "includes itself"),
        (BASE + "GinInner.size = = 3\n", "is not valid gin"),
        (BASE + "GinInner.values = (1,\n", "is not valid gin"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        parse(tmp_path, text)
    assert message in str(caught.value)


def test_a_bare_name_is_recognised_as_a_parameter(tmp_path):
    with pytest.raises(InputError, match=r"nothing uses span; did you mean 'GinInner.span'\?"):
        parse(tmp_path, BASE, "span=None")
    with pytest.raises(InputError, match=r"no parameter 'tags'; did you mean 'GinOuter.tags'\?"):
        parse(tmp_path, BASE, "GinInner.tags=3")


def test_missing_required_setting_is_named(tmp_path):
    parse(tmp_path, "GinOuter.rate = 0.1\n")
    with pytest.raises(InputError) as caught:
        gin_setup.build("GinOuter")
    assert str(caught.value) == "GinOuter.inner has no value: give a --gin_file that sets it"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        # The setting that the message mentions, and where it stands.
        (
            "GinInner.size = -1\nGinInner.label = 'a'\n",
            (),
            "size is -1: at least 0; change GinInner.size (experiment.gin, line 2)",
        ),
        (
            "GinInner.size = 4\n",
            ("GinInner.size=-1",),
            "size is -1: at least 0; change GinInner.size (the command line)",
        ),
        # A macro is changed where it has its value.
        (
            "SIZE = 4\nGinInner.size = %SIZE\n",
            ("SIZE=-2",),
            "size is -2: at least 0; change SIZE (the command line)",
        ),
        # No setting is mentioned: all that there are.
        (
            "GinInner.size = 4\nGinInner.label = 'refused'\n",
            (),
            "that one is refused; change GinInner.size (experiment.gin, line 2) or GinInner.label "
            "(experiment.gin, line 3)",
        ),
        # Values of another type, before the code stumbles over them.
        (
            "GinInner.size = 'big'\n",
            (),
            "GinInner.size is 'big': give a whole number; change GinInner.size (experiment.gin, "
            "line 2)",
        ),
        (
            "GinInner.size = 2.5\n",
            (),
            "GinInner.size is 2.5: give a whole number; change GinInner.size (experiment.gin, "
            "line 2)",
        ),
        (
            "GinInner.span = (1,)\n",
            (),
            "GinInner.span is (1,): give 2 values in brackets (a number, a number) or None; change "
            "GinInner.span (experiment.gin, line 2)",
        ),
    ],
)
def test_a_refused_value_is_one_sentence_with_the_setting_to_change(
    tmp_path, monkeypatch, text, overrides, message
):
    monkeypatch.chdir(tmp_path)
    parse(tmp_path, BASE + text, *overrides)
    with pytest.raises(InputError) as caught:
        gin_setup.build("GinOuter")
    assert str(caught.value) == message


def test_the_binding_of_the_scope_is_the_one_to_change(tmp_path):
    text = "GinOuter.inner = @a/GinInner()\nGinInner.size = 1\na/GinInner.size = -1\n"
    parse(tmp_path, text)
    with pytest.raises(InputError, match=r"change a/GinInner.size \(.*, line 3\)$"):
        gin_setup.build("GinOuter")


def test_an_error_of_a_function_that_is_called_later_is_told_the_same_way(tmp_path):
    def gin_reader(path: str | None = None) -> None:
        raise InputError(f"{path} is not there")

    gin_setup.register(gin_reader)
    parse(tmp_path, "GinOuter.inner = @gin_reader\ngin_reader.path = 'x'\n")
    with pytest.raises(InputError) as caught:
        gin_setup.build("GinOuter").inner()
    assert "In call to configurable" in str(caught.value)
    told = str(gin_setup.plain(caught.value))
    assert told.startswith("x is not there; change gin_reader.path (") and "In call" not in told


def test_values_of_the_right_type_pass(tmp_path):
    parse(tmp_path, BASE + "GinInner.span = [1, 2.5]\nGinInner.values = (1,)\n")
    assert gin_setup.build("GinOuter").inner == GinInner(span=[1, 2.5], values=(1,))


def test_settings_and_what_is_set_can_be_asked_for(tmp_path):
    parse(tmp_path, BASE + "N = 3\nGinInner.size = %N\n")
    assert gin_setup.sets("GinInner") and not gin_setup.sets("GinWithParts")
    assert gin_setup.settings("GinInner")["size"] == 3
    assert gin_setup.settings("GinInner")["label"] == "none"


def test_more_can_be_registered_after_parsing(tmp_path):
    parse(tmp_path, BASE)

    def late(size: int = 1) -> int:
        return size

    gin_setup.register(late_thing=late)
    assert gin_setup.build("late_thing", size=4) == 4


def test_a_name_is_taken_once():
    class GinInner:  # another object of the same name
        pass

    with pytest.raises(ValueError, match="registered already"):
        gin_setup.register(GinInner)


def test_shipped_files_are_found_by_name_and_suggested():
    for name in paths.config_files():
        assert paths.resolve_config(name).is_file()
    with pytest.raises(InputError, match="no configuration file"):
        paths.resolve_config("experiments/does_not_exist.gin")

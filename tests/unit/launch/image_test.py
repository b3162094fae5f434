# SPDX-License-Identifier: Apache-2.0
"""The image, as far as it can be judged without building it: what it copies is there, the pins fit."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "launch" / "Dockerfile").read_text(encoding="utf-8")
LOCKS = ("tpu", "cpu")


def _instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def _pins(lock: str) -> dict[str, str]:
    lines = (ROOT / "launch" / f"requirements-{lock}.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==")[::2] for line in lines if line and not line.startswith("#")]
    assert all(version for _, version in pinned)
    return {canonicalize_name(name): version for name, version in pinned}


def _wanted(lock: str) -> list[Requirement]:
    """What setup.cfg asks for, with the extras that the lock was made with."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = ["gcs", "tpu"] if lock == "tpu" else ["gcs"]
    texts = [
        parser["options"]["install_requires"],
        *(parser["options.extras_require"][extra] for extra in extras),
    ]
    return [Requirement(line) for text in texts for line in text.splitlines() if line.strip()]


def test_everything_that_is_copied_is_there():
    copied = [word for line in _instructions("COPY") for word in line.split()[:-1]]
    paths = [path.replace("${LOCK}", lock) for path in copied for lock in LOCKS]
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_every_package_of_the_wheel_is_copied():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    packages = {line.split(".")[0] for line in parser["options"]["packages"].split()}
    copied = {word for line in _instructions("COPY") for word in line.split()[:-1]}
    assert packages | {"gin", "setup.cfg", "pyproject.toml"} <= copied


@pytest.mark.parametrize("lock", LOCKS)
def test_pins_are_within_the_ranges_of_the_package(lock):
    pins = _pins(lock)
    for requirement in _wanted(lock):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements-{lock}.txt: make it anew"
        assert requirement.specifier.contains(pins[name]), f"{requirement} but {pins[name]}"


def test_the_two_locks_differ_in_the_tpu_alone():
    tpu, cpu = _pins("tpu"), _pins("cpu")
    assert {name: tpu[name] for name in cpu} == cpu and set(tpu) - set(cpu) == {"libtpu"}
    assert tpu["jax"] == tpu["jaxlib"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_says_how_it_was_made_and_for_the_python_of_the_image(lock):
    head = (ROOT / "launch" / f"requirements-{lock}.txt").read_text(encoding="utf-8").split("\n")[1]
    assert f"--output-file launch/requirements-{lock}.txt" in head and "--extra gcs" in head
    (base,) = _instructions("FROM")
    version = re.search(r"python:(\d+\.\d+)-slim", base)[1]
    assert f"--python-version {version}" in head
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert SpecifierSet(parser["options"]["python_requires"]).contains(version)


def test_the_image_runs_the_command_and_not_as_root():
    assert _instructions("ENTRYPOINT") == ['["python", "-m", "launch.main"]']
    assert _instructions("USER") == ["${USER_ID}"] and "USER_ID=1000" in _instructions("ARG")
    assert _instructions("ADD") == []
    assert not re.search(r"(?i)(password|token|secret|:latest|curl|sudo)", DOCKERFILE)

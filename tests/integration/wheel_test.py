# SPDX-License-Identifier: Apache-2.0
"""The wheel works outside the checkout: settings, corpus, checkpoint and command are inside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("launch", "llm_bridge", "phasecoder", "sciphi", "spatial_core")
SOURCES = (*PACKAGES, "gin", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy, so that no build folder appears in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("dist")
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    subprocess.run(
        [sys.executable, "-c", code], cwd=copy, check=True, timeout=300, capture_output=True
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel unpacked, which is what installing a pure Python wheel without dependencies does."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def _run(site: Path, code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=site.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_and_setting_of_the_checkout_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in inside
        assert f"{package}/py.typed" in inside
    for path in (ROOT / "gin").rglob("*.gin"):
        assert f"spatial_core/gin_configs/{path.relative_to(ROOT / 'gin').as_posix()}" in inside
    assert not any(name.startswith(("tests/", "gin/", "docs/")) for name in inside)


def test_settings_are_found_inside_the_installed_package(site):
    code = (
        "import json, spatial_core\n"
        "from spatial_core.config.paths import config_files, config_root\n"
        "print(json.dumps([spatial_core.__file__, str(config_root()), config_files()]))"
    )
    package, root, files = json.loads(_run(site, code))
    assert Path(package).is_relative_to(site) and Path(root).is_relative_to(site)
    expected = sorted(p.relative_to(ROOT / "gin").as_posix() for p in (ROOT / "gin").rglob("*.gin"))
    assert files == expected and "experiments/quickstart.gin" in files


def test_corpus_is_readable_from_the_installed_package(site):
    code = (
        "from spatial_core.corpus import embedded\n"
        "for part in ('speech', 'noise'):\n"
        "    clips, labels = embedded.load(part, 'test')\n"
        "    print(part, len(clips), len(set(labels)))"
    )
    speech, noise = (line.split() for line in _run(site, code).splitlines())
    assert int(speech[1]) > 0 and int(speech[2]) >= 2 and int(noise[1]) > 0


def test_shipped_checkpoint_is_whole_in_the_installed_package(site):
    code = (
        "from phasecoder import pretrained\n"
        "from spatial_core.io.export import read_release\n"
        "release = read_release(pretrained.SHIPPED.resolve(None))\n"
        "print(release.path)\n"
        "print(len(release.tensors), len(release.card))"
    )
    path, counts = _run(site, code).splitlines()
    assert Path(path).is_relative_to(site)
    assert all(int(count) > 0 for count in counts.split())


def test_wordings_and_pieces_are_readable_from_the_installed_package(site):
    code = (
        "from llm_bridge.backbones.tiny import TinyBackbone\n"
        "from llm_bridge.qa.book import QuestionBook\n"
        "print(QuestionBook.load().name, TinyBackbone().tokenizer.vocab_size)"
    )
    assert _run(site, code).startswith("en ")


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("phasecoder", "phasecoder localize room.wav"),
        ("spatial-ask", "spatial-ask room.wav"),
        ("spatial-bridge", "spatial-bridge release runs/bridge_tiny"),
        ("sciphi", "sciphi describe scene.wav"),
    ],
)
def test_commands_are_declared_and_help(site, name, example):
    code = (
        "import sys\n"
        "from importlib import metadata\n"
        "(entry,) = [e for e in metadata.distribution('spatial-audio-stack').entry_points\n"
        "            if e.name == sys.argv[1]]\n"
        "main = entry.load()\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "main()"
    )
    assert example in _run(site, code, name)

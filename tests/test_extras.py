"""Extras: each one that a message, a page or the Makefile names exists, and installs what the message is about."""

from __future__ import annotations

import re
import runpy

import pytest
import setuptools
from helpers import REPOSITORY

FOLDERS = ("lrp_tf", "vgg", "mnist", "benchmarks", "docs")
NAMED = [r"lrp_tf\[(\w+)\]", r"\.\[(\w+)\]", r"\bextra [\"`](\w+)[\"`]", r"\bextra=\"(\w+)\""]
# What the errors ask for, by the extra that they name.
BRINGS = {
    "audio": "soundfile",
    "evaluate": "scipy",
    "heif": "pillow-heif",
    "hub": "keras-hub",
    "mnist": "tensorflow-datasets",
    "photos": "scikit-image",
    "ray": "pyarrow",
    "serving": "tensorflow-serving-api",
    "tensorboard": "tensorboard",
    "text": "tokenizers",
    "video": "av",
    "volumes": "nibabel",
}


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What setup.py gives to setuptools."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: given.update(settings))
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path("setup.py")
    return given["extras_require"]


def named() -> dict[str, set[str]]:
    """The names of extras in code and pages, and the files that name them."""
    files = [
        path for name in FOLDERS for path in (REPOSITORY / name).rglob("*") if path.suffix in (".py", ".md", ".html")
    ]
    found: dict[str, set[str]] = {}
    for path in [*files, *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md"))]:
        for pattern in NAMED:
            for name in re.findall(pattern, path.read_text(encoding="utf-8")):
                found.setdefault(name, set()).add(str(path.relative_to(REPOSITORY)))
    for name in re.findall(r"\$\(VENV\)/\.(\w+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8")):
        found.setdefault(name, set()).add("Makefile")
    return found


def test_every_extra_that_is_named_exists(extras: dict[str, list[str]]) -> None:
    found = named()
    assert {"volumes", "audio", "heif", "serving", "docs", "mnist"} <= set(found)
    assert {name: files for name, files in found.items() if name not in extras} == {}


def test_extras_bring_what_messages_ask_for(extras: dict[str, list[str]]) -> None:
    packages = {name: [re.split(r"[>=<\[ ]", needed)[0] for needed in wanted] for name, wanted in extras.items()}
    assert {name: package for name, package in BRINGS.items() if package not in packages[name]} == {}

"""The source archive runs what a checkout runs; its wheel, alone in an empty environment, explains a model."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

PROGRAM = """
import keras, numpy, lrp_tf, pathlib
assert pathlib.Path(lrp_tf.__file__).is_relative_to({environment!r}), lrp_tf.__file__
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(),
                          keras.layers.Dense(3, activation="softmax")])
explanation = lrp_tf.Explainer(model).explain(numpy.ones((2, 8, 8, 1)))
assert explanation.relevance.shape == (2, 8, 8, 1)
assert abs(explanation.conservation.unexplained).numpy().max() < 1e-5
lrp_tf.heatmap.save("map.png", explanation.relevance[0])
print("explained by", lrp_tf.__version__)
"""
# No network in tests: builds use this environment's setuptools.
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"
FOLDERS = ("lrp_tf", "tests", "docs", "mnist", "vgg", "benchmarks")
MADE = shutil.ignore_patterns("__pycache__", "results", "logs", "photos", "*.egg-info")
URL = "https://example.org/owner/lrp_tf"


def call(*command: object, cwd: Path, **environment: str) -> str:
    env = {**os.environ, **environment}
    finished = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def copied(to: Path) -> Path:
    """What the repository holds, but for what only a repository needs (.gitignore, .ci) and what was made in it."""
    to.mkdir()
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, to / folder, ignore=MADE)
    for file in REPOSITORY.iterdir():
        if file.is_file() and not file.name.startswith(".") and file.name != "PKG-INFO":
            shutil.copy(file, to)
    (to / "setup.cfg").unlink(missing_ok=True)  # setuptools writes it into source archives
    return to


def built(kind: str, source: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    return to / call(sys.executable, "-c", BUILD.format(kind, str(to)), cwd=source).splitlines()[-1]


def unpacked(archive: Path, to: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    (folder,) = to.iterdir()
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive."""
    folder = tmp_path_factory.mktemp("sdist")
    return unpacked(built("sdist", copied(folder / "copy"), folder), folder / "unpacked")


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not path.parts[0].endswith(".egg-info") and "__pycache__" not in path.parts}


def test_the_source_archive_holds_the_repository(source: Path, tmp_path: Path) -> None:
    wanted = files(copied(tmp_path / "copy"))
    assert {"tests/conftest.py", "tests/helpers/pictures.py", "docs/digits.png", "vgg/lrp.py", "Makefile"} <= wanted
    assert files(source) - {"PKG-INFO", "setup.cfg"} == wanted


@pytest.mark.slow
def test_the_source_archive_runs_tests_and_drivers(source: Path) -> None:
    path = {"PYTHONPATH": str(source)}
    out = call(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=source, **path)
    assert int(re.search(r"(\d+) tests collected", out).group(1)) > 1000
    quick = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_docs.py", "tests/test_zennit.py"]
    assert "passed" in call(sys.executable, *quick, cwd=source, **path)
    for script in ("mnist/train.py", "mnist/lrp.py", "vgg/lrp.py", "benchmarks/run.py", "benchmarks/load.py"):
        assert "usage" in call(sys.executable, script, "--help", cwd=source, **path)


@pytest.mark.parametrize("repository", [None, URL])
def test_what_a_package_index_shows(tmp_path: Path, repository: str | None) -> None:
    copy = copied(tmp_path / "copy")
    citation = copy / "CITATION.cff"
    text = re.sub(r"^repository-code:.*\n", "", citation.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text += f"repository-code: {repository}\n" if repository else ""
    citation.write_text(text, encoding="utf-8")
    call(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, cwd=copy)
    metadata = email.message_from_bytes((tmp_path / "lrp_tf.egg-info" / "PKG-INFO").read_bytes())
    page = metadata.get_payload(decode=True).decode("utf-8")
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL"))
    links = re.findall(r"(!?)\[[^][]+\]\(([^()\s]+)\)", page)
    assert all(target.startswith("https://") for _, target in links)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    code = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    assert code.findall(page) == code.findall(readme)
    if repository is None:
        assert set(urls) == {"Paper"}
        assert "Digits and their relevance (docs/digits.png)" in page
    else:
        assert urls["Source"] == URL
        assert {"Issues", "Documentation", "Changelog", "Paper"} <= set(urls)
        assert next(target for image, target in links if image) == f"{URL}/raw/HEAD/docs/digits.png"
        inside = {target.split("/HEAD/")[1] for _, target in links if target.startswith(URL)}
        assert {"docs/photographs.md", "docs/photographs.jpg", "CHANGELOG.md"} <= inside
        assert all((REPOSITORY / target.split("#")[0]).exists() for target in inside)


def test_wheel_explains_a_model_in_an_empty_environment(source: Path, tmp_path: Path) -> None:
    wheel = built("wheel", source, tmp_path / "dist")
    assert {Path(n).suffix for n in zipfile.ZipFile(wheel).namelist() if n.startswith("lrp_tf/")} == {
        *(".py", ".typed", ".html", ".css", ".js")
    }

    environment = tmp_path / "empty"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    target = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path)
    # Its dependencies are lent from here, behind its own packages; the editable lrp_tf of this environment is not,
    # since .pth files of a folder that a .pth file adds are not read.
    Path(target, "lent.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    out = call(python, "-c", PROGRAM.format(environment=str(environment.resolve())), cwd=tmp_path, PYTHONPATH="")
    assert out.startswith("explained by")
    assert (tmp_path / "map.png").stat().st_size > 50

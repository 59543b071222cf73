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

import cv2
import keras
import numpy as np
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
model.save("model.keras")
print("explained by", lrp_tf.__version__)
"""
# No network in tests: builds use this environment's setuptools.
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"
FOLDERS = ("lrp_tf", "tests", "docs", "mnist", "vgg", "benchmarks", "notebooks")
# What the scripts write beside themselves, as .gitignore has it.
WRITTEN = [
    Path(line).name
    for line in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    if line.startswith(("mnist/", "vgg/"))
]
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", *WRITTEN)
SUFFIXES = {".py", ".typed", ".html", ".css", ".js"}
URL = "https://example.org/owner/lrp_tf"


def call(*command: object, cwd: Path, **environment: str) -> str:
    env = {**os.environ, **environment}
    finished = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def copied(to: Path) -> Path:
    """What the repository holds, but for what only a repository needs (.ci, .github) and what was made in it."""
    to.mkdir()
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, to / folder, ignore=MADE)
    for file in REPOSITORY.iterdir():
        if file.is_file() and (file.name == ".gitignore" or not file.name.startswith(".")) and file.name != "PKG-INFO":
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
    assert {"logs", "results", "study"} <= set(WRITTEN)
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


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Python of an environment that holds the wheel, and the folder of its packages."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = built("wheel", source, folder / "dist")
    assert {Path(n).suffix for n in zipfile.ZipFile(wheel).namelist() if n.startswith("lrp_tf/")} == SUFFIXES
    environment = folder / "empty"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    target = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=folder)
    # Its dependencies are lent from here, behind its own packages; the editable lrp_tf of this environment is not,
    # since .pth files of a folder that a .pth file adds are not read.
    Path(target, "lent.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python, Path(target)


def test_wheel_explains_a_model_in_an_empty_environment(installed: tuple[Path, Path], tmp_path: Path) -> None:
    python, target = installed
    environment = target.parents[2]
    out = call(python, "-c", PROGRAM.format(environment=str(environment.resolve())), cwd=tmp_path, PYTHONPATH="")
    assert out.startswith("explained by")
    assert (tmp_path / "map.png").stat().st_size > 50


@pytest.mark.slow
def test_the_command_of_the_wheel_explains_a_picture(installed: tuple[Path, Path], tmp_path: Path) -> None:
    python, target = installed
    command = [python, target / "bin" / "lrp-tf"]  # where pip puts it with --target
    quiet = {"PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "lrp_tf 0." in done.stdout
    assert "explain-text" in call(*command, "--help", cwd=tmp_path, **quiet)
    stack = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input((8, 8, 1)), *stack]).save(tmp_path / "model.keras")
    picture = np.zeros((8, 8), np.uint8)
    picture[2:6, 3:5] = 255
    cv2.imwrite(str(tmp_path / "picture.png"), picture)
    wanted = ["picture.png", "--preprocess", "none", "--style", "heatmap", "--out", "out"]
    call(*command, "explain", "model.keras", *wanted, cwd=tmp_path, **quiet)
    (drawn,) = (tmp_path / "out").glob("*.png")
    colours = cv2.imread(str(drawn)).astype(int)
    assert (np.ptp(colours, axis=-1) > 60).any()  # red or blue; white and grey have three equal channels


def test_every_extra_that_is_named_exists() -> None:
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    known = set(re.findall(r'^        "(\w+)": [A-Z]+,$', setup, re.MULTILINE))
    assert {"volumes", "audio", "video", "docs", "dist", "browser", "test"} <= known
    texts = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    for folder in ("lrp_tf", "vgg", "mnist", "benchmarks"):
        texts += (REPOSITORY / folder).rglob("*.py")
    naming = re.compile(r"(?:lrp_tf|[\"' ]\.)\[(\w+(?:,\w+)*)\]|the extra [\"'`]+(\w+)[\"'`]")
    named = {}
    for path in texts:
        for pair in naming.findall(path.read_text(encoding="utf-8")):
            named |= {name: str(path) for name in ",".join(pair).split(",") if name}
    assert {"serving", "text", "mnist"} <= set(named)
    assert {name: path for name, path in named.items() if name not in known} == {}
    stamps = set(re.findall(r"\$\(VENV\)/\.(\w+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8")))
    assert stamps <= known


@pytest.mark.slow
def test_make_dist_makes_what_an_index_takes(tmp_path: Path) -> None:
    """The commands of `make dist`, without its virtual environment."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\ndist:")[1].split("\n\n")[0]
    assert "-m build --no-isolation" in recipe
    assert "twine check --strict dist/*" in recipe
    copy = copied(tmp_path / "copy")
    call(sys.executable, "-m", "build", "--no-isolation", cwd=copy)
    made = sorted((copy / "dist").iterdir())
    assert [path.name.split("-")[0] for path in made] == ["lrp_tf", "lrp_tf"]
    assert {path.suffix for path in made} == {".gz", ".whl"}
    call(sys.executable, "-m", "twine", "check", "--strict", *made, cwd=copy)

"""The wheel, alone in an empty environment, explains a model."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from conftest import REPOSITORY

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


def call(*command: object, cwd: Path) -> str:
    finished = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_wheel_explains_a_model_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    shutil.copytree(REPOSITORY / "lrp_tf", source / "lrp_tf", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # No network in tests: the build uses this environment's setuptools.
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("lrp_tf-*.whl")
    assert {Path(n).suffix for n in zipfile.ZipFile(wheel).namelist() if n.startswith("lrp_tf/")} == {".py", ".typed"}

    environment = tmp_path / "empty"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    target = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    call(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path)
    # Its dependencies are lent from here, behind its own packages; the editable lrp_tf of this environment is not,
    # since .pth files of a folder that a .pth file adds are not read.
    Path(target, "lent.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    out = call(python, "-c", PROGRAM.format(environment=str(environment.resolve())), cwd=tmp_path)
    assert out.startswith("explained by")
    assert (tmp_path / "map.png").stat().st_size > 50

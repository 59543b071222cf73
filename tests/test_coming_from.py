"""docs/coming-from.md: every line of lrp_tf in its tables runs and gives relevance of the right shape."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY

import lrp_tf
from lrp_tf import callbacks, composites, gradients, rules

PAGE = (REPOSITORY / "docs" / "coming-from.md").read_text(encoding="utf-8")
# The last cell of a row of two cells that ends in code.
ROWS = re.findall(r"^\| [^|]+ \| `([^|]+)` \|$", PAGE, re.MULTILINE)
X = np.random.default_rng(0).uniform(size=(2, 12, 12, 1)).astype("float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((12, 12, 1)),
        keras.layers.Conv2D(3, 3, activation="relu", name="conv1"),
        keras.layers.Conv2D(3, 3, activation="relu", name="conv2"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax", name="head"),
    ])  # fmt: skip


def test_every_library_has_rows() -> None:
    assert len(ROWS) > 40
    for library in ("iNNvestigate", "zennit", "captum", "SHAP", "tf-explain", "tf-keras-vis", "Grad-CAM by hand"):
        section = PAGE.split(f"\n## {library}\n")[1].split("\n## ")[0]
        assert any(f"`{code}`" in section for code in ROWS), library


@pytest.mark.parametrize("code", ROWS)
@pytest.mark.usefixtures("seldom_compiled")
def test_lines_run(code: str, model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "x": X, "background": X, "tf": tf, "keras": keras, "lrp_tf": lrp_tf}
    names |= {"rules": rules, "composites": composites, "gradients": gradients}
    found = eval(code, names)
    if "heatmap.save" in code:
        assert (tmp_path / "why.png").stat().st_size > 100
    elif "RelevanceLogger" in code:
        assert isinstance(found, callbacks.RelevanceLogger)
    elif "conservation" in code:
        assert found.shape == (2,)
    else:
        several = (2, 10, 12, 12, 1) if "range(10)" in code else (2, 12, 12, 1)
        shape = (2, 8, 8, 3) if ".layers[" in code else several[:3] if "reduce_sum" in code else several
        assert tuple(found.shape) == shape
        assert np.isfinite(found).all()
        assert np.abs(found).max() > 0

"""`lrp-tf explain` with a trained net on real photographs: the command in a process, and smoothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import rgb, table

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.files import images
from lrp_tf.gallery.draw import first_stride
from lrp_tf.heatmap.look import STYLES, Look

DATA = REPOSITORY.parent / "shared" / "data"


needs_data = pytest.mark.skipif(
    not (DATA / "photos").exists(), reason="needs ../shared/data: trained weights and photographs"
)


@pytest.fixture(scope="module")
def mobilenet():
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(DATA / "mobilenet075.weights.h5")
    return model


@pytest.mark.slow
@needs_data
def test_the_command_on_photographs(mobilenet, tmp_path):
    """A process of its own, a trained net, real photographs: all options at once, and what the pictures hold."""
    mobilenet.save(tmp_path / "mobilenet.keras")
    names = [DATA / "photos" / name for name in ("n02123045_tabby.jpg", "n02514041_barracouta.jpg")]  # bright, dark
    command = [sys.executable, "-m", "lrp_tf", "explain", "mobilenet.keras", *names, "--preprocess", "mobilenet"]
    command += ["--classes", DATA / "imagenet_class_index.json", "--target", "topK:2", "--style", "all"]
    command += ["--smooth", "auto", "--scale", "run", "--save-relevance"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("0 % of the score arrives at the pixels, biases absorb 100 %") == 4
    out = tmp_path / "results"
    scale = json.loads((out / "scale.json").read_text())["scale"]
    rows = table(out / "results.csv")
    fit = images.Fit(224, 224, "squash")
    largest = 0.0
    for row, k in zip(rows, (0, 1, 0, 1), strict=True):
        assert float(row["arrived"]) < 1e-4
        assert float(row["probability"]) == pytest.approx(float(row[f"top{k + 1}_probability"]))
        values = heatmap.smooth(np.load(out / f"{row['result']}.npy")[k].astype(float).sum(-1), 1)
        largest = max(largest, np.abs(values).max())
        photograph = images.read(row["file"])
        full = fit.restore(values, photograph.shape[:2])
        made = {style: rgb(out / f"{row['result']}.{style}.{k + 1}.png").astype(int) for style in STYLES[1:]}
        assert np.abs(made["heatmap"] - heatmap.to_rgb(full, scale=scale)).max() <= 2
        assert np.abs(made["overlay"] - heatmap.overlay(photograph, full, scale=scale)).max() <= 2
    assert scale == pytest.approx(largest, rel=1e-4)


@pytest.mark.slow
@needs_data
def test_auto_removes_the_lattice_of_mobilenet_and_keeps_the_sum(mobilenet):
    explainer = lrp_tf.Explainer(mobilenet, "epsilon_plus_flat")
    fit = images.Fit(224, 224, "squash")
    files = sorted((DATA / "photos").glob("*.jpg"))
    x = keras.applications.mobilenet.preprocess_input(np.stack([fit.apply(images.read(f)) for f in files]) * 1.0)
    maps = explainer(x.astype("float32"), target="top1").numpy().astype(float).sum(-1)
    assert first_stride(explainer) == 2
    smooth = np.stack([Look(smooth="auto").paint(2).values(m) for m in maps])
    np.testing.assert_allclose(smooth.sum((1, 2)), maps.sum((1, 2)), rtol=1e-12)

    def unevenness(values, period, axis):
        rows = (np.abs(values) / np.abs(values).max((1, 2), keepdims=True)).sum(0).sum(1 - axis)[8:-8]
        phases = [rows[i::period].mean() for i in range(period)]
        return max(phases) / min(phases)

    before, after = (
        [unevenness(v, period, axis) for period in (2, 4) for axis in (0, 1)] for v in (maps, smooth)
    )  # fmt: skip
    print(f"before {np.round(before, 2)}, after {np.round(after, 2)}")
    assert min(before) > 1.6
    assert max(before) > 2.7
    assert max(after[:2]) < 1.03
    assert max(after[2:]) < 1.15

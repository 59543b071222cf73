"""`--target`: ranks, numbers and names, one and several, are those of every image whatever the batch size."""

import re

import keras
import numpy as np
import pytest
from helpers.pictures import photos, table

import lrp_tf
from lrp_tf.cli import given
from lrp_tf.files import images, loading
from lrp_tf.gallery import run

NAMES = ("tabby", "tiger_cat", "fox", "cow", "dog", "owl", "bee")
# kind: (targets of the command line, of which five images get which ranks or classes)
ASKED = {
    "rank": (["top1"], [-1]),
    "ranks": (["topK:3"], [-1, -2, -3]),
    "number": (["4"], [4]),
    "numbers": (["4", "0", "5"], [4, 0, 5]),
    "name": (["tiger cat"], [1]),
    "names": (["tabby", "tiger_cat", "bee"], [0, 1, 6]),
    "mixed": (["top1", "2", "bee"], [-1, 2, 6]),
}
COUNT = 5


@pytest.fixture(scope="module")
def model(saved):
    return keras.models.load_model(saved)


@pytest.fixture(scope="module")
def explainer(model):
    return lrp_tf.Explainer(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("in"), COUNT)


@pytest.fixture(scope="module")
def alone(explainer, folder):
    """(image, class) -> relevance, each computed by itself; and the classes of each image by rank."""
    fit = images.Fit(32, 32, "squash")
    x = np.stack([fit.apply(images.read(path)) for path, _ in images.find([folder])]).astype("float32")
    order = np.argsort(-explainer.explain(x).logits.numpy(), axis=1)
    return order, {c: explainer(x, c).numpy() for c in range(len(NAMES))}


@pytest.fixture
def lrp_with(lrp, explainer, model, monkeypatch, tmp_path):
    """The command with one model and one explainer for all runs, so that each is compiled once."""
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    monkeypatch.setattr(given, "load_model", lambda options: model)
    monkeypatch.setattr(given, "explainer_of", lambda *arguments: explainer)
    return lrp


# 2 leaves a rest of one image; 3 is the number of targets and leaves a rest, too
@pytest.mark.parametrize("batch", [1, 2, 3, COUNT])
@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.usefixtures("seldom_compiled")
def test_every_image_gets_every_target(lrp_with, saved, folder, alone, kind, batch):
    texts, wanted = ASKED[kind]
    options = ("--preprocess", "none", "--classes", "names.txt", "--save-relevance", "--style", "heatmap")
    code, _, err = lrp_with("explain", saved, folder, *options, "--batch", batch, "--target", *texts)
    assert code == 0, err
    order, by_class = alone
    rows = table("results/results.csv")
    assert len(rows) == COUNT * len(wanted)
    for i in range(COUNT):
        classes = [c if c >= 0 else int(order[i, -c - 1]) for c in wanted]
        mine = rows[i * len(wanted) : (i + 1) * len(wanted)]
        assert [int(row["target"]) for row in mine] == classes
        assert [row["target_name"] for row in mine] == [NAMES[c] for c in classes]
        found = np.load(f"results/photo{i}.npy")
        expected = by_class[classes[0]][i] if len(wanted) == 1 else np.stack([by_class[c][i] for c in classes])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.usefixtures("seldom_compiled")
def test_report_takes_the_same_targets(lrp_with, saved, folder, explainer, alone, kind):
    texts, wanted = ASKED[kind]
    arguments = ("report", saved, folder / "photo1.png", "--preprocess", "none", "--classes", "names.txt")
    code, out, err = lrp_with(*arguments, "--target", *texts)
    assert code == 0, err
    order, by_class = alone
    total = float(re.search(r"^ *total +\S+ +(\S+)", out, re.MULTILINE)[1])
    expected = sum(by_class[c if c >= 0 else int(order[1, -c - 1])][1].sum() for c in wanted)
    np.testing.assert_allclose(total, expected, rtol=1e-3)


@pytest.mark.parametrize("targets", [("top1",), ("topK:2",), (3,), (3, 0), ("top1", 2)], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_gallery_from_python(explainer, folder, tmp_path, targets, batch):
    job = run.Gallery(
        explainer, loading.get_preprocessing("none"), tmp_path, targets=targets, batch=batch, look=run.Look(())
    )
    assert job.run(images.find([folder])).done == COUNT
    found = [int(row["target"]) for row in table(tmp_path / "results.csv")]
    if isinstance(targets[-1], int) and "top1" not in targets:
        assert found == list(targets) * COUNT

"""`--contrast` and exported contrast: the maps are the Explainer's, and one bad sample costs its neighbours nothing."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.pictures import photos, table
from helpers.served import call, digits
from PIL import Image

import lrp_tf
from lrp_tf.files import images

NAMES = ("tabby", "tiger_cat", "fox", "cow", "dog", "owl", "bee")
LOOK = ("--preprocess", "none", "--classes", "names.txt", "--save-relevance", "--style", "heatmap")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return photos(tmp_path / "in", 5)


@pytest.fixture
def fed(folder):
    fit = images.Fit(32, 32, "squash")
    return np.stack([fit.apply(images.read(path)) for path, _ in images.find([folder])]).astype("float32")


@pytest.mark.parametrize("contrast", ["softmax", "mean", "owl", "5"])
@pytest.mark.usefixtures("seldom_compiled")
def test_maps_rows_and_titles(lrp, saved, folder, fed, tmp_path, contrast):
    code, _, err = lrp("explain", saved, folder, *LOOK, "--target", "tabby", "--contrast", contrast, "--batch", 2)
    assert code == 0, err
    explainer = lrp_tf.Explainer(keras.models.load_model(saved))
    wanted = explainer.explain(fed, 0, contrast=5 if contrast in ("owl", "5") else contrast)
    rows = table("results/results.csv")
    for i, row in enumerate(rows):
        found = np.load(tmp_path / "results" / f"{row['result']}.npy")
        np.testing.assert_allclose(found, wanted.relevance[i], atol=1e-5 * np.abs(wanted.relevance[i]).max())
        assert float(row["start"]) == pytest.approx(float(wanted.conservation.start[i]), rel=1e-5)
        assert float(row["logit"]) == pytest.approx(float(wanted.logits[i, 0]), rel=1e-5)
        assert row["contrast"] == ("5" if contrast == "owl" else contrast)
    settings = json.loads((tmp_path / "results/settings.json").read_text())
    assert settings["contrast"] == (5 if contrast in ("owl", "5") else contrast)
    code, _, err = lrp("explain", saved, folder, *LOOK, "--target", "tabby", "--resume")
    assert code == 2
    assert "other settings: contrast" in err


@pytest.mark.parametrize("scale", [[], ["--scale", "run"]])
def test_an_image_of_the_class_of_contrast_costs_one_line(lrp, saved, folder, tmp_path, scale):
    (tmp_path / "plain").mkdir()
    fed = np.zeros((3, 32, 32, 3), "uint8")
    for i, colour in enumerate(("red", "green", "blue")):
        fed[i, ..., i] = 255
        Image.fromarray(fed[i]).save(tmp_path / "plain" / f"{i}-{colour}.png")
    explainer = lrp_tf.Explainer(keras.models.load_model(saved))
    tops = np.argsort(-explainer.explain(fed.astype("float32")).logits.numpy(), axis=1)
    among = {(k, c): (tops[:, :k] == c).any(1) for k in range(1, 7) for c in range(7)}
    (k, rival), same = next((at, found) for at, found in among.items() if found.any() and not found.all())
    code, out, _ = lrp("explain", saved, "plain", *LOOK, *scale, "--target", f"topK:{k}", "--contrast", rival)
    assert code == 1
    assert f"{same.sum()} failed" in out
    assert len(table("results/results.csv")) == k * (~same).sum()
    assert [row["reason"] for row in table("results/failures.csv")] == [
        f"it is seen as {NAMES[rival]}, and so nothing speaks for it rather than {NAMES[rival]}"
    ] * same.sum()


def test_report_and_refusals(lrp, saved, folder):
    photo = next(path for path, _ in images.find([folder]))
    options = ("--preprocess", "none", "--classes", "names.txt", "--target", "fox")
    code, plain, _ = lrp("report", saved, photo, *options)
    assert code == 0
    code, against, _ = lrp("report", saved, photo, *options, "--contrast", "softmax")
    assert code == 0
    assert plain != against
    for contrast, words in (("fox", "is a target itself"), ("7", "out of range"), ("wolf", "no class has this name")):
        code, _, err = lrp("report", saved, photo, *options, "--contrast", contrast)
        assert code == 2
        assert words in err


@pytest.fixture(scope="module")
def explainer():
    keras.utils.set_random_seed(0)
    return lrp_tf.Explainer(digits(), "epsilon")


X = np.random.default_rng(3).uniform(size=(5, 28, 28, 1)).astype("float32")


def test_a_signature_takes_what_each_target_is_set_against(explainer, tmp_path):
    exported = lrp_tf.export(explainer, tmp_path / "1", warmup=False, print_fn=None)
    loaded = tf.saved_model.load(str(exported.path))
    target, rival = np.array([1, 2, 3, 4, 10], np.int32), np.array([0, 2, 10, 9, 1], np.int32)
    found = call(loaded, "explain_contrast", digit=X, target=target, contrast=rival)
    wrong = b"target out of range"
    assert found["status"].tolist() == [b"ok", b"the target is the class of contrast", wrong, b"ok", wrong]
    good = [0, 3]
    wanted = explainer(X[good], target[good], contrast=rival[good])
    np.testing.assert_allclose(found["relevance"][good], wanted, atol=2e-6 * np.abs(wanted).max())
    assert np.isnan(found["relevance"][[1, 2, 4]]).all()
    assert np.isfinite(found["outputs"]).all()


@pytest.mark.parametrize("contrast", ["softmax", "mean", np.int64(7)])
def test_all_signatures_with_one_contrast(explainer, tmp_path, contrast):
    exported = lrp_tf.export(explainer, tmp_path / "1", contrast=contrast, top_k=2, warmup=False, print_fn=None)
    assert "explain_contrast" not in exported.signatures
    about = json.loads((exported.path / "assets.extra/lrp_tf.json").read_text())
    assert about["contrast"] == contrast
    loaded = tf.saved_model.load(str(exported.path))
    target = np.array([1, 2, 3, 4, 5], np.int32)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())  # noqa: E731
    close(call(loaded, "explain_target", digit=X, target=target)["relevance"], explainer(X, target, contrast=contrast))
    found, several = call(loaded, "explain", digit=X), call(loaded, "explain_top_k", digit=X)
    tops = np.argsort(-explainer.explain(X).logits.numpy(), axis=1)
    for i, status in enumerate(found["status"]):
        same = contrast == tops[i, 0]
        assert status == (b"the target is the class of contrast" if same else b"ok")
        if not same:
            close(found["relevance"][i], explainer(X[i : i + 1], contrast=contrast)[0])
        if contrast not in tops[i, :2]:
            close(several["relevance"][i], explainer(X[i : i + 1], "topK:2", contrast=contrast)[0])
        else:
            assert several["status"][i] == b"the target is the class of contrast"


def test_contrast_that_the_model_does_not_have(explainer, tmp_path):
    for contrast, error in (("max", TypeError), (10, ValueError), ([3], ValueError)):
        with pytest.raises(error, match="contrast"):
            lrp_tf.export(explainer, tmp_path / "1", contrast=contrast, warmup=False)
    assert list(tmp_path.iterdir()) == []

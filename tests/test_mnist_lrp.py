"""The digits drivers end to end, and whether the maps mean something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from scipy.stats import spearmanr

import lrp_tf
from lrp_tf import composites
from lrp_tf.training import digits

SHARED_MNIST = REPOSITORY.parent / "shared" / "data" / "mnist.npz"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error::UserWarning", str(REPOSITORY / "mnist" / script), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY.anchor,
        env={**os.environ, "MPLBACKEND": "agg"},
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The digits CNN as the driver trains it: file, what was printed, seconds."""
    out = tmp_path_factory.mktemp("logs")
    begin = time.perf_counter()
    finished = run("train.py", "--dataset", "digits", "--out", out)
    assert finished.returncode == 0, finished.stderr
    return out / "model.keras", finished.stdout, time.perf_counter() - begin


@pytest.fixture(scope="session")
def model(trained: tuple[Path, str, float]) -> keras.Model:
    return keras.models.load_model(trained[0], compile=False)


def test_training_reaches_97_percent(trained: tuple[Path, str, float]) -> None:
    accuracy, images = re.search(r"test accuracy: ([\d.]+) on (\d+) images", trained[1]).groups()
    assert float(accuracy) >= 0.97
    assert int(images) >= 360


def table(stdout: str) -> np.ndarray:
    """The printed numbers: digit, predicted, explained, logit, ΣR, bias, stabilizer, other, rest."""
    rows = [line.split() for line in stdout.splitlines() if re.match(r"\s+\d\s+\d\s+\d\s", line)]
    return np.array(rows, float)


@pytest.mark.parametrize("composite", [pytest.param("epsilon_plus", marks=pytest.mark.slow), "tutorial"])
def test_lrp_driver(trained: tuple[Path, str, float], tmp_path: Path, composite: str) -> None:
    finished = run("lrp.py", "--model", trained[0], "--dataset", "digits", "--out", tmp_path, "--composite", composite)
    assert finished.returncode == 0, finished.stderr
    assert "Remark" not in finished.stdout
    rows = table(finished.stdout)
    assert rows[:, 0].tolist() == list(range(10))
    assert (rows[:, 1] == rows[:, 0]).sum() >= 8  # most of them are recognised
    np.testing.assert_allclose(rows[:, 3], rows[:, 4:9].sum(axis=1), atol=2e-4)
    assert (np.abs(rows[:, 8]) < 1e-5 * np.abs(rows[:, 3])).all()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([*(f"digit_{d}.png" for d in range(10)), "digits.png", "why_not.png"])
    for digit in range(10):
        picture = cv2.cvtColor(cv2.imread(str(tmp_path / f"digit_{digit}.png")), cv2.COLOR_BGR2RGB).astype(int)
        half = picture.shape[1] // 2
        left, right = picture[60:-15, 15 : half - 15], picture[60:-15, half + 15 : -15]
        assert (left.max(axis=-1) - left.min(axis=-1)).max() == 0  # the digit is grey
        assert left.max() > 150
        assert left.min() < 10
        colour = right[..., 0] - right[..., 2]
        assert (colour > 100).mean() > 0.01  # there is red
        assert (right == 255).all(axis=-1).mean() > 0.2  # and the background is white


def test_lrp_driver_options(trained: tuple[Path, str, float], tmp_path: Path) -> None:
    options = ("--out", tmp_path, "--digits", 3, 8, "--target", 8, "--format", "webp")
    finished = run("lrp.py", "--model", trained[0], "--dataset", "digits", *options)
    assert finished.returncode == 0, finished.stderr
    rows = table(finished.stdout)
    assert rows[:, 0].tolist() == [3, 8]
    assert rows[:, 2].tolist() == [8, 8]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["digit_3.webp", "digit_8.webp", "digits.webp", "why_not.webp"]
    assert all(cv2.imread(str(tmp_path / name)) is not None for name in names)


@pytest.mark.slow
def test_lrp_driver_remarks_on_data_of_another_kind(trained: tuple[Path, str, float], tmp_path: Path) -> None:
    own = digits.load("digits")
    arrays = {"x_train": own.x_train, "x_test": own.x_test}
    arrays = {name: (255 * x[..., 0]).astype(np.uint8) for name, x in arrays.items()}
    np.savez(tmp_path / "other.npz", y_train=own.y_train, y_test=own.y_test, **arrays)
    found = run("lrp.py", "--model", trained[0], "--dataset", tmp_path / "other.npz", "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert "Remark: the model was trained on digits, these images are other.npz" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere.keras"], "nowhere.keras"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["--model", "{model}", "--composite", "epsilon_pluss"], "Did you mean 'epsilon_plus'"),
                (["--model", "{model}", "--digits", "10"], "10"),
                (["--model", "{text}"], "cannot be read"),
            )
        ),
    ],
)
def test_lrp_driver_mistakes(trained: tuple[Path, str, float], tmp_path: Path, arguments: list, message: str) -> None:
    (tmp_path / "text.keras").write_text("no model")
    places = {"model": trained[0], "text": tmp_path / "text.keras"}
    finished = run("lrp.py", "--dataset", "digits", "--out", tmp_path / "out", *[a.format(**places) for a in arguments])
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    # TensorFlow's own notes aside, the mistake takes one line.
    assert sum("lrp.py: error:" in line for line in finished.stderr.splitlines()) == 1
    assert message in finished.stderr.strip().splitlines()[-1]


# --- do the maps mean something? ---------------------------------------------------------------


def blank(images: np.ndarray, scores: np.ndarray, fraction: float = 0.2) -> np.ndarray:
    """Images with the share `fraction` of their ink pixels blanked, those with the highest scores."""
    out = images.copy()
    for image, score in zip(out, scores, strict=True):
        ink = np.flatnonzero(image.ravel() > 0)
        count = max(1, round(fraction * len(ink)))
        image.reshape(-1)[ink[np.argsort(-score.ravel()[ink], kind="stable")[:count]]] = 0.0
    return out


def drops(model: keras.Model, images: np.ndarray, target: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How much the logit of `target` falls when the highest-scored ink goes. [N]."""
    logits = lrp_tf.clone_with_rules(model, "epsilon")
    before, after = (logits(batch).numpy() for batch in (images, blank(images, scores)))
    rows = np.arange(len(images))
    return before[rows, target] - after[rows, target]


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def beats_both(model: keras.Model, images: np.ndarray, name: str) -> bool:
    """Whether relevance finds the ink that matters better than chance and better than brightness."""
    bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
    explanation = lrp_tf.Explainer(model, composites.get(name, **bounds)).explain(images)
    target = explanation.target.numpy()
    lrp = interval(drops(model, images, target, explanation.relevance.numpy()))
    random = np.random.default_rng(0).random(images.shape)
    chance = interval(drops(model, images, target, random))
    brightest = interval(drops(model, images, target, images))
    print(f"{name}: relevance {lrp}, random {chance}, brightest {brightest}")
    return lrp[0] > chance[1] and lrp[0] > brightest[1]


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return digits.load_digits().x_test[:300]


@pytest.mark.parametrize("name", ["tutorial", "epsilon_plus"])
def test_relevant_ink_matters(model: keras.Model, images: np.ndarray, name: str) -> None:
    assert len(images) >= 200
    assert beats_both(model, images, name)


@pytest.mark.parametrize("name", ["tutorial", "epsilon_plus"])
def test_a_shuffled_net_fails_that_test(model: keras.Model, images: np.ndarray, name: str) -> None:
    """Relevance of another net, with the trained one's weights shuffled, does not find the trained one's ink."""
    shuffled = keras.models.clone_model(model)
    rng = np.random.default_rng(0)
    shuffled.set_weights([rng.permutation(w.ravel()).reshape(w.shape) for w in model.get_weights()])
    bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
    target = np.argmax(model.predict(images, verbose=0), axis=-1)
    relevance = lrp_tf.Explainer(shuffled, composites.get(name, **bounds))(images, target).numpy()
    lrp = interval(drops(model, images, target, relevance))
    brightest = interval(drops(model, images, target, images))
    chance = interval(drops(model, images, target, rng.random(images.shape)))
    assert not (lrp[0] > chance[1] and lrp[0] > brightest[1])


@pytest.mark.parametrize("name", ["tutorial", "epsilon_plus"])
def test_maps_of_two_classes_differ(model: keras.Model, images: np.ndarray, name: str) -> None:
    bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
    logits = lrp_tf.clone_with_rules(model, "epsilon")(images[:50]).numpy()
    two = np.argsort(-logits, axis=1)[:, :2]
    relevance = lrp_tf.Explainer(model, composites.get(name, **bounds))(images[:50], two).numpy()
    for image, (first, second) in zip(images, relevance, strict=False):
        ink = image.ravel() > 0
        assert spearmanr(first.ravel()[ink], second.ravel()[ink]).statistic < 0.9


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MNIST.exists(), reason="needs all of MNIST, which the repository does not carry")
def test_mnist_reaches_99_percent(tmp_path: Path) -> None:
    finished = run("train.py", "--dataset", SHARED_MNIST, "--out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert float(re.search(r"test accuracy: ([\d.]+)", finished.stdout).group(1)) >= 0.99
    explained = run(
        "lrp.py", "--model", tmp_path / "model.keras", "--dataset", SHARED_MNIST, "--out", tmp_path / "results"
    )
    assert explained.returncode == 0, explained.stderr
    rows = table(explained.stdout)
    np.testing.assert_allclose(rows[:, 3], rows[:, 4:9].sum(axis=1), atol=2e-4)
    assert (tmp_path / "results" / "digits.png").exists()

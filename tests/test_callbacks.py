"""`RelevanceLogger`: what it writes, that training computes the same numbers with it, and what it refuses."""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import lrp_tf
from lrp_tf.callbacks import RelevanceLogger
from lrp_tf.callbacks.numbers import curves, share_inside


def digits(count: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [N, 8, 8, 1] with a bright square at the left (class 0) or right (class 1), classes, masks."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.1, size=(count, 8, 8, 1)).astype("float32")
    y = np.arange(count) % 2
    masks = np.zeros((count, 8, 8), bool)
    for i, kind in enumerate(y):
        masks[i, 2:6, 4 * kind : 4 * kind + 4] = True
    x[masks] += 0.9
    return x, y, masks


def net(units: int = 2, **compiling: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation="softmax" if units > 1 else "sigmoid"),
    ])  # fmt: skip
    loss = "sparse_categorical_crossentropy" if units > 1 else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(0.02), loss, **compiling)
    return model


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "relevance.csv", newline="") as file:
        return list(csv.DictReader(file))


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **more: Any) -> None:
    x, y, _ = digits()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=list(callbacks), **{"epochs": 2, **more})


def test_the_folder_holds_maps_and_numbers(tmp_path: Path) -> None:
    x, y, masks = digits()
    model = net()
    logger = RelevanceLogger(x[:2], log_dir=tmp_path / "log", target=y[:2], masks=masks[:2])
    fit(model, logger, epochs=4)
    rows = rows_of(tmp_path / "log")
    assert [(row["epoch"], row["image"], row["target"]) for row in rows] == [
        (str(epoch), str(i), str(y[i])) for epoch in (1, 2, 3, 4) for i in (0, 1)
    ]
    # The last row is what an explainer of the trained model says.
    found = lrp_tf.Explainer(model, "epsilon_plus_flat").explain(x[:2], y[:2])
    last = rows[-2:]
    np.testing.assert_allclose(
        [float(row["sum_of_relevance"]) for row in last], found.conservation.relevance, rtol=1e-4
    )
    np.testing.assert_allclose([float(row["bias"]) for row in last], found.conservation.bias, rtol=1e-4, atol=1e-6)
    logits = found.logits.numpy()[[0, 1], y[:2]]
    np.testing.assert_allclose([float(row["logit"]) for row in last], logits, rtol=1e-4)
    inside = share_inside(found.relevance.numpy().sum(-1), masks[:2])
    np.testing.assert_allclose([float(row["share_inside"]) for row in last], inside, rtol=1e-4)
    assert all(row["similarity"] == "" for row in rows[:2])
    assert all(-1 <= float(row["similarity"]) <= 1 for row in rows[2:])
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        *(f"epoch-000{n}.png" for n in (1, 2, 3, 4)),
        "relevance.csv",
    ]
    picture = cv2.imread(str(tmp_path / "log" / "epoch-0004.png")).astype(int)
    colour = picture.max(-1) - picture.min(-1)  # images are grey, maps are coloured
    columns = (colour > 40).sum(axis=0)
    quarter = picture.shape[1] // 4
    assert columns[quarter : 2 * quarter].sum() > 0
    assert columns[3 * quarter :].sum() > 0
    assert columns[: quarter - 10].sum() == 0


@pytest.mark.parametrize(
    ("to", "jit"),
    [
        ("folder", False),
        ("tensorboard", False),
        ("folder", True),
        pytest.param("tensorboard", True, marks=pytest.mark.slow),
    ],
)
def test_training_computes_the_same_numbers(tmp_path: Path, to: str, jit: bool) -> None:
    x, _, _ = digits()
    plain, logged = net(jit_compile=jit), net(jit_compile=jit)
    keras.utils.set_random_seed(5)
    fit(plain)
    keras.utils.set_random_seed(5)
    fit(logged, RelevanceLogger(x[:2], log_dir=tmp_path / "log", to=to))
    for a, b in zip(plain.get_weights(), logged.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensorboard_holds_images_and_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    x, y, masks = digits()
    fit(net(), RelevanceLogger(x[:3], to="tensorboard", log_dir=tmp_path / "log", masks=masks[:3], target=y[:3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's own reader
        events = EventAccumulator(str(tmp_path / "log"), size_guidance={"tensors": 0})
        events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"relevance/{name}" for name in ("arrived", "bias", "share_inside", "similarity")} <= tags
    assert {f"relevance/image {i}" for i in range(3)} <= tags
    assert [event.step for event in events.Tensors("relevance/share_inside")] == [1, 2]
    encoded = tf.make_ndarray(events.Tensors("relevance/image 0")[-1].tensor_proto)[2]
    picture = tf.io.decode_png(encoded).numpy().astype(int)
    assert picture.shape == (8, 16, 3)
    assert np.ptp(picture[:, :8], axis=-1).max() == 0  # the image is grey
    assert np.ptp(picture[:, 8:], axis=-1).max() > 100  # its map is not


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (7, [])])
def test_every_and_a_second_fit(tmp_path: Path, every: int, epochs: list[int]) -> None:
    x, _, _ = digits()
    model, logger = net(), RelevanceLogger(x[:1], every, "epsilon", tmp_path)
    fit(model, logger, epochs=3)
    explainer = logger.explainer
    fit(model, logger, epochs=2)  # Keras counts from 0 again
    assert logger.explainer is explainer
    assert [int(row["epoch"]) for row in rows_of(tmp_path)] == epochs if epochs else not list(tmp_path.glob("*.csv"))


def test_a_training_that_continues_keeps_the_rows_before(tmp_path: Path) -> None:
    x, _, _ = digits()
    model = net()
    fit(model, RelevanceLogger(x[:1], log_dir=tmp_path), epochs=3)
    first = rows_of(tmp_path)
    fit(model, RelevanceLogger(x[:1], log_dir=tmp_path), epochs=4, initial_epoch=2)  # the third epoch once more
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[:2] == first[:2]
    assert rows[2] != first[2]
    weights = model.get_weights()
    with pytest.raises(FileExistsError, match="earlier training"):
        fit(model, RelevanceLogger(x[:1], log_dir=tmp_path))
    assert rows_of(tmp_path) == rows
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)  # told before the first step
    assert {path.name for path in tmp_path.glob("*.png")} == {f"epoch-000{n}.png" for n in (1, 2, 3, 4)}
    (tmp_path / "epoch-notes.png").write_bytes(b"of the user")
    fit(model, RelevanceLogger(x[:1], log_dir=tmp_path), epochs=3, initial_epoch=2)  # the fourth is no longer there
    assert {path.name for path in tmp_path.glob("*0*.png")} == {f"epoch-000{n}.png" for n in (1, 2, 3)}
    fit(model, RelevanceLogger(x[:1], log_dir=tmp_path, overwrite=True), epochs=1)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"epoch-0001.png", "epoch-notes.png"}
    (tmp_path / "relevance.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        fit(model, RelevanceLogger(x[:1], log_dir=tmp_path), epochs=4, initial_epoch=3)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
@pytest.mark.parametrize("units", [1, 2])
def test_every_precision_and_a_single_unit(tmp_path: Path, policy: str, units: int) -> None:
    x, _, _ = digits()
    keras.config.set_dtype_policy(policy)
    try:
        model = net(units)
    finally:
        keras.config.set_dtype_policy("float32")
    fit(model, RelevanceLogger(x[:2], log_dir=tmp_path, target=None if units > 1 else [1, 0]), epochs=1)
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    if units == 1:
        value = lrp_tf.Explainer(model).explain(x[:2]).logits.numpy()[:, 0]
        np.testing.assert_allclose([float(row["logit"]) for row in rows], value * [1, -1], rtol=1e-3)


def test_a_model_that_fit_builds(tmp_path: Path) -> None:
    x, _, _ = digits()
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, RelevanceLogger(x[:1], log_dir=tmp_path), epochs=1)
    assert len(rows_of(tmp_path)) == 1


def test_features_and_signals_have_numbers_alone(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    logger = RelevanceLogger(x[:2], log_dir=tmp_path, composite="epsilon", masks=np.ones((2, 5), bool))
    model.fit(x, np.arange(6) % 2, verbose=0, callbacks=[logger])
    assert [float(row["share_inside"]) for row in rows_of(tmp_path)] == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["relevance.csv"]


class Break(keras.callbacks.Callback):
    """At the end of the second epoch, ahead of the logger, a weight is NaN; the third begins with it as it was."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == 1:
            self.kept = self.model.get_weights()
            self.model.layers[-1].bias.assign(self.kept[-1] * np.nan)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == 2:
            self.model.set_weights(self.kept)


def test_maps_that_are_not_finite_lose_no_training(tmp_path: Path) -> None:
    x, _, _ = digits()
    with pytest.warns(lrp_tf.RelevanceWarning, match="epoch 2 is not logged"):
        fit(net(), Break(), RelevanceLogger(x[:1], log_dir=tmp_path), epochs=3)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1", "3"]


def test_a_folder_that_goes_loses_no_training(tmp_path: Path) -> None:
    x, _, _ = digits()

    class Remove(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            if epoch == 1:
                for file in (tmp_path / "log").iterdir():
                    file.unlink()
                (tmp_path / "log").rmdir()
                (tmp_path / "log").write_text("a file in its place")

    with pytest.warns(lrp_tf.RelevanceWarning, match="epoch 2 is not logged"):
        fit(net(), Remove(), RelevanceLogger(x[:1], log_dir=tmp_path / "log"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((0, 8, 8, 1))}, "batch of images"),
        ({"images": np.zeros(3)}, "batch of images"),
        ({"every": 0}, "at least 1"),
        ({"every": True}, "at least 1"),
        ({"every": 1.5}, "at least 1"),
        ({"to": "board"}, "folder, tensorboard"),
        ({"masks": np.ones((2, 8, 8, 1), bool)}, "without channels"),
        ({"masks": np.ones((2, 8, 8))}, "bool"),
    ],
)
def test_mistakes_are_told_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelevanceLogger(**{"images": np.zeros((2, 8, 8, 1)), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((2, 7, 8, 1))}, "shape"),
        ({"target": 5}, "5"),
        ({"target": [[0, 1], [0, 1]]}, "one target"),
        ({"composite": "epsilonn"}, "epsilonn"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path: Path, arguments: dict, message: str) -> None:
    model = net()
    before = model.get_weights()
    with pytest.raises((ValueError, TypeError), match=message):
        fit(model, RelevanceLogger(**{"images": np.zeros((2, 8, 8, 1)), "log_dir": tmp_path, **arguments}))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_tensorboard_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"lrp_tf\[tensorboard\]"):
        RelevanceLogger(np.zeros((1, 4, 4)), to="tensorboard")


def test_curves_leave_out_what_is_not_known() -> None:
    row = {"start": 2.0, "sum_of_relevance": 1.0, "bias": 1.0, "stabilizer": 0.0, "other": 0.0, "positions": 0.0}
    nothing = {**row, "start": 0.0, "share_inside": float("nan"), "similarity": float("nan")}
    found = curves([{**row, "share_inside": 0.25, "similarity": float("nan")}, nothing])
    assert found == {"arrived": 0.5, "bias": 0.5, "stabilizer": 0, "other": 0, "positions": 0, "share_inside": 0.25}
    assert np.isnan(share_inside(np.zeros((1, 2, 2)), np.ones((1, 2, 2), bool))).all()

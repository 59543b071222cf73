"""`compare`: what is kept, what is refused, what fails alone, and a run that was killed."""

from __future__ import annotations

import csv
import functools
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from keras import layers as kl

import lrp_tf
from lrp_tf import evaluate
from lrp_tf.evaluate import Comparison, Metric, compare

X = np.random.default_rng(0).normal(size=(10, 6, 5, 2)).astype(np.float32)
Y = np.arange(10) % 3


def predict(x: np.ndarray) -> np.ndarray:
    return x[:, 0, :3].sum(axis=-1)


def total(case: evaluate.Case) -> np.ndarray:
    return case.positions.sum((1, 2))


def noisy(case: evaluate.Case, *, scale: float = 1.0) -> np.ndarray:
    return total(case) + scale * np.asarray([g.normal() for g in case.generators("noisy")])


def undefined(case: evaluate.Case) -> np.ndarray:
    return np.where(case.ids % 4 == 0, np.nan, total(case))


TOTAL = Metric("total", total, "faithfulness", "higher", "none")
NOISY = Metric("noisy", noisy, "faithfulness", "higher", "none")
UNDEFINED = Metric("undefined", undefined, "complexity", "lower", "none")
CALLS: list[int] = []


def itself(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    CALLS.append(len(x))
    return x


def more(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    return x + 0.1 if x.dtype.name in {"float16", "float32", "float64"} else x  # whose order differs in every process


METHODS = {"x": itself, "more": more, "chance": "random"}


def test_every_value_is_kept_and_no_batch_changes_it() -> None:
    counted: list[int] = []
    whole = compare(METHODS, X, Y, predict=predict, metrics=[TOTAL, NOISY], batch_size=10, progress=counted.append)
    assert whole.values.shape == (3, 2, 10)
    assert counted == [10, 10, 10]
    np.testing.assert_allclose(whole.of("x", "total"), X.sum((1, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(whole.target, Y)
    apart = compare(METHODS, X, Y, predict=predict, metrics=[TOTAL, NOISY], batch_size=3)
    np.testing.assert_array_equal(apart.values, whole.values)
    assert not np.array_equal(compare(METHODS, X, predict=predict, metrics=[NOISY], seed=1).values[0], whole.values[0])


def test_a_stream_with_labels_and_masks_gives_what_an_array_gives() -> None:
    masks = X[..., 0] > 0
    where = lambda case: case.masks.mean((1, 2)) + case.target  # noqa: E731
    inside = Metric("inside", where, "localisation", "higher", "", ("masks",))
    want = compare(METHODS, X, Y, predict=predict, metrics=[inside, NOISY], masks=masks)
    stream = tf.data.Dataset.from_tensor_slices((X, Y, masks)).batch(4)
    second, third = (lambda element: element[1]), (lambda element: element[2])
    found = compare(METHODS, stream, second, predict=predict, metrics=[inside, NOISY], masks=third)
    np.testing.assert_array_equal(found.values, want.values)
    predicted = compare(METHODS, iter([X[:4], X[4:]]), predict=predict, metrics=[TOTAL])
    np.testing.assert_array_equal(predicted.target, predict(X).argmax(1))


def test_relevance_is_computed_once_for_all_metrics() -> None:
    calls: list[int] = []

    def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return x

    compare({"a": explain}, X, Y, predict=predict, metrics=[TOTAL, NOISY, UNDEFINED], batch_size=4)
    assert calls == [4, 4, 2]


def test_what_fails_costs_its_own_values_alone() -> None:
    def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        if (x[:, 0, 0, 0] == X[3, 0, 0, 0]).any():
            raise RuntimeError("no relevance today")
        return np.where(x == X[5, 0, 0, 0], np.nan, x)

    def picky(case: evaluate.Case) -> np.ndarray:
        if 7 in case.ids:
            raise ValueError("seven")
        return total(case)

    x = X.copy()
    x[1, 0, 0, 0] = np.nan
    metrics = [TOTAL, Metric("picky", picky, "complexity", "higher", "none")]
    methods = {"bad": explain, "good": METHODS["x"]}
    found = compare(methods, x, Y, predict=predict, metrics=metrics, batch_size=5, reference="good")
    missing = {(m, k): set(np.flatnonzero(np.isnan(found.of(m, k)))) for m in found.methods for k in found.metrics}
    assert missing == {
        ("bad", "total"): {1, 3, 5},
        ("bad", "picky"): {1, 3, 5, 7},
        ("good", "total"): {1},
        ("good", "picky"): {1, 7},
    }
    reasons = {failure[:3]: failure.reason for failure in found.failures}
    assert set(reasons) == {(1, "", ""), (3, "bad", ""), (5, "bad", ""), (7, "bad", "picky"), (7, "good", "picky")}
    assert reasons[3, "bad", ""] == "RuntimeError: no relevance today"
    assert "relevance must be finite" in reasons[5, "bad", ""]
    assert "no value: bad, picky: 1 sample(s), the first is number 7: ValueError: seven" in str(found)
    row = next(row for row in found.rows if row[:3] == ("picky", "higher", "bad"))
    assert (row.n, row.pairs, row.reference) == (6, 6, "good")


def test_samples_that_have_no_scores_cost_themselves_alone() -> None:
    """Inf in the very first sample, and scores that are NaN where a class is to be predicted."""
    x = X.copy()
    x[0, 0, 0, 0], x[6, 0, 0, 0] = np.inf, 7

    def partly(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, :1, 0, 0] == 7, np.nan, predict(x))

    found = compare(METHODS, x, predict=partly, metrics=[TOTAL])
    assert np.flatnonzero(np.isnan(found.of("x", "total"))).tolist() == [0, 6]
    assert [(f.sample, f.reason) for f in found.failures] == [
        (0, "the sample holds NaN or Inf"),
        (6, "its scores hold NaN or Inf: no class"),
    ]
    with pytest.raises(TypeError, match=r"Received: a stream of list\. Remedy: np\.asarray"):
        compare(METHODS, X.tolist(), predict=predict, metrics=[TOTAL])


def test_a_warning_is_passed_on_once_for_each_explainer() -> None:
    def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        warnings.warn("absurd", RuntimeWarning, stacklevel=1)
        return x

    with pytest.warns(RuntimeWarning) as caught:
        found = compare({"a": explain, "b": explain}, X, Y, predict=predict, metrics=[UNDEFINED], batch_size=3)
    assert [str(warning.message) for warning in caught] == ["explainer 'a': absurd", "explainer 'b': absurd"]
    assert {row.n for row in found.rows} == {7}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ["nothing"]}, "unknown metric. Expected one of"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": [TOTAL, TOTAL]}, "metrics of one name need names of their own"),
        ({"explainers": {"a": "nobody"}}, "unknown baseline. Expected one of .*'sobel'"),
        ({"explainers": {}}, "at least one explainer"),
        ({"reference": "z"}, "reference expects one of .* Received: 'z'"),
        ({"batch_size": 0}, "batch_size expects"),
        ({"target": Y[:9]}, r"target must have a value for each sample. Expected: 10. Received: 9"),
        ({"target": 3}, "target is out of range. Expected: below 3. Received: 3"),
        ({"predict": None}, "compare needs the classifier.* Remedy: predict= or model="),
        ({"metrics": [Metric("m", total, "sanity", "lower", "", ("model",))]}, "explainer 'x' cannot have metric 'm'"),
        ({"metrics": [Metric("m", total, "localisation", "lower", "", ("masks",))]}, "cannot have metric 'm'.*masks"),
        ({"metrics": [Metric("m", lambda case: 1 / 0, "sanity", "lower", "")]}, "'m' fails for every.*ZeroDivision"),
        ({"x": X[:0], "target": None}, "at least one sample"),
        ({"x": iter([]), "target": None}, "at least one sample"),
        ({"x": list(X), "target": None}, r"not take the first sample, \(1, 5, 2\).*Expected: x \[n, ...\], or a"),
        ({"batch_size": None}, "batch_size expects a number of samples"),
        ({"explainers": {1: "sobel", "1": "centre"}}, "names that differ. Received: '1' twice"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(changes: dict, words: str) -> None:
    given = {"explainers": METHODS, "x": X, "target": Y, "predict": predict, "metrics": [TOTAL]} | changes
    with pytest.raises(ValueError, match=words):
        compare(given.pop("explainers"), given.pop("x"), given.pop("target"), **given)


def test_explainers_tell_their_model_and_how_to_explain_another() -> None:
    model = keras.Sequential([keras.Input((6, 5, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])

    def moved(case: evaluate.Case) -> np.ndarray:
        other = keras.models.clone_model(case.model)
        other.set_weights([0 * weight for weight in case.model.get_weights()])
        return np.abs(case.relevance - np.asarray(case.rebuild(other)(case.x, case.target))).max((1, 2, 3))

    explainer = lrp_tf.Explainer(model, "epsilon")
    methods = {"plain": explainer, "set against": functools.partial(explainer, contrast="mean"), "edges": "sobel"}
    found = compare(methods, X, metrics=[Metric("moved", moved, "sanity", "higher", "none", ("model",))])
    np.testing.assert_array_equal(found.target, model.predict(X, verbose=0).argmax(1))
    assert (found.of("plain", "moved") > 0).all()
    assert (found.of("set against", "moved") != found.of("plain", "moved")).all()
    np.testing.assert_array_equal(found.of("edges", "moved"), 0)  # does not depend on a model
    other = lrp_tf.Explainer(keras.models.clone_model(model), "epsilon")
    with pytest.raises(ValueError, match=r"explainers of one model. Received: another one in \['other'\]"):
        compare({"plain": explainer, "other": other}, X, metrics=[TOTAL])


def test_baselines_are_what_they_say() -> None:
    x = np.zeros((2, 9, 9, 1), np.float32)
    x[:, :, 5:] = 1
    edges, middle, chance, absolute = (
        evaluate.baselines.get(name, seed=3)(-x, 0) for name in ("sobel", "centre", "random", "absolute")
    )
    assert set(np.flatnonzero(edges[0, 4, :, 0])) == {4, 5}
    assert np.unravel_index(middle[0, ..., 0].argmax(), (9, 9)) == (4, 4)
    assert middle[0, 0, 0, 0] < middle[0, 0, 4, 0] == middle[0, 4, 0, 0]
    np.testing.assert_array_equal(absolute, x)
    np.testing.assert_array_equal(chance[0], chance[1])
    assert abs(chance.std() - 1) < 0.2
    assert not np.array_equal(chance, evaluate.baselines.get("random", seed=4)(-x, 0))
    with pytest.raises(ValueError, match="Sobel expects positions"):
        evaluate.baselines.get("sobel")(np.ones((2, 3)), 0)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_files_hold_every_value_with_n(tmp_path: Path) -> None:
    found = compare(METHODS, X, Y, predict=predict, metrics=[TOTAL, UNDEFINED])
    found.save(tmp_path / "out")
    summary = rows_of(tmp_path / "out/summary.csv")
    assert {(row["metric"], row["n"]) for row in summary} == {("total", "10"), ("undefined", "7")}
    values = rows_of(tmp_path / "out/samples.csv")
    assert len(values) == 3 * 2 * 10
    read = [float(row["value"] or "nan") for row in values if (row["method"], row["metric"]) == ("x", "undefined")]
    np.testing.assert_array_equal(read, found.of("x", "undefined"))
    table = (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert "| method | mean | 95% | n |" in table
    assert (tmp_path / "out/failures.csv").read_text().splitlines() == ["sample,method,metric,reason"]


RUN = """
import os, sys, numpy as np
sys.path.insert(0, "tests")
from test_compare import METHODS, NOISY, TOTAL, X, Y, predict
from lrp_tf.evaluate import compare
seen = []
def progress(count):
    seen.append(count)
    if len(seen) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
compare(METHODS, X, Y, predict=predict, metrics=[TOTAL, NOISY], batch_size=3, resume=sys.argv[1], progress=progress)
"""


def test_a_killed_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    settings = {"predict": predict, "metrics": [TOTAL, NOISY], "batch_size": 3, "resume": tmp_path / "kept"}
    killed = subprocess.run([sys.executable, "-c", RUN, tmp_path / "kept", "5"], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    assert len(list((tmp_path / "kept").glob("batch-*"))) == 2  # the second one with two explainers of three
    CALLS.clear()
    resumed = compare(METHODS, X, Y, **settings)
    assert CALLS == [3, 1]
    whole: Comparison = compare(METHODS, X, Y, **{**settings, "resume": None})
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert resumed.rows == whole.rows or str(resumed) == str(whole)
    for changes, words in [
        ({"seed": 1}, r"They differ in seed: 0, now 1; methods: 'chance' .*seed=0.*, now .*seed=1"),
        ({"resume": __file__}, "resume expects a folder. Received: .*, which is a file"),
        ({"metrics": [TOTAL, NOISY.with_options(scale=2.0)]}, "differ in metrics"),
        ({"batch_size": 4}, "differ in batch_size: 3, now 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            compare(METHODS, X, Y, **{**settings, **changes})
    with pytest.raises(ValueError, match="differ in data"):
        compare(METHODS, X + 1, Y, **settings)


def test_a_stream_with_other_samples_is_not_continued(tmp_path: Path) -> None:
    settings = {"predict": predict, "metrics": [TOTAL], "resume": tmp_path / "kept"}
    compare(METHODS, [X[:5], X[5:]], **settings)
    with pytest.raises(ValueError, match="the samples of batch 1 differ"):
        compare(METHODS, [X[:5], X[5:] + 1], **settings)


def test_a_refused_run_leaves_nothing_to_continue(tmp_path: Path) -> None:
    broken = Metric("broken", lambda case: 1 / 0, "complexity", "higher", "none")
    for metrics in ([broken], [TOTAL, Metric("m", total, "localisation", "lower", "", ("masks",))]):
        with pytest.raises(ValueError, match=r"fails for every explainer|cannot have metric"):
            compare(METHODS, X, predict=predict, metrics=metrics, resume=tmp_path / "kept")
    assert len(compare(METHODS, X, predict=predict, metrics=[TOTAL], resume=tmp_path / "kept")) == 10


def test_other_weights_are_not_continued(tmp_path: Path) -> None:
    def made() -> keras.Model:
        return keras.Sequential([keras.Input((6, 5, 2)), kl.Flatten(), kl.Dropout(0.5), kl.Dense(3)])

    model, again = made(), made()  # the states of Dropout differ
    again.set_weights(model.get_weights())
    explainers = {"epsilon": lrp_tf.Explainer(model, "epsilon")}
    compare(explainers, X, metrics=[TOTAL], resume=tmp_path / "kept")
    compare({"epsilon": lrp_tf.Explainer(again, "epsilon")}, X, metrics=[TOTAL], resume=tmp_path / "kept")
    model.layers[-1].bias.assign([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="differ in models"):
        compare(explainers, X, metrics=[TOTAL], resume=tmp_path / "kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match="resume expects a folder of its own"):
        compare(explainers, X, metrics=[TOTAL], resume=tmp_path / "other")

"""Prototypes find the strategies that vectors were drawn from; typicality is a percentage that can be relied on."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import concepts

CENTRES = np.array([[6.0, 1, 1, 0], [1, 6, 1, 0], [1, 1, -6, 0]])


def drawn(seed: int, counts=(60, 30, 30), spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around three centres, and which one each is of."""
    numbers = np.random.default_rng(seed)
    of = np.repeat(np.arange(3), counts)
    return CENTRES[of] + numbers.normal(scale=spread, size=(len(of), 4)), of


def two_classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class 5 has the centres 0 and 1, class 2 the centre 2."""
    vectors, of = drawn(0)
    return vectors, np.where(of == 2, 2, 5), of


def test_prototypes_are_the_centres_with_their_samples():
    vectors, labels, of = two_classes()
    found = concepts.prototypes(vectors, labels, n=2)
    assert list(found) == [2, 5]
    np.testing.assert_array_equal(np.sort(found[5].coverage), [1 / 3, 2 / 3])
    first = int(np.argmax(found[5].coverage))  # that of centre 0
    want = CENTRES[0] / np.abs(CENTRES[0]).sum()
    np.testing.assert_allclose(found[5].means[first], want, atol=0.03)
    near = found.samples(5, first, n=5)
    assert len(near) == 5
    assert (of[near] == 0).all()
    shares = concepts.shares(vectors)
    far = np.linalg.norm(shares - found[5].means[first], axis=1)
    assert far[near].max() <= np.sort(far[of == 0])[4] + 1e-12
    np.testing.assert_array_equal(found.nearest(vectors[labels == 5], 5) == first, of[labels == 5] == 0)
    row = next(row for row in found.table().rows if row[0] == 5 and row[1] == first)
    assert row[2:4] == (pytest.approx(2 / 3), 60)
    assert row[4].startswith("0: ")  # the channel with most


def test_the_number_of_prototypes_can_be_chosen_by_the_data():
    vectors, of = drawn(0, (60, 30, 60), spread=0.5)
    labels = np.where(of == 2, 2, 5)
    found = concepts.prototypes(vectors, labels, n=(1, 2), covariance="tied", folds=0)
    assert {label: len(found[label]) for label in found} == {2: 1, 5: 2}
    again = concepts.prototypes(vectors, labels, n=np.array([1, 2]), covariance="tied", folds=0)
    assert {label: len(again[label]) for label in again} == {2: 1, 5: 2}


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_count_only_where_vectors_are_not_normalized(normalize):
    vectors, labels, _ = two_classes()
    found = concepts.prototypes(vectors, labels, n=2, normalize=normalize)
    same = np.allclose(found.log_likelihood(3 * vectors, labels), found.log_likelihood(vectors, labels))
    assert same == normalize


def test_typicality_is_a_percentage_of_unseen_vectors():
    """New vectors of the same kind lie below p % in p % of all cases; without folds they look less typical."""
    vectors = np.random.default_rng(0).normal(size=(100, 12)) + 5
    new = np.random.default_rng(1).normal(size=(600, 12)) + 5
    zeros = np.zeros(100, int)
    fair = concepts.prototypes(vectors, zeros, n=4, normalize=False).typicality(new, 0)
    naive = concepts.prototypes(vectors, zeros, n=4, normalize=False, folds=0).typicality(new, 0)
    assert fair.min() >= 0
    assert fair.max() <= 100
    assert abs(np.median(fair) - 50) < 12
    assert np.median(naive) < np.median(fair) - 5


def test_outliers():
    vectors, labels, _ = two_classes()
    found = concepts.prototypes(vectors, labels, n=2)
    strange = np.concatenate([vectors[:3], [[0, 0, 0, 8.0]], CENTRES[2:], vectors[3:6]])
    assert found.outliers(strange, 5)[0] in (3, 4)
    assert set(found.outliers(strange, 5, below=1)) == {3, 4}
    typical = found.typicality(strange, [5, 5, 5, 5, 2, 5, 5, 5])
    assert typical[3] == 0
    assert typical[4] > 20  # that is what its own class looks like


def test_vectors_of_a_model(rng):
    """Against the relevance of the layer itself, and for a class of each sample."""
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3, activation="relu", name="conv"),
        keras.layers.Flatten(), keras.layers.Dense(4, name="head"),
    ])  # fmt: skip
    explainer, x = lrp_tf.Explainer(model), rng.random((5, 8, 8, 1), np.float32)
    target = np.array([0, 1, 2, 3, 0])
    vectors = concepts.concept_vectors(explainer, x, target, layer="conv", batch=2)
    want = np.asarray(explainer.explain(x, target, layers=["conv"]).layers["conv"]).sum(axis=(1, 2))
    np.testing.assert_allclose(vectors, want, atol=1e-6)
    neurons = concepts.concept_vectors(explainer, x, 1, layer="head")
    np.testing.assert_array_equal(neurons != 0, np.arange(4)[None] == np.ones((5, 1)))
    with pytest.raises(ValueError, match="class for each of 5 samples"):
        concepts.concept_vectors(explainer, x, [0, 1], layer="conv")
    with pytest.raises(ValueError, match="one sample or more"):
        concepts.concept_vectors(explainer, x[:0], layer="conv")
    with pytest.raises(ValueError, match="batch expects a number of samples"):
        concepts.concept_vectors(explainer, x, layer="conv", batch=0)
    np.testing.assert_allclose(
        concepts.concept_vectors(explainer, x, target, layer="conv", batch=None), want, atol=1e-6
    )


def test_vectors_of_a_model_with_two_inputs_are_refused():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([a, b], keras.layers.Dense(2, name="head")(keras.layers.Add()([a, b])))
    with pytest.raises(ValueError, match=r"model with one input. Received: list, of a model with 2. Remedy"):
        concepts.concept_vectors(lrp_tf.Explainer(model), [np.ones((4, 3)), np.ones((4, 3))], layer="head")


def test_direction_of_a_concept(rng):
    """That of what was added, whatever else varies; positions are averaged."""
    outputs, marked = rng.normal(size=(40, 3, 3, 6)), np.arange(40) >= 20
    outputs[20:] = outputs[:20] + np.eye(6)[4] * 2
    np.testing.assert_allclose(concepts.concept_direction(outputs, marked), np.eye(6)[4], atol=1e-12)
    for wrong, match in (
        ((outputs, marked.astype(int)), "marked as bool"),
        ((outputs, marked[:3]), "marked as bool"),
        ((outputs, np.zeros(40, bool)), "Received: 0 of 40"),
        ((np.ones((4, 2)), np.arange(4) > 1), "finite means that differ"),
    ):
        with pytest.raises(ValueError, match=match):
            concepts.concept_direction(*wrong)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"vectors": np.zeros((0, 4)), "labels": np.zeros(0, int)}, r"vectors expects \[N, C\]"),
        ({"vectors": np.full((120, 4), np.nan)}, "finite numbers"),
        ({"labels": np.zeros(120)}, "labels expects integers"),
        ({"labels": np.zeros(3, int)}, r"labels expects integers \[120\]"),
        ({"n": 0}, "n expects a positive integer or several. Received: 0"),
        ({"n": 1.5}, "n expects a positive integer or several. Received: 1.5"),
        ({"n": ()}, "n expects a positive integer or several"),
        ({"n": (1, 40)}, r"expects 80 vectors of each class or more, for n = 40. Received: \{2: 30\}"),
        ({"covariance": "round"}, "covariance expects one of"),
        ({"folds": 1}, "folds expects 0, or a whole number from 2"),
    ],
)
def test_mistakes(change, match):
    vectors, labels, _ = two_classes()
    with pytest.raises(ValueError, match=match):
        concepts.prototypes(**{"vectors": vectors, "labels": labels, **change})


def test_mistakes_in_questions():
    vectors, labels, _ = two_classes()
    found = concepts.prototypes(vectors, labels, n=2)
    with pytest.raises(ValueError, match=r"labels expects the classes \[2, 5\]. Received: \[3\]"):
        found.typicality(vectors, 3)
    with pytest.raises(ValueError, match=r"vectors expects \[N, 4\]"):
        found.typicality(vectors[:, :3], labels)
    with pytest.raises(ValueError, match=r"prototype expects a whole number from 0 to 1. Received: 2"):
        found.samples(5, 2)
    for n in (-1, 0, 2.5, True):
        with pytest.raises(ValueError, match=f"n expects a whole number from 1. Received: {n}"):
            found.samples(5, 1, n=n)
    with pytest.raises(ValueError, match=r"top expects a whole number from 0. Received: -1"):
        found.table(top=-1)
    with pytest.raises(ValueError, match="percentage"):
        found.outliers(vectors, labels, below=0)
    with pytest.raises(KeyError, match="one of the classes"):
        found[0]

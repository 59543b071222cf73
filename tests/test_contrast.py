"""Contrastive starts against starts computed in NumPy from the formula, everywhere that a target is taken."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, raises, randomize
from keras import layers as kl

import lrp_tf

X = images(3, dtype="float64")
TARGETS = {
    "top": None,
    "class": 3,
    "each": np.array([0, 4, 3]),
    "several": np.array([[0, 4], [3, 1], [4, 4]]),
    "ranks": "topK:3",
}


@pytest.fixture(scope="module")
def explainer():
    inputs = keras.Input((8, 8, 2), dtype="float64")
    x = kl.Conv2D(4, 3, activation="relu", dtype="float64")(inputs)
    x = kl.Dense(5, activation="softmax", dtype="float64")(kl.Flatten(dtype="float64")(x))
    return lrp_tf.Explainer(randomize(keras.Model(inputs, x)), "epsilon")


def started(logits, target, contrast, kind):
    """The start of one target of one sample: c_n z_n, or c_n."""
    at = np.equal(np.arange(len(logits)), target)
    powers = np.where(at, 0, np.exp(logits))
    w = {"softmax": powers / powers.sum(), "mean": ~at / (len(logits) - 1)}.get(contrast)
    w = np.arange(len(logits)) == contrast if w is None else w
    return (1.0 * at - w) * (logits if kind == "output" else 1)


CASES = [(target, contrast) for target in TARGETS for contrast in ("softmax", "mean")]


@pytest.mark.parametrize("kind", ["output", "one"])
@pytest.mark.parametrize(("target", "contrast"), [*CASES, *((name, 2) for name in ("class", "each", "several"))])
@pytest.mark.usefixtures("seldom_compiled")
def test_every_kind_of_target(explainer, target, contrast, kind):
    found = explainer.explain(X, TARGETS[target], start=kind, contrast=contrast)
    logits, classes = found.logits.numpy(), found.target.numpy().reshape(3, -1)
    starts = np.array([[started(z, t, contrast, kind) for t in row] for z, row in zip(logits, classes, strict=True)])
    several = found.target.shape.rank == 2
    expected = explainer(X, start=starts)
    close(found.relevance, expected if several else expected[:, 0], 1e-12)
    np.testing.assert_allclose(found.conservation.start, starts.sum(-1).reshape(found.target.shape), atol=1e-12)
    assert np.abs(found.conservation.unexplained).max() < 1e-12


def test_starts_given_for_each_sample_are_those_given_alone(explainer):
    starts = np.random.default_rng(0).normal(size=(3, 2, 5))
    expected = [explainer(X, start=starts[:, i]) for i in range(2)]
    close(explainer(X, start=starts), np.stack(expected, 1), 1e-12)
    close(explainer.explain(X, start=starts, max_batch=2).relevance, np.stack(expected, 1), 1e-12)
    with raises(ValueError, "start", r"\(3, 2, 4\)"):
        explainer(X, start=starts[..., :4])
    with raises(ValueError, "start holds no targets", r"\(3, 0, 5\)"):
        explainer(X, start=starts[:, :0])
    starts[:, 1] = np.nan
    for method in (explainer, lrp_tf.gradients.SmoothGrad(explainer, n=2)):
        with raises(ValueError, "start relevance holds NaN"):
            method(X, start=starts)


def test_a_class_against_one_that_the_call_finds(explainer):
    top, second = np.argsort(-explainer.explain(X[:1]).logits[0])[:2]
    close(explainer(X[:1], contrast=int(second)), explainer(X[:1], int(top), contrast=int(second)), 1e-12)
    for target in (None, "topK:2", int(top)):
        with raises(ValueError, "contrast"):
            explainer(X[:1], target, contrast=int(top))


def test_streams_and_reports(explainer):
    expected = explainer(X, 3, contrast="softmax")
    close(np.concatenate(list(explainer.map(X, 3, batch=2, contrast="softmax"))), expected, 1e-12)
    close(next(explainer.map([X], 3, full=True, contrast="softmax")).relevance, expected, 1e-12)
    close(explainer(X, 3, contrast="softmax", max_batch=2), expected, 1e-12)
    close(explainer(X, [3, 1, 4], contrast=2, max_batch=2), explainer(X, [3, 1, 4], contrast=2), 1e-12)
    start = explainer.explain(X, 3, contrast="softmax").conservation.start
    assert explainer.report(X, 3, contrast="softmax", print_fn=None).rows[-1][3] == pytest.approx(np.sum(start))


def test_places_with_classes():
    """Of an output [B, 2, 3, C] the target's own place alone is set against its other classes."""
    inputs = keras.Input((2, 3, 4), dtype="float64")
    model = randomize(keras.Model(inputs, kl.Dense(5, dtype="float64")(inputs)))
    explainer = lrp_tf.Explainer(model, "epsilon")
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    places = np.array([[1, 2, 4], [0, 1, 0]])
    for contrast in ("softmax", "mean", 1):
        found = explainer.explain(x, places, contrast=contrast)
        starts = np.zeros(found.logits.shape)
        for i, (row, column, label) in enumerate(places):
            starts[i, row, column] = started(found.logits[i, row, column].numpy(), label, contrast, "output")
        close(found.relevance, explainer(x, start=starts), 1e-12)


def test_a_class_for_each_sample(explainer):
    """As with each sample alone, also in parts, as a stream, for several targets, and inside a tf.function."""
    rivals = np.array([2, 1, 0])
    for target in (3, [[3, 4]] * 3):
        alone = [explainer(X[i : i + 1], np.array(target)[i : i + 1] if target != 3 else 3, contrast=rivals[i])
                 for i in range(3)]  # fmt: skip
        close(explainer(X, target, contrast=rivals), np.concatenate(alone), 1e-12)
        close(explainer(X, target, contrast=list(rivals), max_batch=2), np.concatenate(alone), 1e-12)
        traced = tf.function(lambda x, c, target=target: explainer(x, target, contrast=c))
        close(traced(tf.constant(X), tf.constant(rivals)), np.concatenate(alone), 1e-12)
    with raises(ValueError, "contrast has the wrong shape for a batch of 3", r"\(2,\)"):
        explainer(X, 3, contrast=[0, 1])
    with raises(ValueError, "contrast is a target itself", "both are 1"):
        explainer(X, [0, 1, 2], contrast=[1, 1, 1])


def test_the_starts_of_the_papers(explainer):
    """CLRP (Gu et al. 2018) and SGLRP (Iwana et al. 2019) are multiples of `start="one"`, as docs/contrast.md says."""
    z, t = explainer.explain(X).logits.numpy(), np.array([0, 4, 3])
    at = np.arange(5) == t[:, None]
    clrp = np.where(at, z, -z[at][:, None] / 4)  # the target's score, shared equally by the others
    close(z[at].reshape(3, 1, 1, 1) * explainer(X, t, start="one", contrast="mean"), explainer(X, start=clrp), 1e-12)
    y = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    sglrp = np.where(at, y * (1 - y), -y * y[at][:, None])  # the gradient of the softmax
    factor = (y * (1 - y))[at].reshape(3, 1, 1, 1)
    close(factor * explainer(X, t, start="one", contrast="softmax"), explainer(X, start=sglrp), 1e-12)


def test_refusals(explainer):
    for contrast, error in (("max", TypeError), (True, TypeError), (1.0, TypeError), (5, ValueError), (-1, ValueError)):
        with raises(error, "contrast", "Received"):
            explainer(X, 0, contrast=contrast)
    with raises(ValueError, "start", "contrast"):
        explainer(X, start=np.zeros((3, 5)), contrast="mean")
    inputs = keras.Input((4,))
    single = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(1)(inputs))))
    with raises(ValueError, "single output unit"):
        single(np.zeros((1, 4), "float32"), contrast="softmax")


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"relevance_filter": 0.3}], ids=str)
@pytest.mark.parametrize("contrast", ["softmax", "mean", 2])
@pytest.mark.usefixtures("seldom_compiled")
def test_with_options(explainer, contrast, options):
    """The filter leaves other relevance than for the target alone: it sees what the contrast starts."""
    other = lrp_tf.Explainer(explainer.model, "epsilon", **options)
    found = other.explain(X, TARGETS["each"], contrast=contrast)
    starts = [started(z, t, contrast, "output") for z, t in zip(found.logits.numpy(), TARGETS["each"], strict=True)]
    close(found.relevance, other(X, start=np.array(starts)), 1e-9)

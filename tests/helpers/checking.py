"""What several test files share: seeded weights, and the check that an explanation is sound."""

import re

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import tree

import lrp_tf
from lrp_tf import composites, rules


def randomize(model, seed=0):
    """Seeded weights, moving statistics and biases included. Returns the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if "seed" in weight.path:
            continue
        if weight.path.endswith(("variance", "gamma")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1]) / 2))
        else:
            value = rng.normal(size=shape) * 0.3
        weight.assign(value.astype(weight.dtype) if weight.dtype != "bfloat16" else value.astype("float32"))
    return model


def images(batch=3, size=8, channels=2, seed=1, dtype="float64"):
    return np.random.default_rng(seed).normal(size=(batch, size, size, channels)).astype(dtype)


def vectors(batch=3, units=4, seed=2, dtype="float64"):
    return np.random.default_rng(seed).normal(size=(batch, units)).astype(dtype)


def dense_net(*ahead, classes=3):
    return randomize(keras.Sequential([keras.Input((4,)), *ahead, kl.Dense(classes, name="logits")], name="net"))


def image_net(channels=2):
    stack = [kl.Conv2D(3, 3, name="conv"), kl.BatchNormalization(name="norm"), kl.MaxPooling2D(), kl.Flatten()]
    return randomize(keras.Sequential([keras.Input((8, 8, channels), name="photo"), *stack, kl.Dense(3)], name="net"))


def refused(error, *words):
    """The error, with each of `words` in its message as it stands."""
    return raises(error, *map(re.escape, words))


def raises(error, *words):
    """The error, with each of `words` in its message (a regular expression each)."""
    return pytest.raises(error, match="".join(f"(?=[\\s\\S]*{word})" for word in words))


def numbers(value):
    """Tensors of a structure as arrays."""
    return tree.map_structure(lambda t: np.asarray(t), value)


def close(actual, expected, tolerance=1e-9):
    """Equal up to `tolerance` of the maximum, structure and shapes included."""
    actual, expected = numbers(actual), numbers(expected)
    tree.assert_same_structure(actual, expected)
    for a, b in zip(tree.flatten(actual), tree.flatten(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-30))


def check(model, x, composite="epsilon_plus_flat", *, tolerance=1e-9, output=None, index=0, target=None, layers=()):
    """Explain `x`, assert that clone and model agree, that all relevance is accounted for, and the structure of R."""
    explainer = lrp_tf.Explainer(model, composite, output=output)
    found = explainer.explain(x, target, layers=layers)
    expected = tree.flatten(model(x, training=False))[index]
    close(np.asarray(found.output, "float64"), np.asarray(expected, "float64"), tolerance)
    assert np.abs(found.conservation.unexplained).max() < tolerance
    tree.assert_same_structure(numbers(found.relevance), numbers(x))
    for r, part in zip(tree.flatten(found.relevance), tree.flatten(x), strict=True):
        assert tuple(r.shape) == tuple(part.shape)
        assert np.all(np.isfinite(r))
    return found


RULE = rules.AlphaBeta(2.0, 1.0)  # on every linear step: it tells mistakes that Epsilon would forgive
BOX = composites.get("epsilon_gamma_box", low=-4.0, high=4.0)


def sequential(shape, *layers):
    return randomize(keras.Sequential([keras.Input(shape), *layers]))


def with_weights(model, weights):
    model.set_weights(weights)
    return model


def relevance(model, x, composite=RULE, target=0, **options):
    return lrp_tf.Explainer(model, composite, **options)(x, target)

"""Several targets of one image, which go side by side: the same relevance and books as one after the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import rules
from lrp_tf.engine.savings import switched_off

CLASSES = 20
TIGHT = 1e-5


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = kl.MaxPooling2D()(x)
    x = kl.Add()([kl.Conv2D(4, 3, padding="same")(x), x])
    x = kl.Flatten()(kl.ReLU()(x))
    return randomize(keras.Model(inputs, kl.Dense(CLASSES, activation="softmax")(x)))


def one_by_one(explainer, x, targets):
    return np.stack([explainer(x, [int(t) for t in column]) for column in np.transpose(targets)], axis=1)


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (5, 1), (8, 1), (9, 1), (17, 1), (3, 3), (7, 3), (3, 9), (2, 8)])
@pytest.mark.usefixtures("seldom_compiled")
def test_any_number_of_targets_of_any_number_of_samples(model, count, batch):
    explainer = lrp_tf.Explainer(model)
    x = images(batch, dtype="float32")
    targets = np.random.default_rng(0).integers(CLASSES, size=(batch, count))
    found = explainer.explain(x, targets)
    close(found.relevance, one_by_one(explainer, x, targets), TIGHT)
    assert found.conservation.start.shape == found.amplification.shape == (batch, count)
    assert np.abs(found.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("options", [{"relevance_filter": 0.2}, {"jit_compile": True}, {"nonnegative": True}], ids=str)
@pytest.mark.parametrize("composite", ["epsilon_alpha2_beta1", "epsilon_gamma_box"])
@pytest.mark.usefixtures("seldom_compiled")
def test_with_options(model, composite, options):
    bounds = {"low": 0.0, "high": 1.0} if composite == "epsilon_gamma_box" else {}
    explainer = lrp_tf.Explainer(model, composite, **options, **bounds)
    x, targets = np.abs(images(2, dtype="float32")), np.array([[0, 3, 19, 7, 7], [5, 5, 1, 0, 2]])
    close(explainer(x, targets), one_by_one(explainer, x, targets), TIGHT)


def test_books_are_those_of_each_target(model):
    explainer = lrp_tf.Explainer(model)
    x, targets = images(2, dtype="float32"), np.array([[0, 3, 19], [5, 4, 1]])
    found = explainer.explain(x, targets).conservation
    for i in range(3):
        one = explainer.explain(x, targets[:, i]).conservation
        for name, several in found._asdict().items():
            np.testing.assert_allclose(several[:, i], getattr(one, name), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("size", [(12,), (8, 12), (4, 6, 4), (9, 12)], ids=str)  # the windows of the last do not tile
@pytest.mark.usefixtures("seldom_compiled")
def test_winners_that_targets_share(size):
    """Ties, too: the first maximum wins, whatever the rank."""
    rank = len(size)
    inputs = keras.Input((*size, 3))
    pool = [kl.MaxPooling1D(2), kl.MaxPooling2D((2, 3)), kl.MaxPooling3D((2, 3, 2))][rank - 1]
    model = randomize(keras.Model(inputs, kl.Dense(6)(kl.Flatten()(pool(inputs)))))
    x = np.random.default_rng(0).integers(3, size=(2, *size, 3)).astype("float32")
    targets = np.array([[0, 5, 2], [1, 1, 4]])
    explainer = lrp_tf.Explainer(model, "epsilon")
    found = explainer(x, targets)
    np.testing.assert_allclose(found, one_by_one(explainer, x, targets), rtol=1e-5, atol=1e-6)
    with switched_off():
        close(found, lrp_tf.Explainer(model, "epsilon")(x, targets), TIGHT)


class Opaque(rules.Rule):
    """A rule with an operation that TensorFlow cannot vectorize."""

    def backward(self, step, op):
        def propagate(relevances, account):
            halved = tf.numpy_function(lambda r: r * np.float32(0.5), [relevances[0]], tf.float32)
            return [op.x * op.transpose(tf.ensure_shape(halved, relevances[0].shape), op.w)]

        return propagate


def test_what_cannot_be_vectorized_runs_in_a_loop(model, capfd):
    explainer = lrp_tf.Explainer(model, Opaque())
    x, targets = images(2, dtype="float32"), np.array([[0, 3, 19], [5, 4, 1]])
    close(explainer(x, targets), one_by_one(explainer, x, targets), TIGHT)
    assert "while_loop" not in capfd.readouterr().err


def test_functions_that_run_eagerly(model):
    explainer = lrp_tf.Explainer(model)
    x, targets = images(2, dtype="float32"), np.array([[0, 3], [5, 4]])
    expected = explainer(x, targets)
    tf.config.run_functions_eagerly(True)
    try:
        close(explainer(x, targets), expected, TIGHT)
    finally:
        tf.config.run_functions_eagerly(False)

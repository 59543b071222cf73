"""Relevance is a gradient that has none itself: what would be silently wrong is an error, first order is as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, dense_net, image_net, images, raises, vectors
from keras import layers as kl

import lrp_tf

X = images(dtype="float32")
SECOND, WEIGHTS = (
    r"not differentiable[\s\S]*Expected[\s\S]*Received[\s\S]*Remedy",
    r"no gradient with respect to weights",
)


@pytest.fixture(params=["eager", "function"])
def run(request):
    """Calls as they are, or inside a tf.function."""
    return tf.function if request.param == "function" else lambda function: function


@pytest.fixture(scope="module")
def net():
    return image_net()


def relevance(clone, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = clone(x)
    return tape.gradient(z, x, output_gradients=z)


def twice_nested(explain, x, weights):
    with tf.GradientTape() as outer:
        outer.watch(x)
        r = explain(x)
    return outer.gradient(r, x)


def by_weights(explain, x, weights):
    with tf.GradientTape() as outer:
        penalty = tf.reduce_sum(tf.square(explain(x)))
    return outer.gradient(penalty, weights)


def both_orders_at_once(explain, x, weights):
    with tf.GradientTape() as outer:
        outer.watch(x)
        total = tf.reduce_sum(x) + tf.reduce_sum(explain(x))
    return outer.gradient(total, [x, *weights])


def row_by_row(explain, x, weights):
    with tf.GradientTape() as outer:
        outer.watch(x)
        r = tf.reduce_sum(explain(x), [1, 2, 3])
    return outer.jacobian(r, x)


@pytest.mark.parametrize("order", [twice_nested, by_weights, both_orders_at_once, row_by_row])
def test_relevance_by_the_clone_has_no_derivative(net, run, order):
    clone = lrp_tf.clone_with_rules(net, "epsilon_plus")
    with raises(Exception, SECOND) as caught:
        run(lambda x: order(lambda x: relevance(clone, x), x, net.trainable_variables))(tf.constant(X))
    assert isinstance(caught.value, LookupError) or "LookupError" in str(caught.value)


@pytest.mark.parametrize("order", [twice_nested, both_orders_at_once, row_by_row])
def test_relevance_by_the_explainer_has_no_derivative(net, run, order):
    explain = lrp_tf.Explainer(net, "epsilon_plus")
    with raises(Exception, SECOND):
        run(lambda x: order(explain, x, net.trainable_variables))(tf.constant(X))


def test_what_explain_returns_has_no_derivative_but_for_the_logits(net):
    explain, x = lrp_tf.Explainer(net, "epsilon"), tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        found = explain.explain(x, layers=["conv"])
    for value in (found.relevance, found.layers["conv"], found.conservation.relevance, found.conservation.bias):
        with raises(LookupError, SECOND):
            tape.gradient(value, x)
    with tf.GradientTape() as own:
        own.watch(x)
        z = net(x)
    close(tape.gradient(found.logits, x), own.gradient(z, x), 1e-5)


def test_a_persistent_tape(net):
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = clone(x)
        r = tape.gradient(z, x, output_gradients=z)
    for source in (x, net.trainable_variables):
        with raises(LookupError, SECOND):
            tape.gradient(r, source)
    close(tape.gradient(z, x, output_gradients=z), r, 0)


def test_a_tape_around_a_function_that_returns_relevance():
    """What else the function returns keeps its gradient."""
    net, x = dense_net(kl.Dense(4, activation="relu")), tf.constant(vectors(dtype="float32"))
    clone, explain = lrp_tf.clone_with_rules(net), lrp_tf.Explainer(net)
    for call in (lambda x: relevance(clone, x), explain):
        function = tf.function(lambda x, call=call: (call(x), 3 * x))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            r, tripled = function(x)
        close(r, call(x), 1e-6)
        close(tape.gradient(tripled, x), np.full(x.shape, 3.0), 0)
        with raises(tf.errors.InvalidArgumentError, SECOND):
            tape.gradient(r, x)


def test_relevance_as_a_constant(net, run):
    clone, scale = lrp_tf.clone_with_rules(net), tf.Variable(2.0)

    def step(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.stop_gradient(relevance(clone, x)) * scale)
        return tape.gradient(total, scale)

    x = tf.constant(X)
    close(run(step)(x), tf.reduce_sum(relevance(clone, x)), 1e-5)


def test_outputs_of_the_clone_have_no_derivative_by_weights(net, run):
    clone = lrp_tf.clone_with_rules(net)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(x)) + tf.reduce_sum(tf.square(clone(x)))
        return tape.gradient(loss, net.trainable_variables)

    with raises(Exception, WEIGHTS, "Expected", "Received", "Remedy"):
        run(step)(tf.constant(X))


@pytest.mark.parametrize("outside", [False, True])
def test_a_tape_that_watches_weights_by_itself_gives_the_relevance(net, run, outside):
    """The tape may lie inside the function, or around it, where it asks for all that the function reads."""
    clone = lrp_tf.clone_with_rules(net)
    expected = lrp_tf.Explainer(net)(X, start=np.asarray(clone(X)))
    call = run(clone) if outside else clone

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = call(x)
        assert {v.ref() for v in tape.watched_variables()} == {v.value.ref() for v in net.trainable_variables}
        return tape.gradient(z, x, output_gradients=z)

    x = tf.constant(X)
    close((gradient if outside else run(gradient))(x), expected, 1e-6)


def test_behind_a_layer_of_ones_own_weights_are_reached(net):
    """What is computed ahead of the clone takes relevance; a model there may be trained."""
    clone, ahead = lrp_tf.clone_with_rules(net, "epsilon"), keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(2, 1)])
    with tf.GradientTape() as tape:
        z = clone(ahead(tf.constant(X)))
    found = tape.gradient(z, ahead.trainable_variables)
    assert all(np.abs(np.asarray(g)).max() > 0 for g in found)


def test_integers_have_no_relevance_to_ask_for():
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, kl.Dense(3)(kl.Flatten()(kl.Embedding(7, 4)(tokens))))
    clone = lrp_tf.clone_with_rules(model)
    with tf.GradientTape() as tape:
        z = clone(tf.constant([[1, 2, 3, 4, 5]]))
    with raises(LookupError, WEIGHTS):
        tape.gradient(z, model.trainable_variables)


@pytest.mark.parametrize("constant", [lambda r: r, lambda r: tf.cast(r > 0, r.dtype) * r])
def test_relevance_of_another_model_is_a_constant(net, run, constant):
    """While one model trains, what another's weights would have of it is not asked for."""
    explain, scale = lrp_tf.Explainer(net), tf.Variable(2.0)

    def step(x, *more):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(constant(explain(x)) * scale)
        return tape.gradient(total, [scale, *more])

    x = tf.constant(X)
    close(run(step)(x)[0], tf.reduce_sum(constant(explain(x))), 1e-4)
    with raises(Exception, SECOND):
        run(lambda x: step(x, *net.trainable_variables))(x)
    with raises(Exception, SECOND):
        run(lambda x: step(x, net.trainable_variables[-1]))(x)


@pytest.mark.parametrize("eager", [True, False])
def test_inside_the_training_of_another_model(net, eager):
    class Masked(keras.Model):
        def __init__(self):
            super().__init__()
            self.own = keras.Sequential([keras.Input((8, 8, 2)), kl.Flatten(), kl.Dense(3)])
            self.explain, self.seen = lrp_tf.Explainer(net), keras.metrics.Mean(name="seen")

        def call(self, x):
            return self.own(x * self.explain(x))

        def train_step(self, data):
            found = super().train_step(data)
            self.seen.update_state(tf.abs(self.explain(data[0])))
            return found | {"seen": self.seen.result()}

    model = Masked()
    model.compile("sgd", "mse", run_eagerly=eager)
    before = [w.copy() for w in model.own.get_weights()]
    history = model.fit(X, np.ones((len(X), 3)), verbose=0).history
    assert history["seen"][0] > 0
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.own.get_weights(), strict=True))


def test_gradients_without_a_tape(net):
    """tf.gradients, inside a function, asks for the same."""
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)

    @tf.function
    def first(x):
        z = clone(x)
        return tf.gradients(z, x, grad_ys=z)[0]

    close(first(x), relevance(clone, x), 1e-6)
    with raises(Exception, SECOND):
        tf.function(lambda x: tf.gradients(first(x), x))(x)
    with raises(Exception, SECOND):
        tf.function(lambda x: tf.hessians(clone(x), x))(x)


def test_forward_mode_has_no_derivative_either(net):
    clone, explain, x = lrp_tf.clone_with_rules(net), lrp_tf.Explainer(net), tf.constant(X)
    for call in (explain, lambda x: explain.explain(x), lambda x: relevance(clone, x)):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)), raises(LookupError, SECOND):
            call(x)

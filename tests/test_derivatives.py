"""Relevance has derivatives, by the explainer and by the clone; where nobody could compute one, it is an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, dense_net, image_net, images, raises, randomize, vectors
from helpers.finite import check_derivatives, weighed
from keras import layers as kl

import lrp_tf
from lrp_tf import rules

X = images(dtype="float32")
REFUSED = r"not differentiable[\s\S]*Expected[\s\S]*Received[\s\S]*Remedy"


@pytest.fixture(params=["eager", "function"])
def run(request):
    """Calls as they are, or inside a tf.function."""
    return tf.function if request.param == "function" else lambda function: function


@pytest.fixture(scope="module")
def net():
    return image_net()


@pytest.fixture
def double(double_precision):
    return image_net()


def relevance(clone, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = clone(x)
    return tape.gradient(z, x, output_gradients=z)


# --- right ---------------------------------------------------------------------------------------


OPTIONS = [{}, *(pytest.param(o, marks=pytest.mark.slow) for o in ({"recompute": True}, {"relevance_filter": 0.5}))]


@pytest.mark.parametrize("options", [*OPTIONS, pytest.param({"max_batch": 2}, marks=pytest.mark.slow)])
def test_derivatives_by_the_explainer(double, run, options):
    explain = lrp_tf.Explainer(double, "epsilon_alpha2_beta1_flat", **options)
    loss = run(lambda x: weighed([explain(x, [0, 2, 1], contrast="softmax")]))
    check_derivatives(lambda inputs: loss(inputs[0]), [images()], double.trainable_variables)


@pytest.mark.parametrize("target", [[[0, 2], [1, 0], [2, 1]], pytest.param("topK:2", marks=pytest.mark.slow)])
def test_derivatives_for_several_targets(double, target):
    explain = lrp_tf.Explainer(double, "epsilon_plus")
    check_derivatives(lambda inputs: weighed([explain(inputs[0], target)]), [images()], double.trainable_variables)


def test_derivatives_of_all_that_an_explanation_holds(double):
    """Those of moving statistics, too: the explainer reads them as it reads weights."""
    explain = lrp_tf.Explainer(double, "epsilon")

    def loss(inputs):
        e = explain.explain(inputs[0], layers=["conv"])
        return weighed([e.relevance, e.layers["conv"], e.logits, e.conservation.bias, e.conservation.relevance])

    check_derivatives(loss, [images()], double.weights)


@pytest.mark.slow
@pytest.mark.parametrize("net_of", ["lstm", "attention"])
def test_derivatives_of_compiled_loops_and_attention(double_precision, net_of):
    i = keras.Input((4, 3))
    h = kl.LSTM(3)(i) if net_of == "lstm" else kl.Flatten()(kl.MultiHeadAttention(2, 2)(i, i))
    model = randomize(keras.Model(i, kl.Dense(2)(h)))
    explain = lrp_tf.Explainer(model, "attn_lrp")
    x = np.random.default_rng(1).normal(size=(2, 4, 3))
    check_derivatives(lambda inputs: weighed([explain(inputs[0], 1)]), [x], model.trainable_variables)


def test_by_hand(double_precision):
    """Epsilon on Dense: R_i = x_i sum_j w_ij g_j with g = r / s(z), dg_j = -g_j / s(z_j) dz_j."""
    model = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(3)]))
    explain, (w, b) = lrp_tf.Explainer(model, rules.Epsilon(0.1)), model.layers[0].get_weights()
    rng = np.random.default_rng(3)
    x, r, c = rng.normal(size=(2, 4)), rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        loss = tf.reduce_sum(c * explain(tensor, start=r))
    by_x, (by_w, by_b) = tape.gradient(loss, [tensor, model.trainable_variables])
    z = x @ w + b
    s = z + 0.1 * np.where(z >= 0, 1, -1)
    g = r / s
    by_z = -((c * x) @ w) * g / s  # of the loss, through g
    close(by_b, by_z.sum(0), 1e-12)
    close(by_w, (c * x).T @ g + x.T @ by_z, 1e-12)
    close(by_x, c * (g @ w.T) + by_z @ w.T, 1e-12)


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_derivatives_by_the_clone(double, run, options):
    """The tape further out has the values as an ordinary function: in the start and in the loss."""
    clone = lrp_tf.clone_with_rules(double, "epsilon_plus", **options)

    @run
    def loss(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        r = tape.gradient(z, x, output_gradients=z * [1.0, 0.0, 2.0])
        return weighed([r]) + tf.reduce_sum(z**2)

    check_derivatives(lambda inputs: loss(inputs[0]), [images()], double.trainable_variables)


def test_derivatives_with_all_tapes_inside_one_function(double):
    clone = lrp_tf.clone_with_rules(double, "epsilon")
    weights = double.trainable_variables

    def gradients(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            loss = weighed([relevance(clone, x)])
        return outer.gradient(loss, [x, *weights])

    close(tf.function(gradients)(tf.constant(images())), gradients(tf.constant(images())), 1e-9)


def test_rows_of_the_derivative(double):
    """A Jacobian asks once for each entry."""
    explain, clone, x = lrp_tf.Explainer(double, "epsilon"), lrp_tf.clone_with_rules(double, "epsilon"), images()
    x = tf.constant(x)
    found = []
    for call in (lambda x: explain(x, start=clone(x)), lambda x: relevance(clone, x)):
        with tf.GradientTape() as outer:
            outer.watch(double.layers[0].kernel.value)
            r = tf.reduce_sum(call(x), [1, 2, 3])
        found.append(outer.jacobian(r, double.layers[0].kernel.value))
    close(found[0], found[1], 1e-9)


def test_outputs_of_the_clone_by_weights(net, run):
    """The ordinary gradient, under a tape that watches the inputs and under one that does not."""
    clone, weights = lrp_tf.clone_with_rules(net), net.trainable_variables

    @run
    def step(x, call, watched):
        with tf.GradientTape() as tape:
            if watched:
                tape.watch(x)
            loss = tf.reduce_sum(tf.square(call(x)))
        return tape.gradient(loss, weights)

    x = tf.constant(X)
    for watched in (False, True):
        close(step(x, clone, watched), step(x, net, watched), 1e-4)


def test_weights_cost_nothing_where_they_are_not_asked_for(net, monkeypatch):
    clone, asked = lrp_tf.clone_with_rules(net), []
    ordinary = type(clone)._ordinary

    def spied(self, flat, initial, inputs, weights):
        asked.append([w.path for w in weights] if weights else [])
        return ordinary(self, flat, initial, inputs, weights)

    monkeypatch.setattr(type(clone), "_ordinary", spied)
    relevance(clone, tf.constant(X))
    assert asked == [[]]


def test_a_persistent_tape_gets_the_relevance_each_time(net):
    """Inside of itself, too: it is the tape that asked first."""
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)
    expected = lrp_tf.Explainer(net)(X, start=np.asarray(clone(x)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = clone(x)
        inside = [tape.gradient(z, x, output_gradients=z) for _ in range(2)]
    for r in (*inside, tape.gradient(z, x, output_gradients=z)):
        close(r, expected, 1e-6)


def test_two_tapes_that_do_not_differentiate_one_another(net):
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)
    with tf.GradientTape() as one, tf.GradientTape() as other:
        one.watch(x)
        other.watch(x)
        z = clone(x)
    close(one.gradient(z, x), other.gradient(z, x), 0)


# --- inside of other code ------------------------------------------------------------------------


def test_relevance_as_a_constant(net, run):
    clone, scale = lrp_tf.clone_with_rules(net), tf.Variable(2.0)

    def step(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.stop_gradient(relevance(clone, x)) * scale)
        return tape.gradient(total, scale)

    x = tf.constant(X)
    close(run(step)(x), tf.reduce_sum(relevance(clone, x)), 1e-5)


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


def test_integers_have_no_relevance_to_ask_for_and_weights_have_gradients():
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, kl.Dense(3)(kl.Flatten()(kl.Embedding(7, 4)(tokens))))
    clone, x = lrp_tf.clone_with_rules(model), tf.constant([[1, 2, 3, 4, 5]])
    with tf.GradientTape(persistent=True) as tape:
        own, z = model(x), clone(x)
    for found, expected in zip(
        tape.gradient(z, model.trainable_variables), tape.gradient(own, model.trainable_variables), strict=True
    ):
        close(tf.convert_to_tensor(found), tf.convert_to_tensor(expected), 1e-6)


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


# --- refused -------------------------------------------------------------------------------------


def test_both_tapes_around_a_function_that_holds_the_clone():
    """TensorFlow builds one gradient of the function for both. What else the function returns keeps its gradient."""
    net, x = dense_net(kl.Dense(4, activation="relu")), tf.constant(vectors(dtype="float32"))
    clone = lrp_tf.clone_with_rules(net)
    function = tf.function(lambda x: (clone(x), 3 * x))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            z, tripled = function(x)
        r = inner.gradient(z, x)
    close(r, lrp_tf.Explainer(net)(x, start=np.ones((3, 3))), 1e-6)
    close(outer.gradient(tripled, x), np.full(x.shape, 3.0), 0)
    with raises(tf.errors.InvalidArgumentError, REFUSED):
        outer.gradient(r, x)


def test_two_tapes_inside_of_a_third(net):
    """The second one may want relevance, or the derivative of the first one's."""
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)
    with tf.GradientTape() as outer, tf.GradientTape() as one, tf.GradientTape() as other:
        outer.watch(x)
        one.watch(x)
        other.watch(x)
        z = clone(x)
    close(one.gradient(z, x), other.gradient(z, x), 0)  # nobody records
    with tf.GradientTape() as outer:
        with tf.GradientTape() as one, tf.GradientTape() as other:
            one.watch(x)
            other.watch(x)
            z = clone(x)
        one.gradient(z, x)
        with raises(LookupError, "third", "Expected", "Received", "Remedy"):
            other.gradient(z, x)
    assert outer.gradient(z, net.trainable_variables)[0] is not None


def test_gradients_without_a_tape(net):
    """tf.gradients, inside a function, gives the relevance, and not its derivative."""
    clone, x = lrp_tf.clone_with_rules(net), tf.constant(X)

    @tf.function
    def first(x):
        z = clone(x)
        return tf.gradients(z, x, grad_ys=z)[0]

    close(first(x), relevance(clone, x), 1e-6)
    with raises(Exception, REFUSED):
        tf.function(lambda x: tf.gradients(first(x), x))(x)
    with raises(Exception, REFUSED):
        tf.function(lambda x: tf.hessians(clone(x), x))(x)


def test_forward_mode(net):
    clone, explain, x = lrp_tf.clone_with_rules(net), lrp_tf.Explainer(net), tf.constant(X)
    for call in (explain, lambda x: explain.explain(x), lambda x: relevance(clone, x)):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)), raises(LookupError, REFUSED):
            call(x)


@pytest.mark.slow
def test_what_xla_cannot_compile():
    """The second derivative of max pooling, and loops; the rest it can."""
    x = tf.constant(X)
    for net, refused in ((image_net(), True), (dense_net(), False)):
        given = x if refused else tf.constant(vectors(dtype="float32"))
        explain, plain = lrp_tf.Explainer(net, "epsilon", jit_compile=True), lrp_tf.Explainer(net, "epsilon")
        found = []
        for call in (explain, plain):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(call(given, 0)))
            if refused and call is explain:
                with raises(LookupError, REFUSED):
                    tape.gradient(loss, net.trainable_variables)
            else:
                found.append(tape.gradient(loss, net.trainable_variables))
        if not refused:
            close(found[0], found[1], 1e-4)

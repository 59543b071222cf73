"""The gradient of the clone is the relevance, and clones leave nothing behind."""

import gc

import keras
import numpy as np
import tensorflow as tf
from helpers.checking import close, raises, randomize
from helpers.small_nets import IMG, VEC, dense_net, image_net, logits_of
from keras import layers as kl
from tensorflow.python.framework import ops

import lrp_tf
from lrp_tf import rules
from lrp_tf.engine.clone import Clone


def test_gradient_of_the_clone_is_the_relevance():
    model = image_net()
    explain, clone = lrp_tf.Explainer(model), lrp_tf.clone_with_rules(model)
    start = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    expected = explain(IMG, start=start)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        return z, tape.gradient(z, x, output_gradients=start)

    z, eager = gradient(tf.constant(IMG))
    close(eager, expected, 1e-6)
    close(z, logits_of(model, IMG), 1e-6)
    close(clone.finish(z), model(IMG), 1e-6)
    close(tf.function(gradient)(tf.constant(IMG))[1], expected, 1e-6)
    _, double = gradient(tf.constant(IMG, tf.float64))
    assert double.dtype == "float64"
    close(double, np.asarray(expected, "float64"), 1e-6)


def test_gradient_under_a_persistent_tape():
    model = dense_net()
    clone, explain = lrp_tf.clone_with_rules(model, rules.ZPlus()), lrp_tf.Explainer(model, rules.ZPlus())
    x = tf.constant(VEC)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = clone(x)
        top = tf.reduce_sum(z[:, 1])
    for k in range(3):
        start = np.eye(3, dtype="float32")[[k] * 3] * np.asarray(z)
        close(tape.gradient(z, x, output_gradients=tf.constant(start)), explain(x, k), 1e-6)
    close(tape.gradient(top, x), explain(x, 1, start="one"), 1e-6)
    with tf.GradientTape() as own:
        values = model(x)
    close(tape.gradient(z, model.trainable_variables), own.gradient(values, model.trainable_variables), 1e-5)


def test_a_tape_that_asks_again_in_a_graph_of_its_own_gets_the_relevance_again():
    """batch_jacobian and a tf.function build another graph; the ordinary gradient is for other tapes alone."""
    model = dense_net()
    clone, x = lrp_tf.clone_with_rules(model, "epsilon_plus"), tf.random.uniform((3, *model.input_shape[1:]), seed=1)

    def recorded():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            z = clone(x)
        return tape, z

    tape, z = recorded()
    jacobian = tape.batch_jacobian(z, x)
    with tf.GradientTape() as plain:
        plain.watch(x)
        value = model(x)
    assert not np.allclose(jacobian, plain.batch_jacobian(value, x), atol=1e-3)
    tape, z = recorded()
    relevance = tape.gradient(z, x)
    close(tape.batch_jacobian(z, x), jacobian, 1e-6)
    close(tf.function(lambda: tape.gradient(z, x))(), relevance, 1e-6)
    with tf.GradientTape() as one, tf.GradientTape() as other:
        one.watch(x)
        other.watch(x)
        z = clone(x)
    close(one.gradient(z, x), relevance, 1e-6)
    close(other.batch_jacobian(z, x), jacobian, 1e-6)


def test_gradient_through_what_stands_before_and_behind_the_clone():
    clone = lrp_tf.clone_with_rules(dense_net(), rules.Epsilon())
    x, scale = tf.constant(VEC), tf.Variable(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(clone(x * scale) * 3)
    close(tape.gradient(total, x), 2 * 3 * lrp_tf.Explainer(clone.graph.model, rules.Epsilon())(
        2 * VEC, start=np.ones((3, 3))), 1e-5)  # fmt: skip


def test_gradient_of_a_clone_with_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = randomize(keras.Model({"b": b, "a": a}, kl.Dense(2)(kl.Concatenate()([b, a]))))
    clone, explain = lrp_tf.clone_with_rules(model), lrp_tf.Explainer(model)
    x = {"b": tf.constant(VEC), "a": tf.constant(2 * VEC)}
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = clone(x)
    close(tape.gradient(z, x, output_gradients=tf.ones((3, 2))), explain(x, start=np.ones((3, 2))), 1e-6)


def test_clone_is_called_on_arrays():
    model = dense_net()
    close(lrp_tf.clone_with_rules(model)(VEC), model(VEC), 1e-6)


def registry_size():
    return len(ops._gradient_registry._registry)


def test_explainers_leave_nothing_in_the_gradient_registry():
    model = dense_net()

    def use():
        lrp_tf.Explainer(model)(VEC)
        clone, x = lrp_tf.clone_with_rules(model), tf.constant(VEC)
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        tape.gradient(z, x)

    use()
    before = registry_size()
    for _ in range(30):
        use()
    assert registry_size() == before


def test_dropped_explainers_are_freed():
    model = dense_net()

    def alive():
        gc.collect()
        return sum(isinstance(thing, Clone) for thing in gc.get_objects())

    before = alive()
    for _ in range(5):
        lrp_tf.Explainer(model).explain(VEC)
    assert alive() == before


def test_one_entry_a_trace_at_most_under_the_tape_of_a_function():
    clone = lrp_tf.clone_with_rules(image_net())

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        return tape.gradient(z, x)

    before = registry_size()
    gradient(tf.constant(IMG))
    assert registry_size() <= before + 1


def test_a_masked_softmax_is_put_back_with_the_pass_that_holds_its_mask():
    i, m = keras.Input((3,)), keras.Input((4,), dtype="bool")
    model = randomize(keras.Model([i, m], kl.Softmax()(kl.Dense(4)(i), mask=m)))
    clone = lrp_tf.clone_with_rules(model, "epsilon")
    x = [tf.ones([2, 3]), tf.constant([[True, False, True, True]] * 2)]
    passed = clone.forward(x)
    close(clone.finish(clone.output(passed), passed), model(x), 1e-6)
    with raises(ValueError, "has a mask", "Expected", "Received"):
        clone.finish(clone.output(passed))

"""What a first call traces: nothing twice, and nothing that nobody uses."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import images, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf.core import numerics
from lrp_tf.engine import passes, targets


def network():
    inputs = x = keras.Input((8, 8, 2))
    for number in range(3):
        x = kl.Conv2D(4, 3, padding="same", use_bias=bool(number))(x)
        x = kl.Activation("silu")(kl.BatchNormalization()(x))
        x = kl.DepthwiseConv2D(3, padding="same")(x)
    return randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x))))


def traced(model, composite):
    """The operations of a first call."""
    explainer = lrp_tf.Explainer(model, composite)
    chosen = targets.checked(explainer.graph, None, "output", tf.constant(images(dtype="float32")))
    return passes.compiled(explainer.clone, chosen, passes.Request()).graph.get_operations()


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_alpha2_beta1"])
def test_nothing_is_traced_twice(composite):
    model = network()
    operations = traced(model, composite)
    read = collections.Counter(op.inputs[0].ref() for op in operations if op.type == "ReadVariableOp")
    assert len(read) == len(model.variables)
    assert set(read.values()) == {1}
    numbers = [tf.make_ndarray(op.get_attr("value")) for op in operations if op.type == "Const"]
    small = collections.Counter((n.dtype, n.item()) for n in numbers if n.shape == () and n.dtype == "float32")
    assert {0.0, np.float32(1e-6)} <= {value for _, value in small}
    assert max(small.values()) <= 2  # TensorFlow's own functions make some, too
    assert not [op for op in operations if op.type == "IdentityN"]  # of a gradient that nobody asks for


def test_zplus_traces_no_negative_kernels_where_nothing_is_negative():
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, activation="relu")(kl.Conv2D(4, 3, activation="relu")(inputs))
    operations = traced(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x))), "epsilon_plus_flat")
    assert not [op for op in operations if op.type == "Minimum"]


def test_silu_is_that_of_tensorflow():
    inputs = keras.Input((8, 8, 2))
    explainer = lrp_tf.Explainer(keras.Model(inputs, kl.Activation("silu")(inputs)))
    x = images(dtype="float32")
    forward = explainer.clone.forward([tf.constant(x)])
    np.testing.assert_array_equal(forward.values[explainer.graph.outputs[0]], tf.nn.silu(x))


def test_what_is_made_once_belongs_to_its_graph():
    def both():
        with tf.control_dependencies([tf.constant(1)]):
            first = numerics.number(-0.0, tf.float32)
        inner = tf.function(lambda: numerics.number(-0.0, tf.float32)).get_concrete_function()
        assert inner.graph is not first.graph
        assert not first.op.control_inputs
        assert numerics.number(-0.0, tf.float32) is first
        assert numerics.number(0.0, tf.float32) is not first
        return first, inner()

    first, inner = tf.function(both)()
    assert np.signbit(first)
    assert np.signbit(inner)

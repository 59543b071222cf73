"""What the caller declares for speed: inputs that are never negative, XLA where it pays."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules


def network(*, rescaling=False):
    inputs = keras.Input((8, 8, 2))
    x = kl.Rescaling(2.0, offset=-1.0)(inputs) if rescaling else inputs
    x = kl.Conv2D(4, 3, activation="relu", name="first")(x)
    x = kl.Conv2D(5, 3, activation="relu", name="second")(x)
    return randomize(keras.Model(inputs, kl.Dense(3, name="logits")(kl.Flatten()(x))))


def positive_images():
    return np.abs(images(dtype="float32"))


def nonnegative_steps(explainer):
    return {step.name for step in explainer.graph.steps if step.linear is not None and step.marks.nonnegative}


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_declared_inputs_change_no_number(preset):
    model, x = network(), positive_images()
    bounds = {"low": 0.0, "high": 5.0} if composites.needs_bounds(preset) else {}
    composite = composites.get(preset, **bounds)
    plain, declared = lrp_tf.Explainer(model, composite), lrp_tf.Explainer(model, composite, nonnegative=True)
    assert nonnegative_steps(declared) - nonnegative_steps(plain) == {"first"}
    close(declared(x), plain(x), 1e-6)


def concatenated_maps(explainer, x):
    """Concatenations of feature maps; vectors are concatenated elsewhere."""
    explainer(x)
    (function,) = explainer._compiled.values()
    ops = function.graph.get_operations()
    return [op for op in ops if op.type == "ConcatV2" and op.outputs[0].shape.rank == 4]


def test_declared_inputs_spare_convolutions():
    model, x = network(), positive_images()
    counts = [
        len(concatenated_maps(lrp_tf.Explainer(model, rules.AlphaBeta(2, 1), nonnegative=declared), x))
        for declared in (False, True)
    ]
    assert counts[0] > counts[1] == 0  # the parts of the two signs side by side


def test_what_a_rescaling_makes_negative_is_not_declared():
    assert "first" not in nonnegative_steps(lrp_tf.Explainer(network(rescaling=True), nonnegative=True))


def test_a_broken_promise_is_an_error():
    x = images(dtype="float32")
    assert x.min() < 0
    model = network()
    explainer = lrp_tf.Explainer(model, nonnegative=True)
    with raises(ValueError, "below zero", "nonnegative=True"):
        explainer(x)
    with raises(ValueError, "below zero", "nonnegative=True"):
        lrp_tf.clone_with_rules(model, nonnegative=True)(tf.constant(x))
    for call in (explainer, lrp_tf.clone_with_rules(model, nonnegative=True)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="below zero"):
            tf.function(call)(tf.constant(x))
    not_a_number = positive_images()
    not_a_number[0, 0, 0, 0] = np.nan
    with raises(ValueError, "NaN"):  # which is said as it is
        explainer(not_a_number)


# --- XLA, memory -------------------------------------------------------------------------------


def test_xla_on_request_and_where_there_is_a_gpu(monkeypatch):
    model = network()
    for gpus, expected in (([], False), (["GPU:0"], True)):
        with monkeypatch.context() as patch:
            patch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
            assert lrp_tf.Explainer(model, jit_compile="auto").jit_compile == expected
    with raises(ValueError, 'True, False or "auto"', "Received: 'yes'"):
        lrp_tf.Explainer(model, jit_compile="yes")


def test_explainers_that_are_dropped_leave_nothing_behind():
    """Neither in Python nor in TensorFlow's registries of gradients and functions."""
    from tensorflow.python.eager import context
    from tensorflow.python.framework import ops

    model, x = network(), images(dtype="float32")

    def held():
        gc.collect()
        graphs = sum(isinstance(o, tf.Graph) for o in gc.get_objects())
        return graphs, len(ops.gradient_registry.list()), len(context.context().list_function_names())

    counts = []
    for _ in range(4):
        explainer = lrp_tf.Explainer(model, "epsilon_plus_flat")
        explainer(x)
        del explainer
        counts.append(held())
    assert counts[1] == counts[2] == counts[3]

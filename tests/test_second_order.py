"""The derivatives of relevance by inputs and weights, for every rule and every kind of layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.exactness import LAYERS, QUICK, RULES, SIGNS, layer_and_data
from helpers.finite import check_derivatives, weighed
from helpers.layer_cases import CASES
from keras import tree

import lrp_tf
from lrp_tf.engine.savings import switched_off

PRESETS = {
    "epsilon": {},
    "epsilon_plus": {},
    "epsilon_plus_flat": {},
    "epsilon_alpha2_beta1_flat": {},
    "epsilon_gamma_box": {"low": -300.0, "high": 500.0},
    "tutorial": {"low": -300.0, "high": 500.0},
    "attn_lrp": {},
    "cp_lrp": {},
    "gradient": {},
    "guided_backprop": {},
}


def relevance(clone, inputs, start):
    """By the innermost tape; a tape around it differentiates it. Of integers, which no tape asks for, by the pass."""
    if not any(v.dtype.is_floating for v in inputs):
        forward = clone.forward(inputs)
        z = clone.output(forward)
        found = clone.propagate(forward, start(z)).relevance
        return [found[ref] for ref in clone.graph.inputs], z
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v for v in inputs if v.dtype.is_floating])
        z = clone(tree.pack_sequence_as(clone.graph.input_structure, list(inputs)))
    floats = [v for v in inputs if v.dtype.is_floating]
    return tape.gradient(z, floats, output_gradients=start(z)), z


def loss_of(clone):
    def start(z):
        return z * tf.constant(np.random.default_rng(1).normal(size=z.shape), z.dtype)

    def loss(inputs):
        found, z = relevance(clone, inputs, start)
        return weighed(found) + 0.1 * tf.reduce_sum(
            tf.sin(tf.cast(z, "float64"))
        )  # the values, too: an ordinary function for the tape

    return loss


def check_rule(name, rule, sign, bias, savings):
    model, _, x, _ = layer_and_data(name, sign, bias, "float64")
    x = np.where(x == 0, -0.3, x)  # not on the kink of the ReLU
    if savings:
        clone = lrp_tf.clone_with_rules(model, RULES[rule][0])
    else:
        with switched_off():
            clone = lrp_tf.clone_with_rules(model, RULES[rule][0])
    check_derivatives(loss_of(clone), [x], model.trainable_variables)


@pytest.mark.parametrize(("name", "rule"), [(QUICK[i % len(QUICK)], rule) for i, rule in enumerate(RULES)])
@pytest.mark.usefixtures("seldom_compiled")
def test_each_rule(name, rule):
    check_rule(name, rule, SIGNS[len(rule) % 2], "negative" if len(name) % 2 else "positive", len(rule) % 3 > 0)


def pairs():
    """Two rules for each kind of layer, in turn, so that every rule meets layers of every class."""
    found, known = [], list(RULES)
    for i, name in enumerate(LAYERS):
        for rule in (known[5 * i % len(known)], known[(5 * i + 8) % len(known)]):
            found.append((name, rule, SIGNS[i // 2 % 2], i % 3 > 0))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule", "sign", "savings"), pairs())
def test_rules_on_every_linear_layer(name, rule, sign, savings):
    check_rule(name, rule, sign, "negative", savings)


# TensorFlow has no float64 kernels of these on CPUs: see test_pooling_of_volumes.
SINGLE = {"MaxPooling3D", "AveragePooling3D", "AdaptiveMaxPooling3D", "AdaptiveAveragePooling3D"}
# It computes these in float32, or has no gradient in float64: differences are coarse.
COARSE = {"Resizing", "UpSampling2D", "CenterCrop", "Pipeline"}


def cases():
    """Every case of every layer of Keras under a preset, in turn; by default a few that differ."""
    quick = {
        "MaxPooling2D",
        "LSTM",
        "MultiHeadAttention",
        "LayerNormalization",
        "BatchNormalization",
        "Multiply",
        "ReLU",
    }
    quick |= {"Add", "Resizing", "UpSampling2D", "SeparableConv2D", "Embedding"}
    found, turn = [], 0
    for name, builds in sorted(CASES.items()):
        if name in SINGLE:
            continue
        for k, build in enumerate(builds):
            preset = list(PRESETS)[turn % len(PRESETS)]
            turn += 1
            marks = [] if name in quick and k == min(len(builds) - 1, 2) else [pytest.mark.slow]
            found.append(pytest.param(name, preset, build, id=f"{name}-{k}-{preset}", marks=marks))
    return found


CROPPED = "crop_to_aspect_ratio", "pad_to_aspect_ratio"


def crops(model):
    """Whether a step crops or pads what it resizes."""
    inside = [layer for layer in model._flatten_layers() if any(getattr(layer, name, False) for name in CROPPED)]
    larger = [la for la in model._flatten_layers() if isinstance(la, keras.layers.CenterCrop) and la.height > 6]
    return bool(inside or larger)


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
@pytest.mark.parametrize(("name", "preset", "build"), cases())
@pytest.mark.usefixtures("seldom_compiled")
def test_every_layer_of_keras(name, preset, build, double_precision):
    if name in COARSE:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    model, x = build()
    if preset in ("tutorial", "epsilon_gamma_box") and not any("float" in i.dtype for i in model.inputs):
        preset = "epsilon"  # bounds belong to floats
    if name in COARSE:  # nothing cancels
        x = np.abs(x)
        for w in model.trainable_variables:
            w.assign(tf.abs(w))
    clone = lrp_tf.clone_with_rules(model, preset, **PRESETS[preset])
    loss, dtype = loss_of(clone), model.inputs[0].dtype
    inputs = [np.asarray(v, dtype) if v.dtype == "float64" else v for v in tree.flatten(x)]
    if crops(model):
        with pytest.raises(LookupError, match="not differentiable"):
            check_derivatives(loss, inputs, model.trainable_variables)
    elif name in COARSE:
        check_derivatives(loss, inputs, model.trainable_variables, 1e-2, steps=(3e-2, 1e-2, 3e-3, 1e-3))
    else:
        check_derivatives(loss, inputs, model.trainable_variables)


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_pooling_of_volumes(name):
    """In float32, where nothing cancels."""
    options = {"output_size": 2} if "Adaptive" in name else {"pool_size": 2, "padding": "same"}
    layer, rng = getattr(keras.layers, name, None), np.random.default_rng(1)
    if layer is None:
        pytest.skip("this Keras has no such layer")
    model = keras.Sequential(
        [keras.Input((4, 3, 4, 2)), layer(**options), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    for w in model.weights:
        w.assign(rng.uniform(0.5, 1.5, w.shape))
    x = rng.permutation(np.linspace(0.5, 4.0, 192)).reshape(2, 4, 3, 4, 2).astype("float32")  # maxima lie apart
    clone = lrp_tf.clone_with_rules(model, "epsilon")
    check_derivatives(loss_of(clone), [x], model.trainable_variables, 1e-2, steps=(3e-3, 1e-3))

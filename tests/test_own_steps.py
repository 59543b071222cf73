"""Layers of one's own: what cannot be followed, which rule reaches their steps, retraining and batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import RULE, check, close, images, raises, randomize, relevance, vectors, with_weights
from helpers.custom_layers import (
    IMAGES,
    SEQUENCES,
    Gate,
    Raw,
    Scale,
    gated_net,
    pooled,
    token_model,
    tokens,
    transformer,
)
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules

pytestmark = pytest.mark.usefixtures("double_precision")


# --- what cannot be followed -------------------------------------------------------------------


def test_saved_model_of_tensorflow_is_refused(tmp_path):
    model = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(3, activation="relu")]))
    model.export(str(tmp_path), verbose=False)
    i = keras.Input((4,))
    wrapped = keras.Model(i, kl.Dense(2)(kl.TFSMLayer(str(tmp_path), call_endpoint="serve", name="exported")(i)))
    with raises(lrp_tf.UnsupportedLayerError, "'exported'", "TFSMLayer", "no Keras steps", "Remedy"):
        lrp_tf.Explainer(wrapped)


def bent(x):
    return tf.nn.softplus(x) * 2


def opaque(layer):
    return randomize(keras.Sequential([keras.Input((4,)), kl.Dense(4), layer, kl.Dense(2, name="logits")]))


def as_softplus(model):
    """R passes whatever is element-wise, so the values alone matter: here 2 softplus."""
    i = keras.Input((4,))
    h = model.layers[0](i)
    return keras.Model(i, model.layers[-1](kl.Activation("softplus")(h) * 2))


@pytest.mark.parametrize("remedy", ["register_activation", "composite"])
def test_lambda(monkeypatch, remedy):
    model = opaque(kl.Lambda(bent, name="my_lambda"))
    with raises(lrp_tf.UnsupportedLayerError, "'my_lambda'", "Lambda", "register_activation", "Remedy"):
        lrp_tf.Explainer(model)
    composite = composites.get(rules.Epsilon())
    if remedy == "composite":
        composite = composites.Composite(
            [(composites.named("my_lambda"), flows.PassThrough()), (None, rules.Epsilon())]
        )
    else:
        monkeypatch.setattr(flows.base, "_ACTIVATIONS", [])
        flows.register_activation(bent)
    found = check(model, vectors(), composite, target=0)
    close(found.relevance, relevance(as_softplus(model), vectors(), rules.Epsilon()))


@pytest.mark.parametrize("remedy", ["register", "composite by name", "composite by class", "expansion", "rewritten"])
@pytest.mark.usefixtures("seldom_compiled")
def test_raw_tensorflow(monkeypatch, remedy):
    class Bent(Raw):
        def call(self, x):
            return bent(x)

    class Rewritten(kl.Layer):
        def call(self, x):
            return ops.softplus(x) * 2

    model = opaque((Rewritten if remedy == "rewritten" else Bent)(name="odd"))
    if remedy != "rewritten":
        with raises(
            lrp_tf.UnsupportedLayerError, "'odd'", "Bent", "cannot be traced", r"flows\.register\(Bent", "KerasT"
        ):
            lrp_tf.Explainer(model)
    entries = [(None, rules.Epsilon())]
    match remedy:
        case "register":
            monkeypatch.setitem(flows.base._REGISTRY, (Bent, None), flows.PassThrough())
        case "composite by name":
            entries = [(composites.named("odd"), flows.PassThrough()), *entries]
        case "composite by class":
            entries = [(composites.of_type(Bent), flows.PassThrough()), *entries]
        case "expansion":
            monkeypatch.setitem(lrp_tf.tracing.decompositions._REGISTRY, Bent, lambda layer, x: ops.softplus(x) * 2)
    found = check(model, vectors(), composites.Composite(entries), target=0)
    close(found.relevance, relevance(as_softplus(model), vectors(), rules.Epsilon()))


# --- composites --------------------------------------------------------------------------------


@pytest.mark.parametrize("match", [composites.named("gate"), composites.of_type(Gate), lambda s: s.name == "gate"])
def test_layer_with_a_flow_of_its_own_stays_one_step(match):
    model = randomize(gated_net())
    composite = composites.Composite([(match, flows.PassThrough()), (None, rules.ZPlus())])
    found = check(model, IMAGES, composite, target=0, layers=["gate", "residual"])
    close(found.layers["gate"], found.layers["residual"])
    names = lrp_tf.Explainer(model, composite).summary(None).column("layer")
    assert "gate" in names
    assert not any(name.startswith("gate/") for name in names)


def test_relevance_of_a_composite_layer():
    """What `layers=` gives is what the steps behind the layer send it."""
    model = randomize(gated_net())
    found = check(model, IMAGES, RULE, target=0, layers=["residual", "gate", "gate/excite"])
    head = keras.Model(model.get_layer("gate").output, model.output)
    between = np.asarray(keras.Model(model.input, model.get_layer("gate").output)(IMAGES))
    close(found.layers["gate"], relevance(head, between))
    assert found.layers["residual"].shape == (3, 6, 6, 4)
    assert not np.any(found.layers["gate/excite"])  # a gate is held constant


def rules_of(model, composite):
    table = lrp_tf.Explainer(model, composite).summary(None)
    return dict(zip(table.column("layer"), table.column("rule"), strict=True))


def test_names_reach_the_steps_inside():
    entries = [
        (composites.named("residual/(first|second)"), rules.Gamma(0.5)),
        (composites.named("squeeze"), rules.ZPlus()),
        (None, rules.Epsilon()),
    ]
    found = rules_of(randomize(gated_net()), composites.Composite(entries))
    assert [found[n] for n in ("residual/first", "residual/second")] == ["Gamma(0.5), with norm", "Gamma(0.5)"]
    assert (found["gate/squeeze"], found["stem"]) == ("ZPlus()", "Epsilon(1e-06)")


def test_a_class_reaches_the_steps_that_it_was_expanded_into():
    separable = kl.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, activation="relu", name="separable")
    model = pooled(i := keras.Input((6, 6, 3)), kl.Conv2D(3, 1, name="plain")(separable(i)))
    match = composites.of_type(kl.SeparableConv2D)
    composite = composites.Composite([(match, rules.AlphaBeta(2.0, 1.0)), (None, rules.Epsilon())])
    found = rules_of(model, composite)
    inner = [rule for name, rule in found.items() if name.startswith("separable/") and "conv" in name]
    assert inner == ["AlphaBeta(2, 1)"] * 2
    assert found["plain"] == "Epsilon(1e-06)"
    deep, wide = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False), kl.Conv2D(4, 1, name="wide")
    twin = pooled(i := keras.Input((6, 6, 3)), kl.Conv2D(3, 1, name="plain")(kl.ReLU()(wide(deep(i)))))
    with_weights(twin, model.get_weights())
    match = composites.of_type(kl.DepthwiseConv2D)
    entries = [(m, rules.AlphaBeta(2.0, 1.0)) for m in (match, composites.named("wide"))]
    x = images(size=6, channels=3)
    expected = relevance(twin, x, composites.Composite([*entries, (None, rules.Epsilon())]))
    close(check(model, x, composite, target=0).relevance, expected)


# --- retrained, batches ------------------------------------------------------------------------


SOUND = {"gate": (gated_net, IMAGES), "attention": (transformer, SEQUENCES), "masks": (token_model, tokens())}
QUICK = ["gate", "weights of its own", *(pytest.param(n, marks=pytest.mark.slow) for n in ("attention", "masks"))]
SOUND["weights of its own"] = (lambda: pooled(i := keras.Input((6, 6, 3)), Scale()(i)), images(size=6, channels=3))


@pytest.mark.parametrize("name", QUICK)
def test_retrained_weights_are_followed(name):
    make, x = SOUND[name]
    model = randomize(make())
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    before = explainer(x, 0).numpy()
    randomize(model, seed=7)
    found = explainer(x, 0).numpy()
    assert np.abs(found - before).max() > 1e-3 * np.abs(before).max()
    np.testing.assert_array_equal(found, relevance(model, x, "epsilon_plus"))
    close(explainer.explain(x).output, model(x), 1e-12)


@pytest.mark.parametrize("name", QUICK)
def test_samples_do_not_depend_on_their_batch_and_calls_repeat(name):
    make, x = SOUND[name]
    explainer = lrp_tf.Explainer(randomize(make()), "epsilon_plus")
    together = explainer(x).numpy()
    close(np.concatenate([explainer(x[k : k + 1]) for k in range(len(x))]), together, 1e-12)
    np.testing.assert_array_equal(explainer(x), together)


@pytest.mark.parametrize("name", ["gate", pytest.param("attention", marks=pytest.mark.slow)])
def test_gradient_of_the_clone_is_the_relevance(name):
    make, x = SOUND[name]
    model = randomize(make())
    clone, tensor = lrp_tf.clone_with_rules(model, "epsilon_plus"), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        z = clone(tensor)
    found = tape.gradient(z, tensor, output_gradients=tf.one_hot(tf.argmax(z, -1), 3, dtype=z.dtype) * z)
    close(found, relevance(model, x, "epsilon_plus", None), 1e-12)
    close(z, model(x), 1e-12)

"""The model, later layers and random numbers are what they would be without any explainer."""

import contextlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import dense_net, image_net, images, randomize, vectors
from helpers.custom_layers import Around, Encoder, Raw, gated_net, token_model, transformer
from keras import layers as kl

import lrp_tf
from lrp_tf import composites

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def fingerprint(model):
    weights = [(w.path, w.dtype, w.numpy().tobytes()) for w in model.variables]
    nodes = [(x.name, len(x._inbound_nodes), len(x._outbound_nodes), x.built) for x in model._flatten_layers()]
    return json.dumps(model.get_config(), default=str, sort_keys=True), weights, nodes, model.trainable


def swallow(call):
    with pytest.raises((ValueError, TypeError)):
        call()


def test_nothing_changes_the_model():
    model = image_net()
    model.compile("sgd", "mse")
    before = fingerprint(model)
    explainer = lrp_tf.Explainer(model, composites.get("tutorial", low=-4.0, high=4.0))
    explainer.explain(IMG, [[0, 1]] * 3, layers=["conv", "norm"])
    explainer.report(IMG, print_fn=None)
    explainer.summary(None)
    with tf.GradientTape() as tape:
        x = tf.constant(IMG)
        tape.watch(x)
        z = explainer.clone(x)
    tape.gradient(z, x)
    swallow(lambda: lrp_tf.Explainer(model, "unknown"))
    swallow(lambda: lrp_tf.Explainer(model, output="unknown"))
    swallow(lambda: explainer(IMG, 17))
    swallow(lambda: explainer(IMG[0]))
    swallow(lambda: explainer(IMG[:0]))
    swallow(lambda: explainer(IMG * np.nan))
    assert fingerprint(model) == before


def tokens(batch=3, seed=0):
    """Numbers of tokens, the last ones 0."""
    x = np.random.default_rng(seed).integers(1, 11, (batch, 6)).astype("int32")
    x[0, 4:] = x[1, 2:] = 0
    return x


VECTORS = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
# name -> (model of layers that are followed, its input)
FOLLOWED = {
    "gate": (gated_net, images(channels=3, dtype="float32")),
    "attention": (transformer, VECTORS),
    "grouped attention": (lambda: transformer(attention=kl.GroupQueryAttention), VECTORS),
    "masks": (token_model, tokens()),
    "shared": (lambda: twice(Encoder(name="shared")), VECTORS),
}


def twice(layer):
    i = keras.Input((6, 4))
    return keras.Model(i, kl.Dense(2)(kl.Flatten()(layer(layer(i)))))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("grouped attention", "shared")]


@pytest.mark.parametrize("name", ["gate", "attention", "masks", *SLOW])
def test_nothing_changes_a_model_whose_layers_are_followed(name):
    make, x = FOLLOWED[name]
    model = randomize(make())
    parts = [layer.name for layer in model.layers[1:]]
    before = fingerprint(model)
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    explainer.explain(x, [[0, 1]] * 3, layers=parts)
    explainer.clone(x)
    swallow(lambda: lrp_tf.Explainer(model, output="unknown"))
    assert fingerprint(model) == before
    if name != "shared":
        assert all(layer.output is not None for layer in model.layers)  # raises with a second node
    assert model.count_params() == make().count_params()


class Counting(kl.Layer):
    def build(self, shape):
        self.w, self.n = self.add_weight(shape=(4,), name="w"), self.add_weight(shape=(), trainable=False, name="n")

    def call(self, x):
        self.n.assign(self.n + 1.0)
        return x * (self.w + 2)


class Drawing(kl.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + 0.1 * keras.random.normal((1, 4), seed=self.seed)


@pytest.mark.parametrize("layer", [Counting, Drawing])
def test_variables_that_a_call_changes_stay_as_they_are(layer):
    """Whether such a layer is followed or refused."""
    model = dense_net(layer())
    before = fingerprint(model)
    with contextlib.suppress(lrp_tf.UnsupportedLayerError):
        explainer = lrp_tf.Explainer(model)
        explainer(VEC)
        explainer(VEC)
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    "layer",
    [lambda: Raw(), lambda: kl.Dense(4, activation=cube), lambda: Around(name="around"), lambda: Encoder(inner=Raw())],
    ids=["layer", "activation", "inner layer", "two deep"],
)
def test_a_refused_model_is_not_changed(layer):
    i = keras.Input((6, 4))
    model = randomize(keras.Model(i, kl.Dense(2)(layer()(i))))
    before = fingerprint(model)
    swallow(lambda: lrp_tf.Explainer(model))
    assert fingerprint(model) == before


def cube(x):
    return tf.pow(x, 3)


def test_names_of_later_layers_do_not_depend_on_explainers():
    class Plus(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = kl.Dense(4)

        def call(self, x):
            return keras.ops.relu(self.dense(x) + x)

    subclassed = Plus()
    subclassed(VEC)

    def names(explain):
        keras.backend.clear_session()
        plain = dense_net(kl.Dense(4, activation="relu"), kl.Reshape((4,)), kl.Dropout(0.1))
        followed = [(make(), x) for make, x in FOLLOWED.values()]
        if explain:
            for model, x in [(plain, VEC), (subclassed, VEC), *followed]:
                lrp_tf.clone_with_rules(model)(x)
        i = keras.Input((4,))
        made = [kl.Dense(1), kl.Add(), kl.ReLU(), kl.Reshape((4,)), kl.Dropout(0.1), i + i, keras.ops.relu(i)]
        made += [kl.MultiHeadAttention(1, 1), kl.Softmax(), keras.ops.einsum("ab->ab", i), Encoder(), Raw()]
        return [made_.name for made_ in made]

    assert names(True) == names(False)


@pytest.mark.parametrize("name", ["gate", "attention", "masks", *SLOW])
def test_random_numbers_do_not_depend_on_explainers(name):
    make, x = FOLLOWED[name]
    models = [(dense_net(kl.Dropout(0.5), kl.GaussianNoise(1.0)), VEC), (make(), x)]
    seeds = [w.numpy() for model, _ in models for w in model.variables if "seed" in w.path]

    def draw():
        return np.asarray(keras.random.normal((4,))), np.random.normal(size=4), np.asarray(tf.random.normal((4,)))

    keras.utils.set_random_seed(1)
    expected = draw()
    keras.utils.set_random_seed(1)
    for model, batch in models:
        lrp_tf.clone_with_rules(model)(batch)
    np.testing.assert_array_equal(draw(), expected)
    after = [w.numpy() for model, _ in models for w in model.variables if "seed" in w.path]
    assert seeds or name == "gate"
    assert all(np.array_equal(a, b) for a, b in zip(seeds, after, strict=True))


def trained(make, x, explain):
    keras.utils.set_random_seed(3)
    model = make()
    model.compile("sgd", "mse")
    if explain:
        lrp_tf.Explainer(model).explain(x)
    y = np.random.default_rng(0).normal(size=(len(x), model.output_shape[-1]))
    model.fit(x, y, epochs=2, verbose=0)
    return model.get_weights()


def dropout_net():
    return keras.Sequential([keras.Input((4,)), kl.Dense(4, activation="relu"), kl.Dropout(0.5), kl.Dense(3)])


@pytest.mark.parametrize("make", [dropout_net, pytest.param(transformer, marks=pytest.mark.slow)])
def test_model_trains_as_if_it_had_never_been_explained(make):
    x = VEC if make is dropout_net else VECTORS
    for a, b in zip(trained(make, x, True), trained(make, x, False), strict=True):
        np.testing.assert_array_equal(a, b)

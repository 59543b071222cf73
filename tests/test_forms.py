"""Forms of models: however layers of one's own are shared, nested, subclassed or saved, they are explained the same."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, check, close, images, randomize, relevance, vectors, with_weights
from helpers.custom_layers import (
    IMAGES,
    SEQUENCES,
    Encoder,
    Gate,
    Residual,
    Scale,
    gated_net,
    pooled,
    serializable,
    token_model,
    tokens,
    transformer,
)
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import rules

pytestmark = pytest.mark.usefixtures("double_precision")


# --- shared, nested, sliced --------------------------------------------------------------------


def test_shared_composite_layer_sums_the_relevance_of_its_calls():
    def build(first, second):
        i = keras.Input((8, 8, 3))
        return pooled(i, second(first(i)))

    layer = Residual(3, name="block")
    model, twin = build(layer, layer), build(Residual(3), Residual(3))
    for copy in twin.layers[1:3]:
        copy.set_weights(layer.get_weights())
    twin.layers[-1].set_weights(model.layers[-1].get_weights())
    found = check(model, IMAGES, RULE, layers=["block"], target=0)
    assert [r.shape for r in found.layers["block"]] == [(3, 8, 8, 3)] * 2
    close(found.relevance, relevance(twin, IMAGES))


def test_shared_model_of_composite_layers_on_two_inputs():
    def tower():
        return keras.Sequential([keras.Input((8, 8, 3)), Residual(3), Gate(), kl.GlobalAveragePooling2D()])

    def build(left, right):
        a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
        return randomize(keras.Model({"a": a, "b": b}, kl.Dense(2)(kl.Concatenate()([left(a), right(b)]))))

    shared, own = tower(), [tower(), tower()]
    model, twin = build(shared, shared), build(*own)
    for copy in own:
        copy.set_weights(shared.get_weights())
    twin.layers[-1].set_weights(model.layers[-1].get_weights())
    x = {"b": images(channels=3, seed=5), "a": IMAGES}
    close(check(model, x, RULE, target=0).relevance, relevance(twin, x))


def test_nested_three_deep_equals_the_flat_model():
    def parts():
        return [Residual(4, name="residual"), Gate(name="gate"), kl.LayerNormalization(), Scale(name="scale")]

    residual, gate, norm, scale = parts()
    i = keras.Input((6, 6, 4))
    flat = pooled(i, scale(i + norm(gate(residual(i)))))
    residual, gate, norm, scale = parts()
    inner = keras.Sequential([keras.Input((6, 6, 4)), residual, gate], name="inner")
    j = keras.Input((6, 6, 4))
    middle = keras.Model(j, j + norm(inner(j)), name="middle")
    outer = keras.Sequential([keras.Input((6, 6, 4)), middle, scale], name="outer")
    nested = with_weights(pooled(i := keras.Input((6, 6, 4)), outer(i)), flat.get_weights())
    x = images(size=6, channels=4)
    found = check(nested, x, RULE, target=0, layers=["outer/middle/inner/gate"])
    expected = check(flat, x, RULE, target=0, layers=["gate"])
    close(found.relevance, expected.relevance)
    close(found.layers["outer/middle/inner/gate"], expected.layers["gate"])
    paths = set(lrp_tf.Explainer(nested).summary(None).column("layer"))
    assert {"outer/middle/inner/residual/second", "outer/middle/inner/gate/excite", "outer/scale/tanh"} <= paths


@pytest.mark.parametrize("output", ["left", "right"])
def test_dict_inputs_and_outputs(output):
    a, b = keras.Input((8, 8, 3), name="photo"), keras.Input((5,), name="facts")
    seen, told = kl.GlobalAveragePooling2D()(Gate()(Residual(3)(a))), Scale()(b)
    both = kl.Concatenate()([seen, told])
    ends = {"left": kl.Dense(2)(both), "right": kl.Dense(3, activation="softmax")(kl.Multiply()([seen, told[:, :3]]))}
    model = randomize(keras.Model({"photo": a, "facts": b}, ends))
    x = {"facts": vectors(units=5), "photo": IMAGES}
    found = check(model, x, RULE, output=output, index=["left", "right"].index(output))
    assert all(np.any(r) for r in found.relevance.values())


@pytest.mark.parametrize(
    ("make", "cut", "x"),
    [
        (gated_net, "residual", IMAGES),
        pytest.param(lambda: token_model(masked=False), "embedding", tokens(), marks=pytest.mark.slow),
        pytest.param(lambda: transformer(blocks=2), "encoder_0", SEQUENCES, marks=pytest.mark.slow),
    ],
    ids=["gate", "tokens", "attention"],
)
def test_sliced_models_hand_the_relevance_over(make, cut, x):
    """The head's relevance of the cut, put into the body, is that of the whole model."""
    full = randomize(make())
    middle = full.get_layer(cut).output
    body, head = keras.Model(full.input, middle), keras.Model(middle, full.output)
    found = check(full, x, rules.ZPlus(), target=1, layers=[cut])
    between = check(head, np.asarray(body(x)), rules.ZPlus(), target=1).relevance
    close(between, found.layers[cut])
    close(lrp_tf.Explainer(body, rules.ZPlus())(x, start=between), found.relevance)


def test_arithmetic_in_a_layer_is_arithmetic_in_the_model():
    def arithmetic(h, w):
        return (h * 2 + 1 - h) / 4 + (3 - h) * 0.5 - ops.multiply(h, w)

    class Arithmetic(kl.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(1, 4), initializer=keras.initializers.Constant([[1.0, -2.0, 0.5, 3.0]]))

        def call(self, x):
            return arithmetic(x, self.w)

    def build(layer):
        i = keras.Input((4,))
        return keras.Model(i, kl.Dense(3)(layer(kl.Dense(4, activation="relu")(i))))

    model = build(Arithmetic())
    for layer in (model.layers[1], model.layers[3]):
        layer.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in layer.get_weights()])
    twin = build(lambda h: arithmetic(h, np.array([[1.0, -2.0, 0.5, 3.0]])))
    with_weights(twin, [w for layer in (model.layers[1], model.layers[3]) for w in layer.get_weights()])
    close(check(model, vectors(), RULE, target=0).relevance, check(twin, vectors(), RULE, target=0).relevance)


class Twins(kl.Layer):
    """Two layers of one name, and one that does nothing."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = kl.Dense(4, name="dense"), kl.Dense(4, activation="relu", name="dense")
        self.nothing = Nothing(name="nothing")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 4))

    def call(self, x):
        return self.nothing(self.second(self.first(x)))


class Nothing(kl.Layer):
    def call(self, x):
        return x


def test_layers_of_one_name_in_a_layer():
    model = randomize(keras.Sequential([keras.Input((4,)), Twins(name="twins"), kl.Dense(3)]))
    twin = keras.Sequential([keras.Input((4,)), kl.Dense(4), kl.Dense(4, activation="relu"), kl.Dense(3)])
    with_weights(twin, model.get_weights())
    close(check(model, vectors(), RULE, target=0).relevance, relevance(twin, vectors()))
    names = lrp_tf.Explainer(model).summary(None).column("layer")
    assert len(set(names)) == len(names)


def test_layer_that_ignores_an_argument_or_gives_it_back():
    class Odd(kl.Layer):
        def call(self, a, b):
            return {"same": a, "changed": ops.relu(a), "both": [a, ops.concatenate([a, a], axis=-1)]}

    a, b = keras.Input((4,)), keras.Input((4,))
    found = Odd()(kl.Dense(4)(a), b)
    ends = [found["same"], found["changed"], *found["both"]]
    model = randomize(keras.Model([a, b], kl.Dense(2)(kl.Concatenate()(ends))))
    x = [vectors(seed=1), vectors(seed=2)]
    assert not np.any(check(model, x, RULE).relevance[1])


def test_names_inside_a_layer_do_not_depend_on_what_was_made_before():
    model = gated_net()
    before = lrp_tf.Explainer(model).summary(None).column("layer")
    assert {"residual/multiply", "gate/mean", "gate/multiply"} <= set(before)
    i = keras.Input((4,))
    made = [i * 2, ops.mean(i), ops.relu(i), i + i]
    assert lrp_tf.Explainer(model).summary(None).column("layer") == before, made


# --- subclasses --------------------------------------------------------------------------------


@serializable
class GatedNet(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.stem = kl.Conv2D(4, 3, activation="relu", name="stem")
        self.residual, self.gate = Residual(4, 0.5, name="residual"), Gate(name="gate")
        self.pool, self.logits = kl.GlobalAveragePooling2D(), kl.Dense(3, name="logits")

    def call(self, x, training=None):
        return self.logits(self.pool(self.gate(self.residual(self.stem(x), training=training))))


@serializable
class TokenModel(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.embedding, self.encoder = kl.Embedding(11, 4, mask_zero=True, name="embedding"), Encoder(name="encoder")
        self.pool, self.logits = kl.GlobalAveragePooling1D(), kl.Dense(3, name="logits")

    def call(self, x, training=None):
        return self.logits(self.pool(self.encoder(self.embedding(x), training=training)))


SUBCLASSED = {"gate": (GatedNet, gated_net, IMAGES), "masks": (TokenModel, token_model, tokens())}


@pytest.mark.parametrize("name", SUBCLASSED)
def test_subclassed_model_of_composite_layers_equals_the_functional_one(name):
    make, functional, x = SUBCLASSED[name]
    model = make()
    model(x)
    twin = randomize(functional())
    for layer in ("stem", "residual", "gate", "embedding", "encoder", "logits"):
        if hasattr(model, layer):
            getattr(model, layer).set_weights(twin.get_layer(layer).get_weights())
    close(check(model, x, "epsilon_plus", target=0).relevance, check(twin, x, "epsilon_plus", target=0).relevance)
    inside = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), model, kl.Dense(2)])
    check(randomize(inside), x, RULE)


@pytest.mark.parametrize("name", SUBCLASSED)
def test_functional_subclass_that_overrides_call(name):
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    _, functional, x = SUBCLASSED[name]
    plain = randomize(functional())
    model = Doubled(plain.input, plain.output)
    close(check(model, x, "epsilon_plus", target=0).relevance, 2 * relevance(plain, x, "epsilon_plus"))


# --- saved and loaded --------------------------------------------------------------------------


SAVED = {
    "gate": (gated_net, IMAGES),
    "attention": (transformer, SEQUENCES),
    "masks": (token_model, tokens()),
    "subclass": (GatedNet, IMAGES),
}


# Keras itself can neither save a subclass in .h5 nor load a mask's NotEqual from there.
ENDINGS = [("gate", ".keras"), ("gate", ".h5"), ("masks", ".keras"), ("subclass", ".weights.h5")]
MORE_ENDINGS = [("gate", ".weights.h5"), ("masks", ".weights.h5"), ("subclass", ".keras")]
MORE_ENDINGS += [("attention", ending) for ending in (".keras", ".h5", ".weights.h5")]


@pytest.mark.parametrize(
    ("name", "ending"), [*ENDINGS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE_ENDINGS)]
)
def test_saved_and_loaded_models_give_the_same_bits(tmp_path, name, ending):
    make, x = SAVED[name]
    model = make()
    model(x)
    randomize(model)
    path = str(tmp_path / f"model{ending}")
    if ending == ".weights.h5":
        model.save_weights(path)
        loaded = make()
        loaded(x)
        loaded.load_weights(path)
    else:
        model.save(path)
        loaded = keras.models.load_model(path)
    found, expected = (lrp_tf.Explainer(m, "epsilon_plus")(x, 1).numpy() for m in (loaded, model))
    np.testing.assert_array_equal(found, expected)

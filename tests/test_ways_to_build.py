"""However a model is built, subclassed, saved or left open in its sizes, its clone computes the same."""

import keras
import numpy as np
import pytest
from helpers.checking import BOX, RULE, check, close, images, randomize, relevance, sequential, vectors, with_weights
from keras import layers as kl

import lrp_tf
from lrp_tf import rules

pytestmark = pytest.mark.usefixtures("double_precision")


def test_sequential_built_in_three_ways():
    def stack():
        return [kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Reshape((-1, 3)), kl.Flatten(), kl.Dense(3)]

    first = sequential((8, 8, 2), *stack())
    second = keras.Sequential(stack())
    second.build((None, 8, 8, 2))
    third = keras.Sequential(stack())
    third(images(batch=5))
    fourth = keras.Sequential([keras.Input(batch_shape=(5, 8, 8, 2)), *stack()])
    expected = relevance(first, images())
    for model in (second, third, fourth):
        model.set_weights(first.get_weights())
        explainer = lrp_tf.Explainer(model, RULE)
        close(explainer(images(), 0), expected)  # 3 samples, though it was built with 5
        assert explainer(images(batch=1), 0).shape == (1, 8, 8, 2)


class TwoPaths(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.conv = kl.Conv2D(3, 3, padding="same", activation="relu", name="conv")
        self.drop = kl.Dropout(0.5)
        self.head = keras.Sequential([kl.GlobalAveragePooling2D(), kl.Dense(3, name="logits")], name="head")

    def call(self, inputs, training=None):
        h = self.conv(inputs)
        h = h + self.drop(h, training=training) * 2
        return self.head(keras.ops.relu(h))

    def get_config(self):
        return {}


def same_as_two_paths(weights):
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(3, 3, padding="same", activation="relu")(i)
    h = kl.ReLU()(kl.Add()([h, 2 * h]))
    return with_weights(keras.Model(i, kl.Dense(3)(kl.GlobalAveragePooling2D()(h))), weights)


def test_subclassed_model_equals_the_functional_one():
    model = TwoPaths()
    model(images())
    randomize(model)
    nodes = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()]
    weights = [w for w in model.get_weights() if w.ndim > 0 and w.dtype == "float64"]
    close(
        check(model, images(), target=0).relevance, relevance(same_as_two_paths(weights), images(), "epsilon_plus_flat")
    )
    for layer, inbound, outbound in nodes:
        assert (len(layer._inbound_nodes), len(layer._outbound_nodes)) == (inbound, outbound), layer.name


def test_subclassed_model_inside_a_functional_one():
    inner = TwoPaths()
    i = keras.Input((8, 8, 2))
    model = randomize(keras.Model(i, kl.Dense(2)(inner(i))))
    check(model, images(), RULE, layers=["conv", inner.name])


def test_layers_of_a_functional_model_inside_a_subclassed_one_keep_their_output():
    i = keras.Input((8, 8, 2))
    base = keras.Model(i, kl.ReLU()(kl.Conv2D(3, 3, name="c")(i)))

    class Wrapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.base, self.head = base, kl.Dense(2)

        def call(self, x):
            h = self.base(x)
            for layer in self.base.layers[1:]:
                h = h + layer(x) if layer.name == "c" else h
            return self.head(kl.GlobalAveragePooling2D.call(POOL, h))

    POOL = kl.GlobalAveragePooling2D()
    model = Wrapped()
    model(images())
    randomize(model)
    check(model, images(), RULE)
    assert base.get_layer("c").output is not None  # raises with more than one inbound node
    assert base.layers[-1].output is not None


@pytest.mark.filterwarnings("ignore:`build:UserWarning")  # Keras on layers that were not built
def test_subclassed_model_whose_augmentation_only_training_reaches():
    class Augmented(keras.Model):
        def __init__(self):
            super().__init__()
            self.noise, self.dense = kl.RandomFlip(), kl.Dense(2)

        def call(self, x, training=False):
            if training:
                x = self.noise(x)
            return self.dense(keras.ops.reshape(x, (-1, 128)))

    model = Augmented()
    model(images())
    check(randomize(model), images(), RULE)


def test_subclassed_model_with_dict_input():
    class Sum(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = kl.Dense(3), kl.Dense(3)

        def call(self, inputs):
            return self.a(inputs["p"]) + self.b(inputs["q"])

    model = Sum()
    x = {"q": vectors(), "p": vectors(units=5)}
    model(x)
    found = check(randomize(model), x, rules.Epsilon())
    assert found.relevance["p"].shape == (3, 5)


def test_functional_subclass_that_overrides_call():
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    i = keras.Input((4,))
    model = randomize(Doubled(i, kl.Dense(2)(kl.Dense(3, activation="relu")(i))))
    check(model, vectors(), RULE)


def test_sequential_subclass_that_overrides_call():
    class Doubled(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training)

    check(randomize(Doubled([keras.Input((4,)), kl.Dense(2)])), vectors(), RULE)


def test_functional_subclass_that_keeps_call():
    class Trainer(keras.Model):
        def train_step(self, data):
            return {}

    i = keras.Input((4,))
    check(randomize(Trainer(i, kl.Dense(2)(i))), vectors(), RULE)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on NumPy 2
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_saved_and_loaded(tmp_path, ending):
    i = keras.Input((8, 8, 2))
    h = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(i)))
    h = kl.Add()([h, kl.Conv2D(3, 1)(i)])
    inner = keras.Sequential([keras.Input((8, 8, 3)), kl.Flatten(), kl.Dense(4, activation="relu")])
    model = randomize(keras.Model(i, kl.Dense(3, activation="softmax")(inner(h))))
    path = str(tmp_path / f"model{ending}")
    model.save(path)
    loaded = keras.models.load_model(path)
    close(check(loaded, images(), target=0).relevance, relevance(model, images(), "epsilon_plus_flat"))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on NumPy 2
def test_saved_and_loaded_subclassed_model(tmp_path):
    model = TwoPaths()
    model(images())
    path = str(tmp_path / "model.keras")
    randomize(model).save(path)
    loaded = keras.models.load_model(path, custom_objects={"TwoPaths": TwoPaths})
    close(check(loaded, images(), target=0).relevance, relevance(model, images(), "epsilon_plus_flat"))


def test_unknown_image_sizes():
    def build(size):
        i = keras.Input((size, size, 2))
        h = kl.ZeroPadding2D()(i)
        h = kl.BatchNormalization()(kl.Conv2D(3, 3, strides=2)(h))
        h = kl.MaxPooling2D()(kl.ReLU()(h))
        h = kl.Conv2D(3, 3, padding="same", activation="relu")(h)
        return randomize(keras.Model(i, kl.Dense(3)(kl.GlobalAveragePooling2D()(h))))

    free = lrp_tf.Explainer(build(None), BOX)
    for size in (8, 11):
        fixed = lrp_tf.Explainer(build(size), BOX)
        close(free(images(size=size), 0), fixed(images(size=size), 0))
    check(build(None), images(), RULE)


def test_channels_first_is_the_transpose_of_channels_last():
    def build(form):
        i = keras.Input((8, 8, 2) if form == "channels_last" else (2, 8, 8))
        axis = -1 if form == "channels_last" else 1
        h = kl.ZeroPadding2D(1, data_format=form)(i)
        h = kl.BatchNormalization(axis=axis)(kl.Conv2D(4, 3, data_format=form)(h))
        h = kl.MaxPooling2D(data_format=form)(kl.ReLU()(h))
        h = kl.BatchNormalization(axis=axis)(h)
        h = kl.Conv2D(4, 3, groups=2, padding="same", activation="relu", data_format=form)(h)
        h = kl.AveragePooling2D(2, data_format=form)(h)
        h = kl.Concatenate()(
            [kl.GlobalAveragePooling2D(data_format=form)(h), kl.GlobalMaxPooling2D(data_format=form)(h)]
        )
        return randomize(keras.Model(i, kl.Dense(3)(h)))

    last, first, x = build("channels_last"), build("channels_first"), images()
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    for composite in (BOX,):
        expected = lrp_tf.Explainer(last, composite).explain(x, 0)
        found = lrp_tf.Explainer(first, composite).explain(turned, 0)
        close(found.output, expected.output)
        close(np.transpose(found.relevance, (0, 2, 3, 1)), expected.relevance)
        assert np.abs(found.conservation.unexplained).max() < 1e-9

"""What canonization rewrites: output activations, BatchNormalization, padding; the function stays the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import BOX, RULE, check, close, images, randomize, relevance, sequential, vectors, with_weights
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules

pytestmark = pytest.mark.usefixtures("double_precision")


# --- output activations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        [lambda: kl.Dense(3, activation="softmax")],
        [lambda: kl.Dense(3), lambda: kl.Softmax()],
        [lambda: kl.Dense(3), lambda: kl.Activation("softmax")],
        [lambda: kl.Dense(3), lambda: kl.Activation("softmax"), lambda: kl.Activation("linear", dtype="float64")],
        [lambda: kl.Dense(3, activation=kl.Softmax())],
        [lambda: kl.Dense(3, activation=tf.nn.softmax)],
        [lambda: kl.Dense(3, activation="sigmoid")],
        [lambda: kl.Dense(3, activation=tf.nn.sigmoid)],
        [lambda: kl.Dense(3), lambda: kl.Activation(keras.activations.sigmoid)],
    ],
    ids=["argument", "layer", "activation", "linear-behind", "layer-argument", "tf.nn", "sigmoid", "tf-sigmoid", "sig"],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_final_softmax_or_sigmoid_is_stripped(ending):
    model = sequential((4,), kl.Dense(4, activation="relu"), *[make() for make in ending])
    plain = with_weights(sequential((4,), kl.Dense(4, activation="relu"), kl.Dense(3)), model.get_weights())
    found = check(model, vectors(), RULE, target=1)
    close(found.logits, plain(vectors()))
    close(found.relevance, relevance(plain, vectors(), RULE, 1))
    assert "is stripped" in str(lrp_tf.Explainer(model).summary(None))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_final_activation_by_function_call(name):
    i = keras.Input((4,))
    z = kl.Dense(3)(i)
    plain = randomize(keras.Model(i, z))
    for function in (getattr(keras.activations, name), getattr(keras.ops, name)):
        model = keras.Model(i, function(z))
        found = check(model, vectors(), RULE, target=1)
        close(found.logits, plain(vectors()))


def test_softmax_in_the_middle_stays():
    model = sequential((4,), kl.Dense(5, activation="softmax"), kl.Dense(3), kl.Softmax(), kl.Dense(2))
    found = check(model, vectors(), RULE)
    close(found.logits, model(vectors()))


def test_softmax_whose_output_also_feeds_another_output():
    i = keras.Input((4,))
    p = kl.Dense(3, activation="softmax", name="p")(i)
    model = randomize(keras.Model(i, [p, kl.Dense(2, name="q")(p)]))
    check(model, vectors(), RULE, output="p", layers=["p"])
    check(model, vectors(), RULE, output="q", index=1, layers=["p"])


@pytest.mark.parametrize(
    "activation",
    [
        kl.LeakyReLU,
        kl.PReLU,
        kl.ReLU,
        lambda: "gelu",
        lambda: "silu",
        lambda: tf.nn.relu,
        lambda: keras.ops.silu,
    ],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_hidden_activations_pass_relevance(activation):
    argument = sequential((4,), kl.Dense(4, activation=activation()), kl.Dense(3))
    argument(vectors())  # Keras builds a layer given as an activation at the first call only
    found = check(argument, vectors(), RULE, target=0)
    made = activation()
    layer = sequential((4,), kl.Dense(4), made if isinstance(made, keras.Layer) else kl.Activation(made), kl.Dense(3))
    layer.set_weights(argument.get_weights())
    close(relevance(layer, vectors()), found.relevance)


def test_activation_layer_around_a_layer():
    check(sequential((4,), kl.Dense(4), kl.Activation(kl.LeakyReLU(0.1)), kl.Dense(3)), vectors(), RULE)


@pytest.mark.parametrize("name", ["relu", "gelu", "leaky_relu", "hard_sigmoid"])
def test_activation_functions_called_on_tensors(name):
    i = keras.Input((4,))
    h = kl.Dense(4)(i)
    model = randomize(keras.Model(i, kl.Dense(3)(getattr(keras.activations, name)(h))))
    twin = randomize(keras.Model(i, kl.Dense(3)(kl.Activation(name)(h))))
    twin.set_weights(model.get_weights())
    close(check(model, vectors(), RULE, target=0).relevance, relevance(twin, vectors()))


def test_leaky_relu_function_with_a_slope_is_not_taken_for_non_negative():
    i = keras.Input((4,))
    h = keras.activations.relu(kl.Dense(4)(i), negative_slope=0.3)
    model = randomize(keras.Model(i, kl.Dense(3)(h)))
    twin = with_weights(sequential((4,), kl.Dense(4), kl.LeakyReLU(0.3), kl.Dense(3)), model.get_weights())
    close(check(model, vectors(), RULE, target=0).relevance, relevance(twin, vectors()))


# --- BatchNormalization ------------------------------------------------------------------------


def folded(model, kernel, bias, norm):
    """Kernel and bias of a linear layer with the BatchNormalization behind it taken in, by hand."""
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return kernel * scale, (bias - norm.moving_mean.numpy()) * scale + norm.beta.numpy()


def test_batch_normalization_behind_a_convolution_is_the_folded_convolution():
    model = sequential((8, 8, 2), kl.Conv2D(3, 3), kl.BatchNormalization(), kl.ReLU(), kl.Flatten(), kl.Dense(2))
    twin = sequential((8, 8, 2), kl.Conv2D(3, 3), kl.ReLU(), kl.Flatten(), kl.Dense(2))
    w = model.get_weights()
    twin.set_weights([*folded(model, *w[:2], model.layers[1]), *w[-2:]])
    close(check(model, images(), RULE, target=0).relevance, relevance(twin, images()))


@pytest.mark.parametrize(("center", "scale", "bias"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_batch_normalization_without_some_of_its_parts(center, scale, bias):
    norm = kl.BatchNormalization(center=center, scale=scale)
    check(sequential((4,), kl.Dense(4, use_bias=bias), norm, kl.ReLU(), kl.Dense(2)), vectors(), RULE)


CONV = {"padding": "same"}
POSITIONS = {
    "after conv": [lambda: kl.Conv2D(3, 3), kl.BatchNormalization],
    "twice after conv": [lambda: kl.Conv2D(3, 3), kl.BatchNormalization, kl.BatchNormalization],
    "before valid conv": [kl.BatchNormalization, lambda: kl.Conv2D(3, 3)],
    "before same conv": [kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same")],
    "before strided same conv": [kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same", strides=2)],
    "before dilated same conv": [kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same", dilation_rate=2)],
    "before grouped conv": [kl.BatchNormalization, lambda: kl.Conv2D(4, 3, padding="same", groups=2)],
    "after grouped conv": [lambda: kl.Conv2D(4, 3, groups=2), kl.BatchNormalization],
    "around a conv": [kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same"), kl.BatchNormalization],
    "twice before conv": [kl.BatchNormalization, kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same")],
    "before padding and conv": [kl.BatchNormalization, kl.ZeroPadding2D, lambda: kl.Conv2D(3, 3)],
    "between padding and conv": [kl.ZeroPadding2D, kl.BatchNormalization, lambda: kl.Conv2D(3, 3)],
    "after relu": [lambda: kl.Conv2D(3, 3, activation="relu"), kl.BatchNormalization],
    "after relu before conv": [kl.ReLU, kl.BatchNormalization, lambda: kl.Conv2D(3, 3, padding="same")],
    "after pooling": [lambda: kl.Conv2D(3, 3), kl.MaxPooling2D, kl.BatchNormalization],
    "after dropout": [lambda: kl.Conv2D(3, 3), lambda: kl.Dropout(0.3), kl.BatchNormalization],
    "after a linear activation": [lambda: kl.Conv2D(3, 3), lambda: kl.Activation("linear"), kl.BatchNormalization],
    "at the input before relu": [kl.BatchNormalization, kl.ReLU],
    "over another axis": [lambda: kl.Conv2D(3, 3), lambda: kl.BatchNormalization(axis=1)],
    "before conv over another axis": [lambda: kl.BatchNormalization(axis=1), lambda: kl.Conv2D(3, 3)],
    "nothing but": [kl.BatchNormalization],
}


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.usefixtures("seldom_compiled")
def test_batch_normalization_anywhere_on_images(name):
    stack = [make() for make in POSITIONS[name]]
    check(sequential((8, 8, 2), *stack, kl.ReLU(), kl.Flatten(), kl.Dense(2)), images(), RULE)


@pytest.mark.parametrize(
    "stack",
    [
        [kl.BatchNormalization, lambda: kl.Dense(3)],
        [lambda: kl.Dense(3), kl.BatchNormalization],
        [lambda: kl.Dense(3, activation="relu"), kl.BatchNormalization, lambda: kl.Dense(3)],
        [lambda: kl.Reshape((2, 2)), kl.BatchNormalization, lambda: kl.Dense(3), kl.Flatten],
        [lambda: kl.Reshape((2, 2)), lambda: kl.Dense(3), kl.BatchNormalization, kl.Flatten],
        [kl.BatchNormalization],
    ],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_batch_normalization_anywhere_on_vectors(stack):
    check(sequential((4,), *[make() for make in stack], kl.ReLU(), kl.Dense(2)), vectors(), RULE)


def test_batch_normalization_last_of_all():
    check(sequential((4,), kl.Dense(3, activation="relu"), kl.Dense(2), kl.BatchNormalization()), vectors(), RULE)


def test_batch_normalization_ahead_of_a_convolution_is_the_folded_convolution():
    """A valid convolution takes it in exactly; by hand for Dense, where the arithmetic is plain."""
    model = sequential((4,), kl.BatchNormalization(), kl.Dense(3), kl.ReLU(), kl.Dense(2))
    gamma, beta, mean, variance, w, b, *rest = model.get_weights()
    scale = gamma / np.sqrt(variance + model.layers[0].epsilon)
    twin = sequential((4,), kl.Dense(3), kl.ReLU(), kl.Dense(2))
    twin.set_weights([w * scale[:, None], b + (beta - mean * scale) @ w, *rest])
    close(relevance(model, vectors()), relevance(twin, vectors()))


def test_batch_normalization_after_add_and_with_two_consumers():
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(3, 3, padding="same")(i)
    g = kl.ReLU()(kl.BatchNormalization()(kl.Add()([h, kl.Conv2D(3, 1)(i)])))
    n = kl.BatchNormalization()(g)  # read by two convolutions
    g = kl.Add()([kl.Conv2D(3, 3, padding="same")(n), kl.Conv2D(3, 1)(n), kl.BatchNormalization()(h)])
    model = randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling2D()(g))))
    check(model, images(), BOX)


def test_batch_normalization_read_by_a_convolution_and_an_add():
    i = keras.Input((8, 8, 2))
    n = kl.BatchNormalization()(kl.ReLU()(kl.Conv2D(3, 3)(i)))
    g = kl.Add()([kl.Conv2D(3, 3, padding="same", activation="relu")(n), n])
    check(randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling2D()(g)))), images(), RULE)


def test_convolution_read_by_batch_normalization_and_another():
    i = keras.Input((8, 8, 2))
    c = kl.Conv2D(3, 3)(i)
    g = kl.Concatenate()([kl.BatchNormalization()(c), kl.ReLU()(c)])
    check(randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(g)))), images(), RULE)


def test_one_convolution_with_two_batch_normalizations():
    i = keras.Input((8, 8, 2))
    c = kl.Conv2D(3, 3)(i)
    g = kl.Concatenate()([kl.ReLU()(kl.BatchNormalization()(c)), kl.ReLU()(kl.BatchNormalization()(c))])
    check(randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(g)))), images(), RULE)


def test_shared_convolution_each_call_with_its_own_batch_normalization():
    i = keras.Input((8, 8, 2))
    conv = kl.Conv2D(2, 3, padding="same")
    h = kl.ReLU()(kl.BatchNormalization()(conv(i)))
    h = kl.ReLU()(kl.BatchNormalization()(conv(h)))
    check(randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))), images(), RULE, layers=[conv.name])


def test_shared_batch_normalization():
    i = keras.Input((8, 8, 2))
    norm = kl.BatchNormalization()
    h = norm(kl.Conv2D(2, 3)(norm(i)))
    check(randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(kl.ReLU()(h))))), images(), RULE)


# --- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", [RULE, rules.Flat(), rules.WSquare(), rules.ZBox(-4.0, 4.0), "epsilon_plus"])
@pytest.mark.usefixtures("seldom_compiled")
def test_zero_padding_before_a_convolution_is_padding_same(composite):
    padded = sequential((8, 8, 2), kl.ZeroPadding2D(1), kl.Conv2D(3, 3), kl.ReLU(), kl.Flatten(), kl.Dense(2))
    same = sequential((8, 8, 2), kl.Conv2D(3, 3, padding="same"), kl.ReLU(), kl.Flatten(), kl.Dense(2))
    same.set_weights(padded.get_weights())
    both = (
        composites.Composite([(composites.at(0), composite), (None, RULE)])
        if isinstance(composite, rules.Rule)
        else composite
    )
    close(check(padded, images(), both, target=0).relevance, relevance(same, images(), both))


def test_relevance_of_a_padding_layer_has_the_shape_of_its_output():
    model = sequential((8, 8, 2), kl.ZeroPadding2D(1, name="pad"), kl.Conv2D(3, 3), kl.Flatten(), kl.Dense(2))
    assert check(model, images(), layers=["pad"]).layers["pad"].shape == (3, 10, 10, 2)


def test_zero_padding_in_a_row():
    check(
        sequential(
            (8, 8, 2),
            kl.ZeroPadding2D(1),
            kl.ZeroPadding2D(((0, 1), (2, 0))),
            kl.Conv2D(3, 3),
            kl.Flatten(),
            kl.Dense(2),
        ),
        images(),
        RULE,
    )


def test_zero_padding_before_max_pooling_and_read_twice():
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(3, 3, activation="relu", padding="same")(i)
    p = kl.ZeroPadding2D(1)(h)
    pooled = kl.MaxPooling2D(3, 2)(p)
    one = kl.Conv2D(3, 3, strides=2)(p)
    q = kl.ZeroPadding2D(1)(h)  # read by two convolutions
    two = kl.Add()([kl.Conv2D(3, 3, strides=2)(q), kl.Conv2D(3, 3, strides=2)(q)])
    model = randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(kl.Concatenate()([pooled, one, two])))))
    check(model, images(), BOX)


def test_zero_padding_of_negative_values_before_max_pooling_wins_relevance():
    model = sequential((4, 4, 1), kl.ZeroPadding2D(1), kl.MaxPooling2D(2), kl.Flatten(), kl.Dense(2))
    found = check(model, -np.abs(images(size=4, channels=1)) - 1, rules.Epsilon())
    assert np.all(np.isfinite(found.conservation.other))


@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "same"), (3, "valid")])
@pytest.mark.parametrize("pool", [kl.MaxPooling2D, kl.AveragePooling2D])
@pytest.mark.usefixtures("seldom_compiled")
def test_pooling_windows(pool, strides, padding):
    check(sequential((8, 8, 2), kl.Conv2D(2, 1), pool(3, strides, padding), kl.Flatten(), kl.Dense(2)), images(), RULE)


def test_residual_network_with_everything():
    def block(h, filters, strides):
        short = kl.BatchNormalization()(kl.Conv2D(filters, 1, strides=strides, use_bias=False)(h))
        h = kl.ReLU()(
            kl.BatchNormalization()(kl.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(h))
        )
        h = kl.BatchNormalization()(kl.Conv2D(filters, 3, padding="same")(h))
        return kl.ReLU()(h + short)

    i = keras.Input((8, 8, 2))
    h = kl.MaxPooling2D(3, 2)(
        kl.ZeroPadding2D(1)(kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(3, 3)(kl.ZeroPadding2D(1)(i)))))
    )
    h = block(block(h, 3, 1), 4, 2)
    h = kl.Dropout(0.2)(kl.GlobalAveragePooling2D()(h))
    model = randomize(keras.Model(i, kl.Dense(3, activation="softmax")(h)))
    for composite in ("epsilon_plus_flat", composites.get("tutorial", low=-4.0, high=4.0)):
        check(model, images(), composite)

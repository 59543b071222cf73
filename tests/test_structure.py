"""Structures of functional models: nesting, sharing, sums, dropout, inputs and outputs; no relevance is lost."""

import keras
import numpy as np
import pytest
from helpers.checking import BOX, RULE, check, close, images, randomize, relevance, sequential, vectors, with_weights
from keras import layers as kl

import lrp_tf
from lrp_tf import rules

pytestmark = pytest.mark.usefixtures("double_precision")


# --- nesting -----------------------------------------------------------------------------------


def test_nested_models_equal_the_flat_one():
    def stack():
        return [
            kl.Conv2D(3, 3, padding="same"),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.MaxPooling2D(),
            kl.Conv2D(4, 3, activation="relu"),
            kl.Flatten(),
            kl.Dense(5, activation="relu"),
            kl.Dense(3, activation="softmax"),
        ]

    flat = sequential((8, 8, 2), *stack())
    a = stack()
    inner = keras.Sequential([keras.Input((8, 8, 2)), *a[:2]], name="inner")
    i = keras.Input((8, 8, 2))
    middle = keras.Model(i, kl.MaxPooling2D()(a[2](inner(i))), name="middle")
    outer = keras.Sequential([keras.Input((8, 8, 2)), middle, a[4]], name="outer")
    i = keras.Input((8, 8, 2))
    h = keras.Sequential([kl.Flatten(), a[6]], name="head")(outer(i))
    nested = with_weights(keras.Model(i, a[7](h)), flat.get_weights())
    x = images()
    close(check(nested, x, BOX, target=0).relevance, relevance(flat, x, BOX))
    paths = lrp_tf.Explainer(nested).summary(None).column("layer")
    assert "outer/middle/inner/" + a[0].name in paths


def test_batch_normalization_folds_across_the_border_of_a_nested_model():
    conv, norm = kl.Conv2D(3, 3), kl.BatchNormalization()
    rest = [kl.ReLU(), kl.Flatten(), kl.Dense(2)]
    flat = sequential((8, 8, 2), conv, norm, *rest)
    inner = keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(3, 3)])
    i = keras.Input((8, 8, 2))
    h = inner(i)
    for layer in (kl.BatchNormalization(), kl.ReLU(), kl.Flatten(), kl.Dense(2)):
        h = layer(h)
    nested = with_weights(keras.Model(i, h), flat.get_weights())
    check(nested, images(), RULE)
    close(relevance(nested, images()), relevance(flat, images()))


def test_shared_layer_sums_the_relevance_of_its_calls():
    i = keras.Input((4,))
    shared = kl.Dense(4, activation="relu")
    model = randomize(keras.Model(i, kl.Dense(3)(shared(shared(i)))))
    x = vectors()
    found = check(model, x, RULE, layers=[shared.name], target=0)
    assert [r.shape for r in found.layers[shared.name]] == [(3, 4), (3, 4)]
    w = model.get_weights()
    unshared = sequential((4,), kl.Dense(4, activation="relu"), kl.Dense(4, activation="relu"), kl.Dense(3))
    unshared.set_weights([*w[:2], *w])
    close(found.relevance, relevance(unshared, x))


def test_shared_model_on_two_inputs():
    i = keras.Input((8, 8, 2))
    tower = keras.Model(i, kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3, activation="relu")(i)), name="tower")
    a, b = keras.Input((8, 8, 2)), keras.Input((8, 8, 2))
    model = randomize(keras.Model([a, b], kl.Dense(2)(kl.Concatenate()([tower(a), tower(b)]))))
    x = [images(seed=1), images(seed=2)]
    found = check(model, x, layers=["tower"])
    assert len(found.layers["tower"]) == 2
    assert isinstance(found.relevance, list)
    # The same towers, each with layers of its own.
    a, b = keras.Input((8, 8, 2)), keras.Input((8, 8, 2))
    own = [kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3, activation="relu")(t)) for t in (a, b)]
    twin = keras.Model([a, b], kl.Dense(2)(kl.Concatenate()(own)))
    w = model.get_weights()
    twin.set_weights([*w[:2], *w])
    close(relevance(model, x, "epsilon_plus"), relevance(twin, x, "epsilon_plus"))


def test_shared_model_called_twice_in_a_row():
    i = keras.Input((4,))
    block = keras.Sequential([keras.Input((4,)), kl.Dense(4, activation="relu"), kl.Dense(4)])
    check(randomize(keras.Model(i, kl.Dense(2)(block(block(i))))), vectors(), RULE)


def test_sub_model_with_several_outputs():
    i = keras.Input((4,))
    h = kl.Dense(4, activation="relu")(i)
    sub = keras.Model(i, [kl.Dense(3)(h), kl.Dense(3)(h)], name="sub")
    j = keras.Input((4,))
    left, right = sub(j)
    found = check(randomize(keras.Model(j, kl.Dense(2)(kl.Subtract()([left, right])))), vectors(), RULE, layers=["sub"])
    assert len(found.layers["sub"]) == 2


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_sub_model_with_list_inputs_called_on_a_dict(names):
    """Keras looks the entries of a dict up by the names of the inputs, in whatever order these were declared."""
    first, second = (keras.Input((4,), name=name) for name in names)
    sub = keras.Model([first, second], kl.Subtract()([kl.Dense(3)(first), kl.Dense(3)(second)]))
    p, q = keras.Input((4,)), keras.Input((4,))
    model = randomize(keras.Model([p, q], sub({"a": p, "b": q})))
    check(model, [vectors(seed=1), vectors(seed=2)], RULE)


@pytest.mark.parametrize("argument", [{"inputs": None}, {"training": True}, {"mask": None}])
def test_sub_model_called_with_keywords(argument):
    sub = keras.Sequential([keras.Input((4,)), kl.Dense(4), kl.Dropout(0.5)])
    i = keras.Input((4,))
    h = sub(inputs=i) if "inputs" in argument else sub(i, **argument)
    model = randomize(keras.Model(i, kl.Dense(2)(h)))
    expected = model.layers[-1](sub(vectors(), training=False))
    close(lrp_tf.Explainer(model).explain(vectors()).output, expected)


def test_sub_model_that_adjusts_the_rank_of_its_input():
    """Keras appends the missing axis of size 1."""
    i = keras.Input((4, 1))
    sub = keras.Model(i, kl.Dense(3)(kl.Flatten()(i)))
    j = keras.Input((4,))
    check(randomize(keras.Model(j, sub(j))), vectors(), RULE)


# --- sums and constants ------------------------------------------------------------------------


def test_add_of_a_tensor_to_itself_keeps_the_sum():
    i = keras.Input((4,))
    h = kl.Dense(4, use_bias=False, activation="relu")(i)
    model = randomize(keras.Model(i, kl.Dense(3, use_bias=False)(kl.Add()([h, h]))))
    found = check(model, vectors(), rules.Epsilon())
    plain = sequential((4,), kl.Dense(4, use_bias=False, activation="relu"), kl.Dense(3, use_bias=False))
    w = model.get_weights()
    plain.set_weights([w[0], 2 * w[1]])
    close(found.relevance, relevance(plain, vectors(), rules.Epsilon(), None), 1e-5)
    close(found.conservation.relevance, found.conservation.start, 1e-4)


def test_three_times_the_same_in_add_and_concatenate():
    i = keras.Input((4,))
    h = kl.Dense(4)(i)
    check(randomize(keras.Model(i, kl.Dense(3)(kl.Concatenate()([h, kl.Add()([h, h, h]), h])))), vectors(), RULE)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h + h,
        lambda h: h * 2,
        lambda h: 2 * h,
        lambda h: h + 3,
        lambda h: 3 + h,
        lambda h: h - 1,
        lambda h: 1 - h,
        lambda h: (1 - h) * 2 + 3 - h,
        lambda h: h + np.arange(4.0),
        lambda h: h * np.arange(4.0),
        lambda h: kl.Add()([h, keras.ops.ones((1, 4))]),
        lambda h: kl.Average()([h, 3 * h]),
        lambda h: keras.ops.mean(keras.ops.reshape(h, (-1, 2, 2)), axis=1),
        lambda h: keras.ops.transpose(keras.ops.reshape(h, (-1, 2, 2)), (0, 2, 1)),
    ],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_arithmetic_of_operators(function):
    i = keras.Input((4,))
    h = kl.Flatten()(function(kl.Dense(4)(i)))
    check(randomize(keras.Model(i, kl.Dense(3)(h))), vectors(), RULE)


def test_plus_is_the_add_layer():
    def build(add):
        i = keras.Input((8, 8, 2))
        h = kl.Conv2D(3, 3, padding="same", activation="relu")(i)
        g = kl.Conv2D(3, 3, padding="same")(h)
        return randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling2D()(kl.ReLU()(add(h, g))))))

    sugar, layer = build(lambda a, b: a + b), build(lambda a, b: kl.Add()([a, b]))
    close(check(sugar, images(), target=0).relevance, relevance(layer, images(), "epsilon_plus_flat"))


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [{}, {"training": True}, {"training": False}])
def test_dropout_runs_in_inference_mode(stored):
    def build(*noise):
        i = keras.Input((8, 8, 2))
        h = kl.Conv2D(3, 3, activation="relu")(i)
        for layer in noise:
            h = layer(h, **stored)
        return randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(h))))

    noisy = build(kl.Dropout(0.5), kl.SpatialDropout2D(0.5), kl.GaussianNoise(1.0), kl.GaussianDropout(0.5))
    plain = build()
    plain.set_weights([w.numpy() for w in noisy.weights if "seed" not in w.path])
    seeds = [w.numpy() for w in noisy.weights if "seed" in w.path]
    explainer = lrp_tf.Explainer(noisy, RULE)
    found = explainer.explain(images(), 0)
    close(found.output, plain(images()))
    close(found.relevance, relevance(plain, images()))
    np.testing.assert_array_equal(seeds, [w.numpy() for w in noisy.weights if "seed" in w.path])


def test_batch_normalization_stored_with_training_true_uses_its_moving_statistics():
    i = keras.Input((4,))
    model = randomize(keras.Model(i, kl.Dense(2)(kl.BatchNormalization()(kl.Dense(4)(i), training=True))))
    plain = sequential((4,), kl.Dense(4), kl.BatchNormalization(), kl.Dense(2))
    plain.set_weights(model.get_weights())
    found = lrp_tf.Explainer(model, RULE).explain(vectors(), 0)
    close(found.output, plain(vectors(), training=False))
    close(found.relevance, relevance(plain, vectors()))


# --- inputs and outputs ------------------------------------------------------------------------


def test_list_and_dict_inputs_come_back_in_their_structure():
    def build(pack):
        a, b = keras.Input((8, 8, 2), name="zebra"), keras.Input((4,), name="ant")
        h = kl.Concatenate()([kl.Flatten()(kl.Conv2D(2, 3)(a)), kl.Dense(3, activation="relu")(b)])
        return randomize(keras.Model(pack(a, b), kl.Dense(2)(h)))

    x, y = images(), vectors()
    as_list = check(build(lambda a, b: [a, b]), [x, y], RULE, target=0).relevance
    as_dict = check(build(lambda a, b: {"zebra": a, "ant": b}), {"zebra": x, "ant": y}, RULE, target=0).relevance
    close(as_list, [as_dict["zebra"], as_dict["ant"]])
    same = relevance(build(lambda a, b: {"zebra": a, "ant": b}), {"ant": y, "zebra": x})
    close(same, as_dict)


def test_single_input_in_a_list_or_dict():
    """Keras warns when a model of [input] is called on the bare tensor, so its users pass [x]."""
    i = keras.Input((4,), name="x")
    plain = randomize(keras.Model(i, kl.Dense(2)(i)))
    expected = relevance(plain, vectors())
    close(relevance(keras.Model({"x": i}, plain.output), {"x": vectors()}), {"x": expected})
    close(relevance(keras.Model([i], plain.output), vectors()), expected)
    close(keras.tree.flatten(relevance(keras.Model([i], plain.output), [vectors()])), [expected])


def test_nested_input_structure():
    names = ("p", "q", "r")
    inputs = {name: keras.Input((4,), name=name) for name in names}
    structure = {"p": inputs["p"], "rest": {"q": inputs["q"], "r": inputs["r"]}}
    model = randomize(keras.Model(structure, kl.Dense(2)(kl.Concatenate()(list(inputs.values())))))
    x = {name: vectors(seed=k) for k, name in enumerate(names)}
    check(model, {"p": x["p"], "rest": {"q": x["q"], "r": x["r"]}}, RULE)


def test_input_that_the_output_does_not_depend_on_gets_zero():
    a, b = keras.Input((4,)), keras.Input((4,))
    model = randomize(keras.Model([a, b], [kl.Dense(2)(a), kl.Dense(3)(b)]))
    r = relevance(model, [vectors(), vectors()], output=0)
    assert np.any(r[0])
    assert not np.any(r[1])


def test_outputs_are_chosen_by_name_or_index():
    i = keras.Input((4,))
    h = kl.Dense(4, activation="relu")(i)
    model = randomize(keras.Model(i, [kl.Dense(2, name="left", activation="softmax")(h), kl.Dense(3, name="right")(h)]))
    x = vectors()
    for index, outputs in enumerate([("left", 0), ("right", -1)]):
        expected = relevance(keras.Model(i, model.outputs[index]), x)
        for output in outputs:
            close(check(model, x, RULE, output=output, index=index, target=0).relevance, expected)


def test_output_that_is_an_inner_tensor_of_another():
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(3, 3)(i)
    g = kl.BatchNormalization()(h)
    p = kl.Dense(2, activation="softmax")(kl.Flatten()(kl.ReLU()(g)))
    model = randomize(keras.Model(i, [h, p]))
    check(model, images(), RULE, output=1, index=1)
    start = np.ones((3, 6, 6, 3))
    assert lrp_tf.Explainer(model, RULE, output=0)(images(), start=start).shape == (3, 8, 8, 2)


def test_outputs_in_a_dict_are_chosen_by_their_keys():
    i = keras.Input((4,))
    model = randomize(keras.Model(i, {"left": kl.Dense(2)(i), "right": kl.Dense(3)(i)}))
    check(model, vectors(), RULE, output="right", index=1)


def test_model_sliced_from_another():
    full = sequential(
        (8, 8, 2),
        kl.Conv2D(3, 3, name="conv"),
        kl.BatchNormalization(name="norm"),
        kl.ReLU(),
        kl.Flatten(name="flat"),
        kl.Dense(4, activation="relu", name="hidden"),
        kl.Dense(3, activation="softmax"),
    )
    x = images()
    body = keras.Model(full.inputs[0], full.get_layer("hidden").output)
    check(body, x, RULE)
    head = keras.Model(full.get_layer("flat").output, full.outputs[0])
    check(head, np.array(keras.Model(full.inputs[0], full.get_layer("flat").output)(x)), RULE)
    unnormed = keras.Model(full.inputs[0], kl.Flatten()(full.get_layer("conv").output))
    check(unnormed, x, RULE)
    check(full, x, RULE)


def test_trivial_models():
    i = keras.Input((4,))
    x = vectors()
    close(relevance(keras.Model(i, i), x, RULE, 1), np.eye(4)[1] * x, 1e-6)
    close(relevance(sequential((4,), kl.Activation("softmax")), x, RULE, 1), np.eye(4)[1] * x)
    close(relevance(sequential((2, 2), kl.Flatten()), x.reshape(3, 2, 2), RULE, 1), (np.eye(4)[1] * x).reshape(3, 2, 2))


def test_output_of_rank_one():
    i = keras.Input((4,))
    model = randomize(keras.Model(i, kl.Reshape(())(kl.Dense(1)(i))))
    x = vectors()
    positive = relevance(model, x, RULE, 1)
    close(relevance(model, x, RULE, 0), -positive)

"""Concepts of models of other kinds: tokens, heads, time steps, several inputs, channels first; how they may be run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, randomize, refused
from keras import layers as kl
from keras import tree

import lrp_tf
from lrp_tf.engine.channels import find

TIGHT = 1e-10


def summed(found):
    """The maps of all concepts and what passed by."""
    maps = tree.map_structure(lambda m: np.sum(m, 1), found.maps)
    if found.passed_by is None:
        return maps
    return tree.map_structure(lambda m, p: m + np.asarray(p), maps, found.passed_by)


def adds_up(explainer, x, layer, size, tolerance=TIGHT, **options):
    """Conditional maps of all channels add up to the map, and relevance is that which `explain` gives."""
    found = explainer.concepts(x, layer=layer, channels=range(size), **options)
    close(summed(found), explainer(x, **options), tolerance)
    assert found.relevance.shape[1] == size
    close(found.relevance, found.amounts, tolerance)
    return found


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def small():
    inputs = keras.Input((6, 6, 2))
    x = kl.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    x = kl.Dense(4, activation="relu", name="dense")(kl.Flatten()(x))
    return randomize(keras.Model(inputs, kl.Dense(3, activation="softmax", name="classes")(x)))


@pytest.fixture(scope="module")
def explainer(small):
    return lrp_tf.Explainer(small)


X = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")


# --- kinds of models -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["attn_lrp", pytest.param("cp_lrp", marks=pytest.mark.slow)])
def test_heads_tokens_and_neurons_of_a_transformer(double_precision, eagerly, method):
    inputs = keras.Input((5, 6))
    h = kl.MultiHeadAttention(3, 4, name="attention")(inputs, inputs)
    h = kl.LayerNormalization(name="norm")(kl.Add(name="sum")([inputs, h]))
    h = kl.Dense(7, activation="gelu", name="up")(h)
    h = kl.Add()([inputs, kl.Dense(6, name="down")(h)])
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(h))))
    explainer, x = lrp_tf.Explainer(model, method), np.random.default_rng(0).normal(size=(2, 5, 6))
    options = {"target": [0, 2]}
    heads = adds_up(explainer, x, "attention[heads]", 3, **options)
    assert heads.passed_by is not None
    same = adds_up(explainer, x, "attention/dot_product_attention[2]", 3, **options)
    close(same.maps, heads.maps, TIGHT)
    tokens = adds_up(explainer, x, "up[1]", 5, **options)
    at = explainer.explain(x, [0, 2], layers=["up"]).layers["up"].numpy()
    close(tokens.relevance, at.sum(2), TIGHT)
    close(explainer.concepts(x, [0, 2], layer="up", channels=[6]).relevance, at.sum(1), TIGHT)
    weights = "attention/dot_product_attention/softmax[1]"
    if method == "attn_lrp":
        adds_up(explainer, x, weights, 3, **options)
    else:
        with refused(ValueError, "No relevance arrives", weights):
            explainer.concepts(x, layer=weights, top=1)
    one = explainer.concepts(x, [0, 2], layer="up", channels=[2], positions=[3])
    close(one.amounts[:, 0], at[:, 3, 2], TIGHT)


def test_heads_of_grouped_queries(eagerly):
    inputs = keras.Input((3, 6))
    h = kl.GroupQueryAttention(3, 4, 2, name="a")(inputs, inputs)
    model = randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(h))))
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32")
    adds_up(lrp_tf.Explainer(model, "attn_lrp"), x, "a[heads]", 4, 1e-5, target=1)


def test_token_ids_and_positions_that_are_given_to_the_tokens(double_precision, eagerly):
    inputs = keras.Input((6,), dtype="int32")
    h = kl.Embedding(9, 4)(inputs)
    h = h + kl.Embedding(6, 4)(keras.ops.arange(6))
    h = kl.Add()([h, kl.MultiHeadAttention(2, 2, name="attention")(h, h)])
    model = randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(kl.Dense(3, name="up")(h)))))
    x = np.random.default_rng(0).integers(9, size=(2, 6))
    adds_up(lrp_tf.Explainer(model, "attn_lrp"), x, "up", 3, target=1)
    adds_up(lrp_tf.Explainer(model, "attn_lrp", positions="token"), x, "attention[heads]", 2, target=1)


def test_time_steps(double_precision, eagerly):
    inputs = keras.Input((3, 2))
    h = kl.LSTM(2, return_sequences=True, name="lstm")(inputs)
    h = kl.TimeDistributed(kl.Dense(4, activation="relu", name="inner"), name="each")(h)
    model = randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(h))))
    explainer, x = lrp_tf.Explainer(model, "epsilon"), np.random.default_rng(0).normal(size=(2, 3, 2))
    for layer, size in (("lstm", 2), ("lstm[1]", 3), ("each", 4)):
        adds_up(explainer, x, layer, size, target=[0, 1])
    with refused(ValueError, "each/inner", "3 rows for each sample", "TimeDistributed"):
        explainer.concepts(x, layer="each/inner", top=1)
    with refused(ValueError, "runs for each time step of 'lstm'"):
        explainer.concepts(x, layer="lstm/lstm_cell", top=1)


def test_several_inputs_in_their_structure(double_precision, eagerly):
    image, table = keras.Input((6, 6, 2), name="image"), keras.Input((4,), name="table")
    h = kl.Flatten()(kl.Conv2D(3, 3, activation="relu", name="conv")(image))
    t = kl.Dense(3, activation="relu", name="features")(table)
    model = randomize(keras.Model({"image": image, "table": table}, kl.Dense(3)(kl.Concatenate(name="both")([h, t]))))
    x = {"image": images(2, 6), "table": np.random.default_rng(3).normal(size=(2, 4))}
    explainer = lrp_tf.Explainer(model)
    found = adds_up(explainer, x, "conv", 3)
    assert set(found.maps) == {"image", "table"}
    assert found.maps["image"].shape == (2, 3, 6, 6, 2)
    assert not np.any(found.maps["table"])
    assert not np.any(found.passed_by["image"])
    assert adds_up(explainer, x, "both", 51).passed_by is None
    with refused(ValueError, "'conv'", "'features'", "beside one another"):
        explainer.concepts(x, layer="conv", top=1, conditions={"features": [0]})


def test_a_layer_that_went_into_the_one_behind_it(eagerly):
    """Its tensor is that of the layer ahead, here the input of the model."""
    inputs = keras.Input((6, 6, 2))
    h = kl.Conv2D(3, 3, activation="relu")(kl.BatchNormalization(name="norm")(inputs))
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(h))))
    explainer = lrp_tf.Explainer(model)
    found, full = explainer.concepts(X, layer="norm", channels=[1]), explainer(X).numpy()
    close(found.maps[:, 0], np.stack([0 * full[..., 0], full[..., 1]], -1), 1e-6)
    norm = kl.BatchNormalization(name="norm")(inputs)
    h = kl.Concatenate()([kl.Conv2D(3, 3, padding="same", name="behind")(norm), inputs])
    beside = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(h)))))
    with refused(ValueError, "'norm' went into 'behind'", "another branch"):
        beside.concepts(X, layer="norm", channels=[1])


@pytest.mark.parametrize("first", [pytest.param(False, marks=pytest.mark.slow), True], ids=["last", "first"])
def test_channels_lie_where_the_layers_put_them(eagerly, first):
    layout = {"data_format": "channels_first" if first else "channels_last"}
    inputs = keras.Input((2, 7, 5) if first else (7, 5, 2))
    h = kl.Conv2D(3, 3, padding="same", name="conv", **layout)(inputs)
    h = kl.BatchNormalization(axis=1 if first else -1, name="norm")(h)
    h = kl.ReLU(name="relu")(h)
    h = kl.AveragePooling2D((1, 5), name="pool", **layout)(kl.Add(name="sum")([h, h]))
    h = kl.Permute((2, 3, 1), name="moved")(h) if first else h
    model = randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(kl.Dense(4, name="dense")(h)))))
    explainer = lrp_tf.Explainer(model, "epsilon")
    x = images(2, 7)[:, :, :5].astype("float32")
    x = np.moveaxis(x, 3, 1) if first else x
    for layer, size in {"norm": 3, "sum": 3, "pool": 3, "dense": 4}.items():
        found = adds_up(explainer, x, layer, size, 1e-5, target=1)
        at = explainer.explain(x, 1, layers=[layer]).layers[layer].numpy()
        channels = 1 if first and layer != "dense" else 3
        close(found.relevance, at.sum(tuple({1, 2, 3} - {channels})), 1e-5)
    assert find(explainer.clone.plan, "relu").axis == (1 if first else 3)
    if first:
        assert find(explainer.clone.plan, "moved").axis == 3


def test_padding_that_a_convolution_absorbed(eagerly):
    inputs = keras.Input((6, 6, 2))
    h = kl.ReLU(name="relu")(kl.Conv2D(3, 3, name="conv")(inputs))
    h = kl.Conv2D(2, 3, name="next")(kl.ZeroPadding2D(1, name="padding")(h))
    model = randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(h))))
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    close(adds_up(explainer, X, "padding", 3, 1e-5).maps, adds_up(explainer, X, "relu", 3, 1e-5).maps, 1e-6)
    expected = explainer.explain(X, layers=["padding"]).layers["padding"]
    close(explainer.channel_relevance(X, layers=["padding"])["padding"], expected, 1e-6)
    with refused(ValueError, "'padding' only pads"):
        explainer.concepts(X, layer="padding", channels=[0], positions=[(1, 1)])


# --- targets, and how it is run ------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"target": 2},
        {"target": [0, 1, 2]},
        {"target": "top1"},
        {"start": "one", "contrast": "softmax"},
        {"target": 1, "contrast": [0, 2, 0]},
        {"start": np.random.default_rng(0).normal(size=(3, 3)).astype("float32")},
    ],
    ids=lambda options: "-".join(options),
)
def test_targets_of_every_kind(eagerly, explainer, options):
    if options.get("target") == "top1":
        options = {"target": None}
    found = adds_up(explainer, X, "conv", 3, 1e-5, **options)
    assert (found.target is None) == ("start" in options and not isinstance(options["start"], str))


def test_an_index_into_an_output_of_positions(eagerly):
    inputs = keras.Input((6, 6, 2))
    h = kl.Conv2D(3, 3, padding="same", activation="relu", name="conv")(inputs)
    model = randomize(keras.Model(inputs, kl.Conv2D(4, 3, padding="same", name="segments")(h)))
    adds_up(lrp_tf.Explainer(model), X, "conv", 3, 1e-5, target=(2, 3, 1))


def test_other_channels_cost_no_compilation(small, eagerly):
    explainer = lrp_tf.Explainer(small)
    first = explainer.concepts(X, layer="conv", channels=[2])
    assert len(explainer._conditional) == 1
    second = explainer.concepts(X[:2], layer="conv", channels=[[0, 1], [2, 0]])
    assert len(explainer._conditional) == 1
    close(second.maps[1, 0], first.maps[1, 0], 1e-6)
    explainer.concepts(X, layer="conv", top=1)
    explainer.concepts(X, layer="conv", top=3)
    assert len(explainer._conditional) == 2
    conditions = [{"dense": [0, 1]}, {"dense": [3]}]
    maps = [explainer.concepts(X, layer="conv", top=2, conditions=held).maps for held in conditions]
    assert len(explainer._conditional) == 3
    assert np.abs(maps[0] - maps[1]).max() > 0.01 * np.abs(maps[0]).max()


def test_batches_in_parts_and_inside_a_function(explainer):
    channels = np.array([[0, 1], [2, 0], [1, 2]])
    options = {"layer": "conv", "positions": [(1, 2), (0, 3)], "conditions": {"dense": [0, 2]}}
    whole = explainer.concepts(X, [0, 1, 2], channels=channels, **options)
    parts = explainer.concepts(X, [0, 1, 2], channels=channels, max_batch=2, **options)

    @tf.function(input_signature=[tf.TensorSpec([None, 6, 6, 2]), tf.TensorSpec([None, 2], tf.int32)])
    def run(x, channels):
        found = explainer.concepts(x, [0, 1, 2], channels=channels, **options)
        return found.maps, found.relevance, found.share, found.channels, found.positions

    names = ("maps", "relevance", "share", "channels", "positions")
    for found in ([getattr(parts, name) for name in names], run(X, channels)):
        for name, value in zip(names, found, strict=True):
            close(value, getattr(whole, name), 1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of range"):
        run(X, channels + 2)


@pytest.mark.slow
def test_options_of_the_explainer(small):
    x = np.abs(X)
    plain = lrp_tf.Explainer(small).concepts(x, layer="conv", channels=[0, 2]).maps
    for options in ({"nonnegative": True}, {"max_batch": 2}):
        close(lrp_tf.Explainer(small, **options).concepts(x, layer="conv", channels=[0, 2]).maps, plain, 1e-5)


def test_values_that_are_computed_again(small, eagerly):
    plain = lrp_tf.Explainer(small).concepts(X, layer="conv", channels=[0, 2]).maps
    again = lrp_tf.Explainer(small, recompute=True)
    assert again.clone.recomputes
    for layer, size in (("conv", 3), ("dense", 4)):
        adds_up(again, X, layer, size, 1e-5)
    close(again.concepts(X, layer="conv", channels=[0, 2]).maps, plain, 1e-5)


@pytest.mark.slow
def test_xla(small):
    plain = lrp_tf.Explainer(small)
    explainer = lrp_tf.Explainer(small, jit_compile=True)
    for options in ({"top": 2}, {"channels": [0, 2]}, {"positions": [(0, 1), (3, 3), (2, 1)]}):
        close(
            explainer.concepts(X, layer="conv", **options).maps, plain.concepts(X, layer="conv", **options).maps, 1e-5
        )


def test_the_filter_keeps_the_largest_relevance_of_each_concept(small, eagerly):
    explainer = lrp_tf.Explainer(small, "epsilon", relevance_filter=0.25)
    found = explainer.concepts(X, layer="conv", channels=[1])
    assert np.all(np.isfinite(found.maps))
    unfiltered = lrp_tf.Explainer(small, "epsilon").concepts(X, layer="conv", channels=[1])
    assert np.abs(found.maps - unfiltered.maps).max() > 0.01 * np.abs(unfiltered.maps).max()
    expected = explainer.explain(X, layers=["conv"]).layers["conv"].numpy().sum((1, 2))
    close(found.relevance, expected, 1e-5)


@pytest.mark.slow
def test_a_loaded_explainer(small, explainer, tmp_path):
    explainer(X)
    explainer.save(tmp_path / "model.lrp")
    loaded = lrp_tf.Explainer.load(tmp_path / "model.lrp", small)
    close(loaded.concepts(X, layer="conv", top=2).maps, explainer.concepts(X, layer="conv", top=2).maps, 1e-6)


def test_it_follows_the_weights_and_changes_of_layers(eagerly):
    inputs = keras.Input((4,))
    h = kl.Dense(3, activation="relu", name="hidden")(inputs)
    model = randomize(keras.Model(inputs, kl.Dense(2, name="out")(h)))
    explainer, x = lrp_tf.Explainer(model), np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    before = explainer.concepts(x, layer="hidden", top=3).amounts
    model.get_layer("out").kernel.assign(2 * model.get_layer("out").kernel)
    model.get_layer("out").bias.assign(2 * model.get_layer("out").bias)
    close(explainer.concepts(x, layer="hidden", top=3).amounts, 2 * before, 1e-5)
    model.get_layer("hidden").activation = keras.activations.tanh
    adds_up(explainer, x, "hidden", 3, 1e-5, target=0)

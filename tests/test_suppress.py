"""suppress: what is cut is gone at each use, the rest is as before, the user's model is not touched, files load."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import concepts

kl = keras.layers


def sequential() -> keras.Sequential:
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        kl.Conv2D(4, 3, activation="relu", name="conv1"),
        kl.Conv2D(5, 3, activation="relu", name="conv2"),
        kl.Flatten(name="flatten"),
        kl.Dense(3, activation="softmax", name="head"),
    ])  # fmt: skip


def branched() -> keras.Model:
    """A layer used twice, an operation without a layer, the same nested model twice, a nested Sequential."""
    x = keras.Input((6,), name="x")
    shared = kl.Dense(6, activation="relu", name="shared")
    h = shared(shared(x) + x)
    inner_in = keras.Input((6,))
    inner = keras.Model(inner_in, keras.ops.tanh(kl.Dense(4, name="deep", bias_initializer="ones")(inner_in)) * 2.0,
                        name="inner")  # fmt: skip
    chain = keras.Sequential([keras.Input((6,)), kl.Dense(4, name="deep")], name="chain")
    joined = kl.Concatenate(name="joined")([inner(h), inner(x), chain(x)])
    return keras.Model(x, kl.Dense(2, name="head")(joined), name="branched")


def outputs(model: keras.Model, layer: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.inputs[0], model.get_layer(layer).output)(x))


def test_channels_are_zero_and_the_others_as_before(rng):
    model, x = sequential(), rng.random((3, 8, 8, 1), np.float32)
    weights = [w.copy() for w in model.get_weights()]
    cut = concepts.suppress(model, "conv2", channels=[1, -1], x=x)
    before, after = outputs(model, "conv2", x), outputs(cut, "conv2_suppressed", x)
    assert before[..., [1, 4]].any()
    assert not after[..., [1, 4]].any()
    np.testing.assert_array_equal(after[..., [0, 2, 3]], before[..., [0, 2, 3]])
    assert isinstance(cut, keras.Sequential)
    assert [layer.name for layer in model.layers] == ["conv1", "conv2", "flatten", "head"]
    cut.set_weights([w + 1 for w in cut.get_weights()])  # copies: the model stays as it is
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_neutral_values_take_the_place_of_the_concept(rng):
    model, x = sequential(), rng.random((3, 8, 8, 1), np.float32)
    at = np.arange(5.0)
    kept = outputs(concepts.suppress(model, "conv2", channels=[2], neutral=at), "conv2_suppressed", x)
    np.testing.assert_array_equal(kept[..., 2], 2)
    direction = rng.normal(size=5)
    unit = direction / np.linalg.norm(direction)
    cut = concepts.suppress(model, "conv2", direction=direction * 100, neutral=at)
    before, after = outputs(model, "conv2", x), outputs(cut, "conv2_suppressed", x)
    np.testing.assert_allclose(after @ unit, at @ unit, atol=1e-5)
    # Nothing but the direction is changed.
    np.testing.assert_allclose(after - (after @ unit)[..., None] * unit, before - (before @ unit)[..., None] * unit,
                               atol=1e-5)  # fmt: skip


def test_several_directions_are_cut_as_the_space_that_they_span(rng):
    model, x = sequential(), rng.random((3, 8, 8, 1), np.float32)
    one, two = rng.normal(size=(2, 5))
    cut = concepts.suppress(model, "conv2", direction=np.stack([one, one + 1e-3 * two, one]))
    after = outputs(cut, "conv2_suppressed", x)
    np.testing.assert_allclose(after @ one, 0, atol=1e-4)
    np.testing.assert_allclose(after @ two, 0, atol=1e-4)
    assert np.abs(after).max() > 0.01


@pytest.mark.parametrize("how", [{"channels": [1]}, {"direction": np.arange(4.0)}])
@pytest.mark.parametrize("layer", ["inner/deep", "chain/deep", "inner", "chain"])
def test_nested_models(layer, how, tmp_path, rng):
    """Against the same cut made by hand in the weights: rows of the kernel behind, or of the layer's own weights."""
    model, x = branched(), rng.random((4, 6), np.float32)
    names = [layer.name for layer in model.layers]
    cut = concepts.suppress(model, layer, **how)
    matrix = np.eye(4)
    if "channels" in how:
        matrix[1, 1] = 0
    else:
        matrix -= np.outer(how["direction"], how["direction"]) / (how["direction"] @ how["direction"])
    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    if layer.endswith("deep"):
        deep = by_hand.get_layer(layer.split("/")[0]).get_layer("deep")
        deep.set_weights([deep.get_weights()[0] @ matrix, deep.get_weights()[1] @ matrix])
    else:
        head = by_hand.get_layer("head")
        kernel, bias = head.get_weights()
        places = [slice(0, 4), slice(4, 8)] if layer == "inner" else [slice(8, 12)]
        for place in places:
            kernel[place] = matrix @ kernel[place]
        head.set_weights([kernel, bias])
    want = np.asarray(by_hand(x))
    assert np.abs(want - np.asarray(model(x))).max() > 1e-3
    np.testing.assert_allclose(cut(x), want, atol=1e-5)
    assert [layer.name for layer in model.layers] == names
    cut.save(tmp_path / "cut.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "cut.keras")(x), cut(x))


def test_a_layer_that_is_called_twice_is_cut_behind_each_call(rng):
    model, x = branched(), rng.random((4, 6), np.float32)
    cut = concepts.suppress(model, "shared", channels=[0, 1, 2])
    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    shared = by_hand.get_layer("shared")
    kernel, bias = shared.get_weights()
    kernel[:, :3] = bias[:3] = 0  # relu(0) is 0, at both calls
    shared.set_weights([kernel, bias])
    np.testing.assert_allclose(cut(x), by_hand(x), atol=1e-6)


@pytest.mark.parametrize("how", [{"channels": [0, 3]}, {"direction": np.ones(5)}])
def test_relevance_of_what_is_cut(how, rng):
    """No relevance reaches channels that are cut, and the books close; the file holds no code of lrp_tf."""
    model, x = sequential(), rng.random((3, 8, 8, 1), np.float32)
    cut = concepts.suppress(model, "conv2", **how)
    found = lrp_tf.Explainer(cut, "epsilon").explain(x, layers=["conv2"])
    assert np.abs(found.conservation.unexplained).max() < 1e-5
    channels = np.abs(np.asarray(found.layers["conv2"])).sum(axis=(0, 1, 2))
    assert channels.any()
    if "channels" in how:
        assert not channels[[0, 3]].any()
    assert "lrp_tf" not in cut.to_json()


def test_training_does_not_undo_a_cut(rng):
    model, x = sequential(), rng.random((16, 8, 8, 1), np.float32)
    model.compile("sgd", "sparse_categorical_crossentropy")
    cut = concepts.suppress(model, "conv2", direction=np.ones(5))  # compiled as the model is
    assert cut.optimizer is not model.optimizer
    before = [w.copy() for w in cut.get_weights()]
    cut.fit(x, np.arange(16) % 3, verbose=0)
    assert not np.array_equal(cut.get_weights()[0], before[0])
    np.testing.assert_allclose(outputs(cut, "conv2_suppressed", x).sum(axis=-1), 0, atol=1e-5)


def test_precision_masks_and_a_second_cut(rng):
    """A half-precision layer, a mask that passes through, and a cut behind a cut."""
    tokens = keras.Input((5,), dtype="int32")
    h = kl.Embedding(7, 4, mask_zero=True, name="embedding")(tokens)
    model = keras.Model(tokens, kl.Dense(2, name="head")(kl.LSTM(3, name="lstm")(h)))
    x = np.array([[1, 2, 3, 0, 0]], np.int32)
    once = concepts.suppress(model, "embedding", channels=[0])
    longer = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 6, 6]], np.int32)
    assert not np.allclose(once(longer)[0], once(longer)[1])  # what is masked does not count
    twice = concepts.suppress(once, "embedding", channels=[1])
    assert [layer.name for layer in twice.layers if "suppressed" in layer.name] == [
        "embedding_suppressed_2", "embedding_suppressed"]  # fmt: skip
    assert not np.allclose(twice(x), once(x))
    half = keras.Sequential([keras.Input((4,)), kl.Dense(3, dtype="mixed_float16", name="a"), kl.Dense(2, name="b")])
    assert concepts.suppress(half, "a", channels=[0]).get_layer("a_suppressed").compute_dtype == "float16"


class Own(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = kl.Dense(2, name="dense")

    def call(self, x):
        return self.dense(x)


def test_mistakes():
    model = sequential()

    def refused(error: type[Exception], match: str, layer: str = "conv2", of: object = model, **how: object) -> None:
        with pytest.raises(error, match=match):
            concepts.suppress(of, layer, **how)

    refused(ValueError, "exactly one of channels and direction. Received: neither")
    refused(ValueError, "Received: both", channels=[0], direction=np.ones(5))
    refused(ValueError, "no layer of .* Expected one of: conv1, conv2, flatten, head", "conv3", channels=[0])
    refused(ValueError, "2 layers have this name: .*inner/deep.*chain/deep", "deep", branched(), channels=[0])
    refused(ValueError, "indices below 5", channels=[5])
    refused(ValueError, "indices below 5", channels=[-6])
    refused(ValueError, "one index or more", channels=[])
    refused(TypeError, "expects integers", channels=[0.5])
    refused(ValueError, r"direction expects \[5\] or \[k, 5\]. Received: \[4\]", direction=np.ones(4))
    refused(ValueError, r"direction expects numbers, \[5\] or \[k, 5\]. Received: 'a'. Remedy", direction="a")
    refused(ValueError, r"direction expects numbers.*concept_direction", direction=[[1.0, 2.0], [3.0]])
    refused(ValueError, "zero alone", direction=np.zeros(5))
    refused(ValueError, "span all 5 channels", direction=np.eye(5))
    refused(ValueError, "NaN or Inf", direction=np.full(5, np.nan))
    refused(ValueError, r"neutral expects \[5\]", channels=[0], neutral=np.ones(4))
    refused(TypeError, "expects a Keras model", of="model", channels=[0])
    refused(
        ValueError,
        "built. Received: .* Remedy: keras.Input",
        "d",
        keras.Sequential([kl.Dense(2, name="d")]),
        channels=[0],
    )
    own = Own()
    own(np.zeros((1, 3)))
    refused(ValueError, "a Own. Remedy: make it functional", "dense", own, channels=[0])
    first = keras.Sequential([keras.Input((1, 4, 4)), kl.Permute((1, 2, 3), name="same"),
                              kl.Conv2D(2, 3, data_format="channels_first", name="first")])  # fmt: skip
    for more in (kl.BatchNormalization(axis=1, name="norm"), kl.ReLU(name="relu"), kl.Flatten(name="flat")):
        first.add(more)
    for name in ("first", "norm", "relu"):
        refused(ValueError, "channels as the last axis .* channels first", name, first, channels=[0])
    tokens = keras.Input((5,))
    states = keras.Model(tokens, kl.Dense(2)(kl.LSTM(3, return_state=True, name="lstm")(tokens[..., None])[0]))
    refused(ValueError, "expected one output of floats", "lstm", states, channels=[0])


@pytest.mark.parametrize("functional", [False, True])
def test_layers_of_the_new_model_have_one_output(functional, rng):
    """`layer.output` was that of a graph before the cut: no model of the new one's inputs could be made with it."""
    model, x = sequential(), rng.random((3, 8, 8, 1), np.float32)
    cut = concepts.suppress(keras.Model(model.inputs, model.outputs) if functional else model, "conv1", channels=[2])
    h = np.asarray(model.get_layer("conv1")(x))
    np.testing.assert_allclose(outputs(cut, "conv1", x), h, rtol=1e-5)
    kept = h * (np.arange(4) != 2)
    np.testing.assert_allclose(outputs(cut, "conv1_suppressed", x), kept, rtol=1e-5)
    np.testing.assert_allclose(outputs(cut, "conv2", x), model.get_layer("conv2")(kept), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_direction_is_cut_behind_a_quantised_layer(policy, rng):
    """The projection took over the layer's integers: Keras asked for three weights where there are two."""
    x = rng.random((4, 6), np.float32)
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8, name="a", dtype=policy), kl.Dense(2, name="head")])
    model.get_layer("a").quantize("int8")
    before = np.asarray(model.get_layer("a")(x), np.float64)
    cut = concepts.suppress(model, "a", direction=np.eye(8)[3], x=x)
    after = outputs(cut, "a_suppressed", x).astype(np.float64)
    assert abs(before[:, 3]).max() > 0.1
    np.testing.assert_allclose(after, before * (np.arange(8) != 3), atol=1e-5 if policy == "float32" else 1e-2)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_correction_is_of_a_class(label, rng):
    """A label that is no class said that nothing is taken for it."""
    x, labels = rng.random((4, 6), np.float32), np.array([0, 1, 2, 0])
    models = {"model": lambda batch: batch[:, :3]}
    assert len(concepts.correction(models, x, labels, lambda batch: batch, 2).rows) == 2
    with pytest.raises(ValueError, match=f"label expects .* 0 to 2 of model 'model'. Received: {label}"):
        concepts.correction(models, x, labels, lambda batch: batch, label)

"""Explainer.save and load: the same numbers without a trace, whatever the weights; errors where a file does not fit."""

import gc
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, image_net, images, numbers, raises, randomize, sequential
from keras import layers as kl
from keras import ops, tree

import lrp_tf
from lrp_tf import composites, flows, rules

IMG = images(dtype="float32", channels=3)


def network(**options):
    """Everything that TensorFlow's optimiser fuses, moves or folds, several inputs, and a layer that holds arrays."""
    image, table = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="table")
    x = h = kl.Conv2D(4, 3, padding="same", activation="relu", name="zeta")(kl.Rescaling(0.5, name="rescaling")(image))
    x = kl.BatchNormalization(name="norm")(kl.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    x = kl.MaxPooling2D(name="pool")(kl.ReLU(name="relu")(kl.Add(name="add")([x, h])))
    x = kl.Conv2D(3, 3, activation="silu", name="alpha")(x)
    normal = kl.Normalization(mean=[0.1] * 4, variance=[2.0] * 4, name="normal")(table)
    dense = kl.Dense(**{"units": 3, "name": "dense"} | options)(normal)
    x = kl.Concatenate(name="both")([kl.Flatten(name="flat")(x), dense])
    outputs = kl.Dense(5, activation="softmax", name="logits")(ops.multiply(x, 2.0))
    return randomize(keras.Model({"image": image, "table": table}, outputs, name="net"))


def inputs(batch=3):
    return {"image": IMG[:batch], "table": np.random.default_rng(3).normal(size=(batch, 4)).astype("float32")}


def copy_of(model, seed=7):
    """The same model with other weights."""
    return randomize(keras.models.clone_model(model), seed)


def parts(value):
    """What an explanation or relevance consists of, flat."""
    if isinstance(value, lrp_tf.Explanation):
        value = {name: part for name, part in vars(value).items() if part is not None}
    return [np.asarray(t) for t in tree.flatten(numbers(value))]


def same(actual, expected):
    for a, b in zip(parts(actual), parts(expected), strict=True):
        np.testing.assert_array_equal(a, b)


CALLS = [
    lambda e, x: e(x),
    lambda e, x: e(x, [0, 1, 2], start="one", contrast="softmax"),
    lambda e, x: e(x, "topK:2", contrast="mean"),
    lambda e, x: e(x, start=np.ones((len(IMG), 5), "float32")),
    lambda e, x: e.explain(x, layers=("zeta", "alpha")),
]


def test_a_loaded_explainer_gives_the_same_numbers_and_traces_nothing(tmp_path):
    model, x, path = network(), inputs(), tmp_path / "net.lrp"
    saving = lrp_tf.Explainer(model, "epsilon_alpha2_beta1", max_batch=2)
    expected = [call(saving, x) for call in CALLS]
    saving.save(path)
    loaded = lrp_tf.Explainer.load(path, model)
    for call, value in zip(CALLS, expected, strict=True):
        same(call(loaded, x), value)
    other = copy_of(model)  # the file holds no weights
    loaded, fresh = lrp_tf.Explainer.load(path, other), lrp_tf.Explainer(other, "epsilon_alpha2_beta1", max_batch=2)
    for _ in range(2):
        for call in CALLS:
            same(call(loaded, x), call(fresh, x))
        for weight in other.weights:  # nothing of them was frozen
            weight.assign(weight * 1.25)
    assert np.abs(loaded(x)["image"] - expected[0]["image"]).max() > 1e-3
    assert loaded._clone is None
    loaded.save(path)  # what was loaded, once more
    same(lrp_tf.Explainer.load(path, other)(x), fresh(x))


def test_a_loaded_explainer_takes_a_contrast_and_other_models(tmp_path):
    model, x, path = image_net(3), IMG, tmp_path / "net.lrp"
    fresh, other = lrp_tf.Explainer(model, "epsilon"), copy_of(model)
    fresh(x, [0, 1, 2], contrast=[1, 2, 0])
    fresh.save(path)
    loaded = lrp_tf.Explainer.load(path, model)
    same(loaded(x, [0, 1, 2], contrast=[2, 2, 1]), fresh(x, [0, 1, 2], contrast=[2, 2, 1]))
    with raises(ValueError, "contrast is a target itself", "both are 2"):
        loaded(x, [0, 1, 2], contrast=2)
    assert loaded._clone is None  # all of these are one pass, which was saved
    same(loaded(x, "topK:2", contrast="softmax"), fresh(x, "topK:2", contrast="softmax"))
    again = lrp_tf.Explainer.load(path, model).with_model(other)
    same(again(x, 1, contrast="mean"), lrp_tf.Explainer(other, "epsilon")(x, 1, contrast="mean"))
    for kind in (lrp_tf.gradients.SmoothGrad, lrp_tf.gradients.GradCAM):
        one, two = kind(lrp_tf.Explainer.load(path, model)), kind(fresh)
        same(one(x, contrast="softmax"), two(x, contrast="softmax"))
        same(one.with_model(other)(x, 1), two.with_model(other)(x, 1))


def test_what_was_not_saved_is_compiled_on_demand(tmp_path):
    model, x, path = image_net(3), IMG, tmp_path / "net.lrp"
    fresh = lrp_tf.Explainer(model, "epsilon_gamma_box", low=-4.0, high=4.0, relevance_filter=0.5)
    fresh.save(path)  # before any call
    loaded = lrp_tf.Explainer.load(path, model)
    assert repr(loaded) == repr(fresh)
    assert (loaded._chosen, loaded.composite) == (fresh._chosen, fresh.composite)
    same(loaded(x), fresh(x))
    same(loaded.explain(x), fresh.explain(x))
    same(next(iter(loaded.map(tf.data.Dataset.from_tensor_slices(x), batch=3))), fresh(x))
    with raises(ValueError, "wrong shape"):
        loaded(x[0])
    with raises(ValueError, "out of range"):
        loaded(x, 3)
    assert loaded._clone is None
    same(loaded(x, 1), fresh(x, 1))
    same(loaded(x), fresh(x))
    assert str(loaded.summary(print_fn=None)) == str(fresh.summary(print_fn=None))
    same(tf.function(loaded)(tf.constant(x)), tf.function(fresh)(tf.constant(x)))
    with raises(ValueError, "NaN"):
        loaded(np.full_like(x, np.nan))


def test_derivatives_of_a_loaded_relevance(tmp_path):
    """The operations of a file have none: under a tape, a pass is compiled that has."""
    model, x = image_net(3), tf.constant(IMG)
    fresh = lrp_tf.Explainer(model)
    fresh.save(tmp_path / "net.lrp")
    for watched in (x, model.layers[0].kernel.value):
        found = []
        for explain in (lrp_tf.Explainer.load(tmp_path / "net.lrp", model), fresh):
            with tf.GradientTape() as tape:
                tape.watch(watched)
                relevance = explain(x)
            found.append(tape.gradient(relevance, watched))
        close(found[0], found[1], 1e-5)
    loaded = lrp_tf.Explainer.load(tmp_path / "net.lrp", model)
    with pytest.raises(LookupError, match="not differentiable"), tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)):
        loaded(x)


def test_a_model_that_changes_later_is_noticed(tmp_path):
    model = image_net(3)
    lrp_tf.Explainer(model, "epsilon").save(tmp_path / "net.lrp")
    loaded = lrp_tf.Explainer.load(tmp_path / "net.lrp", model)
    before = loaded(IMG)
    model.get_layer("conv").activation = keras.activations.relu
    same(loaded(IMG), lrp_tf.Explainer(model, "epsilon")(IMG))
    assert np.abs(loaded(IMG) - before).max() > 1e-3
    with raises(ValueError, "SaveError|activation", "Expected", "linear", "Received", "relu", "Remedy"):
        lrp_tf.Explainer.load(tmp_path / "net.lrp", model)


CHILD = """
import sys, numpy as np, keras, lrp_tf
model, x = keras.models.load_model(sys.argv[1]), np.load(sys.argv[3])
loaded = lrp_tf.Explainer.load(sys.argv[2], model)
found = loaded.explain(x)
assert loaded._clone is None
np.savez(sys.argv[4], relevance=found.relevance, books=np.stack(found.conservation))
"""


def test_another_process_loads_it(tmp_path):
    model, names = image_net(3), ("net.keras", "net.lrp", "x.npy", "found.npz")
    saving, paths = lrp_tf.Explainer(model), [str(tmp_path / name) for name in names]
    found = saving.explain(IMG)
    model.save(paths[0])
    saving.save(paths[1])
    np.save(paths[2], IMG)
    subprocess.run([sys.executable, "-c", CHILD, *paths], check=True)
    with np.load(paths[3]) as other:
        np.testing.assert_array_equal(other["relevance"], found.relevance)
        np.testing.assert_array_equal(other["books"], np.stack(found.conservation))


def test_loaded_explainers_that_are_dropped_leave_nothing_behind(tmp_path):
    from tensorflow.python.eager import context

    model, counts = image_net(3), []
    lrp_tf.Explainer(model).save(tmp_path / "net.lrp")
    for _ in range(3):
        lrp_tf.Explainer.load(tmp_path / "net.lrp", model)(IMG)
        gc.collect()
        counts.append(len(context.context().list_function_names()))
    assert counts[0] == counts[1] == counts[2]


def test_a_model_of_any_size_is_saved_once_it_was_called(tmp_path):
    i = keras.Input((None, None, 3), name="photo")
    model = randomize(keras.Model(i, kl.Conv2D(2, 1, name="maps")(kl.Conv2D(4, 3, activation="gelu", name="conv")(i))))
    fresh = lrp_tf.Explainer(model)
    expected = fresh(IMG, [1, 1, 0])
    fresh.save(tmp_path / "net.lrp")
    loaded = lrp_tf.Explainer.load(tmp_path / "net.lrp", model)
    same(loaded(IMG, [1, 1, 0]), expected)
    same(loaded(IMG[:, 1:], [1, 1, 0]), fresh(IMG[:, 1:], [1, 1, 0]))
    assert loaded._clone is None
    with raises(lrp_tf.SaveError, "no top class", "Remedy"):
        lrp_tf.Explainer(model).save(tmp_path / "net.lrp")


# --- what does not fit -------------------------------------------------------------------------


OTHERS = [
    (lambda: network(units=4), "units", "3", "4"),
    (lambda: network(activation="relu"), "activation", "linear", "relu"),
    (lambda: network(name="other"), "name", "dense", "other"),
    (lambda: network(dtype="mixed_bfloat16"), "dtype|policies", "float32", "mixed_bfloat16"),
    (lambda: network(use_bias=False), "use_bias", "True", "False"),
    (lambda: image_net(3), "class", "Functional", "Sequential"),
]


def test_another_model_is_refused(tmp_path):
    lrp_tf.Explainer(network()).save(tmp_path / "net.lrp")
    for build, *words in OTHERS:
        with raises(lrp_tf.SaveError, *words[:1], "Expected: ", words[1], "Received: ", words[2], "Remedy"):
            lrp_tf.Explainer.load(tmp_path / "net.lrp", build())
    with raises(TypeError, "Keras 3 model"):
        lrp_tf.Explainer.load(tmp_path / "net.lrp", "net.keras")


def test_other_arrays_and_other_arguments_are_refused(tmp_path):
    def adapted(mean):
        layer = kl.Normalization(name="normal")
        layer.adapt(np.full((5, 4), mean) + np.arange(20).reshape(5, 4))
        return keras.Sequential([keras.Input((4,), name="i"), layer, kl.Dense(2, name="dense")], name="net")

    lrp_tf.Explainer(adapted(0.0)).save(tmp_path / "net.lrp")
    lrp_tf.Explainer.load(tmp_path / "net.lrp", adapted(0.0))
    with raises(lrp_tf.SaveError, "arrays", "normal", "Expected", "Received"):  # a constant of the compiled pass
        lrp_tf.Explainer.load(tmp_path / "net.lrp", adapted(1.0))

    def summed(axis):
        i = keras.Input((2, 2, 3), name="i")
        return keras.Model(i, kl.Dense(2, name="dense")(kl.Flatten(name="flat")(ops.sum(i, axis=axis))), name="net")

    first, second = summed(1), summed(2)
    second.layers[1].name = first.layers[1].name
    lrp_tf.Explainer(first).save(tmp_path / "net.lrp")
    with raises(lrp_tf.SaveError, "Expected", "Received"):
        lrp_tf.Explainer.load(tmp_path / "net.lrp", second)


def test_other_versions_and_other_entries_are_refused(tmp_path, monkeypatch):
    model, path = image_net(3), tmp_path / "net.lrp"
    lrp_tf.Explainer(model).save(path)
    for module, name, shown in ((tf, "__version__", "tensorflow"), (keras, "__version__", "keras")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "9.9")
            with raises(lrp_tf.SaveError, shown, "Expected", "Received", "9\\.9", "Remedy"):
                lrp_tf.Explainer.load(path, model)
    with monkeypatch.context() as patch:
        patch.setitem(flows.base._REGISTRY, (kl.MaxPooling2D, None), flows.Share())
        with raises(lrp_tf.SaveError, "entries for layers of Keras"):
            lrp_tf.Explainer.load(path, model)
    lrp_tf.Explainer.load(path, model)


class Own(kl.Layer):
    def call(self, x):
        return x * 2.0


def test_what_nobody_could_compare_is_not_saved(tmp_path):
    def with_layer(*layers):
        return lrp_tf.Explainer(sequential((4,), *layers, kl.Dense(2)), check=False)

    local = composites.Composite([(lambda step: True, rules.Epsilon())], "mine")
    path = tmp_path / "net.lrp"
    path.write_text("as it was")
    for explainer, *words in (
        (with_layer(Own(name="own")), "layers of Keras", "'own'", "Own"),
        (with_layer(kl.Activation(lambda x: ops.relu(x) + 0.0, name="lambda")), "layers of Keras", "'lambda'"),
        (lrp_tf.Explainer(image_net(3), local), "has a text", "'mine'"),
        (lrp_tf.Explainer(image_net(3), jit_compile=True), "without jit_compile"),
    ):
        with raises(lrp_tf.SaveError, "Expected|Only", *words, "Remedy"):
            explainer.save(path)
    tf.config.run_functions_eagerly(True)
    try:
        with raises(lrp_tf.SaveError, "no compiled pass"):
            lrp_tf.Explainer(image_net(3)).save(path)
    finally:
        tf.config.run_functions_eagerly(False)
    assert path.read_text() == "as it was"
    assert [file.name for file in tmp_path.iterdir()] == ["net.lrp"]
    with raises(lrp_tf.SaveError, "Expected a file that Explainer.save wrote"):
        lrp_tf.Explainer.load(path, image_net(3))
    with pytest.raises(FileNotFoundError):
        lrp_tf.Explainer.load(tmp_path / "none.lrp", image_net(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_save_that_failed_does_not_spoil_the_next(tmp_path, dtype):
    """TensorFlow keeps the graphs of a function that fails, and adds them to that of the next one."""
    i = keras.Input((None, None, 3), dtype=dtype)
    h = kl.GlobalAveragePooling2D(dtype=dtype)(kl.Conv2D(4, 5, dtype=dtype)(i))
    never_called = lrp_tf.Explainer(randomize(keras.Model(i, kl.Dense(2, dtype=dtype)(h))))
    i = keras.Input((8, 8, 3), dtype=dtype)
    h = kl.Flatten(dtype=dtype)(kl.Conv2D(4, 3, activation="relu", dtype=dtype)(i))
    model = randomize(keras.Model(i, kl.Dense(2, activation="softmax", dtype=dtype)(h)))
    with raises(RuntimeError, "Remedy: call the explainer before it is saved"):  # at a size of 1 it cannot compute
        never_called.save(tmp_path / "open.lrp")
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    explainer.save(tmp_path / "net.lrp")
    loaded = lrp_tf.Explainer.load(tmp_path / "net.lrp", model)
    same(loaded.explain(IMG), explainer.explain(IMG))
    assert [file.name for file in tmp_path.iterdir()] == ["net.lrp"]


def test_xla_that_is_not_there_does_not_keep_from_saving(tmp_path):
    model = image_net(3)
    auto = lrp_tf.Explainer(model, jit_compile="auto")
    if tf.config.list_physical_devices("GPU"):
        with raises(lrp_tf.SaveError, "without jit_compile"):
            auto.save(tmp_path / "net.lrp")
        return
    auto.save(tmp_path / "net.lrp")
    same(lrp_tf.Explainer.load(tmp_path / "net.lrp", model)(IMG), auto(IMG))


def test_another_format_is_refused(tmp_path):
    lrp_tf.Explainer(image_net(3)).save(tmp_path / "net.lrp")
    with zipfile.ZipFile(tmp_path / "net.lrp") as file:
        about = json.loads(file.read("explainer.json"))
    with zipfile.ZipFile(tmp_path / "net.lrp", "w") as file:
        file.writestr("explainer.json", json.dumps(about | {"format": 0}))
    with raises(lrp_tf.SaveError, "Expected: 1", "Received: 0"):
        lrp_tf.Explainer.load(tmp_path / "net.lrp", image_net(3))

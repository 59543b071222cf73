"""Explainer compiled: what is traced and how often, and that a model's later training is followed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, randomize
from helpers.small_nets import IMG, VEC, dense_net, image_net, maps_net
from keras import layers as kl

import lrp_tf
from lrp_tf import gradients
from lrp_tf.engine.clone import Clone

# --- compilation -------------------------------------------------------------------------------


@pytest.fixture
def traces(monkeypatch):
    """How often the forward pass ran in Python."""
    calls, forward = [], Clone.forward
    monkeypatch.setattr(Clone, "forward", lambda self, inputs: calls.append(1) or forward(self, inputs))
    return calls


def test_each_kind_of_call_is_traced_once(traces):
    explain = lrp_tf.Explainer(image_net())
    for batch in (3, 1, 5):
        explain(images(batch))
        explain(tf.constant(images(batch), tf.float32))
    assert len(traces) == 1
    for batch in (3, 1, 5):
        for target in (0, 1, [2] * batch, np.zeros(batch, "uint8")):
            explain(images(batch), target)
    assert len(traces) == 2
    for batch, k in ((3, 2), (1, 3), (5, 1)):
        explain(images(batch), np.zeros((batch, k), int))
    assert len(traces) == 3
    for batch in (3, 1):
        explain(images(batch), start=np.ones((batch, 3)))
    assert len(traces) == 4


def test_explainers_do_not_warn_of_retracing(caplog):
    model = dense_net()
    for _ in range(8):
        lrp_tf.Explainer(model)(VEC)
    assert "retracing" not in caplog.text


def test_unknown_image_sizes_share_one_trace(traces):
    i = keras.Input((None, None, 2))
    model = randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3)(i)))))
    explain = lrp_tf.Explainer(model)
    for size in (8, 5, 9):
        assert explain(images(size=size)).shape == (3, size, size, 2)
    assert len(traces) == 1


def test_inside_a_function_of_the_user():
    model = image_net()
    explain, again = lrp_tf.Explainer(model), lrp_tf.Explainer(model)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 2])])
    def inside(x):
        return explain(x), explain(x, 1), explain.explain(x, 1).conservation.start

    top, one, start = inside(IMG)
    close(top, again(IMG), 1e-6)
    close(one, again(IMG, 1), 1e-6)
    assert start.shape == (3,)
    close(explain(IMG, 1), one, 1e-6)  # the same compiled function, called eagerly after
    assert inside(images(5, dtype="float32"))[0].shape == (5, 8, 8, 2)


def test_inside_a_function_targets_fit_a_batch_of_unknown_size():
    net, maps, binary = dense_net(), maps_net(), dense_net(1)
    explain, index, single = lrp_tf.Explainer(net), lrp_tf.Explainer(maps, "epsilon"), lrp_tf.Explainer(binary)

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)])
    def classes(x, target):
        return explain(x, target), explain.explain(x, 1).target, single(x, 1), explain(x, target[:, None])

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 2])])
    def pixel(x):
        return index(x, [2, 3, 1])

    some, target, one, many = classes(VEC, [2, 0, 1])
    close(some, explain(VEC, [2, 0, 1]), 1e-6)
    close(many, explain(VEC, [[2], [0], [1]]), 1e-6)
    close(one, single(VEC, 1), 1e-6)
    close(pixel(IMG), index(IMG, [2, 3, 1]), 1e-6)
    np.testing.assert_array_equal(target, [1, 1, 1])


def test_inside_a_function_a_target_out_of_range_is_an_error():
    explain = lrp_tf.Explainer(dense_net())
    inside = tf.function(lambda x, target: explain(x, target))
    with pytest.raises(tf.errors.InvalidArgumentError, match="target out of range"):
        inside(tf.constant(VEC), tf.constant([0, 3, 1]))


def test_in_a_tf_data_pipeline():
    explain = lrp_tf.Explainer(dense_net())
    found = list(tf.data.Dataset.from_tensor_slices(VEC).batch(2).map(explain))
    close(tf.concat(found, 0), explain(VEC), 1e-6)


def test_with_functions_run_eagerly():
    model = dense_net()
    expected = lrp_tf.Explainer(model)(VEC)
    tf.config.run_functions_eagerly(True)
    try:
        close(lrp_tf.Explainer(model)(VEC), expected, 1e-6)
    finally:
        tf.config.run_functions_eagerly(False)


# --- a model that goes on training -------------------------------------------------------------


def test_follows_assigned_weights():
    model = image_net()
    explain = lrp_tf.Explainer(model)
    clone = lrp_tf.clone_with_rules(model)
    before = np.asarray(explain(IMG, 1))
    for weight in model.weights:  # folded statistics too
        old = weight.numpy()
        weight.assign(old * 1.5 + 0.1)
        fresh = lrp_tf.Explainer(model)(IMG, 1)
        close(explain(IMG, 1), fresh, 1e-6)
        weight.assign(old)
    np.testing.assert_array_equal(explain(IMG, 1), before)
    randomize(model, seed=9)
    close(explain(IMG, 1), lrp_tf.Explainer(model)(IMG, 1), 1e-6)
    close(clone.finish(clone(IMG)), model(IMG), 1e-6)
    assert np.abs(np.asarray(explain(IMG, 1)) - before).max() > 1e-3


def test_follows_training():
    model = image_net()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    explain = lrp_tf.Explainer(model)
    explain(IMG, 1)
    statistics = model.get_layer("norm1").moving_mean.numpy()
    model.fit(IMG, np.array([0, 1, 2]), epochs=2, verbose=0)
    assert np.any(statistics != model.get_layer("norm1").moving_mean.numpy())
    close(explain(IMG, 1), lrp_tf.Explainer(model)(IMG, 1), 1e-6)
    close(explain.explain(IMG, 1).output, model(IMG, training=False), 1e-5)


def test_follows_an_adapted_normalization():
    norm = kl.Normalization()
    norm.build((None, 4))
    model = randomize(keras.Sequential([keras.Input((4,)), norm, kl.Dense(3)]))
    norm.adapt(VEC)
    explain = lrp_tf.Explainer(model)
    close(explain.explain(VEC, 1).output, model(VEC), 1e-5)
    norm.adapt(5 * VEC + 2)
    close(explain.explain(VEC, 1).output, model(VEC), 1e-5)


def upsampling(interpolation: str, nested: bool = False) -> keras.Model:
    """A net that makes its image three times as large, which XLA gets wrong by bilinear interpolation."""
    inner = [kl.Conv2D(2, 3), kl.UpSampling2D(3, interpolation=interpolation)]
    body = [keras.Sequential([keras.Input((6, 6, 1)), *inner])] if nested else inner
    return keras.Sequential([keras.Input((6, 6, 1)), *body, kl.Flatten(), kl.Dense(2)])


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("call", ["explain", "gradient", "concepts"])
def test_xla_is_refused_where_it_gets_interpolation_wrong(call, nested):
    explainer = lrp_tf.Explainer(upsampling("bilinear", nested), "epsilon", jit_compile=True)
    x = np.ones((1, 6, 6, 1), "float32")
    calls = {
        "explain": lambda: explainer.explain(x),
        "gradient": lambda: gradients.Gradient(explainer)(x),
        "concepts": lambda: explainer.concepts(x, layer=explainer.model.layers[-1].name, channels=[0]),
    }
    with pytest.raises(ValueError, match=r"bilinear.*Received: .*ResizeBilinear.*Remedy: jit_compile=False"):
        calls[call]()


def test_xla_and_no_interpolation_agree():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype("float32")
    model = upsampling("nearest")
    found, expected = (lrp_tf.Explainer(model, jit_compile=xla).explain(x, 0) for xla in (True, False))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(found.relevance, expected.relevance, atol=1e-5)
    assert lrp_tf.Explainer(upsampling("bilinear"), jit_compile="auto").explain(x, 0).relevance.shape == (2, 6, 6, 1)

"""The penalty on relevance: what it measures, what it refuses, and that a network learns by it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, dense_net, image_net, images, raises, randomize, vectors
from helpers.finite import check_derivatives
from keras import layers as kl

import lrp_tf
from lrp_tf.losses import relevance_penalty

X = images(dtype="float32")
MASKS = np.random.default_rng(4).random((3, 8, 8)) > 0.5


@pytest.fixture(scope="module")
def explain():
    return lrp_tf.Explainer(image_net(), "epsilon_plus")


def share(r, allowed):
    r = np.abs(np.asarray(r))
    return np.mean([r[i][~allowed[i]].sum() / r[i].sum() for i in range(len(r))])


def test_the_share_outside_the_evidence(explain):
    expected = share(explain(X, [0, 1, 2]), MASKS)
    close(relevance_penalty(explain)(X, MASKS, target=[0, 1, 2]), expected, 1e-6)
    close(relevance_penalty(explain, marks="artefact")(X, ~MASKS, target=[0, 1, 2]), expected, 1e-6)
    close(relevance_penalty(explain)(X, np.repeat(MASKS[..., None], 2, -1), target=[0, 1, 2]), expected, 1e-6)
    half = relevance_penalty(explain)(X, np.full((3, 8, 8, 1), 0.5, "float32"), target=0)
    close(half, 0.5, 1e-6)


def test_squares_are_not_relative(explain):
    r = np.asarray(explain(X, 1))
    expected = np.mean([np.square(r[i][~MASKS[i]]).sum() for i in range(3)])
    close(relevance_penalty(explain, measure="squares")(X, MASKS, target=1), expected, 1e-6)


def test_masks_for_all_samples(explain):
    fixed = relevance_penalty(explain, MASKS[0])
    close(fixed(X, target=2), share(explain(X, 2), np.stack([MASKS[0]] * 3)), 1e-6)
    close(fixed(X, MASKS, target=2), share(explain(X, 2), MASKS), 1e-6)  # those of the call come first


def test_target_contrast_and_start_reach_the_explainer(explain):
    found = relevance_penalty(explain, contrast="mean", start="one")(X, MASKS, target=[2, 1, 0])
    close(found, share(explain(X, [2, 1, 0], contrast="mean", start="one"), MASKS), 1e-6)
    found = relevance_penalty(explain)(X, MASKS, target=[2, 1, 0], contrast="mean")
    close(found, share(explain(X, [2, 1, 0], contrast="mean"), MASKS), 1e-6)


def test_several_targets_of_a_sample(explain):
    found = relevance_penalty(explain)(X, MASKS, target=[[0, 1]] * 3)
    close(found, np.mean([share(explain(X, k), MASKS) for k in (0, 1)]), 1e-6)


def test_no_relevance_at_all_is_no_penalty():
    model = dense_net()
    model.layers[-1].kernel.assign(np.zeros((4, 3)))
    x = tf.constant(vectors(dtype="float32"))
    with tf.GradientTape() as tape:
        found = relevance_penalty(lrp_tf.Explainer(model, "epsilon"))(x, np.zeros((3, 4), bool), target=0)
    assert float(found) == 0
    assert all(np.isfinite(np.asarray(g)).all() for g in tape.gradient(found, model.trainable_variables))


def test_several_inputs_of_which_one_is_judged():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = randomize(keras.Model({"a": a, "b": b}, kl.Dense(2)(kl.Concatenate()([a, b]))))
    explain, x = lrp_tf.Explainer(model, "epsilon"), {"a": vectors(dtype="float32"), "b": -vectors(dtype="float32")}
    masks = np.array([[True, True, False, False]] * 3)
    found = relevance_penalty(explain)(x, {"a": None, "b": masks}, target=1)
    close(found, share(explain(x, 1)["b"], masks), 1e-6)
    with raises(ValueError, "for each of 2 inputs", "Received: 1"):
        relevance_penalty(explain)(x, masks, target=1)


def test_channels_first():
    model = randomize(keras.Sequential([keras.Input((2, 6, 8)), kl.Flatten(), kl.Dense(2)]))
    explain, x = lrp_tf.Explainer(model, "epsilon"), np.random.default_rng(1).normal(size=(3, 2, 6, 8))
    masks = MASKS[:, :6]
    found = relevance_penalty(explain)(x.astype("float32"), masks, target=0)
    close(found, share(explain(x.astype("float32"), 0), np.repeat(masks[:, None], 2, 1)), 1e-5)


@pytest.mark.parametrize("measure", ["share", "squares"])
def test_its_derivative(double_precision, measure):
    model = image_net()
    for of in (lrp_tf.Explainer(model, "epsilon_plus"), lrp_tf.gradients.Gradient(model)):
        penalty = relevance_penalty(of, MASKS[0], measure=measure)
        check_derivatives(
            lambda inputs, p=penalty: p(inputs[0], target=[0, 1, 2]), [images()], model.trainable_variables
        )


def test_what_is_refused(explain):
    with raises(ValueError, "expects masks", "Remedy"):
        relevance_penalty(explain)(X, target=0)
    for masks in (MASKS[:, :5], MASKS[0], np.ones((3, 8, 8, 3))):
        with raises(ValueError, r"\('B', 8, 8\)", "Received"):
            relevance_penalty(explain)(X, masks, target=0)
    with raises(ValueError, r"\(8, 8\)", "Received"):
        relevance_penalty(explain, MASKS)(X, target=0)
    for masks, received in ((255 * MASKS, "from 0 to 255"), (MASKS - 1.0, "from -1 to 0")):
        with raises(ValueError, "numbers from 0 to 1", received):
            relevance_penalty(explain)(X, masks.astype("float32"), target=0)
    with raises(ValueError, "for each of 3 samples", "Received: 2"):
        relevance_penalty(explain)(X, MASKS[:2], target=0)
    with raises(ValueError, "marks", "Received: 'mark'"):
        relevance_penalty(explain, marks="mark")
    with raises(ValueError, "measure", "Received: 'sum'"):
        relevance_penalty(explain, measure="sum")
    with raises(TypeError, "expects an Explainer"):
        relevance_penalty("epsilon")


def compiled(penalty, shapes, mask_dtype="bool", **options):
    """The penalty in a tf.function of inputs, masks or none, and labels, of these shapes."""
    inputs, *masks = (
        tf.TensorSpec(shape, dtype) for shape, dtype in zip(shapes, ("float32", mask_dtype), strict=False)
    )
    signature = [tf.TensorSpec([None], "int32"), inputs, *masks]
    return tf.function(lambda labels, x, *m: penalty(x, *m, target=labels), input_signature=signature, **options)


@pytest.fixture(scope="module")
def open_net():
    """Of images of any size."""
    net = [keras.Input((None, None, 2)), kl.Conv2D(4, 3, activation="relu"), kl.GlobalAveragePooling2D(), kl.Dense(3)]
    return lrp_tf.Explainer(randomize(keras.Sequential(net)), "epsilon_plus")


@pytest.mark.parametrize("sizes", [(None, None), (8, None)], ids=str)
def test_open_sizes_inside_a_function(open_net, sizes):
    expected = share(open_net(X, [0, 1, 2]), MASKS)
    found = compiled(relevance_penalty(open_net), [(None, *sizes, 2), (None, None, None)])([0, 1, 2], X, MASKS)
    close(found, expected, 1e-6)
    found = compiled(relevance_penalty(open_net), [(None, *sizes, 2), (None, 8, 8)])([0, 1, 2], X, MASKS)
    close(found, expected, 1e-6)
    expected = share(open_net(X, [0, 1, 2]), np.stack([MASKS[0]] * 3))
    for fixed in (MASKS[0], MASKS[0, ..., None]):
        found = compiled(relevance_penalty(open_net, fixed), [(None, *sizes, 2)])([0, 1, 2], X)
        close(found, expected, 1e-6)


def test_what_a_function_refuses_when_it_runs(open_net):
    """Sizes and values that its trace does not know: 255 for True made a penalty of -254."""
    judged = compiled(relevance_penalty(open_net), [(None, None, None, 2), (None, None, None)], "float32")
    wrong = [(255.0 * MASKS, X, "numbers from 0 to 1"), (np.nan * MASKS, X, "numbers from 0 to 1")]
    wrong += [(MASKS[:2], X, "a mask for each of"), (MASKS[:, :5], X, "masks that fit to inputs")]
    wrong += [(MASKS, X[:, :3], "masks that fit to inputs")]
    thin = lrp_tf.Explainer(keras.Sequential([keras.Input((None, 2)), kl.GlobalAveragePooling1D(), kl.Dense(3)]))
    for masks, x, text in wrong:
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            judged([0, 1, 2], x, tf.cast(masks, "float32"))
    one = compiled(relevance_penalty(thin), [(None, None, 2), (None, None)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="masks that fit to inputs"):
        one([0, 1, 2], X[:, :1, 0], MASKS[:, 0])  # 1 x 8 would broadcast, and count relevance eightfold
    with raises(ValueError, "for each of 3 samples", "Received: 2"):
        compiled(relevance_penalty(open_net), [(3, 8, 8, 2), (2, 8, 8)])([0, 1, 2], X, MASKS[:2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="numbers from 0 to 1"):
        compiled(relevance_penalty(open_net, 255.0 * MASKS[0]), [(3, None, None, 2)])([0, 1, 2], X)


def test_masks_of_channels_first_and_open_sizes_have_all_axes():
    layers = [kl.Conv2D(4, 1, data_format="channels_first"), kl.GlobalMaxPooling2D(data_format="channels_first")]
    model = randomize(keras.Sequential([keras.Input((2, None, None)), *layers, kl.Dense(3)]))
    explain, x = lrp_tf.Explainer(model, "epsilon"), np.moveaxis(X, -1, 1)
    shapes = [(None, 2, None, None), (None, None, None, None)]
    found = compiled(relevance_penalty(explain), shapes)([0, 1, 2], x, MASKS[:, None])
    close(found, share(explain(x, [0, 1, 2]), np.repeat(MASKS[:, None], 2, 1)), 1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="masks that fit to inputs"):
        compiled(relevance_penalty(explain), [shapes[0], (None, None, None)])([0, 1, 2], x, MASKS)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_several_targets_inside_a_function(open_net, jit_compile):
    labels = np.array([[0, 1], [1, 2], [2, 0]], "int32")
    expected = np.mean([share(open_net(X, labels[:, k]), MASKS) for k in (0, 1)])
    penalty = relevance_penalty(open_net)
    run = tf.function(lambda x, m, t: penalty(x, m, target=t), jit_compile=jit_compile)
    close(run(X, MASKS, labels), expected, 1e-5)


def test_a_loaded_explainer_is_no_silent_zero(explain, tmp_path):
    """Under a tape it compiles a pass of its own: that of the file has no derivative."""
    explain(X, 0)
    explain.save(tmp_path / "net.lrp")
    weights, found = explain.model.trainable_variables, []
    for of in (explain, lrp_tf.Explainer.load(tmp_path / "net.lrp", explain.model)):
        with tf.GradientTape() as tape:
            value = relevance_penalty(of, MASKS[0])(X, target=0)
        found.append([tf.convert_to_tensor(g) for g in tape.gradient(value, weights)])
    close(found[1], found[0], 1e-5)


def marked(n, rng, told):
    """Bars in noise; a bright pixel of the first row tells the class, or at the test another one."""
    labels = rng.integers(0, 3, n)
    x = rng.uniform(0, 0.6, (n, 8, 8, 1)).astype("float32")
    for i, label in enumerate(labels):
        x[i, 2 + 2 * label, 2:7] += 0.3
    x[np.arange(n), 0, labels if told else (labels + 1) % 3] = 3.0
    return x, labels.astype("int32")


def test_accuracy_under_a_wrong_mark_recovers_in_a_train_step_of_keras():
    rng = np.random.default_rng(0)
    (x, labels), (wrong, wanted) = marked(512, rng, told=True), marked(256, rng, told=False)
    masks = np.zeros((8, 8), bool)
    masks[1:] = True

    class Penalised(keras.Sequential):
        weight = 0.0

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            share = self.penalty(x, target=y)
            self.share.update_state(share)
            return loss + self.weight * share

    found = {}
    for weight in (0.0, 10.0):
        keras.utils.set_random_seed(1)
        model = Penalised([keras.Input((8, 8, 1)), kl.Conv2D(6, 3, activation="relu"), kl.Flatten(), kl.Dense(3)])
        model.weight, model.share = weight, keras.metrics.Mean(name="outside")
        model.penalty = relevance_penalty(lrp_tf.Explainer(model, "epsilon_plus"), masks)
        model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        history = model.fit(x, labels, batch_size=32, epochs=8, verbose=0).history
        accuracy = np.mean(model.predict(wrong, verbose=0).argmax(1) == wanted)
        found[weight] = accuracy, history["outside"][-1] if "outside" in history else float(model.share.result())
    assert found[0.0][0] < 0.6
    assert found[10.0][0] > 0.9
    assert found[10.0][1] < found[0.0][1] / 3

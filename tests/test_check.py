"""`check`: what it must catch, planted; when it runs by itself, and what it leaves alone."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checked import IMG, SEQUENCES, TOKENS, VEC, checked
from helpers.checking import dense_net, image_net, randomize, sequential
from helpers.custom_layers import Gate, Residual
from helpers.pictures import classifier, photos
from helpers.small_nets import deep_net
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.core import linear
from lrp_tf.engine.check import CheckError, CheckWarning
from lrp_tf.engine.savings import positivity
from lrp_tf.flows.base import activation_interval
from lrp_tf.tracing import changes, follow


def names(found):
    return [finding.name for finding in found.failed]


class Doubled(kl.Dense):
    """Registered with a forward map that is twice too large."""

    def call(self, x):
        return ops.matmul(x, self.kernel) + self.bias


class Rectified(kl.Layer):
    """Registered with a ReLU inside of what should be linear."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 5))

    def call(self, x):
        return ops.relu(ops.matmul(x, self.w))


class Shifted(Rectified):
    """Registered with a constant inside of what should be linear."""

    def call(self, x):
        return ops.matmul(x, self.w) + 1.0


class Correct(Rectified):
    def call(self, x):
        return ops.matmul(x, self.w)


class TwoFaced(kl.Layer):
    """Its call does one thing on symbolic tensors and another on values."""

    def call(self, x):
        return x if isinstance(x, keras.KerasTensor) else 3.0 * x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.fixture
def registered(monkeypatch):
    """The layers above, while a test runs."""
    monkeypatch.setattr(linear, "_REGISTRY", dict(linear._REGISTRY))
    linear.register(Doubled, kernel=lambda layer: layer.kernel, forward=lambda layer, x, w: 2 * x @ w)
    linear.register(Rectified, kernel=lambda layer: layer.w, forward=lambda layer, x, w: tf.nn.relu(x @ w))
    linear.register(Shifted, kernel=lambda layer: layer.w, forward=lambda layer, x, w: x @ w + 1.0)
    linear.register(Correct, kernel=lambda layer: layer.w, forward=lambda layer, x, w: x @ w)


# --- what it must catch ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "part"),
    [(Doubled(5, name="odd"), "layers"), (Rectified(name="odd"), "linear"), (Shifted(name="odd"), "linear")],
)
def test_a_wrong_registration(registered, layer, part):
    model = dense_net(layer)
    found = checked(model, VEC)
    assert not found
    assert part in names(found)
    assert "'odd'" in found[part].text
    with pytest.raises(CheckError, match="'odd'") as caught:
        lrp_tf.Explainer(model)(VEC)
    assert names(caught.value.check) == names(found)


def test_a_registered_layer_that_is_wrong_shows_even_where_a_softmax_is_saturated(registered):
    model = sequential((4,), Doubled(5, name="odd"), kl.Dense(3, activation="softmax", name="last"))
    model.layers[-1].bias.assign([100.0, 0.0, 0.0])
    found = checked(model, VEC)
    assert names(found) == ["layers"]
    assert "'odd'" in found["layers"].text


def test_a_call_that_was_not_followed_right():
    found = checked(dense_net(TwoFaced(name="odd")), VEC)
    assert names(found) == ["output", "layers"]
    assert "not followed right: 'odd' (TwoFaced)" in found["layers"].text


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_flow_that_gives_relevance_of_another_shape(keepdims, monkeypatch):
    """Relevance [B, 1] would be broadcast by the steps below, and its sum come out too large."""

    class Total(kl.Layer):
        def call(self, x):
            return ops.sum(x, axis=-1, keepdims=keepdims)

    monkeypatch.setattr(flows.base, "_REGISTRY", dict(flows.base._REGISTRY))
    flows.register(Total, flows.PassThrough())
    explain = lrp_tf.Explainer(sequential((6, 4), kl.Dense(5), Total(name="total"), kl.Flatten(), kl.Dense(3)))
    with pytest.raises(ValueError, match=r"PassThrough.*'total' \(Total\).*Expected.*6, 5\).*Received.*Remedy"):
        explain(SEQUENCES)
    with pytest.raises(ValueError, match="'total'"):
        explain.check(SEQUENCES)


def test_a_threshold_taken_for_a_plain_relu(monkeypatch):
    monkeypatch.setattr(positivity, "_is_plain_relu", lambda step: activation_interval(step)[0] == 0)
    model = sequential((4,), kl.Dense(8, name="first"), kl.ReLU(threshold=0.5, name="cut"), kl.Dense(3))
    found = checked(model, VEC)
    assert names(found) == ["output", "layers"]
    assert "'cut'" in found["layers"].text


@pytest.mark.parametrize("preset", composites.PRESETS)
def test_nan_in_a_kernel(preset):
    model, value = image_net(), np.inf if "gamma" in preset else np.nan
    kernel = model.get_layer("conv").kernel
    kernel.assign(np.where(np.arange(kernel.shape.num_elements()).reshape(kernel.shape) == 1, value, kernel))
    bounds = {"low": -4.0, "high": 4.0} if composites.needs_bounds(preset) else {}
    found = checked(model, IMG, composites.get(preset, **bounds))
    assert "finite" in names(found)
    assert "'conv'" in found["finite"].text


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: ops.flip(x, axis=0),
        lambda x: ops.roll(x, 1, axis=0),
        lambda x: ops.softmax(x, axis=0),
        lambda x: x + ops.matmul(ops.matmul(x, ops.transpose(x)), x),
        lambda x: x + ops.mean(x, axis=0, keepdims=True),
        lambda x: x * ops.std(x, axis=0, keepdims=True),
    ],
    ids=["flip", "roll", "softmax", "matmul", "mean", "std"],
)
@pytest.mark.parametrize("samples", [1, 3])
def test_samples_that_explain_one_another(mix, samples, monkeypatch):
    monkeypatch.setattr(follow, "places_behind", lambda step, outputs, size: [(0, 1)] * len(outputs))
    i = keras.Input((4,))
    model = randomize(keras.Model(i, kl.Dense(3, name="logits")(mix(kl.Dense(5, name="first")(i)))))
    found = checked(model, VEC[:samples])
    assert "samples" in names(found)


def test_a_quantized_layer_taken_for_a_plain_one(monkeypatch):
    monkeypatch.setattr(follow, "refuse_quantized", lambda layers: None)
    i = keras.Input((6,), dtype="int32")
    h = kl.Embedding(11, 4, name="embedding")(i)
    model = randomize(keras.Model(i, kl.Dense(3)(kl.GlobalAveragePooling1D()(h))))
    model.get_layer("embedding").quantize("int8")
    found = checked(model, TOKENS)
    assert {"output", "layers"} <= set(names(found))
    assert "'embedding'" in found["layers"].text


def test_a_layer_that_changed_after_the_first_call(monkeypatch):
    monkeypatch.setattr(changes.Snapshot, "outdated", lambda self: False)
    model = dense_net(kl.Dense(5, name="adapted"))
    explainer = lrp_tf.Explainer(model)
    explainer(VEC)
    model.get_layer("adapted").enable_lora(2)
    model.get_layer("adapted").lora_kernel_b.assign(np.ones((2, 5)))
    found = explainer.check(VEC, print_fn=None)
    assert "output" in names(found)
    assert "layers were changed" in found["output"].text


def test_rules_that_lose_relevance_are_named():
    class Leaky(rules.Epsilon):
        def backward(self, step, op):
            propagate = super().backward(step, op)
            return lambda relevances, account: [r if r is None else 0.9 * r for r in propagate(relevances, account)]

    model = dense_net(kl.Dense(4, name="leak"))
    composite = composites.Composite([(composites.named("leak"), Leaky()), (None, rules.Epsilon())])
    found = checked(model, VEC, composite)
    assert names(found) == ["books"]
    assert "'leak'" in found["books"].text
    with pytest.warns(CheckWarning, match="'leak'"):
        lrp_tf.Explainer(model, composite, check=True)(VEC)


def test_relevance_that_grows_out_of_all_proportion():
    """Epsilon without biases where sums cancel; the call itself warns, the check says what it is."""
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).clip(-3, 3)
    found = checked(deep_net(), x, "epsilon", zero_bias=True)
    assert "growth" in names(found)
    assert checked(deep_net(), x)["growth"].passed


def test_a_model_that_does_not_run_here_is_said_to_be_unknown():
    """TensorFlow has no convolution with channels first on CPUs; the clone has one."""

    class Here(kl.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor):
                raise RuntimeError("not on this machine")
            return ops.relu(x)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = dense_net(Here(name="elsewhere"))
    found = checked(model, VEC)
    assert names(found) == ["output"]
    assert "not on this machine" in found["output"].text
    assert "unknown" in str(found)
    with pytest.warns(CheckWarning, match="not on this machine"):
        lrp_tf.Explainer(model)(VEC)


def test_registered_layers_that_are_right_pass(registered):
    found = checked(dense_net(Correct(name="fine")), VEC)
    assert found, str(found)
    assert found["linear"].measured < 1e-5


# --- when it runs by itself, and what it leaves alone --------------------------------------------


def runs(monkeypatch, model, x, **options):
    """How often the check runs in three calls."""
    calls = []
    original = lrp_tf.engine.check.check
    monkeypatch.setattr(lrp_tf.engine.check, "check", lambda *arguments: calls.append(1) or original(*arguments))
    explainer = lrp_tf.Explainer(model, **options)
    explainer(x), explainer.explain(x), explainer(x, 1)
    return len(calls)


@pytest.mark.parametrize(("option", "plain", "followed"), [(None, 0, 1), (True, 1, 1), (False, 0, 0)])
def test_it_runs_once_where_layers_were_followed(option, plain, followed, monkeypatch):
    assert runs(monkeypatch, image_net(), IMG, check=option) == plain
    model = sequential((8, 8, 2), Residual(2, name="block"), Gate(name="gate"), kl.Flatten(), kl.Dense(3))
    assert runs(monkeypatch, model, IMG, check=option) == followed


class Separable(kl.SeparableConv2D):
    def call(self, x):
        return super().call(x) * 1.0


@pytest.mark.parametrize(("layer", "expected"), [(kl.SeparableConv2D, 0), (Separable, 1)])
def test_separable_convolutions_need_none_unless_they_are_your_own(layer, expected, monkeypatch):
    model = sequential((8, 8, 2), layer(3, 3, name="separable"), kl.Flatten(), kl.Dense(3))
    explainer = lrp_tf.Explainer(model)
    assert explainer.graph.followed == ["separable"]
    assert runs(monkeypatch, model, IMG) == expected


def test_it_runs_again_where_a_layer_changed(monkeypatch):
    model = sequential((8, 8, 2), Residual(2, name="block"), kl.Flatten(), kl.Dense(3, name="last"))
    explainer = lrp_tf.Explainer(model)
    explainer(IMG)
    assert not explainer._unchecked
    model.get_layer("last").enable_lora(2)
    explainer.renew()
    assert explainer._unchecked


def test_it_runs_once_where_layers_were_registered(registered, monkeypatch):
    assert runs(monkeypatch, dense_net(Correct()), VEC) == 1


def test_it_can_be_left_out(registered):
    model = dense_net(Doubled(5, name="odd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lrp_tf.Explainer(model, check=False)(VEC).shape == VEC.shape


def test_inside_a_function_it_waits_for_a_call_outside(registered):
    explainer = lrp_tf.Explainer(dense_net(Doubled(5, name="odd")))
    assert tf.function(explainer)(tf.constant(VEC)).shape == VEC.shape
    with pytest.raises(CheckError):
        explainer(VEC)

    def inside(x):
        explainer.check(x)

    with pytest.raises(RuntimeError, match=r"outside of tf\.function"):
        tf.function(inside, autograph=False)(tf.constant(VEC))


def test_the_state_of_the_model_stays():
    class Counter(kl.Layer):
        def build(self, shape):
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.seen.assign(self.seen + 1.0)
            return x * 1.0

    model = dense_net(Counter(name="counter"))
    before = [np.asarray(w).copy() for w in model.weights]
    assert checked(model, VEC)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_it_prints_and_returns_a_table(capsys):
    explainer = lrp_tf.Explainer(image_net())
    found = explainer.check(IMG)
    shown = capsys.readouterr().out
    assert str(found) in shown
    for name in ("output", "layers", "finite", "books", "samples"):
        assert name in shown
    with pytest.raises(ValueError, match="wrong shape"):
        explainer.check(VEC)


def test_the_command_tells_and_exits_with_what_it_found(lrp, tmp_path):
    photos(tmp_path / "in", 1)
    model = classifier()
    model.save(tmp_path / "sound.keras")
    code, out, _ = lrp("check", "sound.keras", "in/photo0.png", "--preprocess", "none")
    assert code == 0
    assert "books" in out
    assert "FAILED" not in out
    kernel = next(layer for layer in model.layers if isinstance(layer, kl.Conv2D)).kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    model.save(tmp_path / "broken.keras")
    code, out, _ = lrp("check", "broken.keras", "in/photo0.png", "--preprocess", "none")
    assert code == 1
    assert "FAILED" in out
    assert lrp("check", "sound.keras", "nowhere.png", "--preprocess", "none")[0] == 2

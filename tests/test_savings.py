"""What is left out or taken from elsewhere for speed changes no number: with each saving and without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, randomize
from helpers.thinning import thinned
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.core.graph import Marks
from lrp_tf.engine import diagnosis
from lrp_tf.engine.savings import switched_off
from lrp_tf.rules import kernels


def positive_only(explainer):
    """Names of the steps whose negative outputs have no relevance."""
    return {step.name for step in explainer.graph.steps if step.marks.positive_only}


def network(*, pooling=None, residual=False, activation="relu"):
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = kl.Activation(activation)(x)
    y = kl.Conv2D(4, 3, padding="same", name="second")(x)
    x = kl.Activation(activation)(y)
    x = kl.Add()([x, y]) if residual else x
    x = (pooling or kl.MaxPooling2D())(x)
    x = kl.Conv2D(5, 3, activation=activation, name="third")(x)
    return randomize(keras.Model(inputs, kl.Dense(3, name="logits")(kl.Flatten()(x))))


EVERY = {"first", "second", "third"}
CONV = composites.of_type(kl.Conv2D)


@pytest.mark.parametrize(
    ("model", "composite", "expected"),
    [
        (network(), "epsilon_gamma_box", EVERY),
        (network(), "epsilon_plus_flat", EVERY),  # Flat on the first layer gives relevance to zeros of the input only
        (network(pooling=kl.AveragePooling2D(2)), "epsilon_gamma_box", EVERY),
        (network(activation="relu6"), "epsilon_gamma_box", EVERY),
        (network(activation="gelu"), "epsilon_gamma_box", set()),
        (network(activation="leaky_relu"), "epsilon_gamma_box", set()),
        (network(residual=True), "epsilon_gamma_box", {"first", "third"}),  # the sum reads negative values too
        (network(), [(composites.named("third"), rules.Flat()), (None, rules.Gamma())], {"third", "first"}),
        (network(), [(composites.named("third"), rules.WSquare()), (None, rules.Epsilon())], {"third", "first"}),
        (network(), [(composites.named("logits"), rules.Flat()), (None, rules.Gamma())], {"second", "first"}),
        (network(), [(composites.named("third"), rules.ZBox(-1.0, 1.0)), (None, rules.Gamma())], {"third", "first"}),
    ],
    ids=lambda value: None if isinstance(value, (keras.Model, set)) else str(value)[:40],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_where_negative_outputs_have_no_relevance(model, composite, expected):
    if isinstance(composite, str):
        bounds = {"low": -3.0, "high": 3.0} if composites.needs_bounds(composite) else {}
        composite = composites.get(composite, **bounds)
    else:
        composite = composites.Composite(composite)
    explainer = lrp_tf.Explainer(model, composite)
    assert positive_only(explainer) == expected
    for name in positive_only(explainer):  # and it is so
        step = next(s for s in explainer.graph.steps if s.name == name)
        forward = explainer.clone.forward([keras.ops.cast(images(dtype="float32"), "float32")])
        start = explainer.clone.output(forward)
        relevance = explainer.clone.propagate(forward, start, keep=step.outputs).relevance[step.outputs[0]]
        assert np.abs(np.where(forward.values[step.outputs[0]] < 0, relevance, 0)).max() == 0
        assert (np.asarray(forward.values[step.outputs[0]]) < 0).any()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (kl.ReLU(), True),
        (kl.ReLU(max_value=6.0), True),
        (kl.ReLU(threshold=0.1), True),
        (kl.ReLU(negative_slope=0.1), False),
        (keras.activations.relu, True),
        (lambda x: keras.activations.relu(x, negative_slope=0.1), False),
        (lambda x: keras.activations.relu(x, threshold=-0.5), False),
        (lambda x: keras.activations.relu(x, threshold=0.5), True),
        (lambda x: keras.activations.relu(x, max_value=2.0), True),
        (keras.ops.relu, True),
    ],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_kinds_of_relu(function, expected):
    inputs = keras.Input((8, 8, 2))
    x = function(kl.Conv2D(4, 3, name="first")(inputs))
    model = randomize(keras.Model(inputs, kl.Dense(3, name="logits")(kl.Flatten()(x))))
    explainer = lrp_tf.Explainer(model, rules.Gamma())
    assert ("first" in positive_only(explainer)) == expected
    x = images(dtype="float32")
    forward = explainer.clone.forward([keras.ops.convert_to_tensor(x)])
    step = next(s for s in explainer.graph.steps if s.name == "first")
    start = explainer.clone.output(forward)
    found = explainer.clone.propagate(forward, start, keep=step.outputs).relevance[step.outputs[0]]
    below = np.where(forward.values[step.outputs[0]] < 0, found, 0)
    assert (np.abs(below).max() == 0) == expected
    close(explainer.explain(x).output, model(x), 1e-5)  # only a plain ReLU is computed once for two steps


def test_outputs_that_are_explained_are_never_positive_only():
    """The start relevance may lie anywhere."""
    inputs = keras.Input((8, 8, 2))
    model = randomize(keras.Model(inputs, kl.Conv2D(3, 3, activation="relu", name="only")(inputs)))
    explainer = lrp_tf.Explainer(model, rules.Gamma())
    assert positive_only(explainer) == set()


class Given(rules.Rule):
    """A rule that does not say what it gives to zeros."""

    def terms(self, op):
        return [rules.Term([(1.0, rules.positive(op.w))])]


def test_rules_of_ones_own_are_taken_for_the_worst():
    composite = composites.Composite([(composites.named("third"), Given()), (None, rules.Gamma())])
    assert "second" not in positive_only(lrp_tf.Explainer(network(), composite))


def test_a_flow_of_ones_own_is_taken_for_the_worst():
    class Spread(flows.Flow):
        def backward(self, step, saved):
            return lambda relevances, account: [relevances[0]]

    composite = composites.Composite([(composites.of_type(kl.Flatten), Spread()), (None, rules.Gamma())])
    model = network()
    assert "third" not in positive_only(lrp_tf.Explainer(model, composites.Composite([*composite.entries])))


@pytest.mark.parametrize(
    ("preset", "residual"),
    thinned(["epsilon_gamma_box", "epsilon_plus_flat", "tutorial", "epsilon_alpha2_beta1_flat"], [False, True]),
)
@pytest.mark.usefixtures("seldom_compiled")
def test_numbers_stay_without_the_branch(preset, residual):
    model, x = network(residual=residual), images(dtype="float32")
    bounds = {"low": -5.0, "high": 5.0} if composites.needs_bounds(preset) else {}
    found = lrp_tf.Explainer(model, composites.get(preset, **bounds)).explain(x)
    with switched_off():
        whole = lrp_tf.Explainer(model, composites.get(preset, **bounds)).explain(x)
    close(found.relevance, whole.relevance, 1e-6)
    close(found.conservation.other, whole.conservation.other, 1e-6)


KERNELS = {
    "mostly positive": lambda rng: np.where(rng.random((2048, 6)) < 0.002, -1.0, 1.0) * rng.random((2048, 6)),
    "one tiny negative": lambda rng: np.where(np.arange(1024)[:, None] == 7, -1e-6, rng.random((1024, 6))),
    "mostly negative": lambda rng: np.where(rng.random((2048, 6)) < 0.002, 1.0, -1.0) * rng.random((2048, 6)),
    "balanced": lambda rng: rng.normal(size=(600, 6)) / 17,
    "few": lambda rng: rng.normal(size=(9, 6)),
}


def unbalanced(kernel, kind, floatx):
    """One linear layer whose positive and negative contributions are of very different size."""
    size, dtype = len(kernel), {"dtype": floatx}
    if kind == "depthwise":
        inputs = keras.Input((size, 1, 6), **dtype)
        linear = kl.DepthwiseConv2D((size, 1), name="linear", **dtype)
        weights = kernel[:, None, :, None]
    elif kind == "convolution":
        inputs = keras.Input((size, 1, 1), **dtype)
        linear = kl.Conv2D(6, (size, 1), name="linear", **dtype)
        weights = kernel[:, None, None]
    else:
        inputs, linear, weights = keras.Input((size,), **dtype), kl.Dense(6, name="linear", **dtype), kernel
    x = linear(inputs)
    x = kl.ReLU(**dtype)(x) if kind != "no ReLU" else x
    model = randomize(keras.Model(inputs, kl.Dense(2, name="logits", **dtype)(kl.Flatten(**dtype)(x))))
    rng = np.random.default_rng(5)
    linear.set_weights([weights, rng.normal(size=6) * 0.1 - 0.9 * kernel.clip(max=0).sum(0)])
    model.get_layer("logits").set_weights([rng.random((6, 2)), np.zeros(2)])  # logits that do not cancel
    return model


@pytest.mark.parametrize(
    ("kind", "kernel", "nonnegative"),
    thinned(["dense", "convolution", "depthwise", "no ReLU"], list(KERNELS), [True, False]),
)
@pytest.mark.usefixtures("seldom_compiled")
def test_small_parts_of_alphabeta_do_not_cancel(kind, kernel, nonnegative):
    """Of z+ and z- one follows from z where that is exact; the reference computes both in double precision."""
    rule = rules.AlphaBeta(2, 1) if nonnegative else rules.AlphaBeta(3, 2, zero_bias=True)
    rng = np.random.default_rng(0)
    kernel = KERNELS[kernel](rng).astype("float32")
    composite = composites.Composite([(composites.named("linear"), rule), (None, rules.Epsilon())])
    models = [unbalanced(kernel, kind, dtype) for dtype in ("float32", "float64")]
    values = rng.random((3, *models[0].input_shape[1:])).astype("float32")
    values = values if nonnegative else values * np.where(rng.random(values.shape) < 0.01, -1, 1).astype("float32")
    found, exact = (lrp_tf.Explainer(m, composite, nonnegative=nonnegative).explain(values, 0) for m in models)
    assert np.abs(exact.conservation.unexplained).max() < 1e-12
    close(found.relevance, exact.relevance, 1e-5)
    assert np.abs(found.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("bias", ["positive", "negative"])
def test_gamma_without_bias_keeps_both_branches_where_the_bias_turns_the_sign(bias):
    """z + b > 0 behind a ReLU says nothing about z, whose sign decides where the bias does not count."""
    model = network()
    for layer in (model.get_layer("first"), model.get_layer("second")):
        layer.bias.assign(np.full(4, 3.0 if bias == "positive" else -0.3))
    found = lrp_tf.Explainer(model, rules.Gamma(0.5, zero_bias=True)).explain(images(dtype="float32"))
    assert np.abs(found.conservation.other).max() <= 1e-5 * np.abs(found.conservation.start).max()
    assert np.abs(found.conservation.unexplained).max() < 1e-5


def residual(order=(0, 1)):
    """Three residual blocks as those of ResNet: BatchNormalization folds into each convolution."""
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    for _ in range(3):
        y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(16, 3, padding="same")(x)))
        y = kl.BatchNormalization()(kl.Conv2D(16, 3, padding="same")(y))
        x = kl.ReLU()(kl.Add(name=f"sum{_}")([(x, y)[i] for i in order]))
    return randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x))))


def composite_of(preset):
    return composites.get(preset, **({"low": -5.0, "high": 5.0} if composites.needs_bounds(preset) else {}))


@pytest.mark.parametrize(("preset", "order"), thinned(list(composites.PRESETS), [(0, 1), (1, 0)]))
@pytest.mark.usefixtures("seldom_compiled")
def test_the_summand_that_is_not_kept(preset, order):
    """Behind a ReLU a summand is the sum less the other: for the sum's own shares and for the rule that made it."""
    model, values, composite = residual(order), images(dtype="float32"), composite_of(preset)
    explainer = lrp_tf.Explainer(model, composite)
    spare = [step.marks.recomputed_summand for step in explainer.graph.steps if step.name.startswith("sum")]
    # A relative stabiliser, which tutorial has in the second half, reads outputs that relevance does not reach.
    assert spare == [order.index(1), *[None if preset == "tutorial" else order.index(1)] * 2]
    found = explainer.explain(values)
    with switched_off():
        kept = lrp_tf.Explainer(model, composite).explain(values)
    close(found.relevance, kept.relevance, 1e-5)
    assert np.abs(found.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("build", [network, pytest.param(residual, marks=pytest.mark.slow)])
@pytest.mark.parametrize("preset", composites.PRESETS)
@pytest.mark.usefixtures("double_precision")
@pytest.mark.usefixtures("seldom_compiled")
def test_without_any_saving_every_number_stays(preset, build):
    model, values = build(), images()
    saving = lrp_tf.Explainer(model, composite_of(preset))
    with switched_off():
        plain = lrp_tf.Explainer(model, composite_of(preset))
    assert any(step.marks.savings for step in saving.graph.steps)
    assert all(step.marks == Marks() for step in plain.graph.steps)
    found, want = saving.explain(values, [[0, 2]] * len(values)), plain.explain(values, [[0, 2]] * len(values))
    close(found.relevance, want.relevance, 1e-11)
    for share, wanted in zip(found.conservation[:-1], want.conservation[:-1], strict=True):
        assert np.abs(share - wanted).max() <= 1e-9 * np.abs(want.conservation.start).max()


def test_the_switch_is_read_when_an_explainer_is_built():
    model, values = network(), images(dtype="float32")
    before = lrp_tf.Explainer(model, "epsilon_plus")
    with switched_off():
        with switched_off():
            pass
        inside = lrp_tf.Explainer(model, "epsilon_plus")
        assert any(step.marks.savings for step in before.graph.steps)
    after = lrp_tf.Explainer(model, "epsilon_plus")
    assert [any(s.marks.savings for s in e.graph.steps) for e in (before, inside, after)] == [True, False, True]
    close(before(values), inside(values), 1e-5)


class PositiveWeights(rules.ZPlus):
    """A subclass with a formula of its own: no shortcut of its parent's may replace it."""

    def terms(self, op):
        return [rules.Term([(op.x, rules.positive(op.w))], bias=rules.positive(op.b))]


def test_a_subclass_with_its_own_terms_takes_no_shortcut():
    model, values = residual(), images(dtype="float32")
    found = lrp_tf.Explainer(model, PositiveWeights())(values)
    with switched_off():
        close(found, lrp_tf.Explainer(model, PositiveWeights())(values), 1e-5)
    assert not PositiveWeights().local
    assert not PositiveWeights().bears_bfloat16
    assert rules.ZPlus().bears_bfloat16 == {"sums", "shares"}


class Halves(flows.Flow):
    """A flow of a user's for sums of two."""

    def backward(self, step, saved):
        return lambda relevances, account: [relevances[0] / 2, relevances[0] / 2]


def test_a_flow_of_ones_own_on_a_sum_keeps_its_summands():
    model, values = residual(), images(dtype="float32")
    composite = composites.Composite([(composites.of_type(kl.Add), Halves()), *composites.get("epsilon_plus").entries])
    explainer = lrp_tf.Explainer(model, composite)
    assert all(step.marks.recomputed_summand is None for step in explainer.graph.steps)
    with switched_off():
        close(explainer(values), lrp_tf.Explainer(model, composite)(values), 1e-5)


def test_a_summand_that_others_read_is_kept():
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    y = kl.Conv2D(4, 3, padding="same")(x)
    x = kl.Concatenate()([kl.ReLU()(kl.Add()([x, y])), kl.ReLU()(y)])
    explainer = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x)))), "epsilon_plus")
    assert [step.marks.recomputed_summand for step in explainer.graph.steps if step.name.startswith("add")] == [None]


@pytest.mark.parametrize(
    ("composite", "build"),
    thinned(
        [*composites.PRESETS, rules.Gamma(), rules.Gamma(3.0), rules.AlphaBeta(), rules.Zero()], [network, residual]
    ),
)
def test_the_compiled_function_computes_what_its_operations_do(composite, build):
    """TensorFlow's optimiser takes max(w, 1.25 w) for a leaky ReLU, say, in float32 and nowhere else."""
    composite = composite_of(composite) if isinstance(composite, str) else composite
    explainer = lrp_tf.Explainer(build(), composite)
    values = tf.constant(images(dtype="float32"))
    forward = explainer.clone.forward([values])
    start = tf.one_hot([1] * len(values), 3) * explainer.clone.output(forward)
    expected = explainer.clone.propagate(forward, start).relevance[explainer.graph.inputs[0]]
    close(explainer(values, 1), expected, 1e-5)
    close(explainer.explain(values, 1).relevance, expected, 1e-5)


@pytest.mark.parametrize("preset", composites.PRESETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_kernels_larger_than_outputs_are_not_folded(preset, monkeypatch):
    """BatchNormalization then scales outputs and relevance, with the numbers of a folded kernel."""
    inputs = keras.Input((4, 4, 2))
    x = kl.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    for filters in (16, 4):
        x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(filters, 3, use_bias=filters == 4)(x)))
        x = kl.ZeroPadding2D()(x)
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x))))
    values, composite = images(size=4, dtype="float32"), composite_of(preset)
    monkeypatch.setattr(kernels, "_ENTRIES_PER_OUTPUT", 0)
    scaled = lrp_tf.Explainer(model, composite).explain(values)
    with switched_off():
        folded = lrp_tf.Explainer(model, composite).explain(values)
    close(scaled.relevance, folded.relevance, 1e-5)
    close(scaled.output, folded.output, 1e-5)
    assert np.abs(scaled.conservation.unexplained).max() < 1e-5


def test_nan_that_only_the_compiled_function_has_is_an_error():
    explainer = lrp_tf.Explainer(network(), "epsilon_plus")
    values = tf.constant(images(dtype="float32"))
    start = tf.ones([len(values), 3])
    diagnosis.raise_where_it_began(explainer.clone, [values], start, [values])
    with pytest.raises(ValueError, match="step by step the same computation is finite"):
        diagnosis.raise_where_it_began(explainer.clone, [values], start, [values / 0.0])


def test_nan_is_looked_for_only_where_it_might_not_show():
    """Pooling hides a NaN that is not the maximum; what is multiplied with the relevance shows it."""
    explainer = lrp_tf.Explainer(network(), "epsilon_plus")
    kinds = {ref: type(step.op).__name__ for step in explainer.graph.steps for ref in step.outputs}
    readers = {ref: [type(s.op).__name__ for s in explainer.graph.steps if ref in s.inputs] for ref in kinds}
    # What pooling and flattening read, which multiply nothing, and the logits.
    assert [readers[ref] for ref in explainer.clone.plan.hidden] == [["MaxPooling2D"], ["Flatten"], []]

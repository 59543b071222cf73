"""Relevance of many composites at once is that of each composite's own explainer."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from helpers.exactness import RULES
from helpers.small_nets import dense_net, image_net
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine import shared
from lrp_tf.engine.many import Many
from lrp_tf.engine.savings import sharing, switched_off

PRESETS = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"]
BOXES = ["epsilon_gamma_box", "tutorial"]


def mixed_net() -> keras.Model:
    """Convolutions in groups, depthwise and transposed ones, sums, branches, poolings, normalisation."""
    i = keras.Input((12, 12, 4))
    h = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(6, 3, padding="same")(i)))
    h = kl.Conv2D(8, 3, groups=2, activation="relu")(h)
    h = kl.ReLU(max_value=6)(kl.BatchNormalization()(kl.DepthwiseConv2D(3, padding="same")(h)))
    branch = kl.Conv2D(8, 1, activation="gelu")(h)
    h = kl.ReLU()(kl.Add()([h, branch]))
    h = kl.MaxPooling2D()(h)
    h = kl.Concatenate()([h, kl.AveragePooling2D(3, 1, padding="same")(h)])
    h = kl.Conv2DTranspose(5, 2, strides=2, activation="relu")(h)
    h = kl.GlobalAveragePooling2D()(h)
    h = kl.LayerNormalization()(kl.Dense(7, activation="relu")(h))
    return randomize(keras.Model(i, kl.Dense(4, activation="softmax")(h)))


def gammas(text: str = "first convolution: flat; dense: epsilon; first 3: gamma {a}; all: gamma {b}") -> list:
    values = (0.0, 0.05, 0.3)
    return [composites.parse(text.format(a=a, b=b)) for a, b in itertools.product(values, values)]


def own(model: keras.Model, composite: object, x: np.ndarray, **call: object) -> np.ndarray:
    return np.asarray(lrp_tf.Explainer(model, composite)(x, **call))


def close(found: list, model: keras.Model, ways: list, x: np.ndarray, tolerance: float, **call: object) -> None:
    assert len(found) == len(ways)
    for way, relevance in zip(ways, found, strict=True):
        expected = own(model, way, x, **call)
        assert np.abs(expected).max() > 0
        assert np.abs(relevance - expected).max() <= tolerance * np.abs(expected).max(), str(way)


def every_way() -> list:
    """Presets, rules everywhere, and grids that part at the bottom and at the top."""
    boxes = [composites.get(name, low=-4.0, high=4.0) for name in BOXES[:1]]
    everywhere = [rule for rule, *_ in RULES.values() if not isinstance(rule, rules.ZBox)]
    below = "first 2: {a}; all: epsilon"
    parted = [
        composites.parse(below.format(a=a)) for a in ("zplus", "zplus zero_bias=true", "alphabeta 3 2", "wsquare")
    ]
    return [*PRESETS, *boxes, *everywhere, *gammas(), *parted]


@pytest.mark.slow
def test_presets_rules_and_kinds_of_layers_in_double_precision(double_precision, rng):
    model, x = mixed_net(), rng.normal(size=(3, 12, 12, 4))
    ways = every_way()
    close(Many(model, ways)(x), model, ways, x, 1e-10)


def test_single_precision(rng):
    model, x = image_net(), rng.normal(size=(3, 8, 8, 2)).astype("float32")
    ways = [*PRESETS[2:4], *gammas()[::4]]
    close(Many(model, ways)(x, target=[0, 2, 1]), model, ways, x, 1e-5, target=[0, 2, 1])


@pytest.mark.slow
def test_more_samples_than_run_side_by_side(rng):
    """One group of relevance for each divisor: 9 samples x 3 run one by one, 2 x 3 all at once."""
    model = image_net()
    ways = gammas()
    many, explainers = Many(model, ways), {k: lrp_tf.Explainer(model, ways[k]) for k in (0, 5)}
    for size in (9, 2, 1):
        x = rng.normal(size=(size, 8, 8, 2)).astype("float32")
        found = many(x)
        for k, explainer in explainers.items():
            np.testing.assert_allclose(found[k], explainer(x), atol=1e-5 * np.abs(found[k]).max())


def test_targets_starts_and_contrasts(rng):
    model, x = dense_net(4), rng.normal(size=(5, 4)).astype("float32")
    ways = [rules.Epsilon(0.01), rules.Gamma(0.1), rules.Gamma(0.3)]
    many = Many(model, ways)
    for call in ({"target": [0, 1, 2, 3, 0], "start": "one"}, {"contrast": "softmax"}):
        close(many(x, **call), model, ways, x, 1e-5, **call)
    close(many(x, target=2, contrast=1), model, ways, x, 1e-5, target=2, contrast=1)


def test_recurrent_layers_run_one_by_one(double_precision, rng):
    model = keras.Sequential([keras.Input((5, 3)), kl.LSTM(4), kl.Dense(3)])
    randomize(model)
    ways = ["epsilon", composites.get("epsilon", epsilon=0.1), rules.Epsilon(0.01)]
    x = rng.normal(size=(2, 5, 3))
    close(Many(model, ways)(x), model, ways, x, 1e-10)


def test_two_inputs_keep_their_structure(rng):
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    h = kl.Concatenate()([kl.Dense(5, activation="relu")(left), kl.Dense(5, activation="relu")(right)])
    model = randomize(keras.Model({"left": left, "right": right}, kl.Dense(2)(h)))
    x = {"left": rng.normal(size=(3, 4)).astype("float32"), "right": rng.normal(size=(3, 3)).astype("float32")}
    ways = [rules.Epsilon(0.1), rules.ZPlus()]
    for way, found in zip(ways, Many(model, ways)(x), strict=True):
        expected = lrp_tf.Explainer(model, way)(x)
        for name in x:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_it_follows_weights_and_layers_that_change(rng):
    model, x = image_net(), rng.normal(size=(2, 8, 8, 2)).astype("float32")
    ways = gammas()[:2]
    many = Many(model, ways)
    before = many(x)
    model.set_weights([w * 1.3 for w in model.get_weights()])
    close(many(x), model, ways, x, 1e-5)
    assert np.abs(before[0] - many(x)[0]).max() > 1e-4
    model.get_layer("conv2").activation = keras.activations.tanh
    close(many(x), model, ways, x, 1e-5)


def test_sharing_can_be_switched_off(rng):
    model, x = image_net(), rng.normal(size=(2, 8, 8, 2)).astype("float32")
    ways = gammas()[:2]
    close(Many(model, ways, share=False)(x), model, ways, x, 1e-5)
    with switched_off():
        many = Many(model, ways)
    assert not many.share
    close(many(x), model, ways, x, 1e-5)


def test_nothing_is_compiled_where_functions_run_eagerly(rng):
    model, x = image_net(), rng.normal(size=(2, 8, 8, 2)).astype("float32")
    ways = gammas()[:5]
    tf.config.run_functions_eagerly(True)
    try:
        close(Many(model, ways)(x), model, ways, x, 1e-5)
    finally:
        tf.config.run_functions_eagerly(False)


# --- what is shared ----------------------------------------------------------------------------


def counted(model: keras.Model, ways: list, x: np.ndarray) -> dict[str, int]:
    """How many convolutions of each kind the graph of a call holds, those in loops counted once."""
    many = Many(model, ways)
    many(x)
    (function,) = many._compiled.values()
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {kind: sum(node.op == kind for node in nodes) for kind in ("Conv2D", "Conv2DBackpropInput")}


def test_five_gammas_share_forward_pass_and_denominators(rng):
    stack = [kl.Conv2D(4, 3, activation="relu", padding="same") for _ in range(4)]
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), *stack, kl.GlobalMaxPooling2D(), kl.Dense(3)]))
    x = np.abs(rng.normal(size=(1, 8, 8, 2))).astype("float32")
    text = "first 2: gamma {a}; convolutions: gamma {b}; all: epsilon"
    values = (0.05, 0.1, 0.2, 0.4, 0.8)
    ways = [composites.parse(text.format(a=a, b=b)) for a, b in itertools.product(values, values)]
    found = counted(model, ways, x)
    # Forward, z+, and for the first layer, whose input may be negative, the contributions of both signs.
    assert found["Conv2D"] <= 2 * 4 + 2
    # Upper half: 5 ways for each of 2 layers. Lower half: 5 ways for each layer, whatever arrives; signed input: twice.
    assert found["Conv2DBackpropInput"] <= 5 * 2 + 5 * (1 + 4) + 5 * 5


def test_segments_are_a_tree_over_the_steps():
    plans = Many(image_net(), gammas("dense: epsilon; first 1: gamma {a}; convolutions: gamma {b}; all: epsilon")).plans
    cut = sharing.segments([(plan.graph, plan.handlers) for plan in plans])
    assert [len(segment.groups) for segment in cut] == [1, 3, 3]
    assert [sum(map(len, segment.arriving)) for segment in cut] == [1, 3, 9]
    positions = [p for segment in cut for p in segment.positions]
    assert positions == sorted(range(len(plans[0].graph.steps)), reverse=True)


def test_the_same_composite_twice_costs_one(rng):
    model, x = image_net(), rng.normal(size=(2, 8, 8, 2)).astype("float32")
    once, twice = (counted(model, ["epsilon_plus"] * n, x) for n in (1, 2))
    assert once == twice


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (rules.Epsilon(0.1), rules.Epsilon(0.1), True),
        (rules.Epsilon(0.1), rules.Epsilon(0.2), False),
        (rules.Epsilon(rules.Relative(0.1)), rules.Epsilon(rules.Relative(0.1)), True),
        (rules.Epsilon(0.0), rules.Epsilon(-0.0), False),
        (rules.Epsilon(1e-6), rules.Zero(1e-6), False),
        (rules.ZBox(np.zeros(3), np.ones(3)), rules.ZBox(np.zeros(3), np.ones(3)), True),
        (rules.ZBox(np.zeros(3), np.ones(3)), rules.ZBox(np.zeros(3), 2 * np.ones(3)), False),
        (rules.ZBox([0.0, 0.0], [1.0, 1.0]), rules.ZBox([0.0, 0.0], [1.0, 2.0]), False),
    ],
)
def test_handlers_are_the_same_by_what_they_hold(one, other, expected):
    assert sharing.same(one, other) is expected


# --- what is refused ---------------------------------------------------------------------------


def test_what_cannot_share_a_graph_is_refused():
    model = dense_net()
    with pytest.raises(ValueError, match=r"list of composites, one at least. Received: \[\]"):
        Many(model, [])
    with pytest.raises(ValueError, match="a list of composites"):
        Many(model, "epsilon")
    plain = composites.Composite([(None, rules.Epsilon())])
    other = composites.Composite([(None, rules.Epsilon())], canonizers=[lambda graph: graph])
    with pytest.raises(ValueError, match=r"same canonizers.*Remedy: an Explainer for each"):
        Many(model, [plain, other])


def test_several_targets_and_wrong_ones_are_refused(rng):
    many, x = Many(dense_net(), ["epsilon", "epsilon_plus"]), rng.normal(size=(2, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"one target for each sample.*a call for each target"):
        many(x, target=[[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="target out of range"):
        many(x, target=7)


def test_shared_forward_gives_each_plan_what_its_rules_need(rng):
    """A rule that leaves the bias out reads the operator of one that does not."""
    model, x = dense_net(), tf.constant(rng.normal(size=(2, 4)), tf.float32)
    many = Many(model, [rules.Epsilon(), rules.Epsilon(zero_bias=True)])
    first = lrp_tf.engine.propagate.forward(many.plans[0], [x])
    one, other = shared.forward(many.plans, first)
    pairs = zip(many.plans[0].graph.steps, many.plans[1].graph.steps, strict=True)
    ops = [(one.saved[a], other.saved[b]) for a, b in pairs if a.linear is not None]
    assert ops
    for a, b in ops:
        assert a.z is b.z
        assert a.x is b.x
        assert isinstance(b.b, float)
        assert not isinstance(a.b, float)

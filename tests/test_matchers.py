"""Matchers by place and activation: span, first_n, activation, and those that the presets are made of."""

from __future__ import annotations

import pickle
import re

import keras
import pytest

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.composites import activation, at, first_n, named, of_type, span

kl = keras.layers


def convnet() -> keras.Model:
    """a, b, pool, block/(c, d), e, and head with a softmax that is stripped."""
    block = keras.Sequential(
        [keras.Input((2, 2, 4)), kl.Conv2D(4, 1, name="c"), kl.Conv2D(4, 1, activation="gelu", name="d")], name="block"
    )
    return keras.Sequential([
        keras.Input((8, 8, 3)),
        kl.Conv2D(4, 3, activation="relu", name="a"),
        kl.Conv2D(4, 3, activation="swish", name="b"),
        kl.MaxPooling2D(name="pool"),
        block,
        kl.Flatten(name="flat"),
        kl.Dense(6, activation="relu", name="e"),
        kl.Dense(3, activation="softmax", name="head"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def graph():
    return lrp_tf.Explainer(convnet(), "epsilon").graph


def names(match: composites.Match, graph) -> list[str]:
    return [step.name for step in match.select(graph)]


# --- place -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "found"), [(1, "a"), (3, "a b c"), (6, "a b c d e head"), (60, "a b c d e head")])
def test_first_n(graph, n, found) -> None:
    assert names(first_n(n), graph) == found.split()


@pytest.mark.parametrize(
    ("begin", "end", "found"),
    [
        (1, 3, "b c d"),
        (2, 2, "c"),
        (0, -1, "a b c d e head"),
        (-3, -2, "d e"),
        ("b", "e", "b c d e"),
        ("block/c", "block/d", "c d"),
        ("block", "block", "c d"),  # all that the block holds
        ("pool", -2, "c d e"),  # a step without a kernel bounds the span and is no part of it
        (0, "pool", "a b"),
        (named("[bc]"), named("[cd]"), "b c d"),  # from the first to the last of several
        (composites.first(), composites.last(), "a b c d e head"),
        (of_type(kl.MaxPooling2D), activation("gelu"), "c d"),
        (span(1, 2), at(-1), "b c d e head"),
    ],
)
def test_span(graph, begin, end, found) -> None:
    assert names(span(begin, end), graph) == found.split()


def test_span_in_a_composite() -> None:
    composite = composites.Composite([(span("b", "d"), rules.Gamma()), (None, rules.Epsilon())])
    handlers = lrp_tf.Explainer(convnet(), composite).clone.handlers
    assert [step.name for step, rule in handlers.items() if isinstance(rule, rules.Gamma)] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (span("d", "a"), r"span\('d', 'a'\) ends at 'a', which runs ahead .* 'block/d' .* Remedy: span\('a', 'd'\)"),
        (span(0, 6), r"span\(0, 6\): 6 selects no step .* 6 linear steps, or one of: a, .*Received: 6"),
        (span("poll", -1), r"Expected .* Received: 'poll'\. Did you mean 'pool'\?"),
        (span(named("z.*"), 1), r"named\('z\.\*'\) selects no step"),
    ],
)
def test_spans_that_a_model_lacks(match, message) -> None:
    with pytest.raises(ValueError, match=message):
        lrp_tf.Explainer(convnet(), composites.Composite([(match, rules.Gamma()), (None, rules.Epsilon())]))


def test_a_span_without_a_linear_step_matches_nothing() -> None:
    composite = composites.Composite([(span("pool", "pool"), rules.Gamma()), (None, rules.Epsilon())])
    with pytest.raises(ValueError, match=r"span\('pool', 'pool'\) -> Gamma.*matches nothing"):
        lrp_tf.Explainer(convnet(), composite)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: first_n(0), ValueError),
        (lambda: first_n(-1), ValueError),
        (lambda: first_n(2.0), TypeError),
        (lambda: first_n(True), TypeError),
        (lambda: span(1.0, 2), TypeError),
        (lambda: span(0, None), TypeError),
        (lambda: span(False, 2), TypeError),
        (lambda: span(kl.Conv2D, 2), TypeError),
        (lambda: activation("rellu"), ValueError),
        (lambda: activation("linear"), ValueError),
        (lambda: activation(keras.activations.relu), ValueError),
    ],
)
def test_arguments_that_cannot_be_meant(make, error) -> None:
    with pytest.raises(error, match=r"expects .*Received: "):
        make()


# --- activation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("relu", ["a", "a:relu", "e", "e:relu"]),
        ("gelu", ["d", "d:gelu"]),
        ("swish", ["b", "b:silu"]),
        ("silu", ["b", "b:silu"]),
        ("softmax", ["head"]),  # its step is stripped
        ("tanh", []),
    ],
)
def test_activation_of_an_argument(graph, name, found) -> None:
    assert names(activation(name), graph) == found


def test_every_name_of_keras_is_known(graph) -> None:
    known = composites.match.activations()
    assert {"relu", "gelu", "silu", "swish", "tanh", "sigmoid", "softmax", "elu", "leaky_relu"} <= set(known)
    for name in known:
        inputs = keras.Input((3,))
        hidden = kl.Dense(4, activation=name, name="hidden")(inputs)
        found = lrp_tf.Explainer(keras.Model(inputs, kl.Dense(2)(hidden)), "epsilon").graph
        assert next(step.name for step in activation(name).select(found)) == "hidden", name


def test_activation_that_follows_as_a_layer() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.ReLU(name="relu_b")(kl.BatchNormalization()(kl.Conv2D(4, 3, name="b")(inputs)))
    x = kl.LeakyReLU(name="leaky")(kl.Conv2D(4, 3, name="c")(x))
    x = kl.Activation("relu", name="relu_d")(kl.Conv2D(4, 1, name="d")(x))
    x = keras.ops.relu(kl.Conv2D(4, 1, name="ops")(x))
    both = kl.Conv2D(4, 1, name="both")(x)
    x = kl.ReLU(name="relu_both")(both)
    x = kl.ReLU(name="relu_sum")(kl.Add()([kl.Conv2D(4, 1, name="into_add")(x), both]))
    graph = lrp_tf.Explainer(keras.Model(inputs, kl.Dense(2, name="head")(kl.Flatten()(x))), "epsilon").graph
    found = {step.path for step in activation("relu").select(graph)}
    steps = {"relu_b", "relu_d", "relu_both", "relu_sum"}
    assert {"b", "d", "ops"} | steps <= found
    assert not {"both", "into_add", "c", "leaky", "head"} & found
    assert {step.name for step in activation("leaky_relu").select(graph)} == {"c", "leaky"}


def test_rules_go_to_the_linear_steps_and_flows_to_the_activations() -> None:
    class Through(flows.PassThrough):
        pass

    entries = [(activation("relu"), rules.Gamma()), (activation("relu"), Through()), (None, rules.Epsilon())]
    handlers = lrp_tf.Explainer(convnet(), composites.Composite(entries)).clone.handlers
    assert [step.name for step, rule in handlers.items() if isinstance(rule, rules.Gamma)] == ["a", "e"]
    assert [step.name for step, flow in handlers.items() if isinstance(flow, Through)] == ["a:relu", "e:relu"]


def test_a_linear_step_that_is_the_output_has_no_activation() -> None:
    inputs = keras.Input((4,))
    hidden = kl.Dense(3, name="hidden")(inputs)
    model = keras.Model(inputs, [hidden, kl.ReLU()(hidden)])
    graph = lrp_tf.Explainer(model, "epsilon", output=0).graph
    assert activation("relu").select(graph) == []
    graph = lrp_tf.Explainer(model, "epsilon", output=1).graph
    assert names(activation("relu"), graph)[0] == "hidden"


# --- all ---------------------------------------------------------------------------------------


def test_matchers_of_the_presets(graph) -> None:
    assert names(composites.convolutions(), graph) == ["a", "b", "c", "d"]
    assert names(composites.first_half_of_convolutions(), graph) == ["a", "b"]
    assert names(composites.first_quarter_of_convolutions(), graph) == ["a"]
    assert names(composites.max_pooling(), graph) == ["pool"]


@pytest.mark.parametrize(
    "match",
    [
        first_n(2),
        first_n(n=3),
        span(1, -1),
        span(begin="a", end=named("[de]")),
        activation("relu"),
        composites.convolutions(),
        composites.first_half_of_convolutions(),
        composites.first_quarter_of_convolutions(),
        composites.max_pooling(),
    ],
    ids=repr,
)
def test_matchers_pickle(match, graph) -> None:
    again = pickle.loads(pickle.dumps(match))
    assert repr(again) == repr(match)
    assert again.must == match.must
    assert list(again.select(graph)) == list(match.select(graph))


def test_every_matcher_is_exported() -> None:
    assert set(composites.__all__) >= {"span", "first_n", "activation", "convolutions", "max_pooling", "register"}
    assert not [name for name in composites.__all__ if not re.fullmatch(r"\w+", name) or not hasattr(composites, name)]

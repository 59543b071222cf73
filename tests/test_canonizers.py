"""The passes of `canonize`: functions graph -> graph, which a composite replaces or adds to."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers.checking import close, images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import canonize, composites, flows, rules
from lrp_tf.engine.clone import Clone
from lrp_tf.tracing.follow import trace

pytestmark = pytest.mark.usefixtures("double_precision")
X = images()


def net():
    i = keras.Input((8, 8, 2))
    x = kl.BatchNormalization(name="norm")(kl.Conv2D(3, 3, name="conv", activation="relu")(kl.ZeroPadding2D()(i)))
    x = kl.Flatten()(kl.Dropout(0.5, name="dropout")(x))
    return randomize(keras.Model(i, kl.Dense(3, activation="softmax", name="logits")(x)))


def two_outputs():
    i = keras.Input((8, 8, 2))
    x = kl.Flatten()(kl.Conv2D(3, 3, activation="relu")(i))
    return randomize(keras.Model(i, [kl.Dense(3, activation="softmax")(x), kl.Dense(2, activation="sigmoid")(x)]))


def traced(model):
    return trace(model, flows.keeps)


def snapshot(graph):
    """All that a graph holds, and copies of its containers."""
    fields = {f.name: getattr(graph, f.name) for f in dataclasses.fields(graph)}
    return {k: v.copy() if isinstance(v, (list, dict, set)) else v for k, v in fields.items()}


@pytest.mark.parametrize("count", range(len(canonize.PASSES)))
def test_a_pass_leaves_its_graph_as_it_is(count):
    graph = traced(net())
    for rewrite in canonize.PASSES[:count]:
        graph = rewrite(graph)
    before = snapshot(graph)
    after = canonize.PASSES[count](graph)
    assert snapshot(graph) == before
    if canonize.PASSES[count] is not canonize.check_samples:
        assert after is not graph


def test_every_pass_says_what_it_does_in_a_sentence():
    for rewrite in canonize.PASSES:
        assert rewrite.__doc__ is not None
        assert len(rewrite.__doc__.splitlines()) == 1
        assert getattr(canonize, rewrite.__name__) is rewrite
    assert lrp_tf.canonize is canonize


def test_all_outputs_are_kept():
    model = two_outputs()
    graph = traced(model)
    found = canonize.canonize(graph, graph.outputs)
    assert found.outputs == graph.outputs
    assert not found.stripped
    clone = Clone(found, composites.get("epsilon"))
    values = clone.forward([keras.ops.convert_to_tensor(X)]).values
    close([values[ref] for ref in found.outputs], model(X))


@pytest.mark.parametrize(("output", "activation"), [(0, "softmax"), (1, "sigmoid"), (-1, "sigmoid")])
def test_one_output_is_chosen_and_stripped(output, activation):
    graph = traced(two_outputs())
    found = canonize.canonize(graph, [canonize.choose_output(graph, output)])
    assert [step.activation for step in found.stripped] == [activation]
    assert len(found.outputs) == 1
    assert found.output_index == output % 2
    assert sum(step.name.startswith("dense") for step in found.steps) == 1


def test_none_chosen_of_several():
    graph = traced(two_outputs())
    with raises(ValueError, r"has 2 output\(s\)", "Received: output=None"):
        canonize.choose_output(graph, None)


# --- of a composite ----------------------------------------------------------------------------


def without_dropout(graph):
    graph = graph.copy()
    for step in graph.steps.copy():
        if isinstance(step.op, kl.Dropout):
            graph.bypass(step)
            graph.rewrites.append((step.order, step.path, step.operation, "left out"))
    return graph


def explained(canonizers, model=None):
    composite = composites.Composite([(None, rules.Epsilon())], "own", canonizers=canonizers)
    return lrp_tf.Explainer(model or net(), composite)


def test_a_canonizer_behind_the_others():
    model = net()
    own, plain = explained((*canonize.PASSES, without_dropout), model), explained(None, model)
    assert "dropout" in {step.name for step in plain.graph.steps}
    assert "dropout" not in {step.name for step in own.graph.steps}
    assert "left out" in str(own.summary(None))
    layers = ["dropout", "conv", "logits"]
    found, expected = (e.explain(X, [[0, 1], [2, 2], [1, 0]], layers=layers) for e in (own, plain))
    close(found.relevance, expected.relevance)
    close(found.layers, expected.layers)
    assert own.check(X, print_fn=None)


def test_dropout_at_the_output_is_bypassed_too():
    i = keras.Input((4,))
    model = randomize(keras.Model(i, kl.Dropout(0.5)(kl.Dense(3, name="dense")(i))))
    explainer = explained((*canonize.PASSES, without_dropout), model)
    assert [step.name for step in explainer.graph.steps] == ["dense"]
    x = np.random.default_rng(0).normal(size=(3, 4))
    close(explainer.explain(x).output, model(x))
    close(explainer(x), explained(None, model)(x))


def test_passes_in_another_number():
    """Without the folds a BatchNormalization stays, without `strip_output` the softmax does."""
    fewer = [p for p in canonize.PASSES if p not in (canonize.fold_behind, canonize.fold_ahead, canonize.strip_output)]
    explainer = explained(fewer)
    assert {"norm", "logits:softmax"} <= {step.path for step in explainer.graph.steps}
    close(np.asarray(explainer.explain(X).logits).sum(-1), np.ones(3))
    assert explainer.check(X, print_fn=None)


def test_samples_are_checked_even_without_the_pass():
    i = keras.Input((4,))
    model = keras.Model(i, kl.Dense(3)(i - keras.ops.mean(i, axis=0)))
    fewer = [p for p in canonize.PASSES if p is not canonize.check_samples]
    for canonizers in (None, fewer):
        with raises(lrp_tf.UnsupportedLayerError, "mean"):
            explained(canonizers, model)


def forgetful(graph):
    graph.copy().steps.clear()


def disorderly(graph):
    graph = graph.copy()
    graph.steps.reverse()
    return graph


def empty(graph):
    graph = graph.copy()
    graph.steps.clear()
    return graph


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (forgetful, TypeError, ("forgetful", "NoneType", "Remedy: .*graph.copy")),
        (disorderly, ValueError, ("execution order", "disorderly")),
        (empty, ValueError, ("makes an output", "empty")),
    ],
)
def test_canonizers_that_break_the_graph(wrong, error, words):
    with raises(error, *words):
        explained((*canonize.PASSES, wrong))

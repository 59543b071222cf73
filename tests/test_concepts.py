"""Concepts against the slow way, in float64: relevance of channels, and what passed through each."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close
from helpers.slow_concepts import CHANNELS, SHAPE, Slow, mask, residual_net

import lrp_tf
from lrp_tf import composites, rules

RULES = {
    "Epsilon": (rules.Epsilon(), {}),
    "ZPlus": (rules.ZPlus(), {}),
    "AlphaBeta": (rules.AlphaBeta(2, 1), {"alpha": 2.0, "beta": 1.0}),
    "Gamma": (rules.Gamma(0.25), {"gamma": 0.25}),
}
X = np.random.default_rng(1).normal(size=(2, *SHAPE))
TARGETS = [2, 0]
LAYERS = list(CHANNELS)
FAST = ("AlphaBeta", "Gamma")
EVERY = [
    pytest.param(rule, layer, marks=() if rule in FAST else pytest.mark.slow) for rule in RULES for layer in LAYERS
]


@pytest.fixture(scope="module")
def model():
    return residual_net()


@pytest.fixture(scope="module")
def made(model):
    """Rule -> an explainer, and the slow way for each sample."""
    found = {}
    for name, (rule, parameters) in RULES.items():
        dense = (composites.dense_like(), rules.Epsilon())
        explainer = lrp_tf.Explainer(model, composites.Composite([dense, (None, rule)]))
        slow = [Slow(model, name, x, t, **parameters) for x, t in zip(X, TARGETS, strict=True)]
        found[name] = explainer, slow
    return found


@pytest.fixture(autouse=True)
def _mode(mode):
    """Eagerly; compiled in the slow tests."""


def stacked(slow, one):
    """[B, ...] of what `one` makes of the slow way for each sample."""
    return np.stack([one(s) for s in slow])


@pytest.mark.parametrize(("rule", "layer"), EVERY)
def test_every_channel_of_every_layer(made, rule, layer):
    explainer, slow = made[rule]
    count = CHANNELS[layer]
    found = explainer.concepts(X, TARGETS, layer=layer, channels=range(count))
    skips = (layer,) if layer in ("b", "c") else ()
    maps = lambda s: np.stack([s.relevance({layer: mask(layer, c)}, only=skips)["x"] for c in range(count)])  # noqa: E731
    close(found.maps, stacked(slow, maps), 1e-10)
    at = stacked(slow, lambda s: s.relevance({})[layer].reshape(-1, count).sum(0))
    close(found.relevance, at, 1e-10)
    close(found.amounts, at, 1e-10)
    close(found.share, np.abs(at) / np.abs(at).sum(1, keepdims=True), 1e-10)
    close(found.logits, stacked(slow, lambda s: s.logits), 1e-12)
    assert found.layer == layer
    assert found.target.numpy().tolist() == TARGETS
    assert found.channels.numpy().tolist() == [list(range(count))] * 2
    if skips:
        close(found.passed_by, stacked(slow, lambda s: s.relevance({}, without=skips)["x"]), 1e-10)
    whole = stacked(slow, lambda s: s.relevance({})["x"])
    close(np.sum(found.maps, 1) + (found.passed_by if skips else 0), whole, 1e-10)
    assert (found.passed_by is not None) == bool(skips)


# (layer, conditions, branches): above the layer, below it, both; beside a skip connection
COMBINED = [
    ("a", {"b": [0, 2]}, "keep"),
    ("a", {"b": [0, 2]}, "cut"),
    ("a", {"c": [1], "d": [0, 3, 4]}, "keep"),
    ("a", {"d": [0, 3, 4], "c": [1], "b": [1, 2]}, "cut"),
    ("b", {"sum": [0, 2], "a": [1]}, "keep"),
    ("b", {"a": [1], "sum": [0, 2]}, "cut"),
    ("sum", {"c": [2, 0]}, "keep"),
    ("sum", {"c": [2, 0]}, "cut"),
    ("d", {"b": [3], "a": [0, 1]}, "keep"),
    ("d", {"b": [3], "a": [0, 1]}, "cut"),
]


@pytest.mark.parametrize(("layer", "conditions", "branches"), COMBINED, ids=str)
@pytest.mark.parametrize("rule", [pytest.param("ZPlus", marks=pytest.mark.slow), "AlphaBeta"])
def test_conditions_at_several_layers(made, rule, layer, conditions, branches):
    explainer, slow = made[rule]
    channels = [2, 0]
    options = {"layer": layer, "conditions": conditions, "branches": branches}
    found = explainer.concepts(X, TARGETS, channels=channels, **options)
    held = {name: mask(name, *held) for name, held in conditions.items()}
    on_branch = ("b", "c")
    passing = [layer, *(conditions if branches == "cut" else [])]
    only = tuple(name for name in passing if name in on_branch)
    maps = lambda s: np.stack([s.relevance({**held, layer: mask(layer, c)}, only=only)["x"] for c in channels])  # noqa: E731
    close(found.maps, stacked(slow, maps), 1e-10)
    above = {name: held[name] for name in held if LAYERS.index(name) > LAYERS.index(layer)}
    skipped = [name for name in above if name in on_branch and branches == "cut"]
    at = stacked(slow, lambda s: s.relevance(above, only=tuple(skipped))[layer].reshape(-1, CHANNELS[layer]).sum(0))
    if layer != "a":  # the slow way notes the relevance of a ahead of leaving out branches
        close(found.relevance, at, 1e-10)
    if layer == "b" and branches == "keep":
        close(found.passed_by, stacked(slow, lambda s: s.relevance(held, without=("b",))["x"]), 1e-10)
    else:
        assert found.passed_by is None


def test_maps_under_conditions_add_up_to_the_map_under_them(made):
    explainer, slow = made["ZPlus"]
    found = explainer.concepts(X, TARGETS, layer="b", channels=range(4), conditions={"d": [1, 2], "a": [0]})
    held = {"d": mask("d", 1, 2), "a": mask("a", 0)}
    whole = stacked(slow, lambda s: s.relevance(held)["x"])
    close(np.sum(found.maps, 1) + found.passed_by, whole, 1e-10)


def test_the_largest_channels_of_each_sample(made):
    explainer, _ = made["AlphaBeta"]
    every = explainer.concepts(X, TARGETS, layer="b", channels=range(4))
    found = explainer.concepts(X, TARGETS, layer="b", top=3)
    order = np.argsort(-np.abs(every.relevance), 1)[:, :3]
    assert found.channels.numpy().tolist() == order.tolist()
    assert order[0].tolist() != order[1].tolist()  # else a batch could share them unnoticed
    close(found.maps, np.stack([m[o] for m, o in zip(every.maps.numpy(), order, strict=True)]), 1e-12)
    close(found.share, np.take_along_axis(every.share.numpy(), order, 1), 1e-12)
    own = explainer.concepts(X, TARGETS, layer="b", channels=order)
    close(own.maps, found.maps, 1e-12)
    assert every.relevance.numpy()[0, order[0]].min() < 0  # by size, whatever the sign


def test_single_positions(made):
    explainer, slow = made["ZPlus"]
    found = explainer.concepts(X, TARGETS, layer="b", channels=[3, 1], positions=[(0, 3), (4, 2)])
    masks = [mask("b", 3, position=(0, 3)), mask("b", 1, position=(4, 2))]
    close(found.maps, stacked(slow, lambda s: np.stack([s.relevance({"b": m}, ("b",))["x"] for m in masks])), 1e-10)
    at = stacked(slow, lambda s: np.stack([(s.relevance({})["b"] * m).sum() for m in masks]))
    close(found.amounts, at, 1e-10)
    assert found.positions.numpy().tolist() == [[[0, 3], [4, 2]]] * 2
    same = explainer.concepts(X, TARGETS, layer="b", channels=[3, 1], positions=[(0, 3)])
    close(same.maps[:, 0], found.maps[:, 0], 1e-12)
    whole = explainer.concepts(X, TARGETS, layer="b", positions=[(0, 3), (4, 2)])
    every = explainer.concepts(X, TARGETS, layer="b", channels=range(4), positions=[(4, 2)])
    assert whole.channels is None
    close(whole.maps[:, 1], np.sum(every.maps, 1), 1e-10)
    top = explainer.concepts(X, TARGETS, layer="b", top=1, positions=[(4, 2)])
    best = top.channels.numpy()[:, 0]
    close(top.maps[:, 0], np.stack([every.maps[i, c] for i, c in enumerate(best)]), 1e-10)


def test_positions_of_all_channels_add_up(made):
    explainer, _ = made["AlphaBeta"]
    places = list(itertools.product(range(SHAPE[0]), range(SHAPE[1])))
    found = explainer.concepts(X, TARGETS, layer="c", positions=places)
    close(np.sum(found.maps, 1) + found.passed_by, explainer(X, TARGETS), 1e-10)


def test_relevance_at_layers(made):
    explainer, slow = made["AlphaBeta"]
    found = explainer.channel_relevance(X, TARGETS, layers=["c", "d", "sum"])
    assert list(found) == ["c", "d", "sum"]
    for name, r in found.items():
        close(r, stacked(slow, lambda s, name=name: s.relevance({})[name]), 1e-10)


def test_float32(model):
    x = tf.cast(X, tf.float32)
    explainer = lrp_tf.Explainer(residual_net("float32"), "epsilon_plus")
    full = explainer(x, TARGETS)
    for layer in ("b", "d"):
        found = explainer.concepts(x, TARGETS, layer=layer, channels=range(CHANNELS[layer]))
        close(np.sum(found.maps, 1) + (0 if found.passed_by is None else found.passed_by), full, 1e-5)

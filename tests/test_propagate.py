"""Propagation as a pure function: starts at any tensors, hooks on the way, loops; and the plan that it reads."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import rules
from lrp_tf.core.graph import Ref
from lrp_tf.engine import passes, targets
from lrp_tf.engine.planning import make_plan
from lrp_tf.engine.propagate import forward, in_turn, largest, propagate, propagators
from lrp_tf.engine.savings import switched_off

X = tf.constant(images(3))
EVERY_RULE = [rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta(2, 1)]


@pytest.fixture(scope="module")
def model():
    """Two heads on one trunk, joined behind them."""
    with_floats = {"dtype": "float64"}
    inputs = keras.Input((8, 8, 2), **with_floats)
    x = kl.ReLU(**with_floats)(kl.Conv2D(4, 3, name="first", **with_floats)(inputs))
    x = kl.ReLU(**with_floats)(kl.Conv2D(4, 3, name="second", **with_floats)(x))
    x = kl.Flatten(**with_floats)(kl.MaxPooling2D(**with_floats)(x))
    heads = [kl.Dense(units, name=f"head{units}", **with_floats)(x) for units in (3, 2)]
    return randomize(keras.Model(inputs, kl.Concatenate(name="joined", **with_floats)(heads)))


def part(model, name):
    """The model that ends at the output of one layer."""
    return keras.Model(model.inputs, model.get_layer(name).output)


def plan_of(model, rule, *names):
    """A plan for starts at the outputs of layers, and these tensors; without names, at the output of the model."""
    clone = lrp_tf.clone_with_rules(model, rule)
    starts = [next(step for step in clone.graph.steps if step.name == name).outputs[0] for name in names]
    return make_plan(clone.graph, clone.composite, starts=starts or None), starts


def signed(like, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=like.shape))


def relevance_of(plan, starts, **options):
    return propagate(plan, forward(plan, [X]), starts, **options).relevance[plan.graph.inputs[0]]


def books_of(plan, starts, **options):
    """Sums over the batch: what started, what reached the input, and what each mechanism absorbed."""
    absorbed = dict.fromkeys(("bias", "stabilizer", "other", "filter"), 0.0)

    def observe(step, arrived, sent, account):
        for name, share in account.shares.items():
            absorbed[name] += float(tf.reduce_sum(share))

    found = relevance_of(plan, starts, observe=observe, **options)
    return sum(float(tf.reduce_sum(r)) for r in starts.values()), float(tf.reduce_sum(found)), absorbed


# --- starts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_starts_at_several_outputs_add_up(model, rule):
    plan, (three, two) = plan_of(model, rule, "head3", "head2")
    starts = {three: signed(np.zeros((3, 3))), two: signed(np.zeros((3, 2)), 1)}
    parts = [(part(model, name), start) for name, start in zip(("head3", "head2"), starts.values(), strict=True)]
    expected = sum(lrp_tf.Explainer(one, rule)(X, start=start) for one, start in parts)
    close(relevance_of(plan, starts), expected)
    close(relevance_of(plan, {two: starts[two]}), lrp_tf.Explainer(parts[1][0], rule)(X, start=starts[two]))


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_a_start_at_an_inner_tensor_explains_the_model_below(model, rule):
    """Its relevance lies anywhere, also where the ReLU above would let none arrive."""
    plan, (inner,) = plan_of(model, rule, "second")
    below, run = part(model, "second"), []
    start = signed(below(X))
    found = relevance_of(plan, {inner: start}, observe=lambda step, *_: run.append(type(step.op)))
    close(found, lrp_tf.Explainer(below, rule)(X, start=start))
    assert run == [kl.Conv2D, kl.ReLU, kl.Conv2D]
    assert inner in plan.hidden  # no step multiplies its NaN by relevance
    assert plan.reached == {inner, *plan.graph.inputs, *(ref for s in plan.graph.steps[:2] for ref in s.outputs)}


def test_a_start_on_the_way_adds_to_what_arrives(model):
    plan, (inner, top) = plan_of(model, rules.Gamma(), "second", "joined")
    start, above = signed(part(model, "second")(X)), signed(model(X), 1)
    both = relevance_of(plan, {inner: start, top: above})
    close(both, relevance_of(plan, {inner: start}) + relevance_of(plan, {top: above}))


def test_a_summand_that_relevance_starts_at_is_kept():
    """Above it the sum less the other summand is right only where the ReLU behind the sum is above zero."""
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(3, 3, padding="same", name="one")(inputs)
    y = kl.Conv2D(3, 3, padding="same", name="other")(inputs)
    x = kl.Flatten()(kl.ReLU()(kl.Add(name="sum")([x, y])))
    model = randomize(keras.Model(inputs, kl.Dense(3, name="last")(x)))
    plan, (inner, _) = plan_of(model, rules.ZPlus(), "other", "last")
    usual, _ = plan_of(model, rules.ZPlus())
    saved = [[s.marks.recomputed_summand for s in p.graph.steps if s.name == "sum"] for p in (usual, plan)]
    assert saved == [[1], [0]]
    with switched_off():
        plain, (same, _) = plan_of(model, rules.ZPlus(), "other", "last")
    start = tf.cast(signed(np.zeros((3, 8, 8, 3))), "float32")
    x = tf.cast(X, "float32")
    found = [
        propagate(p, forward(p, [x]), {r: start}).relevance[p.graph.inputs[0]]
        for p, r in ((plan, inner), (plain, same))
    ]
    close(found[0], found[1], 1e-5)


def test_starts_that_are_refused(model):
    plan, _ = plan_of(model, rules.Gamma())
    inner = next(step for step in plan.graph.steps if step.name == "second").outputs[0]
    with raises(ValueError, "not made for", "Expected", "Remedy: make_plan"):
        relevance_of(plan, {inner: signed(part(model, "second")(X))})
    with raises(ValueError, "wrong shape", "Expected", r"Received: \(3, 4\)"):
        relevance_of(plan, {plan.starts[0]: tf.zeros([3, 4], tf.float64)})
    with raises(ValueError, "one tensor at least"):
        relevance_of(plan, {})
    with raises(ValueError, "tensors of the canonized graph", "Received"):
        make_plan(plan.graph, lrp_tf.composites.get("epsilon"), starts=[Ref((3,), "float32")])


# --- hooks ---------------------------------------------------------------------------------------


def only(name, channels):
    """A hook that keeps some channels at the output of a layer, and takes the relevance of all others away."""

    def hook(step, relevance):
        return relevance * tf.constant(channels, relevance.dtype) if step.name == name else relevance

    return hook


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_a_hook_masks_channels(model, rule):
    plan, (inner, top) = plan_of(model, rule, "second", "joined")
    start, mask = signed(model(X)), [1.0, 0.0, 0.0, 1.0]
    arrived = propagate(plan, forward(plan, [X]), {top: start}, keep=[inner]).relevance[inner]
    found = relevance_of(plan, {top: start}, hook=only("second", mask))
    close(found, relevance_of(plan, {inner: arrived * mask}))
    assert np.abs(found - relevance_of(plan, {top: start})).max() > 1e-3
    dropped = books_of(plan, {top: start}, hook=only("second", mask))[2]["filter"]
    np.testing.assert_allclose(dropped, np.sum(arrived * (1 - np.array(mask))))


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
@pytest.mark.parametrize(
    "hook", [None, only("first", [1.0, 0.0, 2.0, -1.0]), "largest"], ids=["none", "channels", "largest"]
)
@pytest.mark.usefixtures("seldom_compiled")
def test_books_close(model, rule, hook):
    """Also where a hook adds relevance."""
    plan, (top, inner) = plan_of(model, rule, "joined", "second")
    starts = {top: signed(model(X)), inner: signed(part(model, "second")(X), 1)}
    hook = largest(0.3, tf.shape(X)[0], starts) if hook == "largest" else hook
    started, reached, absorbed = books_of(plan, starts, hook=hook)
    assert (absorbed["filter"] != 0) == (hook is not None)
    np.testing.assert_allclose(reached + sum(absorbed.values()), started, atol=1e-9 * abs(started) + 1e-10)


@pytest.mark.parametrize("target", [None, [[0, 4]] * 3], ids=["top", "several"])
def test_a_compiled_pass_takes_a_hook(model, target):
    clone, hook = lrp_tf.clone_with_rules(model, rules.ZPlus(), relevance_filter=0.5), only("second", [1.0, 0, 0, 1.0])
    chosen = targets.checked(clone.graph, target, "output", X)
    tensors = [X] if chosen.tensor is None else [X, chosen.tensor]
    request = passes.Request(account=True)
    found, verdict = passes.compiled(clone, chosen, request, hook=hook)(*tensors)
    plain, _ = passes.compiled(clone, chosen, request)(*tensors)
    assert verdict.finite
    assert np.abs(found.relevance[0] - plain.relevance[0]).max() > 1e-3
    assert np.abs(found.conservation.unexplained).max() < 1e-12
    logits = model(X)
    initial = tf.one_hot(tf.argmax(logits, 1) if target is None else [4] * 3, 5, dtype="float64") * logits
    filtered = in_turn(hook, largest(0.5, tf.shape(X)[0], clone.plan.starts))
    want = propagate(clone.plan, forward(clone.plan, [X]), {clone.graph.outputs[0]: initial}, hook=filtered)
    got = found.relevance[0] if target is None else found.relevance[0][:, 1]
    close(got, want.relevance[clone.graph.inputs[0]])


def test_a_compiled_pass_from_tensors(model):
    plan, (top, inner) = plan_of(model, rules.Gamma(), "joined", "second")
    starts = {top: signed(model(X)), inner: signed(part(model, "second")(X), 1)}
    (below,) = plan.graph.inputs
    first = next(step for step in plan.graph.steps if step.name == "first").outputs[0]
    hook = only("first", [1.0, 0.0, 1.0, 0.5])
    found, kept = passes.from_tensors(plan, [top, inner], keep=[first], hook=hook)(X, starts[top], starts[inner])
    want = propagate(plan, forward(plan, [X]), starts, hook=hook, keep=[first]).relevance
    close(found, want[below])
    close(kept, want[first])
    halves = passes.from_tensors(plan, [top, inner], hook=hook)(X[:2], starts[top][:2], starts[inner][:2])
    close(halves[0], found[:2])  # one function for any batch size
    with raises(ValueError, "not made for relevance that starts at"):
        passes.from_tensors(plan, [first])


def test_a_hook_of_the_wrong_shape_is_refused(model):
    plan, _ = plan_of(model, rules.Epsilon())
    with raises(ValueError, "hook returns relevance of the wrong shape at 'joined'", "Expected", "Received"):
        relevance_of(plan, {plan.starts[0]: signed(model(X))}, hook=lambda step, r: r[..., :1])


def test_the_relevance_filter_is_a_hook(model):
    explainer = lrp_tf.Explainer(model, rules.ZPlus(), relevance_filter=0.2)
    plan, start = explainer.clone.plan, signed(model(X))
    found = relevance_of(plan, {plan.starts[0]: start}, hook=largest(0.2, tf.shape(X)[0], plan.starts))
    close(explainer(X, start=start), found)


# --- purity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["late", "shared propagators"])
def test_inside_a_loop(model, shared):
    """One pass for each class, in the body of a tf.while_loop, with a hook."""
    plan, _ = plan_of(model, rules.Gamma())
    top, hook = plan.starts[0], only("second", [1.0, 0.0, 1.0, 0.0])

    @tf.function
    def summed(x):
        passed = forward(plan, [x])
        ready = propagators(plan, passed) if shared else None

        def body(i, total):
            start = tf.one_hot(tf.fill([tf.shape(x)[0]], i), 5, dtype=x.dtype) * tf.cast(i + 1, x.dtype)
            found = propagate(plan, passed, {top: start}, hook=hook, propagators=ready)
            return i + 1, total + found.relevance[plan.graph.inputs[0]]

        return tf.while_loop(lambda i, _: i < 5, body, [0, tf.zeros_like(x)])[1]

    weights = tf.constant([[1.0, 2.0, 3.0, 4.0, 5.0]] * 3, tf.float64)
    close(summed(X), relevance_of(plan, {top: weights}, hook=hook), 1e-9)


def test_nothing_remembers_a_call(model):
    plan, _ = plan_of(model, rules.Gamma())
    passed, start = forward(plan, [X]), signed(model(X))

    def state():
        held = [getattr(plan, field.name) for field in dataclasses.fields(plan)]
        steps = [(step, [key for key in vars(step) if key != "inputs"]) for step in plan.graph.steps]
        return [*map(repr, held), steps, dict(passed.values), dict(passed.saved)]

    before = state()
    first, second = (propagate(plan, passed, {plan.starts[0]: start}) for _ in range(2))
    after = state()
    assert before[:-2] == after[:-2]
    assert all(
        a.keys() == b.keys() and all(a[k] is b[k] for k in a) for a, b in zip(before[-2:], after[-2:], strict=True)
    )
    assert first.relevance.keys() == second.relevance.keys()
    assert all(np.array_equal(first.relevance[ref], second.relevance[ref]) for ref in first.relevance)


def test_a_plan_is_frozen(model):
    plan, _ = plan_of(model, rules.Gamma())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.reached = set()


def test_what_relevance_can_reach_is_known_before_it_runs():
    """The condition of `where` says which branch counts, and has no relevance itself."""
    mask, x = keras.Input((4,), dtype="bool"), keras.Input((4,))
    chosen = keras.ops.where(keras.ops.expand_dims(mask, -1)[..., 0], x, 2 * x)
    explainer = lrp_tf.Explainer(randomize(keras.Model([mask, x], kl.Dense(3)(chosen))), "epsilon")
    plan = explainer.clone.plan
    assert plan.graph.inputs[1] in plan.reached
    assert plan.graph.inputs[0] not in plan.reached
    found = explainer([np.ones((2, 4), bool), np.ones((2, 4), "float32")])
    assert found[0] is None
    assert found[1].shape == (2, 4)

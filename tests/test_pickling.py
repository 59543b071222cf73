"""An Explainer pickles and copies as its recipe; arguments of matches and boxes that cannot be meant are errors."""

import copy
import multiprocessing
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, image_net, images, raises
from helpers.extras import need

import lrp_tf
from lrp_tf import composites, rules

IMG = images(dtype="float32")


def is_dense(step):
    return isinstance(step.op, keras.layers.Dense)


MIXED = composites.Composite(
    [
        (is_dense, rules.Epsilon(rules.Relative(0.1))),
        (composites.named(pattern="con.*"), rules.ZBox(np.full(2, -4.0), np.full(2, 4.0))),
        (composites.of_type(keras.layers.Conv2D), rules.ZPlus()),
        (composites.at(0), rules.Flat()),
        (composites.last(), rules.Zero()),
        (composites.first(), rules.WSquare()),
        (None, rules.AlphaBeta()),
    ],
    "mixed",
)
COMPOSITES = [
    *[(name, {}) for name in composites.PRESETS if not composites.needs_bounds(name)],
    *[(name, {"low": -4.0, "high": [4.0, 5.0]}) for name in composites.PRESETS if composites.needs_bounds(name)],
    (MIXED, {}),
    (rules.Gamma(0.3), {}),
]


@pytest.mark.parametrize(("composite", "options"), COMPOSITES, ids=[str(getattr(c, "name", c)) for c, _ in COMPOSITES])
def test_a_composite_pickles(composite, options):
    found = pickle.loads(pickle.dumps(composites.get(composite, **options)))
    model = image_net()
    assert str(found) == str(composites.get(composite, **options))
    rows = [
        lrp_tf.Explainer(model, c).summary(print_fn=None).rows for c in (found, composites.get(composite, **options))
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "through", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_an_explainer_is_built_anew_from_its_recipe(through):
    model = image_net()
    explain = lrp_tf.Explainer(
        model, "epsilon_gamma_box", low=-4.0, high=4.0, relevance_filter=0.5, max_batch=2, nonnegative=False, check=True
    )
    explain(IMG)
    found = through(explain)
    assert type(found) is lrp_tf.Explainer
    assert found.model is not model
    assert (found.max_batch, found.clone.relevance_filter) == (2, 0.5)
    assert found._chosen == explain._chosen
    close(found(IMG), explain(IMG), 1e-6)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)  # the copy is one of its own
    assert np.abs(np.asarray(found(IMG)) - explain(IMG)).max() > 1e-3


def test_a_shallow_copy_shares_the_model():
    explain = lrp_tf.Explainer(image_net(), "epsilon", check=False)
    found = copy.copy(explain)
    assert found.model is explain.model
    assert found.clone is not explain.clone
    close(found(IMG), explain(IMG), 1e-6)


def test_a_clone_pickles_too():
    clone = lrp_tf.clone_with_rules(image_net(), MIXED, relevance_filter=0.5)
    found = pickle.loads(pickle.dumps(clone))
    assert found.relevance_filter == 0.5
    close(found(IMG), clone(IMG), 1e-6)
    with raises(TypeError, "clone_with_rules"):
        pickle.dumps(type(clone)(clone.graph, clone.composite))


def test_an_explainer_travels_to_a_spawned_process():
    explain = lrp_tf.Explainer(image_net(), MIXED)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(explain, (IMG, 1))
    close(found, explain(IMG, 1), 1e-5)


class Local:
    def rule(self):
        class Own(rules.Rule):
            def terms(self, op):
                return [rules.Term([(op.x, op.w)])]

        return Own()


@pytest.mark.parametrize(
    ("match", "rule"), [(lambda step: True, rules.Epsilon()), (None, Local().rule())], ids=["match", "rule"]
)
def test_what_cannot_be_pickled_is_said_so(match, rule):
    explain = lrp_tf.Explainer(image_net(), composites.Composite([(match, rule), (None, rules.ZPlus())], "mine"))
    with raises(pickle.PicklingError, "'mine'", "Expected", "Received", "Remedy", "cloudpickle"):
        pickle.dumps(explain)
    close(copy.deepcopy(explain)(IMG), explain(IMG), 1e-6)
    need("cloudpickle", extra="test")
    import cloudpickle

    close(pickle.loads(cloudpickle.dumps(explain))(IMG), explain(IMG), 1e-6)


# --- arguments that cannot be meant ------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["(", "block[", None, 3])
def test_a_name_that_is_no_regular_expression(pattern):
    with raises(ValueError, "named expects", "Received", "Remedy"):
        composites.named(pattern)


BOXES = [
    (1, 0),
    (float("nan"), 1.0),
    (0.0, float("inf")),
    (np.array([0.0, 2.0]), np.array([1.0, 1.0])),
    ([0.0, np.nan], 1.0),
    (0.5, [1.0, 0.4]),
    (tf.constant(2.0), 1.0),
    ("low", 1.0),
]


@pytest.mark.parametrize(("low", "high"), BOXES)
def test_a_box_that_holds_nothing(low, high):
    makes = [lambda: rules.ZBox(low, high), lambda: composites.get("epsilon_gamma_box", low=low, high=high)]
    for make in (*makes, lambda: lrp_tf.Explainer(image_net(), "tutorial", low=low, high=high)):
        with raises(ValueError, "low|high", "must be|Expected", "Received"):
            make()


def test_a_box_that_holds_single_points_in_some_channels():
    explain = lrp_tf.Explainer(image_net(), "epsilon_gamma_box", low=[-4.0, 0.0], high=[4.0, 0.0])
    assert np.isfinite(explain(IMG)).all()

"""What `evaluate.tune` tries, the grid in words, and how it halves the data."""

import itertools

import keras
import numpy as np
import pytest
from helpers.checking import randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import rules
from lrp_tf.evaluate.tuning import space
from lrp_tf.evaluate.tuning.halves import halves
from lrp_tf.evaluate.tuning.parts import Parts


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    stack = [kl.Conv2D(4, 3, padding="same", activation="relu") for _ in range(3)]
    return randomize(keras.Sequential([keras.Input((6, 6, 2)), *stack, kl.Flatten(), kl.Dense(3)], name="net"))


def parts_of(model):
    return Parts.of(lrp_tf.Explainer(model, "epsilon").graph)


# --- the grid ------------------------------------------------------------------------------------


def test_a_grid_in_words_is_that_in_numbers():
    words = space.axes_of("gamma.lower=0,0.01:1:log3 epsilon=1e-6,relative(0.25) zero_bias=true,false rule.first=flat")
    values = {
        "gamma.lower": [0, 0.01, 0.1, 1],
        "epsilon": [1e-6, rules.Relative(0.25)],
        "zero_bias": [True, False],
        "rule.first": ["flat"],
    }
    numbers = space.axes_of(values)
    assert [(a.name, a.values) for a in words] == [(a.name, a.values) for a in numbers]
    assert words[0].bounds == (0.01, 1.0, True)
    assert space.axes_of("gamma=0:1:lin5")[0].values == (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("gama=1", r"Received: 'gama'. Did you mean 'gamma'\?"),
        ("gamma.uper=1", r"Did you mean 'upper'\?"),
        ("gamma", "NAME=VALUE"),
        ("gamma=0:1:log5", "log above 0"),
        ("gamma=1:0.1:lin5", "BEGIN < END"),
        ("gamma=0.1:1:log1", "N of 2 or more"),
        ("gamma=-1", "0 and above"),
        ("gamma=relative(0.1)", "expects numbers"),
        ("gamma=many", "expects numbers"),
        ("zero_bias=maybe", "true or false"),
        ("rule.lower=zpluss", r"Did you mean 'zplus'\?"),
        ("gamma=0.1 gamma=0.2", "twice"),
        ("gamma=0.1 gamma.lower=0.2", "every part and for one"),
        ("", "one parameter at least"),
    ],
)
def test_what_is_no_grid_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        space.axes_of(grid)


def test_values_of_another_type_are_refused():
    with pytest.raises(TypeError, match="list of values"):
        space.axes_of({"gamma": object()})


def test_parts_of_nets_with_and_without_convolutions(net):
    assert dict(parts_of(net).counts) == {"first": 1, "dense": 1, "lower": 1, "upper": 1}
    dense = randomize(
        keras.Sequential([keras.Input((4,)), *[kl.Dense(5, activation="relu") for _ in range(4)], kl.Dense(2)])
    )
    assert dict(parts_of(dense).counts) == {"dense": 1, "first": 1, "lower": 2, "upper": 1}
    single = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(2)]))
    assert parts_of(single).counts["dense"] == 1
    with pytest.raises(ValueError, match=r"gamma.lower has no effect.*no steps.*Expected parts of it: dense"):
        space.Space("gamma.lower=0,1", parts_of(single))


def test_each_part_gets_its_rule(net):
    settings = {
        "rule.first": "wsquare",
        "rule.lower": "zplus",
        "gamma.upper": 0.3,
        "epsilon.dense": 0.1,
        "zero_bias": True,
    }
    composite = space.Space("gamma.upper=0,0.3", parts_of(net)).candidate(settings).composite
    explainer = lrp_tf.Explainer(net, composite)
    used = [handler for step, handler in explainer.clone.plan.every_step() if step.linear is not None]
    assert used == [
        rules.WSquare(),
        rules.ZPlus(zero_bias=True),
        rules.Gamma(0.3, zero_bias=True),
        rules.Epsilon(0.1, True),
    ]


def test_max_pooling_as_average_pooling_is_a_setting_of_the_whole_net(net):
    pooled = randomize(keras.Sequential([keras.Input((8, 8, 1)), kl.Conv2D(2, 3), kl.MaxPooling2D(), kl.Flatten(),
                                         kl.Dense(2)]))  # fmt: skip
    grid = space.Space("pooling=max,average rule.first=jointwsquare zero_bias=true,false", parts_of(pooled))
    found = {candidate.name: candidate.composite for candidate in grid.candidates()}
    assert len(found) == 4
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    maps = []
    for name, composite in found.items():
        assert lrp_tf.composites.parse(str(composite)) == composite
        explainer = lrp_tf.Explainer(pooled, composite)
        handlers = [repr(handler) for _, handler in explainer.clone.plan.every_step()]
        assert ("MaxAsAverage" in handlers) is ("average" in name)
        assert ("JointWSquare(zero_bias=True)" in handlers) is ("zero_bias=true" in name)
        maps.append(np.asarray(explainer(x)))
    assert all(np.abs(a - b).max() > 1e-6 for a, b in itertools.combinations(maps, 2))
    with pytest.raises(ValueError, match=r"pooling has no effect.*no max pooling"):
        space.Space("pooling=max,average", parts_of(net))
    with pytest.raises(ValueError, match=r"pooling for the whole net. Received: 'pooling.upper'"):
        space.axes_of("pooling.upper=average")
    with pytest.raises(ValueError, match=r"some of max, average. Received: 'averge'.*Did you mean 'average'"):
        space.axes_of("pooling=averge")


def test_an_axis_that_changes_nothing_is_refused(net):
    with pytest.raises(ValueError, match=r"gamma.first has no effect"):
        space.Space("gamma.first=0.1,0.2", parts_of(net)).candidates()
    space.Space("rule.first=flat,gamma gamma.first=0.1,0.2", parts_of(net)).candidates()
    with pytest.raises(ValueError, match=r"needs the bounds.*low=, high="):
        space.Space("rule.first=flat,box", parts_of(net))


def test_nets_without_halves_vary_epsilon():
    single = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(2)]))
    assert [axis.name for axis in space.Space(None, parts_of(single)).axes] == ["epsilon"]
    assert len(space.Space(None, parts_of(single)).candidates()) == 5


def test_settings_that_make_one_composite_are_tried_once(net):
    grid = "rule.lower=zplus,gamma gamma.lower=0.1,0.2,0.3"
    assert len(space.Space(grid, parts_of(net)).candidates()) == 1 + 3


def test_any_beginning_of_the_order_is_spread_over_the_grid(net):
    grid = space.Space("gamma.lower=0:1:lin5 gamma.upper=0:1:lin5", parts_of(net))
    order = grid.coarse_to_fine(grid.candidates())
    assert len(order) == 25
    assert order[0].settings == {"gamma.lower": 0.5, "gamma.upper": 0.5}
    corners = {tuple(candidate.settings.values()) for candidate in order[1:5]}
    assert corners == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}


# --- the halves ----------------------------------------------------------------------------------


def test_halves_share_no_sample_and_have_the_same_classes(rng):
    x = rng.normal(size=(41, 3))
    x[7] = x[30]  # equal content stays together
    target = np.array([0] * 20 + [1] * 12 + [2] * 8 + [3])
    one, other = halves(x, target, seed=3)
    assert sorted([*one, *other]) == list(range(41))
    assert (7 in one) == (30 in one)
    for label, count in ((0, 20), (1, 12), (2, 8)):
        assert abs((target[one] == label).sum() - count / 2) <= 1
    assert abs(len(one) - len(other)) <= 2
    assert len(set(target[one[:6]])) >= 3  # a beginning has several classes
    again, _ = halves(x, target, seed=3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, halves(x, target, seed=4)[0])

"""What gates get of the relevance of a product (Arras et al. 2019), and kernels that are cut for the sums of a GRU."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.core.loop import body_of
from lrp_tf.engine.canonize import canonize
from lrp_tf.tracing.follow import trace

pytestmark = pytest.mark.usefixtures("double_precision")


def gate_of(g):
    return 1 / (1 + np.exp(-g))


SHARES = {
    "held": lambda g, v: (0 * g, 1 + 0 * v),
    "share": lambda g, v: (0.5 + 0 * g, 0.5 + 0 * v),
    "proportional": lambda g, v: (g / (g + v + 1e-3 * np.sign(g + v)), v / (g + v + 1e-3 * np.sign(g + v))),
    "absolute": lambda g, v: (g / (g + abs(v) + 1e-3), abs(v) / (g + abs(v) + 1e-3)),
}


@pytest.mark.parametrize("word", SHARES)
def test_what_a_gate_gets(word):
    g, v = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([g, v], ops.sigmoid(g) * v)
    composite = composites.parse(f"products: Product gates={word} stabilizer=0.001")
    assert composites.parse(str(composite)) == composite
    generator = np.random.default_rng(0)
    inputs, start = [generator.normal(size=(3, 4)) for _ in range(2)], generator.normal(size=(3, 4))
    explained = lrp_tf.Explainer(model, composite).explain(inputs, start=start)
    for relevance, share in zip(explained.relevance, SHARES[word](gate_of(inputs[0]), inputs[1]), strict=True):
        np.testing.assert_allclose(relevance, share * start, rtol=1e-12)
    assert np.abs(explained.conservation.unexplained).max() < 1e-13


def test_a_product_of_signals_is_shared_equally_whatever_gates_get():
    x, y = keras.Input((4,)), keras.Input((4,))
    composite = composites.Composite([(composites.products(), flows.Product(gates="proportional"))])
    start = np.ones((1, 4))
    found = lrp_tf.Explainer(keras.Model([x, y], x * y), composite)([start, 3 * start], start=start)
    np.testing.assert_array_equal(found, [start / 2, start / 2])


def test_contractions_know_no_share_by_value():
    with pytest.raises(ValueError, match="gates expects one of"):
        flows.Contraction(gates="proportional")


def test_flow_epsilon_reaches_products_that_divide():
    x = keras.Input((4,))
    model = keras.Model(x, ops.sigmoid(kl.Dense(4)(x)) * kl.Dense(4)(x))
    by_value = flows.Product(gates="absolute")
    assert by_value.with_stabilizer(0.5) == flows.Product(gates="absolute", stabilizer=0.5)
    assert flows.Product().with_stabilizer(0.5) == flows.Product()
    summary = str(lrp_tf.Explainer(model, composites.Composite([(None, rules.Zero())], flow_epsilon=0.5)).summary())
    assert "stabilizer" not in summary


@pytest.mark.parametrize("complement", [False, True], ids=["g", "1 - g"])
def test_a_gate_of_a_constant_of_each_sample_gets_nothing(complement):
    """As a state to begin with is one: it takes the relevance, which is booked as bias."""
    x = keras.Input((4,))
    g = ops.sigmoid(x)
    model = keras.Model(x, (1 - g if complement else g) * ops.full_like(x, 3.0))
    explained = lrp_tf.Explainer(model, rules.Zero()).explain(np.ones((2, 4)), start=np.ones((2, 4)))
    np.testing.assert_array_equal(explained.relevance, np.zeros((2, 4)))
    np.testing.assert_array_equal(explained.conservation.bias, [4, 4])


def body(layer):
    x = keras.Input((7, 5))
    graph = trace(keras.Model(x, layer(x)), flows.keeps)
    (found,) = [body_of(s) for s in canonize(graph, graph.outputs).steps if body_of(s) is not None]
    return found


@pytest.mark.parametrize("after", [False, True], ids=["reset ahead", "reset_after"])
def test_kernels_are_cut_where_a_sum_needs_it(after):
    """x W of a GRU is cut in three; with `reset_after` the sums of its two gates alone have two linear steps."""
    steps = [s for s in body(kl.GRU(3, reset_after=after)).steps if s.linear is not None]
    assert sorted(len(s.parts) for s in steps) == ([0, 0, 2, 2] if after else [2, 2, 2])
    assert {s.outputs[0].shape for s in steps} == {(3,)}


class Sliced(keras.Layer):
    """A cell whose one kernel is cut where no sum of linear steps follows."""

    state_size = 3

    def build(self, shape):
        self.w = self.add_weight((shape[-1], 6))

    def call(self, x, states):
        first, second = ops.split(ops.matmul(x, self.w), 2, axis=-1)
        return ops.tanh(first) * second + states[0], [first]


def test_kernels_are_left_whole_where_no_sum_needs_them():
    (step,) = [s for s in body(kl.RNN(Sliced())).steps if s.linear is not None]
    assert step.outputs[0].shape == (6,)


@pytest.mark.parametrize("gates", ["held", "share", "proportional", "absolute"])
@pytest.mark.parametrize("layer", [kl.LSTM, kl.GRU])
@pytest.mark.usefixtures("seldom_compiled")
def test_books_of_cells_close_whatever_gates_get(layer, gates):
    x = keras.Input((5, 3))
    model = keras.Model(x, kl.Dense(2)(layer(4)(x)))
    composite = composites.Composite(
        [(composites.products(), flows.Product(gates=gates)), (None, rules.Epsilon(1e-3))], flow_epsilon=1e-3
    )
    explained = lrp_tf.Explainer(model, composite).explain(np.random.default_rng(0).normal(size=(2, 5, 3)))
    assert np.abs(explained.conservation.unexplained).max() < 1e-12
    assert np.abs(explained.relevance).min() > 0

"""Recurrent layers and scans become steps that hold a graph: what these compute is what the model computes."""

import keras
import numpy as np
import pytest
from keras import layers

from lrp_tf import flows
from lrp_tf.core.graph import Graph
from lrp_tf.core.loop import Loop
from lrp_tf.tracing.follow import trace
from tests.references.loops import run_graph


def _loops(graph: Graph) -> list[Loop]:
    return [step.op for step in graph.steps if isinstance(step.op, Loop)]


def _randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def _follows(model: keras.Model, *inputs: np.ndarray, loops: int = 1, rtol: float = 1e-5) -> Graph:
    """The graph of the model, which computes what the model computes."""
    graph = trace(_randomized(model), flows.keeps)
    assert len(_loops(graph)) == loops
    expected = keras.tree.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    for y, z in zip(run_graph(graph, list(inputs)), expected, strict=True):
        np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol)
    return graph


def _sequence(shape: tuple = (3, 5, 2), seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.SimpleRNN(4),
        lambda: layers.LSTM(4, return_sequences=True),
        lambda: layers.LSTM(4, dropout=0.2, recurrent_dropout=0.3, return_state=True),
        lambda: layers.GRU(4, go_backwards=True, return_sequences=True, return_state=True),
        lambda: layers.GRU(4, reset_after=False, unroll=True),
        lambda: layers.SimpleRNN(4, dropout=0.5, use_bias=False, activation="relu"),
    ],
)
def test_recurrent_layers_are_loops_over_their_cells(layer) -> None:
    x = keras.Input((5, 2))
    graph = _follows(keras.Model(x, layer()(x)), _sequence())
    (loop,) = _loops(graph)
    assert loop.body.dtype == "float32"
    assert not {step.path for step in loop.body.steps} & set(graph.layers)

"""Recurrent layers become steps that hold a graph: what these compute is what the model computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import flows
from lrp_tf.core.graph import Graph
from lrp_tf.core.loop import Loop
from lrp_tf.engine.check import concerns
from lrp_tf.tracing.follow import trace
from tests.references.loops import run_graph


def loops_of(graph: Graph) -> list[Loop]:
    return [step.op for step in graph.steps if isinstance(step.op, Loop)]


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def values(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def follows(model: keras.Model, *inputs: np.ndarray, loops: int = 1, rtol: float = 1e-5) -> Graph:
    """The graph of the model, which computes what the model computes."""
    graph = trace(randomized(model), flows.keeps)
    assert len(loops_of(graph)) == loops
    with keras.StatelessScope():  # stateful layers keep their states
        expected = keras.tree.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    for y, z in zip(run_graph(graph, list(inputs)), expected, strict=True):
        np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol)
    return graph


class Decay(keras.Layer):
    """A cell of a user's own, whose first state is learned: c' = a c + x w, counting the time steps beside."""

    state_size = (3, 1)
    output_size = 3

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.start = self.add_weight(shape=(1, 3), name="start")

    def get_initial_state(self, batch_size=None):
        return [ops.tile(self.start, (batch_size, 1)), ops.zeros((batch_size, 1))]

    def call(self, inputs, states):
        c, n = states
        c = 0.5 * c + ops.matmul(inputs, self.w)
        return ops.tanh(c) * (n + 1.0), [c, n + 1.0]


class Single(keras.Layer):
    """The smallest cell: neither a list of states nor `get_initial_state`."""

    state_size = 2

    def call(self, inputs, states, training=False):
        new = states[0] * 0.5 + inputs
        return new, new


class Plain:
    """A cell that is no layer."""

    state_size = 2
    compute_dtype = "float32"

    def call(self, inputs, states):
        return states[0] - inputs, [ops.sigmoid(states[0]) * inputs]

    __call__ = call


class Nested(keras.Layer):
    """A cell that runs a recurrent layer over each entry [T, C] of its sequence."""

    state_size = 3

    def __init__(self):
        super().__init__()
        self.inner = kl.GRU(3)

    def build(self, shape):
        self.inner.build((None, *shape[1:]))

    def call(self, inputs, states):
        new = self.inner(inputs) + 0.5 * states[0]
        return new, [new]


SEQUENCE = (5, 2)
LAYERS = {
    "simple": (lambda: kl.SimpleRNN(4), SEQUENCE),
    "simple, no bias": (lambda: kl.SimpleRNN(4, dropout=0.5, use_bias=False, activation="relu"), SEQUENCE),
    "lstm": (lambda: kl.LSTM(4, return_sequences=True), SEQUENCE),
    "lstm, kernels apart": (lambda: kl.LSTM(4, dropout=0.2, recurrent_dropout=0.3, return_state=True), SEQUENCE),
    "lstm, unrolled": (lambda: kl.LSTM(4, unroll=True, go_backwards=True), SEQUENCE),
    "gru": (lambda: kl.GRU(4, go_backwards=True, return_sequences=True, return_state=True), SEQUENCE),
    "gru, reset before": (lambda: kl.GRU(4, reset_after=False, unroll=True), SEQUENCE),
    "gru, kernels apart": (lambda: kl.GRU(4, recurrent_dropout=0.2, return_sequences=True), SEQUENCE),
    "stacked": (lambda: kl.RNN([kl.LSTMCell(4), kl.GRUCell(3)], return_state=True), SEQUENCE),
    "stacked, one": (lambda: kl.RNN(kl.StackedRNNCells([kl.SimpleRNNCell(3)]), return_sequences=True), SEQUENCE),
    "own cell": (lambda: kl.RNN(Decay(), return_sequences=True, return_state=True), SEQUENCE),
    "smallest cell": (lambda: kl.RNN(Single()), SEQUENCE),
    "no layer": (lambda: kl.RNN(Plain(), return_sequences=True), SEQUENCE),
    "loop in a loop": (lambda: kl.RNN(Nested(), return_sequences=True), (3, 4, 2)),
    "images, 1-D": (lambda: kl.ConvLSTM1D(3, 2, padding="same", return_sequences=True), (3, 6, 2)),
    "images, 2-D": (lambda: kl.ConvLSTM2D(2, 3, strides=2, return_state=True, dropout=0.2), (3, 6, 5, 2)),
    "images, 3-D": (lambda: kl.ConvLSTM3D(2, 2, dilation_rate=2, padding="same", use_bias=False), (2, 4, 4, 3, 2)),
    "each of several": (lambda: kl.TimeDistributed(kl.LSTM(3, return_sequences=True)), (2, 4, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layer_is_a_loop_over_its_cell(name: str) -> None:
    make, shape = LAYERS[name]
    x = keras.Input(shape)
    graph = follows(keras.Model(x, make()(x)), values(3, *shape))
    (loop,) = loops_of(graph)
    assert loop.body.dtype == graph.dtype == "float32"
    assert not {step.path for step in loop.body.steps} & set(graph.layers)
    assert all(not isinstance(step.op, kl.RNN) for step in graph.steps)


def test_length_is_open() -> None:
    x = keras.Input((None, 2))
    model = keras.Model(x, kl.GRU(3, return_sequences=True)(x))
    graph = follows(model, values(2, 7, 2))
    np.testing.assert_allclose(run_graph(graph, [values(2, 3, 2)])[0], model(values(2, 3, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
def test_both_directions(mode: str | None) -> None:
    x = keras.Input(SEQUENCE)
    y = kl.Bidirectional(kl.LSTM(3, return_sequences=True), merge_mode=mode)(x)
    loops = loops_of(follows(keras.Model(x, y), values(3, *SEQUENCE), loops=2))
    assert {loop.layer.name.split("_")[0]: loop.backwards for loop in loops} == {"forward": False, "backward": True}


def test_both_directions_with_states_and_layers_of_their_own() -> None:
    x, *h = keras.Input(SEQUENCE), keras.Input((3,)), keras.Input((3,))
    both = kl.Bidirectional(
        kl.GRU(3, return_state=True), backward_layer=kl.GRU(3, go_backwards=True, return_state=True)
    )
    follows(keras.Model([x, *h], both(x, initial_state=h)), values(2, *SEQUENCE), *values(2, 2, 3), loops=2)


def masked(layer: keras.Layer) -> tuple[keras.Model, np.ndarray]:
    """Tokens; the second sample ends early, the third has gaps, and the last holds nothing at all."""
    i = keras.Input((5,), dtype="int32")
    model = keras.Model(i, layer(kl.Embedding(7, 2, mask_zero=True)(i)))
    return model, np.array([[1, 2, 3, 4, 5], [6, 5, 0, 0, 0], [0, 3, 0, 2, 0], [0, 0, 0, 0, 0]], "int32")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: kl.LSTM(3, return_sequences=True, return_state=True),
        lambda: kl.SimpleRNN(3, go_backwards=True),
        lambda: kl.GRU(3, return_sequences=True, unroll=True, zero_output_for_mask=True),
        lambda: kl.RNN(kl.GRUCell(3), zero_output_for_mask=True),
        lambda: kl.Bidirectional(kl.GRU(3, return_sequences=True)),
        lambda: lambda x: kl.GRU(2)(kl.Dropout(0.5)(kl.LSTM(3, return_sequences=True)(x))),
    ],
)
def test_masked_time_steps(layer) -> None:
    model, x = masked(layer())
    graph = follows(model, x, loops=len([s for s in model._flatten_layers() if isinstance(s, kl.RNN)]))
    assert all(step.args[2] is not None for step in graph.steps if isinstance(step.op, Loop))


def test_mask_with_an_axis_of_its_own_as_numbers() -> None:
    x, mask = keras.Input(SEQUENCE), keras.Input((5, 1))
    model = keras.Model([x, mask], kl.GRU(3, return_sequences=True)(x, mask=mask))
    follows(model, values(2, *SEQUENCE), np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 1], "float32").reshape(2, 5, 1))


def test_states_travel_from_an_encoder_to_a_decoder() -> None:
    x, z = keras.Input((4, 2)), keras.Input((3, 2))
    _, *states = kl.LSTM(3, return_state=True)(x)
    y = kl.LSTM(3, return_sequences=True)(z, initial_state=states)
    graph = follows(keras.Model([x, z], y), values(2, 4, 2), values(2, 3, 2), loops=2)
    encoder, decoder = (step for step in graph.steps if isinstance(step.op, Loop))
    assert decoder.args[1] == list(encoder.outputs[1:])


def test_states_are_kept_and_left_alone() -> None:
    x = keras.Input(batch_shape=(2, *SEQUENCE))
    layer = kl.RNN([kl.GRUCell(2), kl.LSTMCell(3)], stateful=True, return_sequences=True)
    model = keras.Model(x, layer(x))
    randomized(model)
    model(values(2, *SEQUENCE))
    before = [state.numpy() for state in keras.tree.flatten(layer.states)]
    assert any(state.any() for state in before)
    graph = follows(model, values(2, *SEQUENCE, seed=5))
    model(values(2, *SEQUENCE, seed=6))
    with keras.StatelessScope():
        expected = model(values(2, *SEQUENCE))
    np.testing.assert_allclose(run_graph(graph, [values(2, *SEQUENCE)])[0], expected, rtol=1e-5, atol=1e-6)
    assert any(np.any(s != b) for s, b in zip(keras.tree.flatten(layer.states), before, strict=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a batch of 2, whose states it keeps"):
        run_graph(graph, [values(3, *SEQUENCE)])


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float32"), ("float64", "float64")])
def test_precision_of_the_rules(policy: str, dtype: str) -> None:
    x = keras.Input(SEQUENCE, dtype="float64" if dtype == "float64" else None)
    cells = kl.StackedRNNCells([kl.LSTMCell(3, dtype=policy), kl.GRUCell(2, dtype=policy)], dtype=policy)
    both = kl.Bidirectional(kl.RNN(cells, dtype=policy), dtype=policy)
    model = randomized(keras.Model(x, both(x)))
    graph = follows(model, values(3, *SEQUENCE).astype(dtype), loops=2, rtol=1e-12 if dtype == "float64" else 1e-2)
    assert {graph.dtype, *(loop.body.dtype for loop in loops_of(graph))} == {dtype}


def by_time(function, *inputs: keras.KerasTensor) -> keras.Model:
    """`function` of the first input [B, T, ...] with the time steps first, and the others as they are."""
    x, *rest = inputs
    y = function(ops.transpose(x, (1, 0, 2)), *rest)
    return keras.Model(list(inputs) if rest else x, y)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_a_loop(reverse: bool) -> None:
    dense = kl.Dense(3)
    x, h = keras.Input((4, 3)), keras.Input((3,))
    dense.build((None, 3))

    def step(carry, x):
        new = ops.tanh(dense(carry) + x)
        return new, new * 2.0

    def scanned(xs, h):
        last, ys = ops.scan(step, h, xs, reverse=reverse)
        return [last, ops.transpose(ys, (1, 0, 2))]

    graph = follows(by_time(scanned, x, h), values(2, 4, 3), values(2, 3))
    assert [loop.label for loop in loops_of(graph)] == ["Scan"]


def test_map_is_a_loop_without_states() -> None:
    x = keras.Input((4, 3))
    model = by_time(lambda xs: ops.transpose(ops.map(lambda x: ops.tanh(x) * 2.0, xs), (1, 0, 2)), x)
    (loop,) = loops_of(follows(model, values(2, 4, 3)))
    assert loop.states == 0


def refusal(model: keras.Model) -> str:
    """Why the graph keeps a step in one piece."""
    (step,) = (step for step in trace(model, flows.keeps).steps if step.why or step.mixes)
    return step.why or step.mixes


def test_scan_over_samples_and_rounds_without_a_number_are_refused() -> None:
    x = keras.Input((3,))
    over_samples = keras.Model(x, ops.map(ops.tanh, x))
    assert "(time, batch, ...)" in refusal(over_samples)
    x, h = keras.Input((4, 3)), keras.Input((3,))
    closure = by_time(lambda xs, h: ops.transpose(ops.map(lambda x: x * h, xs), (1, 0, 2)), x, h)
    assert "reads h, which the model computes outside" in refusal(closure)
    x = keras.Input((3,))
    rounds = ops.while_loop(lambda h: ops.all(h < 5.0), lambda h: (h + 1.0,), (x,))
    assert "How often it runs" in refusal(keras.Model(x, rounds))


def test_layer_with_a_call_of_its_own_is_not_its_base() -> None:
    class Doubled(kl.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(sequences * 2.0, initial_state, mask, training)

    x = keras.Input(SEQUENCE)
    why = refusal(keras.Model(x, Doubled(3)(x)))
    assert "runs the loop of LSTM" in why
    assert "RNN(cell)" in why


def test_cell_that_is_not_followed_is_named() -> None:
    class Raw(Single):
        def call(self, inputs, states, training=False):
            new = tf.nn.relu(states[0] + inputs)
            return new, [new]

    x = keras.Input(SEQUENCE)
    graph = trace(keras.Model(x, kl.RNN(Raw(name="raw"))(x)), flows.keeps)
    found = [step for loop in loops_of(graph) for step in loop.body.steps if step.why]
    assert [step.path.split("/")[-1] for step in found] == ["raw"]


def test_subclassed_model_with_masks_and_states() -> None:
    class Translator(keras.Model):
        def __init__(self):
            super().__init__()
            self.words, self.encoder = kl.Embedding(9, 3, mask_zero=True), kl.GRU(4, return_state=True)
            self.both = kl.Bidirectional(kl.LSTM(2, return_sequences=True))
            self.decoder = kl.GRU(4, return_sequences=True)

        def call(self, tokens):
            x = self.words(tokens)
            _, state = self.encoder(x)
            return self.decoder(self.both(x), initial_state=state)

    model, x = Translator(), np.array([[1, 2, 3, 0], [4, 0, 5, 6]], "int32")
    model(x)
    graph = follows(model, x, loops=4)
    # With states Keras hands the decoder no mask, as the model's own call shows.
    assert [step.args[2] is not None for step in graph.steps if isinstance(step.op, Loop)] == [True, True, True, False]


def ending(layer: keras.Layer, batch: int | None = None) -> keras.Model:
    x = keras.Input(batch_shape=(batch, *SEQUENCE))
    return randomized(keras.Model(x, kl.Dense(2)(layer(x))))


@pytest.mark.parametrize("size", [1, 3])
def test_check_of_a_model_that_keeps_states_takes_the_whole_batch(size: int) -> None:
    model, x = ending(kl.LSTM(3, stateful=True), size), values(size, *SEQUENCE)
    model(x)
    found = lrp_tf.Explainer(model, lrp_tf.rules.Epsilon()).check(x, print_fn=None)
    assert found, found
    assert found["output"].told


def test_check_of_long_sequences_compiles_them() -> None:
    x = keras.Input((17, 2))
    model = randomized(keras.Model(x, kl.Dense(2)(kl.RNN(Decay())(x))))
    found = lrp_tf.Explainer(model, lrp_tf.rules.Epsilon(), check=False).check(values(2, 17, 2), print_fn=None)
    assert found, found
    assert found["books"].measured > 0  # relevance was propagated


def test_cells_of_the_user_alone_ask_for_a_check() -> None:
    asks = lambda layer: concerns(trace(ending(layer), flows.keeps))  # noqa: E731
    of_keras = (
        kl.Bidirectional(kl.RNN([kl.LSTMCell(2), kl.GRUCell(3)])),
        kl.SimpleRNN(2),
        kl.TimeDistributed(kl.Dense(2)),
    )
    assert not any(map(asks, of_keras))
    assert asks(kl.RNN([kl.GRUCell(2), Decay()]))
    assert asks(kl.RNN(Plain()))


def test_nothing_is_left_behind_on_the_layers() -> None:
    x = keras.Input(SEQUENCE)
    model = randomized(keras.Model(x, kl.Bidirectional(kl.LSTM(3, dropout=0.5, recurrent_dropout=0.5))(x)))
    before = [(layer, dict(vars(layer))) for layer in model._flatten_layers()]
    trace(model, flows.keeps)
    for layer, attributes in before:
        assert vars(layer).keys() == attributes.keys()
        assert [name for name, value in attributes.items() if vars(layer)[name] is not value] == []

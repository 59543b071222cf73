"""Recurrent models and how each is computed on a `Tape`, from the weights of its layers alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers as kl
from keras import ops
from references.recurrent import (
    Cell,
    Kernels,
    convolutional_kernels,
    gru_cell,
    lstm_cell,
    recur,
    simple_cell,
    stacked,
)
from references.tape import Part, Tape, Value

UNITS = 4

# (tape, time steps of the input, [B, T] mask) -> what the last Dense reads
Unrolled = Callable[[Tape, list[Value], np.ndarray], Value]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of one recurrent layer behind a Masking (if `masked`) and ahead of a Dense, unrolled by `unrolled`."""

    model: keras.Model
    unrolled: Unrolled


def randomized(model: keras.Model, seed: int = 3) -> keras.Model:
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.6, w.shape) for w in model.get_weights()])
    return model


def cell_of(layer: keras.Layer, space: Sequence[int] = ()) -> tuple[Cell, int]:
    """The cell of Keras as one of the references, and the number of its states."""
    name = type(layer).__name__
    if name == "StackedRNNCells":
        parts = [cell_of(cell) for cell in layer.cells]
        return stacked(parts), sum(count for _, count in parts)
    kernel, recurrent, *rest = layer.get_weights()
    bias = rest[0] if rest else None
    if name.startswith("ConvLSTM"):
        options = {"strides": layer.strides[0], "padding": layer.padding, "dilation": layer.dilation_rate[0]}
        return lstm_cell(convolutional_kernels(kernel, recurrent, bias, space, **options)), 2
    if name.startswith("GRU"):
        after = layer.reset_after
        own = bias if bias is None or not after else bias[0]
        inner = bias[1] if after and bias is not None else None
        return gru_cell(Kernels(kernel, recurrent, own), after, inner), 1
    activation = layer.activation.__name__
    if name.startswith("LSTM"):
        return lstm_cell(Kernels(kernel, recurrent, bias), activation), 2
    return simple_cell(Kernels(kernel, recurrent, bias), activation), 1


def zeros(tape: Tape, batch: int, layer: keras.Layer, count: int, size: int | None = None) -> list[Value]:
    sizes = [size] * count if size else keras.tree.flatten(layer.state_size)
    return [tape.constant(np.zeros((batch, n))) for n in sizes]


def simply(layer: keras.layers.RNN, masked: bool = False, states: bool = False, space: Sequence[int] = ()) -> Unrolled:
    """A recurrent layer and what it returns, flattened and side by side."""

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        cell, count = cell_of(getattr(layer, "cell", layer), space)
        size = (
            int(np.prod(keras.tree.flatten(layer.output)[0].shape[2 if layer.return_sequences else 1 :]))
            if space
            else None
        )
        start = zeros(tape, len(mask), layer, count, size)
        empty = bool(getattr(layer, "zero_output_for_mask", False))
        ys, last = recur(tape, cell, xs, start, mask if masked else None, layer.go_backwards, empty)
        found = ys if layer.return_sequences else ys[-1:]
        return tape.concatenate([*found, *(last if states else [])])

    return unrolled


def _built(features: Callable, shape: tuple, mask: bool) -> keras.Model:
    x = keras.Input(shape)
    return randomized(keras.Model(x, kl.Dense(3)(features(kl.Masking()(x) if mask else x))))


def flattened(x: keras.KerasTensor) -> keras.KerasTensor:
    """[B, n], without a word on the mask that x may have."""
    return ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))


def case(layer: keras.Layer, shape: tuple = (5, 3), masked: bool = False) -> Case:
    space = shape[1:-1]

    def features(x: keras.KerasTensor) -> keras.KerasTensor:
        found = keras.tree.flatten(layer(x))
        flat = [flattened(y) if len(y.shape) > 2 else y for y in found]
        return kl.Concatenate()(flat) if len(flat) > 1 else flat[0]

    return Case(_built(features, shape, masked), simply(layer, masked, layer.return_state, space))


def bidirectional(merge: str | None, inner: keras.Layer, masked: bool = False) -> Case:
    """Both ways and one of the ways of merging them; the outputs of the way back are turned round."""
    both = kl.Bidirectional(inner, merge_mode=merge)

    def features(x: keras.KerasTensor) -> keras.KerasTensor:
        found = both(x)
        y = kl.Concatenate()(list(found)) if merge is None else found
        return flattened(y) if inner.return_sequences else y

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        ways = []
        for layer in (both.forward_layer, both.backward_layer):
            cell, count = cell_of(layer.cell)
            start = zeros(tape, len(mask), layer, count)
            ys, _ = recur(
                tape, cell, xs, start, mask if masked else None, layer.go_backwards, masked and inner.return_sequences
            )
            ys = ys[::-1] if layer.go_backwards else ys
            ways.append(ys if inner.return_sequences else [ys[0] if layer.go_backwards else ys[-1]])
        merged = []
        for a, b in zip(*ways, strict=True):
            if merge in ("concat", None):
                merged += [a, b]
            else:
                y = tape.multiply(a, b) if merge == "mul" else tape.add(a, b)
                merged.append(tape.scale(y, 0.5) if merge == "ave" else y)
        return tape.concatenate(merged)

    return Case(_built(features, (5, 3), masked), unrolled)


class OwnCell(keras.Layer):
    """h' = tanh(x W + b + h U), y = relu(h' V) + x S: a cell of a user's own, with an output that is no state."""

    def __init__(self, units: int = UNITS, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.state_size, self.output_size = units, units
        self.of_x, self.of_h = kl.Dense(units), kl.Dense(units, use_bias=False)
        self.out, self.skip = kl.Dense(units, activation="relu"), kl.Dense(units, use_bias=False)

    def build(self, shape: tuple) -> None:
        self.of_x.build(shape)
        self.skip.build(shape)
        self.of_h.build((None, self.state_size))
        self.out.build((None, self.state_size))

    def call(self, x: keras.KerasTensor, states: list) -> tuple:
        h = ops.tanh(self.of_x(x) + self.of_h(states[0]))
        return self.out(h) + self.skip(x), [h]


def own_cell(masked: bool = False) -> Case:
    cell = OwnCell()
    layer = kl.RNN(cell, return_sequences=True)

    def at_step(tape: Tape, x: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        (w, b), (u,) = cell.of_x.get_weights(), cell.of_h.get_weights()
        h = tape.activate(tape.linear([Part(x, w), Part(states[0], u)], b), "tanh")
        v, c = cell.out.get_weights()
        y = tape.activate(tape.linear([Part(h, v)], c), "relu")
        return tape.add(y, tape.linear([Part(x, cell.skip.get_weights()[0])])), [h]

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        return tape.concatenate(recur(tape, at_step, xs, zeros(tape, len(mask), layer, 1), mask if masked else None)[0])

    return Case(_built(lambda x: flattened(layer(x)), (5, 3), masked), unrolled)


class Scanned(keras.Layer):
    """ops.scan of h' = tanh(h U + b + x W + c), y = 2 h', from a state that the first time step gives."""

    def __init__(self, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.start, self.of_h, self.of_x = kl.Dense(UNITS), kl.Dense(UNITS), kl.Dense(UNITS)

    def build(self, shape: tuple) -> None:
        for layer, size in ((self.start, shape[-1]), (self.of_h, UNITS), (self.of_x, shape[-1])):
            layer.build((None, size))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        def step(h: keras.KerasTensor, x: keras.KerasTensor) -> tuple:
            new = ops.tanh(self.of_h(h) + self.of_x(x))
            return new, 2.0 * new

        last, ys = ops.scan(step, self.start(x[:, 0]), ops.transpose(x, (1, 0, 2)), reverse=self.reverse)
        return ops.concatenate([flattened(ops.transpose(ys, (1, 0, 2))), last], -1)


def scanned(reverse: bool) -> Case:
    """What a scan stacks, in the order of time whichever way it runs, and the last state."""
    layer = Scanned(reverse)

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        (w0, b0), (u, b), (w, c) = (part.get_weights() for part in (layer.start, layer.of_h, layer.of_x))
        h, ys = tape.linear([Part(xs[0], w0)], b0), []
        for x in reversed(xs) if reverse else xs:
            h = tape.activate(tape.linear([Part(h, u), Part(x, w)], b + c), "tanh")
            ys.append(tape.scale(h, 2.0))
        return tape.concatenate([*(reversed(ys) if reverse else ys), h])

    return Case(_built(layer, (4, 3), False), unrolled)


def in_time() -> Case:
    """TimeDistributed(Dense) -> LSTM -> TimeDistributed(Dense)."""
    before, after = kl.Dense(5, activation="relu"), kl.Dense(2, activation="tanh")
    layer = kl.LSTM(UNITS, return_sequences=True)

    def dense(tape: Tape, x: Value, layer: keras.layers.Dense) -> Value:
        w, b = layer.get_weights()
        return tape.activate(tape.linear([Part(x, w)], b), layer.activation.__name__)

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        cell, count = cell_of(layer.cell)
        hidden = [dense(tape, x, before) for x in xs]
        ys, _ = recur(tape, cell, hidden, zeros(tape, len(mask), layer, count))
        return tape.concatenate([dense(tape, y, after) for y in ys])

    def features(x: keras.KerasTensor) -> keras.KerasTensor:
        return kl.Flatten()(kl.TimeDistributed(after)(layer(kl.TimeDistributed(before)(x))))

    return Case(_built(features, (5, 3), False), unrolled)


def of_sequences() -> Case:
    """TimeDistributed(GRU) over [B, 2, 3, 3], and an LSTM behind it."""
    inner, outer = kl.GRU(UNITS), kl.LSTM(UNITS)

    def unrolled(tape: Tape, xs: list[Value], mask: np.ndarray) -> Value:
        hidden = []
        for x in xs:
            cell, count = cell_of(inner.cell)
            steps = [tape.columns(x, 3 * i, 3 * i + 3) for i in range(3)]
            hidden.append(recur(tape, cell, steps, zeros(tape, len(mask), inner, count))[0][-1])
        cell, count = cell_of(outer.cell)
        return recur(tape, cell, hidden, zeros(tape, len(mask), outer, count))[0][-1]

    return Case(_built(lambda x: outer(kl.TimeDistributed(inner)(x)), (2, 3, 3), False), unrolled)


CASES: dict[str, Callable[[], Case]] = {
    "SimpleRNN": lambda: case(kl.SimpleRNN(UNITS)),
    "SimpleRNN relu, no bias": lambda: case(kl.SimpleRNN(UNITS, activation="relu", use_bias=False)),
    "LSTM": lambda: case(kl.LSTM(UNITS)),
    "LSTM no bias, all steps": lambda: case(kl.LSTM(UNITS, use_bias=False, return_sequences=True)),
    "LSTM relu": lambda: case(kl.LSTM(UNITS, activation="relu")),
    "LSTM in parts": lambda: case(kl.LSTM(UNITS, recurrent_dropout=0.3)),
    "LSTM unrolled": lambda: case(kl.LSTM(UNITS, unroll=True, return_sequences=True)),
    "LSTM backwards": lambda: case(kl.LSTM(UNITS, go_backwards=True, return_sequences=True)),
    "LSTM states": lambda: case(kl.LSTM(UNITS, return_state=True, return_sequences=True)),
    "LSTM masked": lambda: case(kl.LSTM(UNITS, return_sequences=True, return_state=True), masked=True),
    "LSTM masked, zeros": lambda: case(
        kl.RNN(kl.LSTMCell(UNITS), return_sequences=True, zero_output_for_mask=True), masked=True
    ),
    "GRU": lambda: case(kl.GRU(UNITS)),
    "GRU all steps, no bias": lambda: case(kl.GRU(UNITS, return_sequences=True, use_bias=False)),
    "GRU in parts": lambda: case(kl.GRU(UNITS, recurrent_dropout=0.3)),
    "GRU reset before": lambda: case(kl.GRU(UNITS, reset_after=False, return_sequences=True)),
    "GRU reset before, in parts": lambda: case(kl.GRU(UNITS, reset_after=False, recurrent_dropout=0.3)),
    "GRU masked, backwards": lambda: case(kl.GRU(UNITS, go_backwards=True, return_state=True), masked=True),
    "stacked": lambda: case(
        kl.RNN(kl.StackedRNNCells([kl.LSTMCell(UNITS), kl.GRUCell(3), kl.SimpleRNNCell(2)]), return_sequences=True)
    ),
    "stacked, masked": lambda: case(
        kl.RNN([kl.GRUCell(UNITS), kl.LSTMCell(3)], return_sequences=True, return_state=True), masked=True
    ),
    "own cell": own_cell,
    "own cell, masked": lambda: own_cell(masked=True),
    "scan": lambda: scanned(False),
    "scan in reverse": lambda: scanned(True),
    "ConvLSTM1D": lambda: case(kl.ConvLSTM1D(2, 3, strides=2, padding="same"), (3, 5, 2)),
    "ConvLSTM2D": lambda: case(kl.ConvLSTM2D(2, 2, return_sequences=True), (3, 4, 3, 2)),
    "ConvLSTM2D dilated": lambda: case(kl.ConvLSTM2D(2, 2, dilation_rate=2, return_state=True), (3, 4, 4, 1)),
    "ConvLSTM3D": lambda: case(kl.ConvLSTM3D(1, 2, padding="same"), (2, 2, 3, 2, 1)),
    "Bidirectional concat": lambda: bidirectional("concat", kl.LSTM(UNITS)),
    "Bidirectional sum": lambda: bidirectional("sum", kl.GRU(UNITS, return_sequences=True)),
    "Bidirectional mul": lambda: bidirectional("mul", kl.LSTM(UNITS)),
    "Bidirectional ave": lambda: bidirectional("ave", kl.SimpleRNN(UNITS, return_sequences=True)),
    "Bidirectional None": lambda: bidirectional(None, kl.LSTM(UNITS, return_sequences=True)),
    "Bidirectional masked": lambda: bidirectional("concat", kl.LSTM(UNITS, return_sequences=True), masked=True),
    "TimeDistributed": in_time,
    "TimeDistributed GRU": of_sequences,
}

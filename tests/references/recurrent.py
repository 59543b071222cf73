"""Recurrent layers unrolled on a `Tape`, each from its equations; kernels in the order of Keras. No library code."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from references.tape import Part, Tape, Value

# A cell: (tape, x [B, n], states) -> (output, new states).
Cell = Callable[[Tape, Value, list[Value]], tuple[Value, list[Value]]]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Weights of a cell as matrices: `sees` as in `Part`, for kernels that are convolutions."""

    kernel: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray | None = None
    sees: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    def columns(self, start: int, stop: int) -> Kernels:
        cut = [None if a is None else a[..., start:stop] for a in (self.kernel, self.recurrent, self.bias, *self.sees)]
        return Kernels(cut[0], cut[1], cut[2], (cut[3], cut[4]))

    def joined(self, tape: Tape, x: Value, h: Value) -> Value:
        """x W + h U + b, one linear step."""
        return tape.linear([Part(x, self.kernel, self.sees[0]), Part(h, self.recurrent, self.sees[1])], self.bias)


def simple_cell(k: Kernels, activation: str = "tanh") -> Cell:
    def cell(tape: Tape, x: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        y = tape.activate(k.joined(tape, x, states[0]), activation)
        return y, [y]

    return cell


def lstm_cell(k: Kernels, activation: str = "tanh") -> Cell:
    """i, f, c, o in Keras' order; units are the columns of each, those of a feature map flattened."""
    n = k.kernel.shape[1] // 4

    def cell(tape: Tape, x: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        h, c = states
        z = k.joined(tape, x, h)
        zi, zf, zc, zo = (tape.columns(z, i * n, (i + 1) * n) for i in range(4))
        i, f, o = (tape.activate(gate, "sigmoid") for gate in (zi, zf, zo))
        c = tape.add(tape.gated(f, c), tape.gated(i, tape.activate(zc, activation)))
        y = tape.gated(o, tape.activate(c, activation))
        return y, [y, c]

    return cell


def gru_cell(k: Kernels, reset_after: bool, recurrent_bias: np.ndarray | None = None) -> Cell:
    """z, r, h in Keras' order; with `reset_after` the reset gate weighs h U + recurrent bias, without it h."""
    n = k.kernel.shape[1] // 3
    both = k if recurrent_bias is None else dataclasses.replace(k, bias=k.bias + recurrent_bias)

    def cell(tape: Tape, x: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        (h,) = states
        z = tape.activate(both.columns(0, n).joined(tape, x, h), "sigmoid")
        r = tape.activate(both.columns(n, 2 * n).joined(tape, x, h), "sigmoid")
        last = k.columns(2 * n, 3 * n)
        if reset_after:
            inner = tape.linear([Part(h, last.recurrent)], None if recurrent_bias is None else recurrent_bias[2 * n :])
            made = tape.add(tape.linear([Part(x, last.kernel)], last.bias), tape.gated(r, inner))
        else:
            made = last.joined(tape, x, tape.gated(r, h))
        candidate = tape.activate(made, "tanh")
        y = tape.add(tape.gated(z, h), tape.gated(tape.complement(z), candidate))
        return y, [y]

    return cell


def stacked(cells: Sequence[tuple[Cell, int]]) -> Cell:
    """Cells on top of one another, each with the number of its states."""

    def cell(tape: Tape, x: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        rest, new = list(states), []
        for one, count in cells:
            x, made = one(tape, x, rest[:count])
            new += made
            rest = rest[count:]
        return x, new

    return cell


def recur(
    tape: Tape,
    cell: Cell,
    xs: Sequence[Value],
    states: Sequence[Value],
    mask: np.ndarray | None = None,
    backwards: bool = False,
    zeros: bool = False,
) -> tuple[list[Value], list[Value]]:
    """Outputs in the order of the run, and the last states.

    Args:
        mask: [B, T]; where it is false the states keep, and the output is the last one, or 0 (`zeros`).
    """
    states, outputs = list(states), []
    for t in reversed(range(len(xs))) if backwards else range(len(xs)):
        y, new = cell(tape, xs[t], states)
        if mask is not None:
            nothing = zeros or not outputs
            y = tape.where(mask[:, t], y, tape.constant(np.zeros_like(y.array)) if nothing else outputs[-1])
            new = [tape.where(mask[:, t], a, b) for a, b in zip(new, states, strict=True)]
        outputs.append(y)
        states = new
    return outputs, states


# --- convolutions as matrices ---------------------------------------------------------------------


def convolution(
    kernel: np.ndarray, space: Sequence[int], strides: int = 1, padding: str = "valid", dilation: int = 1
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """A convolution as a matrix [inputs, outputs] of flattened maps [*space, channels], entry by entry.

    Returns:
        the matrix, which of its entries are a weight of the kernel (1.0) or none (0.0), and the space of the output.
    """
    size, (inner, outer) = kernel.shape[:-2], kernel.shape[-2:]
    spans = [(k - 1) * dilation + 1 for k in size]
    if padding == "same":
        out = [-(-n // strides) for n in space]
        before = [max((m - 1) * strides + k - n, 0) // 2 for m, k, n in zip(out, spans, space, strict=True)]
    else:
        out = [(n - k) // strides + 1 for n, k in zip(space, spans, strict=True)]
        before = [0] * len(out)
    matrix = np.zeros((*space, inner, *out, outer))
    sees = np.zeros_like(matrix)
    for place in itertools.product(*map(range, out)):
        for tap in itertools.product(*map(range, size)):
            at = tuple(p * strides + t * dilation - b for p, t, b in zip(place, tap, before, strict=True))
            if all(0 <= a < n for a, n in zip(at, space, strict=True)):
                matrix[at][(slice(None), *place)] += kernel[tap]
                sees[at][(slice(None), *place)] = 1.0
    shape = (int(np.prod(space)) * inner, int(np.prod(out)) * outer)
    return matrix.reshape(shape), sees.reshape(shape), tuple(out)


def convolutional_kernels(
    kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray, space: Sequence[int], **options: int | str
) -> Kernels:
    """Weights of a ConvLSTM as those of an LSTM whose units are the entries of its feature maps."""
    filters = kernel.shape[-1] // 4
    found: list[list[np.ndarray]] = [[], [], [], [], []]
    for i in range(4):
        part = slice(i * filters, (i + 1) * filters)
        w, sees, out = convolution(kernel[..., part], space, **options)
        u, sees_state, _ = convolution(recurrent[..., part], out, 1, "same")
        for column, array in zip(found, (w, u, np.tile(bias[part], int(np.prod(out))), sees, sees_state), strict=True):
            column.append(array)
    w, u, b, sees, sees_state = (np.concatenate(arrays, -1) for arrays in found)
    return Kernels(w, u, b, (sees, sees_state))

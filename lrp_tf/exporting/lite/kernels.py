"""Which kernels a file holds, and which ones it computes from these when it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from lrp_tf.exporting.lite.nodes import Node, Value, run

# Smaller kernels are held in every form: together they are nothing beside the others.
SMALL = 4096
# What is computed entry by entry, so that the order of the entries does not matter.
_ENTRYWISE = {"Abs", "AddV2", "LeakyRelu", "Maximum", "Minimum", "Mul", "Neg", "RealDiv", "Relu", "SelectV2", "Square"}
_ENTRYWISE |= {"Sub", "Greater", "GreaterEqual", "Less", "LessEqual"}
ROWS, COLUMNS = "rows", "columns"


@dataclasses.dataclass
class _Wish:
    """A kernel that would be quicker from the file than computed.

    Attributes:
        saved: bytes that need not be moved in each run.
    """

    value: Value
    layout: str
    saved: int = 0


class Kernels:
    """Kernels as matrices: rows [outputs, all that one output sees], which convolutions and products read as they are.

    A kernel whose backward form is a transposed convolution may be held as columns, too: [inputs, height, width,
    outputs]. The converter sees no kernel, only a tensor that stands for it: it would compute with kernels, hold what
    it computed in the file, and take twenty times the memory of the model.

    Attributes:
        arrays: what the file holds, in the order in which it was asked for.
    """

    def __init__(self) -> None:
        self.arrays: list[Held] = []
        self._wishes: dict[tuple, _Wish] = {}
        self._families: dict[tuple, list[Value]] = {}
        self._held: set[tuple] = set()
        self._given: list[tf.Tensor] = []
        self._places: dict[tuple, int] = {}
        self._made: dict[tuple, tf.Tensor] = {}

    def wish(self, value: Value, layout: str, saved: int) -> None:
        """Count a use of a kernel; `saved` is what it would cost to compute it, in bytes that are moved."""
        key = _key(value)
        family = self._families.setdefault(_key(_leaf(value)), [])
        if value not in family:
            family.append(value)
        wish = self._wishes.setdefault((*key, layout), _Wish(value, layout))
        wish.saved += saved

    def settle(self, room: int) -> int:
        """Decide what the file holds: one kernel of each family, and the most useful others as long as there is room.

        Args:
            room: bytes for all kernels.

        Returns:
            The bytes that are held.
        """
        total = 0
        for family in self._families.values():
            # Where nobody needs the one that the others are computed from, the only one will do.
            value = family[0] if len(family) == 1 else _leaf(family[0])
            self._held.add((*_key(value), ROWS))
            total += 4 * value.size
        wishes = [w for w in self._wishes.values() if (*_key(w.value), w.layout) not in self._held]
        for wish in sorted(wishes, key=lambda w: w.saved / w.value.size, reverse=True):
            if total + 4 * wish.value.size <= room:
                self._held.add((*_key(wish.value), wish.layout))
                total += 4 * wish.value.size
        return total

    def begin(self, given: list[tf.Tensor]) -> None:
        """Begin to trace a graph, in which these tensors stand for `arrays`; none: for a trial, which finds them."""
        self._given, self._made = list(given), {}

    def holds(self, value: Value, layout: str) -> bool:
        """Whether the file has this kernel in this layout."""
        return value.size < SMALL or (*_key(value), layout) in self._held

    def held(self, value: Value, layout: str, shape: tuple[int, ...]) -> tf.Tensor:
        """A kernel that the file has, in this shape; the same numbers are held once, whatever their shapes."""
        place = self._places.setdefault((*_key(value), layout, shape), len(self._places))
        if place == len(self.arrays):
            self.arrays.append(Held(value, layout, shape))
        return self._given[place] if self._given else tf.zeros(shape)

    def rows(self, value: Value) -> tf.Tensor:
        """The kernel as rows in the graph that is being traced, from the file or computed."""
        key = _key(value)
        if key not in self._made:
            if value.size < SMALL:
                self._made[key] = tf.constant(as_rows(value.array))
            elif self.holds(value, ROWS):
                self._made[key] = self.held(value, ROWS, (value.shape[-1], value.size // value.shape[-1]))
            else:
                self._made[key] = _computed(value, self.rows)
        return self._made[key]


@dataclasses.dataclass(frozen=True)
class Held:
    """A kernel in the file."""

    value: Value
    layout: str
    shape: tuple[int, ...]

    @property
    def array(self) -> np.ndarray:
        """Its numbers; the order of their bytes depends on the layout alone."""
        array = self.value.array
        return as_rows(array) if self.layout == ROWS else np.ascontiguousarray(np.moveaxis(array, -2, 0))

    @property
    def key(self) -> tuple:
        """Of the numbers."""
        return (*_key(self.value), self.layout)


def as_rows(array: np.ndarray) -> np.ndarray:
    """[outputs, all that one output sees] from [..., inputs, outputs]."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 0).reshape(array.shape[-1], -1))


def _computed(value: Value, rows: Callable[[Value], tf.Tensor]) -> tf.Tensor:
    node = value.node
    inputs = [rows(v) if v.shape == value.shape else tf.constant(v.array.reshape([])) for v in node.inputs]
    return kernel_operation(node, inputs)[value.index]


def kernel_operation(node: Node, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """Run the operation of a node on other tensors."""
    if node.type == "LeakyRelu" and node.attributes.get("alpha") == 0.0:
        return [tf.nn.relu(*inputs)]
    return run(node.type, node.attributes, inputs)


def _leaf(value: Value) -> Value:
    """What a kernel is computed from entry by entry; itself, if it is not."""
    if value.node.type not in _ENTRYWISE:
        return value
    large = [v for v in value.node.inputs if v.shape == value.shape]
    leaves = {_key(leaf): leaf for leaf in map(_leaf, large)}
    if len(leaves) != 1 or any(v.size != 1 for v in value.node.inputs if v.shape != value.shape):
        return value
    return next(iter(leaves.values()))


def _key(value: Value) -> tuple:
    return id(value.node), value.index

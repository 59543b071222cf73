"""Functions that a `call` uses and that take no symbolic tensors: what replaces them while it runs on such."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from lrp_tf.tracing.symbolic import NotFollowedError, in_this_thread


def _is_symbolic(*values: Any) -> bool:
    return any(isinstance(value, keras.KerasTensor) for value in values)


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Callable]) -> Iterator[None]:
    """Functions of modules replaced for the thread that traces.

    Args:
        changes: (module, name, what replaces it) each.
    """
    theirs = [getattr(module, name) for module, name, _ in changes]
    for (module, name, ours), plain in zip(changes, theirs, strict=True):
        setattr(module, name, in_this_thread(ours, plain))
    try:
        yield
    finally:
        for (module, name, _), plain in zip(changes, theirs, strict=True):
            setattr(module, name, plain)


def of_tensorflow() -> contextlib.AbstractContextManager[None]:
    """tf.gather takes symbolic tensors: layers of KerasHub call it where keras.ops would lose sizes."""
    plain = tf.gather

    def gather(params: Any, indices: Any, *rest: Any, axis: int | None = None, batch_dims: int = 0, **more: Any) -> Any:
        if not _is_symbolic(params, indices):
            return plain(params, indices, *rest, axis=axis, batch_dims=batch_dims, **more)
        last = len(params.shape) - 1
        if batch_dims == 0:
            return ops.take(params, indices, axis=axis or 0)
        if axis in (None, batch_dims, last) and batch_dims == last == len(indices.shape) - 1:
            return ops.take_along_axis(params, indices, axis=last)
        raise NotFollowedError(f"tf.gather with batch_dims={batch_dims}", "use ops.take or ops.take_along_axis")

    return replaced((tf, "gather", gather))


# --- sizes of batches ---------------------------------------------------------------------------


class _Rows:
    """A part or a multiple of the open first size of a tensor: what `ops.shape(x)[0] // 4` is.

    Attributes:
        of: the tensor.
        times: how often that size.
    """

    def __init__(self, of: Any, times: Fraction = Fraction(1)) -> None:
        self.of, self.times = of, times

    def __mul__(self, number: Any) -> _Rows:
        return _Rows(self.of, self.times * number) if isinstance(number, int) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, number: Any) -> _Rows:
        return _Rows(self.of, self.times / number) if isinstance(number, int) else NotImplemented


_TAKES_SHAPES = ("broadcast_to", "zeros", "ones", "full", "empty", "tile", "repeat", "arange")


def rows_that_count() -> contextlib.AbstractContextManager[None]:
    """`ops.shape(x)[0]` can be multiplied and divided where it is the open size of the batch, and is None otherwise."""
    shape_of, reshape = ops.shape, ops.reshape

    def shape(x: Any) -> Any:
        found = shape_of(x)
        return (_Rows(x), *found[1:]) if _is_symbolic(x) and found and found[0] is None else found

    def reshaped(x: Any, newshape: Any) -> Any:
        first, *rest = newshape if isinstance(newshape, (tuple, list)) else (newshape,)
        if any(isinstance(size, _Rows) for size in rest):
            raise NotFollowedError(
                "ops.reshape to a shape that has the size of the batch behind its first axis",
                "keep the samples on the first axis, and fold other axes behind it, as that of heads, into one another",
            )
        if not isinstance(first, _Rows):
            return reshape(x, newshape)
        if rest.count(-1) == 1 and None not in (*rest, *x.shape[1:]):
            entries = math.prod(x.shape[1:]) / (first.times if first.of is x else 1)
            size = Fraction(entries) / math.prod(size for size in rest if size != -1)
            rest = [int(size) if n == -1 else n for n in rest]
        return reshape(x, (-1, *rest))

    def without_rows(function: Callable, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree.map_structure(lambda a: None if isinstance(a, _Rows) else a, (args, kwargs))
        return function(*args, **kwargs)

    takers = [(ops, name, functools.partial(without_rows, getattr(ops, name))) for name in _TAKES_SHAPES]
    return replaced((ops, "shape", shape), (ops, "reshape", reshaped), *takers)


def run(call: Callable, args: tuple, kwargs: dict) -> Any:
    """What `call` returns on symbolic tensors; where it reckons with the size of the batch, see `rows_that_count`."""
    try:
        return call(*args, **kwargs)
    except TypeError as error:
        if "NoneType" not in str(error):
            raise
    with rows_that_count():
        return call(*args, **kwargs)

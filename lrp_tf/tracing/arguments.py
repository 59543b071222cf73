"""Arguments and outputs of one call: refs for symbolic tensors and back, sizes, masks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from lrp_tf.core.graph import Ref, symbol
from lrp_tf.core.linear import computes_as
from lrp_tf.core.operations import BroadcastSamples
from lrp_tf.tracing.symbolic import HALF, NotFollowedError
from lrp_tf.tracing.unfollowed import SIZES


def sized(op: Any, args: tuple) -> Any:
    """The operation, where it reshapes or broadcasts to (batch, ...) with a batch size that only the call knows."""
    if type(op).__name__ == "BroadcastTo" and None in op.shape:
        if op.shape.index(None) > 0 or None in op.shape[1:] or len(op.shape) != len(args[0].shape) + args[0].batched:
            raise NotFollowedError(
                f"it broadcasts to {tuple(op.shape)}, with a size that is known at the call only", SIZES
            )
        return BroadcastSamples(tuple(op.shape[1:]))
    shape = getattr(op, "newshape", None)
    if not isinstance(shape, (tuple, list)) or None not in shape:
        return op
    sizes = [size for size in shape if size is not None]
    if -1 in sizes and None not in args[0].shape:  # two unknown sizes: the batch stays, so that the other one follows
        rest = math.prod(size for size in sizes if size != -1)
        sizes = [math.prod(args[0].shape) // rest if size == -1 else size for size in sizes]
    if -1 in sizes or len(shape) - len(sizes) > 1:
        raise NotFollowedError(
            f"it reshapes to {tuple(shape)}, with more than one size that is known at the call only", SIZES
        )
    values = iter(sizes)
    return type(op)(tuple(-1 if size is None else next(values) for size in shape), name=op.name)


def cast_symbol(op: Any, value: Any) -> Any:
    """The symbol of a ref in the dtype that `op` gets it in: layers cast floats, and never to half precision here."""
    made = symbol(value)
    if isinstance(made, keras.KerasTensor) and made.dtype.startswith(("float", "bfloat")):
        dtype = op.compute_dtype if isinstance(op, keras.Layer) and op.autocast else made.dtype
        made = keras.KerasTensor(made.shape, dtype="float32" if dtype in HALF or dtype[:5] != "float" else dtype)
    return made


def made_ref(made: Any, place: tuple[int, int] | None) -> Ref:
    """`place`: see `samples.places_behind`; None: there is no axis of samples, or none that can be trusted."""
    if place is None:
        return Ref(made.shape, made.dtype, batched=False)
    axis, each = place
    return Ref(made.shape[1:], made.dtype, axis=axis, each=each, rows=made.shape[0] if axis else None)


def as_ref(value: Any) -> Any:
    """A ref that stands for a symbolic tensor whose first axis is the batch; anything else unchanged."""
    return Ref(value.shape[1:], value.dtype) if isinstance(value, keras.KerasTensor) else value


def refs_in(structure: Any) -> list[Ref]:
    """The refs of a structure, which may hold None and numbers too."""
    return [leaf for leaf in tree.flatten(structure) if isinstance(leaf, Ref)]


def in_inference(call: Callable, kwargs: dict) -> dict:
    """The keywords of a `call`, which is told not to train if it takes that."""
    return {**kwargs, "training": False} if "training" in inspect.signature(call).parameters else kwargs


def output_spec(op: Any, args: tuple, kwargs: dict) -> Any:
    """The symbolic outputs of one call that stays in one piece.

    EinsumDense declares sizes open that are known: they follow from its equation.
    """
    spec = op.compute_output_spec(*args, **kwargs)
    if not isinstance(op, keras.layers.EinsumDense) or not computes_as(type(op), keras.layers.EinsumDense):
        return spec
    x = args[0] if args else kwargs["inputs"]
    kernel = keras.KerasTensor(op.kernel.shape, spec.dtype)
    return keras.KerasTensor(keras.ops.einsum(op.equation, x, kernel).shape, spec.dtype)


def masks_for(op: keras.Layer, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The mask arguments that Keras fills in from the masks of the tensors, as Layer.__call__ does."""
    bound = inspect.signature(op.call).bind(*args, **kwargs)
    bound.apply_defaults()
    tensors = {}
    for name, value in bound.arguments.items():
        leaves = tree.flatten(value)
        if leaves and all(isinstance(a, Ref) for a in leaves):
            tensors[name] = value
    names = (
        {"mask": next(iter(tensors.values()))} if len(tensors) == 1 else {f"{k}_mask": v for k, v in tensors.items()}
    )
    found = {}
    for name, value in names.items():
        masks = tree.map_structure(lambda ref: ref.mask, value)
        if bound.arguments.get(name, value) is None and any(m is not None for m in tree.flatten(masks)):
            found[name] = masks
    return found

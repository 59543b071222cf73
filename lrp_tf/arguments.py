"""What a caller passed -> checked tensors: inputs, targets, start relevance. Errors say expected, received, remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.graph import Graph, Ref, shape_text


class Start(NamedTuple):
    """How the start relevance of a call is made.

    Attributes:
        mode: "top" (each sample's top class), "class" ([B]), "classes" ([B, k]), "index" ([B, rank - 1]) or "given".
        kind: "output" or "one", what stands at the target.
        tensor: target (int32) or start relevance; None for "top".
    """

    mode: str
    kind: str
    tensor: tf.Tensor | None


def inputs(graph: Graph, x: Any) -> list[tf.Tensor]:
    """Flat tensors in the dtypes of the model's inputs.

    Raises:
        ValueError: wrong structure or shape, no batch axis, an empty batch.
        TypeError: no numbers.
    """
    structure = graph.input_structure
    if isinstance(structure, Ref):
        flat = [x]
    elif isinstance(structure, dict) and isinstance(x, dict) and set(x) == set(structure):
        flat = [x[name] for name, ref in structure.items() if isinstance(ref, Ref)]
    elif isinstance(structure, (list, tuple)) and isinstance(x, (list, tuple)) and len(x) == len(structure):
        flat = list(x)
    else:
        flat = []
    if len(flat) != len(graph.inputs):
        expected = tree.map_structure(lambda ref: shape_text(ref.shape), structure)
        received = sorted(x) if isinstance(x, dict) else len(x) if isinstance(x, (list, tuple)) else type(x).__name__
        raise ValueError(f"Expected inputs in the structure of the model's: {expected}. Received: {received}")
    # A dict is packed in the order of its keys, as keras.tree does it.
    refs = tree.flatten(structure)
    if isinstance(structure, dict):
        flat = [x[name] for name in sorted(structure)]
        refs = [structure[name] for name in sorted(structure)]
    names = dict(zip(graph.inputs, graph.input_names, strict=True))
    by_ref = {ref: tensor(value, ref.shape, ref.dtype, names[ref]) for value, ref in zip(flat, refs, strict=True)}
    tensors = [by_ref[ref] for ref in graph.inputs]
    sizes = [t.shape[0] for t in tensors]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"All inputs need the same batch size. Received: {dict(zip(names.values(), sizes, strict=True))}"
        )
    return tensors


def tensor(value: Any, shape: tuple, dtype: str, name: str, batch: int | None = None) -> tf.Tensor:
    """`value` as a tensor of that dtype, its shape checked against (batch, *shape)."""
    if not tf.is_tensor(value):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
            raise TypeError(f"{name} must be an array of numbers. Received: {value.dtype} of shape {value.shape}")
    received = tuple(value.shape)
    fits = len(received) == len(shape) + 1 and all(
        want is None or got is None or want == got for want, got in zip((batch, *shape), received, strict=True)
    )
    if not fits:
        expected = shape_text(shape) if batch is None else str((batch, *shape))
        remedy = ""
        if len(received) == len(shape) and all(w in (None, g) for w, g in zip(shape, received, strict=True)):
            remedy = f" The batch axis is missing: pass {name}[None] for a single sample."
        elif received[1:] == shape[:-1] and shape[-1] == 1:
            remedy = f" The channel axis is missing: pass {name}[..., None]."
        raise ValueError(f"{name} has the wrong shape. Expected: {expected}. Received: {received}.{remedy}")
    if received[0] == 0:
        raise ValueError(f"{name} is an empty batch. Expected at least one sample. Received: shape {received}")
    return tf.cast(value, dtype)


def start(graph: Graph, target: Any, start: Any, batch: int | None) -> Start:
    """Check `target` and `start` of a call on `batch` samples.

    Raises:
        ValueError: a target out of range or of the wrong shape, a start that is neither a known word nor a tensor of
            the output's shape, both given, or neither where the output has no classes.
        TypeError: targets that are no integers.
    """
    shape = graph.outputs[0].shape
    if not isinstance(start, str):
        if target is not None:
            raise ValueError("start= as a tensor already says what is explained. Expected no target. Received: both.")
        return Start("given", "given", tensor(start, shape, graph.dtype, "start", batch))
    if start not in ("output", "one"):
        raise ValueError(f'start must be "output", "one" or a tensor of shape {shape_text(shape)}. Received: {start!r}')
    if target is None and len(shape) <= 1:
        return Start("top", start, None)
    if len(shape) > 1:
        remedy = (
            f"The output has the shape {shape_text(shape)}, without a top class. Expected target= {len(shape)} "
            f"integers, an index into it, for all samples or for each ([B, {len(shape)}]); or start= a tensor."
        )
    else:
        remedy = "Expected an integer, [B] integers, or [B, k] integers for k targets of each sample."
    if not tf.is_tensor(target):
        target = np.asarray(target)
    if target.dtype == object or not tf.as_dtype(target.dtype).is_integer:
        raise TypeError(f"target must be integers. {remedy} Received: {target!r}")
    mode, target = _mode(target, len(shape), batch, remedy)
    sizes = shape if len(shape) > 1 else (class_count(graph),)
    _check_range(target, sizes, mode)
    return Start(mode, start, tf.cast(target, "int32"))


def class_count(graph: Graph) -> int | None:
    """Number of targets; a single output unit has two, its negative and its value."""
    shape = graph.outputs[0].shape
    units = shape[0] if shape else 1
    return 2 if units == 1 else units


def _mode(target: Any, axes: int, batch: int | None, remedy: str) -> tuple[str, Any]:
    rank, shape = len(target.shape), tuple(target.shape)
    many = batch if batch is not None else 1
    if axes > 1:
        if shape == (axes,):
            return "index", tf.tile(target[None], [many, 1]) if tf.is_tensor(target) else np.tile(target, (many, 1))
        if rank == 2 and shape[1] == axes and shape[0] in (batch, None):
            return "index", target
    elif rank == 0:
        return "class", tf.fill([many], target) if tf.is_tensor(target) else np.full(many, target)
    elif rank == 1 and (batch is None or shape[0] in (batch, None)):
        return "class", target
    elif rank == 2 and (batch is None or shape[0] in (batch, None)) and shape[1] != 0:
        return "classes", target
    raise ValueError(f"target has the wrong shape for a batch of {batch}. {remedy} Received: shape {shape}")


def _check_range(target: Any, sizes: tuple, mode: str) -> None:
    if tf.is_tensor(target):
        if not hasattr(target, "numpy"):
            return  # symbolic: the compiled function checks it
        target = target.numpy()
    columns = target.T if mode == "index" else [target]
    for axis, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        wrong = column[(column < 0) | (column >= (size or np.iinfo(np.int32).max))]
        if wrong.size:
            where = f" along axis {axis + 1} of the output" if mode == "index" else ""
            raise ValueError(
                f"target out of range{where}. Expected 0 to {(size or 0) - 1}. Received: {wrong[:5].tolist()}"
            )


def start_relevance(begin: Start, logits: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor, tf.Tensor]:
    """The relevance that goes in at the output.

    Returns:
        target: int32, None for a given start. start: the shape of `logits`, with k ahead of it for [B, k] targets.
        in_range: scalar bool, for the sizes that only the call knows.
    """
    yes = tf.constant(True)
    if begin.mode == "given":
        return None, begin.tensor, yes
    size = tf.shape(logits)
    one = tf.ones([], logits.dtype)
    if begin.mode == "index":
        flat, depth = tf.zeros_like(begin.tensor[:, 0]), tf.ones([], tf.int32)
        for axis in range(logits.shape.rank - 1):
            flat, depth = flat * size[axis + 1] + begin.tensor[:, axis], depth * size[axis + 1]
        mask = tf.reshape(tf.one_hot(flat, depth, True, False, dtype=tf.bool), size)
        in_range = tf.reduce_all((begin.tensor >= 0) & (begin.tensor < size[1:]))
        return begin.tensor, _at(mask, logits, begin.kind), in_range
    values = tf.reshape(logits, [size[0], -1])
    if _single_unit(logits):
        # A single unit: target 1 explains the value, 0 its negative.
        target = tf.cast(values[:, 0] >= 0, tf.int32) if begin.mode == "top" else begin.tensor
        signed = tf.where(target == 1, one, -one)
        signed = tf.transpose(signed)[..., None] if begin.mode == "classes" else signed[:, None]
        starts = signed * values if begin.kind == "output" else signed * tf.ones_like(values)
        starts = tf.reshape(starts, tf.concat([tf.shape(starts)[:-2], size], axis=0))
        return target, starts, tf.reduce_all((target >= 0) & (target < 2))
    target = tf.argmax(values, axis=-1, output_type=tf.int32) if begin.mode == "top" else begin.tensor
    order = tf.transpose(target) if begin.mode == "classes" else target
    mask = tf.one_hot(order, size[1], True, False, dtype=tf.bool)
    return target, _at(mask, values, begin.kind), tf.reduce_all((target >= 0) & (target < size[1]))


def _single_unit(logits: tf.Tensor) -> bool:
    """Whether `logits` come from a single output unit."""
    return logits.shape.rank == 1 or (logits.shape.rank == 2 and logits.shape[1] == 1)


def _at(mask: tf.Tensor, logits: tf.Tensor, kind: str) -> tf.Tensor:
    # where and not a product: an infinite logit of another class must not turn into NaN.
    return tf.where(mask, logits if kind == "output" else tf.ones_like(logits), tf.zeros_like(logits))

"""What a caller passed -> checked tensors: inputs and targets. Errors: expected, received, remedy."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Graph, Ref, shape_text
from lrp_tf.engine import contrast as contrasts
from lrp_tf.engine import streams
from lrp_tf.engine.contrast import Contrast

# Arrays or tensors, in the structure of a model's inputs.
Inputs: TypeAlias = tf.Tensor | np.ndarray | Sequence | Mapping
# What a caller may pass for `target` and for `start`; `checked` tells what is right.
Targets: TypeAlias = int | str | Sequence | np.ndarray | tf.Tensor | None
Initial: TypeAlias = str | Sequence | np.ndarray | tf.Tensor


_NO_SIZES: Mapping[str, tuple] = {}


class Target(NamedTuple):
    """What a call explains, and with how much relevance.

    Attributes:
        mode: "top" (each sample's top class), "class" ([B]), "class_or_top" ([B], where -1 is the top class: of
            exports), "classes" ([B, k]), "ranked" ([B, k], where -1 is the top class, -2 the next), "index"
            ([B, rank - 1]), "given", or "starts" (k given for each sample).
        kind: "output" or "one", the initial relevance of the target; "given" if the tensor is the relevance itself,
            "weights" if it is to be multiplied by the pre-softmax values.
        tensor: int32 classes, ranks or indices, or initial relevance of the output's shape; None for "top".
        contrast: what the target is set against, "softmax", "mean" or "class" (`engine.contrast`); or None.
        rival: int32 [B], the class that it is set against; None unless `contrast` is "class".
    """

    mode: str
    kind: str
    tensor: tf.Tensor | None
    contrast: str | None = None
    rival: tf.Tensor | None = None

    @property
    def several(self) -> bool:
        """Whether there are k targets for each sample."""
        return self.mode in ("classes", "ranked", "starts")

    @property
    def tensors(self) -> list[tf.Tensor]:
        """What a compiled pass takes beside the inputs."""
        return [t for t in (self.tensor, self.rival) if t is not None]

    def holding(self, tensors: Sequence[tf.Tensor]) -> Target:
        """The same target with other `tensors`."""
        left = list(tensors)
        tensor = None if self.mode == "top" else left.pop(0)
        return self._replace(tensor=tensor, rival=left.pop(0) if self.contrast == "class" else None)

    def part(self, rows: slice) -> Target:
        """The target of some of the samples."""
        cut = {name: value[rows] for name in ("tensor", "rival") if (value := getattr(self, name)) is not None}
        return self._replace(**cut)


def inputs(graph: Graph, x: Any) -> list[tf.Tensor]:
    """Flat tensors in the dtypes of the model's inputs.

    Raises:
        ValueError: wrong structure or shape, no batch axis, an empty batch.
        TypeError: no numbers.
    """
    structure = graph.input_structure
    if isinstance(structure, Ref):
        x = _alone(x, structure, graph.input_names[0])
    values: dict[Ref, Any] = {}
    if not _match(structure, x, values):
        expected = tree.map_structure(lambda ref: shape_text(ref.shape), structure)
        received = sorted(x) if isinstance(x, dict) else len(x) if isinstance(x, (list, tuple)) else type(x).__name__
        raise ValueError(f"Expected inputs in the structure of the model's: {expected}. Received: {received}")
    names = dict(zip(graph.inputs, graph.input_names, strict=True))
    tensors = [tensor(values[ref], ref.shape, ref.dtype, names[ref], sizes=graph.sizes) for ref in graph.inputs]
    sizes = [t.shape[0] for t in tensors]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"All inputs need the same batch size. Received: {dict(zip(names.values(), sizes, strict=True))}"
        )
    return tensors


def _alone(x: Any, ref: Ref, name: str) -> Any:
    """The only input out of the list or dict that Keras accepts around it; [sample] is a batch of one sample."""
    if isinstance(x, dict) and list(x) == [name]:
        return x[name]
    if isinstance(x, (list, tuple)) and len(x) == 1 and len(getattr(x[0], "shape", ())) == len(ref.shape) + 1:
        return x[0]
    return x


def _match(structure: Any, x: Any, values: dict[Ref, Any]) -> bool:
    """Collect the value of every ref of `structure`; False if x has another structure."""
    if isinstance(structure, Ref):
        values[structure] = x
        return not isinstance(x, dict)
    if isinstance(structure, dict):
        return isinstance(x, dict) and set(x) == set(structure) and all(_match(structure[k], x[k], values) for k in x)
    if not isinstance(x, (list, tuple)) or len(x) != len(structure):
        return False
    return all(_match(part, value, values) for part, value in zip(structure, x, strict=True))


def _array(value: object, name: str) -> np.ndarray | tf.Tensor:
    """A tensor unchanged; anything else as an array."""
    if tf.is_tensor(value):
        return value
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array; its rows differ in length. Received: {value!r}") from error


def tensor(
    value: Any, shape: tuple, dtype: str, name: str, batch: int | None = None, sizes: Mapping[str, tuple] = _NO_SIZES
) -> tf.Tensor:
    """`value` as a tensor of that dtype, its shape checked against (batch, *shape).

    Args:
        sizes: shapes that the caller gave for inputs of open sizes, by name, see `Explainer`.

    Raises:
        TypeError: no numbers.
        ValueError: another shape, or an empty batch.
    """
    value = _array(value, name)
    kind = None if value.dtype == object else tf.as_dtype(value.dtype)
    if kind is None or not (kind.is_floating or kind.is_integer or kind.is_bool):
        raise TypeError(f"{name} must be an array of numbers. Received: {value.dtype} of shape {value.shape}")
    received = tuple(value.shape)
    if len(received) != len(shape) + 1 or not all(map(_fits, (batch, *shape), received)):
        expected = shape_text(shape) if batch is None else str((batch, *shape))
        remedy = ""
        if len(received) == len(shape) and all(map(_fits, shape, received)):
            remedy = f" The batch axis is missing: pass {name}[None] for a single sample."
        elif shape[-1:] == (1,) and len(received) == len(shape) and all(map(_fits, shape[:-1], received[1:])):
            remedy = f" The channel axis is missing: pass {name}[..., None]."
        elif name in sizes:
            remedy = (
                f" The explainer was built with sizes={dict(sizes)!r}: pad or cut the input to that, or build another "
                f"Explainer with sizes for {received[1:]}."
            )
        raise ValueError(f"{name} has the wrong shape. Expected: {expected}. Received: {received}.{remedy}")
    if received[0] == 0:
        raise ValueError(f"{name} is an empty batch. Expected at least one sample. Received: shape {received}")
    return tf.cast(value, dtype)


def _fits(wanted: int | None, received: int | None) -> bool:
    return wanted is None or received is None or wanted == received


def checked(graph: Graph, target: Any, start: Any, x: tf.Tensor) -> Target:
    """The target of a call on the samples x [B, ...], from its `target` and `start` as the caller gave them.

    Raises:
        ValueError: a target out of range or of the wrong shape, a start that is neither a known word nor a tensor of
            the output's shape, both given, or neither where the output has no classes.
        TypeError: targets that are no integers.
    """
    shape, batch = graph.outputs[0].shape, x.shape[0]
    if not isinstance(start, str):
        if target is not None:
            raise ValueError("start= as a tensor already says what is explained. Expected no target. Received: both.")
        start = _array(start, "start")
        if len(start.shape) == len(shape) + 2:
            if start.shape[1] == 0:
                raise ValueError(f"start holds no targets. Expected: [B, k, ...] with k >= 1. Received: {start.shape}")
            return Target("starts", "given", tensor(start, (None, *shape), graph.dtype, "start", batch))
        return Target("given", "given", tensor(start, shape, graph.dtype, "start", batch))
    if start not in ("output", "one"):
        raise ValueError(f'start must be "output", "one" or a tensor of shape {shape_text(shape)}. Received: {start!r}')
    if (target is None or (isinstance(target, str) and target.lower() == "top1")) and len(shape) <= 1:
        return Target("top", start, None)
    if isinstance(target, str) or (isinstance(target, (list, tuple)) and any(isinstance(t, str) for t in target)):
        codes = ranked([target] if isinstance(target, str) else target, graph)
        samples = tf.shape(x)[0] if batch is None else batch
        return Target("ranked", start, tf.tile(tf.constant([codes], tf.int32), [samples, 1]))
    if len(shape) > 1:
        remedy = (
            f"The output has the shape {shape_text(shape)}, without a top class. Expected target= {len(shape)} "
            f"integers, an index into it, for all samples or for each ([B, {len(shape)}]); or start= a tensor."
        )
    else:
        remedy = "Expected an integer, [B] integers, or [B, k] integers for k targets of each sample."
    target = _array(target, "target")
    if target.dtype == object or not tf.as_dtype(target.dtype).is_integer:
        raise TypeError(f"target must be integers. {remedy} Received: {target!r}")
    mode, target = _mode(target, len(shape), x, remedy)
    sizes = shape if len(shape) > 1 else (class_count(graph),)
    _check_range(target, sizes, mode)
    return Target(mode, start, tf.cast(target, "int32"))


def against(graph: Graph, target: Target, contrast: Contrast, x: tf.Tensor) -> Target:
    """The target of a call on the samples x [B, ...], set against other classes.

    Raises:
        ValueError: initial relevance that was given; TypeError, ValueError: see `engine.contrast.checked`.
    """
    kind, rival = contrasts.checked(graph, contrast, x)
    if kind is not None and target.kind == "given":
        raise ValueError("start= as a tensor already says what is explained. Expected no contrast. Received: both.")
    return target._replace(contrast=kind, rival=rival)


_TOP = re.compile(r"top(?:1|K:([1-9]\d*))", re.IGNORECASE)


def ranked(targets: Iterable, graph: Graph) -> list[int]:
    """Classes, and ranks as negative numbers: ["top1", 281] is [-1, 281].

    Raises:
        TypeError: something else. ValueError: a class or rank out of range, an output without a top class.
    """
    found: list[int] = []
    for target in targets:
        match = _TOP.fullmatch(target) if isinstance(target, str) else None
        if match:
            found += range(-1, -int(match[1] or 1) - 1, -1)
        elif isinstance(target, (int, np.integer)) and not isinstance(target, bool):
            _check_range(np.array([target]), (class_count(graph),), "classes")
            found.append(int(target))
        else:
            raise TypeError(
                'target must be integers, "top1" or "topK:3". Expected an integer or one of these for all samples. '
                f"Received: {target!r}"
            )
    if len(graph.outputs[0].shape) > 1:
        raise ValueError(f"The output has the shape {shape_text(graph.outputs[0].shape)}, without a top class.")
    classes = class_count(graph)
    if classes is not None and -min(found) > classes:
        raise ValueError(
            f"Expected at most topK:{classes}: the model has {classes} classes. Received: topK:{-min(found)}"
        )
    return found


def for_all(targets: Sequence, graph: Graph, batch: int) -> Targets:
    """`targets` in the form in which `Explainer` explains all of them for every sample of a batch.

    To it a plain list of classes means one for each sample. A single target comes back without a list, since it needs
    no axis of targets.
    """
    codes = ranked(targets, graph)
    if len(codes) == 1:
        return "top1" if codes[0] < 0 else codes[0]
    return list(targets) if min(codes) < 0 else [codes] * batch


def without_labels(graph: Graph, element: Any) -> Any:
    """The inputs in an element of a dataset: x of (x, y, ...), unless the model itself takes such a tuple."""
    structure, values = graph.input_structure, dict[Ref, Any]()
    if not isinstance(element, tuple) or not element:
        return element
    inputs = not isinstance(structure, Ref) and _match(structure, element, values)
    return element if inputs and not any(isinstance(value, tuple) for value in values.values()) else element[0]


def batches(graph: Graph, dataset: Iterable, size: int | None) -> Iterator[Any]:
    """The batches of a stream as a caller gave it; of single samples where `size` says how many to put together.

    Raises:
        TypeError: no iterable. ValueError: a size below 1, or one for elements that are batches already.
    """
    if not isinstance(dataset, Iterable):
        raise TypeError(f"map expects a tf.data.Dataset or an iterable. Received: {type(dataset).__name__}")
    streams.checked_size(size, "batch")
    if size is not None:
        dataset = streams.checked(dataset, functools.partial(sample_of, graph, size))
    return streams.batches(dataset, size)


def sample_of(graph: Graph, batch: int, element: Any) -> Any:
    """An element of a dataset, or its `element_spec`, with arrays for plain lists: these are no structures to stack.

    Raises:
        ValueError: it is a batch instead of a single sample.
    """
    values: dict[Ref, Any] = {}
    x = without_labels(graph, element)
    if not _match(graph.input_structure, x, values):
        return element  # `inputs` reports other mistakes
    for ref, name in zip(graph.inputs, graph.input_names, strict=True):
        value = values[ref] = values[ref] if hasattr(values[ref], "shape") else _array(values[ref], name)
        shape = () if getattr(value.shape, "rank", 0) is None else tuple(value.shape)
        if len(shape) == len(ref.shape) + 1 and all(map(_fits, ref.shape, shape[1:])):
            raise ValueError(
                f"map(batch={batch}) puts single samples together. Expected {name} of shape {tuple(ref.shape)}. "
                f"Received: {shape}, which is a batch already. Remedy: leave batch out, or dataset.unbatch()"
            )
    found = tree.map_structure(values.__getitem__, graph.input_structure)
    if x is element:
        return found
    labels = (np.asarray(label) if isinstance(label, list) else label for label in element[1:])
    return (found, *labels)


def class_count(graph: Graph) -> int | None:
    """Number of targets; a single output unit has two, its negative and its value."""
    shape = graph.outputs[0].shape
    units = shape[0] if shape else 1
    return 2 if units == 1 else units


def _mode(target: np.ndarray | tf.Tensor, axes: int, x: tf.Tensor, remedy: str) -> tuple[str, tf.Tensor]:
    rank, shape, batch = len(target.shape), tuple(target.shape), x.shape[0]
    samples = tf.shape(x)[0] if batch is None else batch
    if axes > 1:
        if shape == (axes,):
            return "index", target[None] + tf.zeros([samples, 1], target.dtype)
        if rank == 2 and shape[1] == axes and _fits(batch, shape[0]):
            return "index", target
    elif rank == 0:
        return "class", target + tf.zeros([samples], target.dtype)
    elif rank == 1 and _fits(batch, shape[0]):
        return "class", target
    elif rank == 2 and _fits(batch, shape[0]) and shape[1] != 0:
        return "classes", target
    raise ValueError(f"target has the wrong shape for a batch of {batch}. {remedy} Received: shape {shape}")


def _check_range(target: np.ndarray | tf.Tensor, sizes: tuple, mode: str) -> None:
    if tf.is_tensor(target):
        if not hasattr(target, "numpy"):
            return  # symbolic: the compiled pass checks it
        target = target.numpy()
    columns = target.T if mode == "index" else [target]
    for axis, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        wrong = column[(column < 0) | (column >= (size or np.iinfo(np.int32).max))]
        if wrong.size:
            where = f" along axis {axis + 1} of the output" if mode == "index" else ""
            raise ValueError(
                f"target out of range{where}. Expected 0 to {(size or 0) - 1}. Received: {wrong[:5].tolist()}"
            )

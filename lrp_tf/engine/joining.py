"""Sums of linear steps as one step: x W + h U + b in the cell of a recurrent layer has one denominator.

    z = sum over parts of forward_p(x_p, w_p) + biases

For the bodies of loops alone: elsewhere the summands of a sum share relevance first, each as a whole, which is what
LRP of residual connections does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras

from lrp_tf.core.graph import Graph, Ref, Step

_SUMS = ("ops.Add", keras.layers.Add)


def join_sums(graph: Graph) -> Graph:
    """Make every sum of linear steps, which nothing else reads, one step with `parts`.

    Constants that are added are biases. Every part keeps what was folded into it. The step runs where the sum ran and
    has the operation, path and entry of its first part, so that matchers find it. The inputs of the step are those of
    its parts, one part after another, and behind them the constants.
    """
    graph = graph.copy()
    makers = {ref: step for step in graph.steps for ref in step.outputs}
    readers = graph.consumers()
    gone: set[Step] = set()
    found: list[Step] = []
    for step in reversed(graph.steps):
        if step in gone:
            continue
        leaves = _leaves(graph, step, makers, readers) if step.kind in _SUMS else None
        parts = [leaf for leaf in leaves or () if isinstance(leaf, Step)]
        if leaves is None or len(parts) < 2:
            found.append(step)
            continue
        sums = _sums(step, makers, graph.constants)
        joint = _joint(graph, step, parts, [leaf for leaf in leaves if isinstance(leaf, Ref)])
        found.append(joint)
        gone.update(parts, sums)
        for other in (*parts, *sums):
            first = other is parts[0]
            if not first:
                what = f"summed with {joint.path}" if other in parts else f"the sum of {joint.path}"
                graph.rewrites.append((other.order, other.path, other.operation, what))
            if other is not step:
                graph.aliases[other.outputs[0]] = step.outputs[0]
    graph.steps = found[::-1]
    return graph


def _leaves(
    graph: Graph, add: Step, makers: dict[Ref, Step], readers: dict[Ref, list[Step]]
) -> list[Step | Ref] | None:
    """The linear steps and the constants that a tree of sums adds; None: there is something else among them."""
    output, found = add.outputs[0], list[Step | Ref]()
    for i, ref in enumerate(add.inputs):
        if i in add.constant:
            if not _broadcasts(add, ref):
                return None
            found.append(ref)
            continue
        maker = makers.get(ref)
        alone = readers[ref] == [add] and add.inputs.count(ref) == 1 and ref not in graph.outputs
        same = ref.shape == output.shape and ref.axis == output.axis == 0 and ref.each == output.each
        if maker is None or not alone or not same:
            return None
        if maker.linear is not None and not maker.linear.elementwise and not maker.parts:
            found.append(maker)
        elif maker.kind in _SUMS and (inner := _leaves(graph, maker, makers, readers)) is not None:
            found += inner
        else:
            return None
    return found


def _broadcasts(add: Step, ref: Ref) -> bool:
    """Whether a constant adds to z as a bias does: the layer Add would insert axes behind that of the batch."""
    if ref.batched:
        return ref.shape == add.outputs[0].shape and ref.axis == 0
    return isinstance(add.kind, str) and len(ref.shape) <= len(add.outputs[0].shape) + 1


def _sums(step: Step, makers: dict[Ref, Step], constants: set[Ref]) -> list[Step]:
    """The sums of a tree, the outermost first."""
    inner = [makers[ref] for ref in step.inputs if ref in makers and ref not in constants]
    return [step, *(s for maker in inner if maker.kind in _SUMS for s in _sums(maker, makers, constants))]


def _joint(graph: Graph, add: Step, parts: list[Step], biases: list[Ref]) -> Step:
    """The step that computes the sum of linear steps and biases."""
    parts = sorted(parts, key=graph.steps.index)
    inputs = [ref for part in parts for ref in part.inputs] + biases
    constant = tuple(i for i, ref in enumerate(inputs) if ref in graph.constants)
    return dataclasses.replace(
        parts[0],
        args=tuple(inputs),
        kwargs={},
        outputs=add.outputs,
        within=_shared(part.within for part in (*parts, add)),
        before=(),
        after=(),
        addend=None,
        constant=constant,
        held=constant,
        parts=tuple(parts),
    )


def _shared(nested: Iterable[tuple]) -> tuple:
    """The layers that all lie within, outermost first."""
    first, *others = nested
    found = []
    for layers in zip(first, *others, strict=False):
        if any(layer is not layers[0] for layer in layers):
            break
        found.append(layers[0])
    return tuple(found)


# For the bodies of loops, ahead of the passes that read the tensors that are left (`canonize.mark_bounds`).
PASSES = (join_sums,)

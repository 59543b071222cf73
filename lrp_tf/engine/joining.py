"""Sums of linear steps as one step: x W + h U + b in the cell of a recurrent layer has one denominator.

    z = sum over parts of forward_p(x_p, w_p) + biases

For the bodies of loops alone: elsewhere the summands of a sum share relevance first, each as a whole, which is what
LRP of residual connections does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import keras

from lrp_tf.core.graph import Graph, Ref, Step

_SUMS = ("ops.Add", keras.layers.Add)


def cut_kernels(graph: Graph) -> Graph:
    """Cut x @ w + b, of which others read slices alone, into a step for each slice where that leads to a joint sum.

    So in a GRU, whose x W holds the three parts of which one joins (r h) U. Kernels and biases are constants, so that
    their slices are, too.
    """
    found = _candidates(graph)
    trial = join_sums(_cut(graph, found))
    joined = {ref for step in trial.steps for part in step.parts for ref in part.outputs}
    return _cut(graph, [c for c in found if any(not joined.isdisjoint(s.outputs) for s in c.slices)])


class _Candidate(NamedTuple):
    """A product with a kernel, and the steps that slice its channels."""

    step: Step
    slices: list[Step]


def _candidates(graph: Graph) -> list[_Candidate]:
    readers = graph.consumers()
    found = []
    for step in graph.steps:
        plain = step.kind == "ops.Matmul" and step.linear is not None and not (step.before or step.after)
        if not plain or step.constant[:1] != (1,) or len(step.inputs[1].shape) != 2:
            continue
        ref, width = step.outputs[0], step.outputs[0].shape[-1]
        slices = readers.get(ref, [])
        biased = step.addend is None or (step.addend.shape == (width,) and not step.addend.batched)
        if biased and ref not in graph.outputs and slices and all(_slices_channels(s) for s in slices):
            found.append(_Candidate(step, slices))
    return found


def _slices_channels(step: Step) -> bool:
    """Whether a step cuts the last of two axes, [B, F], and nothing else."""
    if len(step.inputs) != 1 or len(step.inputs[0].shape) != 1:
        return False
    if step.kind == "ops.Split":
        return step.op.axis in (1, -1)
    key = step.args[1] if step.kind == "ops.GetItem" and len(step.args) == 2 else None
    return isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice)


def _cut(graph: Graph, candidates: list[_Candidate]) -> Graph:
    graph = graph.copy()
    for step, slices in candidates:
        made, parts = list[Step](), list[Step]()
        for cut in slices:
            kernels = _sliced(graph, cut, step.inputs[1], "kernel", made)
            biases = [None] * len(kernels) if step.addend is None else _sliced(graph, cut, step.addend, "bias", made)
            for kernel, bias, output in zip(kernels, biases, cut.outputs, strict=True):
                path, args = f"{step.path}:{len(parts)}", (step.inputs[0], kernel)
                part = dataclasses.replace(step, args=args, kwargs={}, addend=bias, outputs=(output,), path=path)
                parts.append(part)
            graph.rewrites.append((cut.order, cut.path, cut.operation, f"the kernel of {step.path} in parts"))
        position = graph.steps.index(step)
        graph.steps[position : position + 1] = [*made, *parts]
        graph.steps = [other for other in graph.steps if other not in slices]
    return graph


def _sliced(graph: Graph, cut: Step, constant: Ref, name: str, made: list[Step]) -> list[Ref]:
    """The slices of a kernel [C, F] or bias [F] that give those of the output; adds the step that cuts it."""
    rows = constant.shape[:-1]
    outputs = tuple(Ref((*rows, *ref.shape), constant.dtype, batched=False) for ref in cut.outputs)
    if cut.kind == "ops.Split":
        op, args = type(cut.op)(cut.op.indices_or_sections, axis=-1), tuple[Ref | tuple, ...]([constant])
    else:
        op, args = cut.op, (constant, (*[slice(None)] * len(rows), cut.args[1][1]))
    path = f"{cut.path}:{name}"
    made.append(Step(op, args, {}, outputs, path, cut.order, cut.within, constant=(0,), held=(0,)))
    graph.constants.update(outputs)
    return list(outputs)


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
        parts = sorted((leaf for leaf in leaves or () if isinstance(leaf, Step)), key=graph.steps.index)
        if leaves is None or len(parts) < 2:
            found.append(step)
            continue
        sums = _sums(step, makers, graph.constants)
        joint = _joint(graph, step, parts, [leaf for leaf in leaves if isinstance(leaf, Ref)])
        found.append(joint)
        gone.update(parts, sums)
        for other in (*parts, *sums):
            if other is not parts[0]:
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
PASSES = (cut_kernels, join_sums)

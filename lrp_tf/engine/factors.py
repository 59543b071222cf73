"""What the factors of products are: scales, masks, functions of the other factor, outputs of activations.

Facts alone, as all that canonisation states: flows decide which of them relevance enters (`flows.factors`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras

from lrp_tf import flows
from lrp_tf.core.graph import Graph, Ref, Step

# Activations that are no function of each entry alone.
_OF_SEVERAL = ("softmax", "log_softmax", "sparsemax")
# Flows that pass R on, of steps that look at several entries or change nothing.
_NO_FUNCTION = ("ops.Normalize", "ops.RMSNorm")
_NORMALIZING = (keras.layers.UnitNormalization, keras.layers.Masking, getattr(keras.layers, "RMSNormalization", ()))
_MASKS = ("bool", "int32", "int64")


class _Function(NamedTuple):
    """A tensor as a function of the entries of another one.

    Attributes:
        root: that tensor; the tensor itself where it is no such function.
        bent: the function is no multiple of the root.
    """

    root: Ref
    bent: bool


def mark_factors(graph: Graph) -> Graph:
    """Mark the inputs of products that only weigh, and those that an activation function gave."""
    graph = graph.copy()
    functions: dict[Ref, _Function] = {}
    scales: set[Ref] = set()
    activated: set[Ref] = set()
    for position, step in enumerate(graph.steps):
        signals = [step.inputs[i] for i in range(len(step.inputs)) if i not in step.constant]
        flow = None if step.linear is not None else flows.lookup(step)
        if flow is None or not signals:
            continue
        if isinstance(flow, (flows.Product, flows.Contraction)):
            found = {i for i, ref in enumerate(step.inputs) if ref in scales}
            found.update(_functions_of_another(step, functions))
            known = tuple(i for i, ref in enumerate(step.inputs) if ref in activated)
            graph.steps[position] = dataclasses.replace(step, scales=tuple(sorted(found)), activated=known)
        function = _function(step, flow, signals, functions)
        if function is not None:
            functions.update(dict.fromkeys(step.outputs, function))
        if _is_scale(step) or (flow.transparent and scales.issuperset(signals)):
            scales.update(step.outputs)
        bent = function is not None and function.bent
        if bent or step.activation in _OF_SEVERAL or (flow.transparent and activated.issuperset(signals)):
            activated.update(step.outputs)
    return graph


def _is_scale(step: Step) -> bool:
    """Whether a step gives 1/x, a power of it, or what comes from a mask."""
    if step.kind in ("ops.Rsqrt", "ops.Reciprocal"):
        return True
    if step.kind in ("ops.Divide", "ops.TrueDivide"):
        return not isinstance(step.args[0], Ref) or 0 in step.constant
    if step.kind == "ops.Power":
        exponent = step.args[1] if len(step.args) > 1 else step.kwargs.get("x2")
        return isinstance(exponent, (int, float)) and exponent < 0
    return step.kind == "ops.Cast" and step.inputs[0].dtype in _MASKS


def _functions_of_another(step: Step, functions: dict[Ref, _Function]) -> list[int]:
    """Of an element-wise product x f(x), the position of f(x): together they are an activation, which passes R to x."""
    found = {i: functions.get(step.inputs[i], _Function(step.inputs[i], False)) for i in range(len(step.inputs))}
    plain = {function.root for i, function in found.items() if not function.bent and i not in step.constant}
    return [i for i, function in found.items() if function.bent and function.root in plain]


def _function(step: Step, flow: flows.Flow, signals: list[Ref], functions: dict[Ref, _Function]) -> _Function | None:
    """What the output of a step is a function of; None: of no single tensor entry by entry."""
    known = [functions.get(ref, _Function(ref, False)) for ref in signals]
    if len({function.root for function in known}) > 1:
        return None
    root, bent = known[0].root, any(function.bent for function in known)
    shapes = {ref.shape for ref in (root, *signals, *step.outputs)}
    if len(shapes) > 1 or any(ref.axis != root.axis for ref in step.outputs):
        return None
    if type(flow) is flows.PassThrough and not flow.transparent:
        several = step.activation in _OF_SEVERAL or step.kind in _NO_FUNCTION or isinstance(step.op, _NORMALIZING)
        return None if several else _Function(root, bent or step.activation != "linear")
    if type(flow) is flows.Product or isinstance(flow, flows.Quotient):
        return _Function(root, bent or len(signals) > 1 or (isinstance(flow, flows.Quotient) and _is_scale(step)))
    if isinstance(flow, flows.Identity) or step.kind == "ops.Negative":
        return _Function(root, bent)
    if step.kind in ("ops.Add", "ops.Subtract", keras.layers.Add, keras.layers.Subtract):
        return _Function(root, bent)
    return None

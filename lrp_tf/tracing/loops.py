"""Layers that run something for each time step: recurrent ones as a step that holds a graph, and TimeDistributed."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, Protocol

import keras
import tensorflow as tf
from keras import ops, tree

from lrp_tf.core.graph import Call, Graph, Ref, Step, shape_text
from lrp_tf.core.loop import Loop, body_of
from lrp_tf.core.operations import InitialState, MergeTime, SplitTime
from lrp_tf.tracing.substitutes import replaced
from lrp_tf.tracing.symbolic import NotFollowedError


class Constant(NamedTuple):
    """A variable or array among the arguments of an operation. It is kept, so that its id is not used again."""

    value: Any
    tensor: tf.Tensor
    ref: Ref


@dataclasses.dataclass
class Found:
    """What a tracer found of one graph: the model's, or that of a body, whose tensors the model's graph never sees.

    Attributes:
        steps, layers, calls, followed: see `Graph`.
        constants: by the ids of their values.
    """

    steps: list[Step] = dataclasses.field(default_factory=list)
    layers: dict[str, list[tuple[Ref, ...]]] = dataclasses.field(default_factory=dict)
    calls: list[Call] = dataclasses.field(default_factory=list)
    followed: list[str] = dataclasses.field(default_factory=list)
    constants: dict[int, Constant] = dataclasses.field(default_factory=dict)


class Tracer(Protocol):
    """What is asked of the tracer in `follow`."""

    model: keras.Model
    found: Found
    within: tuple

    def constant(self, value: Any) -> Any: ...
    def visit(self, op: Any, args: tuple, kwargs: dict, prefix: str) -> Any: ...
    def expand(self, owner: Any, call: Callable, args: tuple, kwargs: dict, prefix: str) -> Any: ...
    def inside(self, owner: Any) -> contextlib.AbstractContextManager[None]: ...
    def apart(self) -> contextlib.AbstractContextManager[Found]: ...


# --- recurrent layers ---------------------------------------------------------------------------


def is_recurrent(op: Any) -> bool:
    """Whether the layer runs its cell for each time step as Keras does: a subclass with a `call` of its own may not."""
    if not isinstance(op, keras.layers.RNN):
        return False
    own = [cls for cls in type(op).__mro__ if not cls.__module__.startswith("keras.")]
    return not any(name in vars(cls) for cls in own for name in ("__call__", "call", "inner_loop"))


def as_in_keras() -> contextlib.AbstractContextManager[None]:
    """Recurrent code that runs on symbolic tensors: cells drop nothing out, and no layer runs its loop itself."""

    def refuse(self: keras.layers.RNN, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotFollowedError(
            f"a call() or inner_loop() of its own runs the loop of {_of_keras(self)}",
            "put what it computes into the cell, keras.layers.RNN(cell), or into layers around the recurrent one",
        )

    def no_mask(self: keras.Layer, step_input: Any) -> None:
        return None

    return replaced(
        (keras.layers.RNN, "call", refuse),
        (keras.layers.RNN, "inner_loop", refuse),
        (_DROPPING, "get_dropout_mask", no_mask),
        (_DROPPING, "get_recurrent_dropout_mask", no_mask),
    )


# The class that cells with dropout have from Keras, which does not export it.
_DROPPING = next(cls for cls in keras.layers.LSTMCell.__mro__ if "get_dropout_mask" in vars(cls))


def _of_keras(layer: keras.layers.RNN) -> str:
    return next(cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras."))


def recurrence(tracer: Tracer, step: Step) -> Any:
    """The outputs of a recurrent layer: a step whose body is its cell.

    Args:
        step: one call of the layer, in one piece.

    Raises:
        ValueError: the cell cannot be followed.
    """
    layer, path = step.op, step.path
    given = inspect.signature(layer.call).bind(*step.args, **step.kwargs).arguments
    x: Ref = next(iter(given.values()))
    if x.axis:
        raise NotFollowedError(
            f"it gets the samples of a batch on axis {x.axis}, but takes the first axis for the batch",
            "transpose, so that the samples are on the first axis again, before this layer",
        )
    states = _initial_states(tracer, step, x, given.get("initial_state"))
    mask = _mask(tracer, layer, tree.flatten(given.get("mask"))[0], path)
    entry = Ref(x.shape[1:], x.dtype, each=x.each)
    at_step = tree.map_structure(lambda s: Ref(s.shape if s.batched else s.shape[1:], s.dtype, each=x.each), states)
    with tracer.apart() as found, tracer.inside(layer):
        y, new = _called(tracer, layer, entry, tuple(at_step), path)
    inner = tree.flatten(at_step)
    if len(y) != 1:
        raise NotFollowedError(f"its cell returns {len(y)} outputs for a time step", "let the cell return one tensor")
    captured, body = close(tracer, found, [entry], inner, y, new)
    loop = Loop(
        layer=layer,
        body=body,
        sequences=1,
        states=len(inner),
        backwards=layer.go_backwards,
        stacked=layer.return_sequences,
        returns_states=layer.return_state,
        zeros_where_masked=mask is not None and bool(getattr(layer, "zero_output_for_mask", False)),
    )
    outputs = run(tracer, loop, [x], tree.flatten(states), mask, captured, path)
    return (outputs[0], *tree.pack_sequence_as(list(states), outputs[1:])) if layer.return_state else outputs[0]


def _called(tracer: Tracer, layer: keras.layers.RNN, x: Ref, states: tuple, path: str) -> tuple[list, list]:
    """What the cell returns for one time step, flat: its output, and the new states."""
    cell = layer.cell
    if isinstance(cell, keras.Layer):
        y, new = tracer.visit(cell, (x, states), {}, f"{path}/")
    else:  # any object that Keras can call
        tracer.found.followed.append(f"{path}/{type(cell).__name__}")
        y, new = tracer.expand(layer, cell, (x, states), {}, f"{path}/")
    return tree.flatten(y), tree.flatten(new)


def _initial_states(tracer: Tracer, step: Step, x: Ref, given: Any) -> list:
    """Refs of the states ahead of the first time step, as they are nested in the cell.

    Args:
        given: by the caller of the layer; None: the layer makes them, or has kept them if it is stateful.
    """
    if given is not None:
        states = list(given) if tree.is_nested(given) else [given]
        if strange := [s for s in tree.flatten(states) if not isinstance(s, Ref)]:
            raise NotFollowedError(f"initial_state holds {strange[0]!r}", "pass a tensor for each state")
        return states
    op = InitialState(step.op)
    structure = op.example()
    outputs = tree.map_structure(lambda s: Ref(s.shape[1:], s.dtype.name, each=x.each), structure)
    path = f"{step.path}/{op.name}"
    order = len(tracer.found.steps)
    tracer.found.steps.append(Step(op, (x,), {}, tuple(tree.flatten(outputs)), path, order, (*tracer.within, step.op)))
    return list(outputs)


def _mask(tracer: Tracer, layer: keras.Layer, mask: Ref | None, path: str) -> Ref | None:
    """The mask as booleans [B, T]."""
    if mask is None or (mask.dtype == "bool" and len(mask.shape) == 1):
        return mask

    def plain(given: Any) -> Any:
        found = ops.cast(given, "bool")
        return found if len(found.shape) == 2 else ops.squeeze(found, axis=-1)

    return tracer.expand(layer, plain, (mask,), {}, f"{path}/mask/")


def close(
    tracer: Tracer, found: Found, sequences: list[Ref], states: list[Ref], outputs: list[Any], new: list[Any]
) -> tuple[list[Ref], Graph]:
    """What was found of a body as a graph, and the refs of the graph around it for the constants that it reads.

    Args:
        sequences, states: the inputs of the body.
        outputs, new: what it makes of them: the outputs of the time step, and the states behind it.

    Raises:
        NotFollowedError: an output or state is no tensor that the body computes for each sample, or changes its shape.
    """
    if len(new) != len(states):
        raise NotFollowedError(f"{len(states)} states become {len(new)}", "return one new state for each state")
    for state, made in [*((ref, ref) for ref in outputs), *zip(states, new, strict=True)]:
        if not isinstance(made, Ref) or not made.batched or made.axis or made.shape != state.shape:
            raise NotFollowedError(
                f"it returns {made!r} for a time step, in place of a tensor whose first axis is the batch"
                + (f", of the shape {shape_text(state.shape)}" if isinstance(state, Ref) else ""),
                "compute outputs and new states from the input and the states, and let each state keep its shape",
            )
    inner = [*sequences, *states]
    read = {ref for step in found.steps for ref in step.inputs}
    constants = [constant for constant in found.constants.values() if constant.ref in read]
    names = [f"input_{i}" for i in range(len(inner) + len(constants))]
    inner += [constant.ref for constant in constants]
    body = Graph(
        model=tracer.model,
        inputs=inner,
        outputs=[*outputs, *new],
        input_structure=inner,
        input_names=names,
        output_names=[f"output_{i}" for i in range(len(outputs) + len(new))],
        output_keys=[],
        steps=found.steps,
        dtype="",  # that of the whole graph, see `settle`
        layers=found.layers,
        calls=found.calls,
        followed=found.followed,
        # No relevance belongs to a state that is a whole number, such as a counter.
        constants={constant.ref for constant in constants}
        | {s for s in states if not tf.as_dtype(s.dtype).is_floating},
    )
    return [tracer.constant(constant.value) for constant in constants], body


def _is_floating(ref: Ref) -> bool:
    return tf.as_dtype(ref.dtype).is_floating


def run(
    tracer: Tracer, loop: Loop, sequences: list[Ref], states: list[Ref], mask: Ref | None, captured: list, path: str
) -> list[Ref]:
    """The outputs of a step that runs the loop."""
    x, count = sequences[0], len(loop.body.outputs) - loop.states
    made, new = loop.body.outputs[:count], loop.body.outputs[count:] if loop.returns_states else []
    time = x.shape[:1] if loop.stacked else ()
    outputs = [Ref((*time, *y.shape), y.dtype, each=x.each) for y in made]
    outputs += [Ref(s.shape, s.dtype, each=x.each) for s in new]
    args = sequences, states, mask, captured
    steps = tracer.found.steps
    steps.append(Step(loop, args, {}, tuple(outputs), path, len(steps), tracer.within))
    return outputs


def settle(graph: Graph) -> None:
    """Give the bodies of loops what is known of the whole graph alone: what the rules compute in."""
    for step in graph.steps:
        if (body := body_of(step)) is not None:
            body.dtype = graph.dtype
            settle(body)


# --- scans --------------------------------------------------------------------------------------


def scan(tracer: Tracer, step: Step) -> Any:
    """The outputs of ops.scan(f, init, xs), for xs [T, B, ...]: the last carry, and what f returns beside it."""
    given = inspect.signature(step.op.call).bind(*step.args, **step.kwargs).arguments
    carry, xs, reverse = given["init"], given.get("xs"), bool(step.op.reverse)
    states, y = _over_the_first_axis(tracer, step, _closed(given["f"]), xs, carry, reverse)
    return states, y


def each_entry(tracer: Tracer, step: Step) -> Any:
    """The outputs of ops.map(f, xs), for xs [T, B, ...]: f of each time step, [T, B, ...]."""
    given = inspect.signature(step.op.call).bind(*step.args, **step.kwargs).arguments
    f = _closed(given["f"])
    _, y = _over_the_first_axis(tracer, step, lambda _, x: ((), f(x)), given["xs"], (), False)
    return y


def _over_the_first_axis(
    tracer: Tracer, step: Step, f: Callable, xs: Any, carry: Any, reverse: bool
) -> tuple[Any, Any]:
    """The last carry and the outputs of f(carry, x) -> (carry, y), structured as f returns them."""
    path, sequences = step.path, tree.flatten(xs)
    for x in sequences:
        if not isinstance(x, Ref) or not x.batched or x.axis != 1 or x.each != 1:
            raise NotFollowedError(
                "it runs over the first axis of something that does not hold the samples of a batch on the second one",
                "transpose, so that what it runs over has the axes (time, batch, ...)",
            )
    for state in tree.flatten(carry):
        if not isinstance(state, Ref) or not state.batched or state.axis:
            raise NotFollowedError("its init holds no samples", "compute init with the samples on the first axis")

    def turned(ref: Ref, reversed_too: bool = False) -> Ref:
        def move(x: Any) -> Any:
            x = ops.transpose(x, (1, 0, *range(2, len(x.shape))))
            return ops.flip(x, axis=0) if reversed_too else x

        return tracer.expand(step.op, move, (ref,), {}, f"{path}/")

    batch_first = [turned(x) for x in sequences]
    entry = tree.map_structure(lambda x: Ref(x.shape[1:], x.dtype), tree.pack_sequence_as(xs, batch_first))
    states = tree.map_structure(lambda s: Ref(s.shape, s.dtype), carry)
    with tracer.apart() as found:
        new, y = tracer.expand(step.op, f, (states, entry), {}, f"{path}/")
    tree.assert_same_structure(new, states)
    captured, body = close(tracer, found, tree.flatten(entry), tree.flatten(states), tree.flatten(y), tree.flatten(new))
    loop = Loop(step.op, body, len(sequences), len(tree.flatten(states)), backwards=reverse, returns_states=True)
    outputs = run(tracer, loop, batch_first, tree.flatten(carry), None, captured, path)
    count = len(outputs) - loop.states
    stacked = [turned(output, reverse) for output in outputs[:count]]
    return tree.pack_sequence_as(carry, outputs[count:]), tree.pack_sequence_as(y, stacked)


def _closed(f: Callable) -> Callable:
    """The function of a scan, which must not read symbolic tensors that it is not given."""
    read = inspect.getclosurevars(f) if inspect.isfunction(f) else None
    seen = [*read.nonlocals.items(), *read.globals.items()] if read is not None else []
    outside = [name for name, v in seen if any(isinstance(t, keras.KerasTensor) for t in tree.flatten(v))]
    if outside:
        raise NotFollowedError(
            f"its function reads {', '.join(outside)}, which the model computes outside of it",
            "hand it in as part of init, which the function returns unchanged",
        )
    return f


def lookup(step: Step) -> Callable[[Tracer, Step], Any] | None:
    """What walks a step that runs something for each time step; None for any other."""
    if is_recurrent(step.op):
        return recurrence
    return {"ops.Scan": scan, "ops.Map": each_entry}.get(str(step.kind))


_ROUNDS = (
    "How often it runs is known at the call only. Remedy: write it with keras.ops.scan over a tensor "
    "(time, batch, ...), with keras.layers.RNN(cell), or as a Python loop"
)
# Loops that no step stands for, and why.
REFUSED = dict.fromkeys(("ops.WhileLoop", "ops.ForiLoop"), _ROUNDS)


# --- a layer that is called for each time step ----------------------------------------------------


def each_time_step(tracer: Tracer, step: Step) -> Any:
    """The layer in a TimeDistributed, with the time steps among the samples."""
    wrapper, path = step.op, step.path
    x: Ref = step.args[0] if step.args else step.kwargs["inputs"]
    time = x.shape[0]
    each = x.each * (time or 1)

    def add(op: Any, args: tuple, shape: Iterable[int | None], each: int) -> Ref:
        output, steps = Ref(shape, args[0].dtype, each=each), tracer.found.steps
        steps.append(Step(op, args, {}, (output,), f"{path}/{op.name}", len(steps), tracer.within))
        return output

    merged = add(MergeTime(), (x,), x.shape[1:], each)
    mask = step.kwargs.get("mask")
    if mask is not None:
        merged.mask = add(MergeTime(), (mask,), mask.shape[1:], each)
    with tracer.inside(wrapper):
        outputs = tracer.visit(wrapper.layer, (merged,), {}, f"{path}/")
    return tree.map_structure(lambda y: add(SplitTime(), (y, x), (time, *y.shape), x.each), outputs)

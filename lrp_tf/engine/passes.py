"""Compiled passes: from flat inputs and a target to relevance and what was asked for beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import body_of
from lrp_tf.core.numerics import sample_sum
from lrp_tf.core.protocol import Propagate
from lrp_tf.core.sealing import refuse_forward_mode, sealed
from lrp_tf.core.xla import traced_right
from lrp_tf.engine import diagnosis, initial
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.explanation import Conservation, conservation
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.propagate import Forward, Hook
from lrp_tf.engine.rows import Shares, no_row, row_of
from lrp_tf.engine.savings import targets as side_by_side
from lrp_tf.engine.targets import Target
from lrp_tf.flows import WinnerTakesAll

_Result = TypeVar("_Result")


class Request(NamedTuple):
    """What a pass gives beside relevance and logits.

    Attributes:
        layers: names or paths of layers whose output relevance is wanted.
        account: give output, target, shares and conservation.
        steps: give a row for each step; needs `account`.
        each: `Verdict.finite` is for each sample, [B], and there is no amplification. For exports: LiteRT cannot
            run float64.
        books: dtype of the account.
    """

    layers: tuple[str, ...] = ()
    account: bool = False
    steps: bool = False
    each: bool = False
    books: tf.DType = tf.float64


class Key(NamedTuple):
    """Calls that share a compiled pass.

    Attributes:
        mode, kind, contrast: of the `Target`.
        eagerly: nothing is compiled, as `tf.config.run_functions_eagerly(True)` wants it.
    """

    mode: str
    kind: str
    contrast: str | None
    request: Request
    eagerly: bool = False


class Found(NamedTuple):
    """What a pass gives. [B, k, ...] for k targets of each sample, but for logits, output and rows.

    Attributes:
        relevance: of each input, in the order of `Graph.inputs`.
        logits: the pre-softmax values.
        layers: for each layer asked for, the relevance of the output of each of its calls.
        amplification, begin: float64, see `Explanation`; None with `Request.each`.
        output: of the model. It and all that follows: None, unless it was asked for.
        target: int32; None for initial relevance that was given.
        conservation, shares: of each sample.
        steps: stacked `StepRow`s [S, 8], in the order of the backward pass, summed over samples and targets.
    """

    relevance: list[tf.Tensor]
    logits: tf.Tensor
    layers: dict[str, list[tf.Tensor]]
    amplification: tf.Tensor | None = None
    begin: tf.Tensor | None = None
    output: tf.Tensor | None = None
    target: tf.Tensor | None = None
    conservation: Conservation | None = None
    shares: Shares | None = None
    steps: tf.Tensor | None = None


class Verdict(NamedTuple):
    """Whether a pass can be relied on; boolean scalars.

    Attributes:
        declared: the inputs are >= 0 if the clone was told so.
        in_range: the target is a class of the model, and not the one that it is set against.
        finite: no NaN or Inf. [B] with `Request.each`.
    """

    declared: tf.Tensor
    in_range: tf.Tensor
    finite: tf.Tensor


# Flat inputs, and the tensors of the target.
Pass = Callable[..., tuple[Found, Verdict]]


def plain(clone: Clone, target: Target, request: Request, hook: Hook | None = None) -> Pass:
    """A pass as a function that is not compiled.

    Args:
        target: its mode, kind and contrast; its tensors are arguments of the pass.
        hook: changes relevance on its way, see `propagate`.

    Raises:
        ValueError: a layer that the model does not have, or off the way to its output.
    """
    keep = {name: _tensors_of(clone, name) for name in request.layers}

    def run(*tensors: tf.Tensor) -> tuple[Found, Verdict]:
        inputs = tensors[: len(clone.graph.inputs)]
        forward = clone.forward(inputs)
        logits = clone.output(forward)
        chosen = target.holding(tensors[len(inputs) :])
        classes, begin, in_range = initial.initial_relevance(chosen, logits)
        backward = functools.partial(_backward, clone, forward, keep=keep, request=request, hook=hook)
        if target.several:
            if not clone.recomputes:  # else they would keep what is to be computed again
                backward = functools.partial(backward, propagators=clone.propagators(forward))
            back = _each_target(backward, begin, keep, request, clone)
        else:
            back = backward(begin)
        found = Found(relevance=back.relevance, logits=logits, layers=back.layers, steps=back.steps)
        finite = diagnosis.finite(clone, inputs, forward, back.relevance, request.each)
        if back.below is not None:
            grown = diagnosis.amplification(back.relevance, begin, back.below, target.several)
            found = found._replace(amplification=grown[0], begin=grown[1])
        declared = tf.constant(True) & clone.as_declared(inputs)
        if back.shares is not None:
            shares = Shares.unstack(back.shares)
            found = found._replace(shares=shares, conservation=conservation(shares))
            found = found._replace(output=clone.finish(logits, forward), target=classes)
        return found, Verdict(declared, in_range, finite)

    return run


def compiled(
    clone: Clone, target: Target, request: Request, jit_compile: bool = False, hook: Hook | None = None
) -> Pass:
    """The same as a concrete function for any batch size; plain after `tf.config.run_functions_eagerly(True)`."""
    return concrete(plain(clone, target, request, hook), signature(clone.graph, target), jit_compile)


def concrete(function: Callable, signature: list[tf.TensorSpec], jit_compile: bool = False) -> Callable:
    """A function compiled for this signature; itself after `tf.config.run_functions_eagerly(True)`.

    Raises:
        ValueError: XLA would compute something else (`core.xla`).
    """
    if tf.config.functions_run_eagerly():
        return function
    # AutoGraph would only cost time: no Python control flow here depends on tensors.
    traced = tf.function(function, input_signature=signature, autograph=False, jit_compile=jit_compile)
    # The concrete function: TensorFlow would count the explainers of a program as retraces of one function.
    return traced_right(traced) if jit_compile else traced.get_concrete_function()


def signature(graph: Graph, target: Target) -> list[tf.TensorSpec]:
    """What a pass takes: the flat inputs and the tensors of a target, for any batch size."""
    found = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in graph.inputs]
    if target.kind in ("given", "weights"):
        several = [None] if target.several else []
        found.append(tf.TensorSpec([None, *several, *graph.outputs[0].shape], graph.dtype))
    elif target.mode != "top":
        found.append(tf.TensorSpec([None] * (1 if target.mode in ("class", "class_or_top") else 2), tf.int32))
    if target.contrast == "class":
        found.append(tf.TensorSpec([None], tf.int32))
    return found


def uses_xla(jit_compile: bool | str) -> bool:
    """Whether passes are compiled with XLA; "auto": if there is a GPU.

    Raises:
        ValueError: neither a bool nor "auto".
    """
    if jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    if not isinstance(jit_compile, bool):
        raise ValueError(f'jit_compile expects True, False or "auto". Received: {jit_compile!r}')
    return jit_compile


def beyond_xla(plan: Plan) -> bool:
    """Whether XLA cannot compile the derivative of the relevance: it lacks that of max pooling's own, and of loops."""
    handlers = {step: plan.handlers[step] for step in plan.graph.steps}
    return any(isinstance(h, WinnerTakesAll) or body_of(step) is not None for step, h in handlers.items())


def seal(run: Pass, found: Found, tensors: Sequence[tf.Tensor]) -> Found:
    """The same relevance, which refuses to be differentiated (`core.sealing`).

    Args:
        run, tensors: the pass that found it, and its arguments.
    """
    one = sealing(run, tensors)
    return found._replace(
        relevance=tf.nest.map_structure(one, found.relevance),
        layers=tf.nest.map_structure(one, found.layers),
        conservation=None if found.conservation is None else Conservation(*map(one, found.conservation)),
        amplification=None if found.amplification is None else one(found.amplification),
        begin=None if found.begin is None else one(found.begin),
    )


def sealing(run: Callable, tensors: Sequence[tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """What seals a tensor that a pass computed from these arguments, see `core.sealing`."""
    variables = getattr(run, "captured_inputs", None)  # unknown where functions run eagerly
    return functools.partial(sealed, sources=None if variables is None else [*tensors, *variables])


def in_reverse_only(found: Found) -> Found:
    """The same relevance; LookupError where a tf.autodiff.ForwardAccumulator follows it."""
    for relevance in found.relevance:
        refuse_forward_mode(relevance)
    return found


def joined(parts: list[Found]) -> Found:
    """The result for a batch from those for its parts: samples one after another, rows of steps summed."""
    rows = [part.steps for part in parts if part.steps is not None]
    found = one_after_another([part._replace(steps=None) for part in parts])
    return found._replace(steps=tf.add_n(rows) if rows else None)


def one_after_another(parts: Sequence[_Result]) -> _Result:
    """The same structure of tensors with the samples of all parts; None stays None."""
    if len(parts) == 1:
        return parts[0]
    return tf.nest.map_structure(lambda *values: None if values[0] is None else tf.concat(values, axis=0), *parts)


def from_tensors(
    plan: Plan,
    starts: Sequence[Ref],
    *,
    keep: Sequence[Ref] = (),
    hook: Hook | None = None,
    jit_compile: bool = False,
) -> Callable[..., list[tf.Tensor]]:
    """A compiled pass whose relevance starts at tensors of the graph, and not at a target.

    Args:
        plan: made for these starts, `make_plan(graph, composite, starts=starts)`.
        starts: any tensors, several outputs or inner ones.
        keep: tensors whose relevance is wanted, beside that of the inputs.
        hook: changes relevance on its way, see `propagate`.

    Returns:
        A function of the flat inputs and of the relevance that starts at each of `starts`, [B, ...] each. It returns
        the relevance of the inputs, in the order of `Graph.inputs`, and of `keep`.

    Raises:
        ValueError: the plan was not made for these starts.
    """
    inputs = plan.graph.inputs

    def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
        passed = propagation.forward(plan, tensors[: len(inputs)])
        given = dict(zip(starts, tensors[len(inputs) :], strict=True))
        relevance = propagation.propagate(plan, passed, given, hook=hook, keep=keep).relevance
        return [relevance[ref] for ref in (*inputs, *keep)]

    signature = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in inputs]
    signature += [tf.TensorSpec([None, *ref.shape], plan.graph.dtype) for ref in starts]
    return concrete(run, signature, jit_compile)


# For each call of a layer: the tensor that its output became, and the padding that leads back to the output.
_Kept = dict[str, list[tuple[Ref, list[Step]]]]


def _tensors_of(clone: Clone, name: str) -> list[tuple[Ref, list[Step]]]:
    graph = clone.graph
    found = [graph.resolve(ref) for call in graph.find_layer(name) for ref in call]
    known = {*graph.inputs, *(ref for step in graph.steps for ref in step.outputs)}
    if not known.issuperset(ref for ref, _ in found):
        raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
    return found


class _Back(NamedTuple):
    """The result of one backward pass; `shares` and `steps` are stacked, so that tf.map_fn can carry them."""

    relevance: list[tf.Tensor]
    layers: dict[str, list[tf.Tensor]]
    below: tf.Tensor | None  # [B], sum of |relevance| below the first steps to divide
    shares: tf.Tensor | None
    steps: tf.Tensor | None


def _backward(
    clone: Clone,
    forward: Forward,
    initial: tf.Tensor,
    *,
    keep: _Kept,
    request: Request,
    hook: Hook | None = None,
    propagators: dict[Step, Propagate] | None = None,
) -> _Back:
    graph, samples = clone.graph, tf.shape(initial)[0]
    absorbed = {name: tf.zeros([samples], request.books) for name in Account.NAMES}
    rows: dict[Step, tf.Tensor] = {}

    def observe(step: Step, arrived: list[tf.Tensor], sent: list[tf.Tensor | None], account: Account) -> None:
        for name, share in account.shares.items():
            absorbed[name] += share
        if request.steps:
            rows.update(account.rows or {})
            rows[step] = row_of(step, forward.values, arrived, [r for r in sent if r is not None], account).stack()

    relevance, below, given = clone.propagate(
        forward,
        initial,
        hook=hook,
        keep=[ref for pairs in keep.values() for ref, _ in pairs],
        propagators=propagators,
        observe=observe if request.account else None,
        books=request.books,
        rows=request.steps,
    )
    reached = [relevance[ref] for ref in graph.inputs]
    layers = {name: [_padded(relevance[ref], steps) for ref, steps in pairs] for name, pairs in keep.items()}
    shares = grown = table = None
    if not request.each:  # the first axis may hold several time steps of a sample
        sizes = [tf.reduce_sum(tf.abs(tf.reshape(r, tf.stack([samples, -1]))), axis=1) for r in below]
        grown = tf.add_n([tf.zeros([samples], graph.dtype), *sizes])
    if given is not None:  # it is part of the relevance of the inputs
        absorbed["positions"] -= tf.cast(given, request.books)
    if request.account:
        summed = functools.partial(sample_sum, dtype=request.books)
        arrived = tf.add_n([summed(r) for r in reached])
        shares = Shares(summed(tf.abs(initial)), summed(initial), arrived, **absorbed).stack()
    if request.steps:
        table = tf.stack([rows[step] if step in rows else no_row() for step, _ in reversed(clone.plan.every_step())])
    return _Back(reached, layers, grown, shares, table)


def _padded(relevance: tf.Tensor, steps: list[Step]) -> tf.Tensor:
    """Relevance behind padding that a convolution absorbed: the padding itself has none."""
    for step in steps:
        relevance = step.call(relevance)
    return relevance


def _each_target(
    backward: Callable[[tf.Tensor], _Back], initial: tf.Tensor, keep: _Kept, request: Request, clone: Clone
) -> _Back:
    """`backward` for each target of `initial` [k, B, ...], as [B, k, ...]; the forward pass is shared."""
    dtype = tf.as_dtype(clone.graph.dtype)
    whole = _Back(
        relevance=[dtype] * len(clone.graph.inputs),
        layers={name: [dtype] * len(pairs) for name, pairs in keep.items()},
        below=None if request.each else dtype,
        shares=request.books if request.account else None,
        steps=tf.float64 if request.steps else None,
    )
    signature = {name: part for name, part in whole._asdict().items() if part is not None}  # tf.map_fn takes no None

    def run(one: tf.Tensor) -> dict[str, object]:
        found = backward(one)._asdict()
        return {name: found[name] for name in signature}

    if side_by_side.vectorizes(clone.graph):
        found = side_by_side.in_groups(run, initial, signature)
    else:
        found = tf.map_fn(run, initial, fn_output_signature=signature)
    steps = tf.reduce_sum(found.pop("steps"), axis=0) if request.steps else None
    found = tf.nest.map_structure(_targets_behind_batch, found)
    return _Back(**{"below": None, "shares": None} | found, steps=steps)


def _targets_behind_batch(value: tf.Tensor) -> tf.Tensor:
    return tf.transpose(value, [1, 0, *range(2, value.shape.rank)])

"""Executes the steps as the model does and propagates relevance back; the gradient of the clone is the relevance."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from keras import tree
from tensorflow.python.eager import record

from lrp_tf.composites import Composite
from lrp_tf.core.account import Account
from lrp_tf.core.entering import hold
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.numerics import keep_largest
from lrp_tf.core.protocol import Propagator, Saved
from lrp_tf.core.sealing import sealed
from lrp_tf.engine.hidden import hidden_tensors, hidden_weights
from lrp_tf.engine.savings import positivity, rematerialization
from lrp_tf.engine.savings.marks import mark
from lrp_tf.rules import Rule
from lrp_tf.tracing.changes import Snapshot

# How many linear steps ahead of its use a kernel may be folded.
_AHEAD = 4

# Called for each step in the order of the backward pass, with the relevance of its outputs and of its inputs.
Observer = Callable[[Step, list[tf.Tensor], list[tf.Tensor], Account], None]


@dataclasses.dataclass
class Forward:
    """One forward pass: the value of every tensor, and what each step's backward pass needs."""

    values: dict[Ref, tf.Tensor]
    saved: dict[Step, Any]


BELOW_ZERO = (
    "An input has values below zero, though nonnegative=True declares that none ever has. Expected: inputs as they are "
    "fed, all >= 0. Remedy: leave nonnegative out."
)


NO_WEIGHTS = (
    "The clone has no gradient with respect to weights, only relevance with respect to its inputs. Expected: a tape "
    "that watches the clone's input, tape.watch(x). Received: a gradient through the clone, under a tape that watches "
    "weights but no input. Remedy: take gradients by weights through the model itself, and use "
    "tf.stop_gradient(clone(x)) where the values are constants"
)


class Clone:
    """A model rebuilt from its steps: the same values forward, relevance backward.

    Calling it gives the pre-softmax values, and `tape.gradient(clone(x), x, output_gradients=R_out)` is the relevance
    of x, through one `tf.custom_gradient` around the whole. It reads the model's weights at every call and has no
    gradient with respect to them: where the tape watches no input, asking for one is a LookupError; where it does, the
    gradient by weights is None, as TensorFlow says of what is not connected, since no one can tell what is asked for.
    The relevance itself has no gradient: a second derivative is a LookupError.
    """

    def __init__(
        self,
        graph: Graph,
        composite: Composite,
        relevance_filter: float | None = None,
        *,
        nonnegative: bool = False,
        fast: str | None = None,
    ) -> None:
        self.relevance_filter = _fraction(relevance_filter)
        self.nonnegative = nonnegative  # what the graph was canonized with
        self.composite = composite
        graph, handlers = hold(graph, composite.assign(graph))
        self.graph, self.handlers = mark(graph, handlers, fast=fast)
        self._rectifiers = positivity.shared_rectifiers(self.graph, self.handlers)
        self.heads = _heads(self.graph, self.handlers)
        self._makers = {ref: step for step in self.graph.steps for ref in step.outputs}
        self.hidden = hidden_tensors(self.graph, self.handlers)
        self.hidden_weights = hidden_weights(self.graph, self.handlers)
        self.reached: set[Ref] = set()  # tensors that relevance was seen to reach
        # How to make the same clone anew, and what of; None: it was made of a graph.
        self.recipe: Callable[[], Clone] | None = None
        self._snapshot: Snapshot | None = None

    @tf.autograph.experimental.do_not_convert  # in a function of the user: nothing to translate, and slow
    def __call__(self, inputs: Any) -> tf.Tensor:
        """Pre-softmax values [B, ...] for `inputs`, which have the structure of the model's inputs."""
        self.renew()

        @tf.custom_gradient
        def run(*flat: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            watched, place = record.should_record_backprop(flat) or not record.could_possibly_record(), _place()
            forward = self.forward(flat)

            def gradient(start: tf.Tensor, variables: Iterable | None = None) -> Any:
                # A tape around a tf.function asks in another graph, and for all that the function reads. Without any
                # tape it is tf.gradients that asks.
                if variables and not watched and _place() is place:
                    raise LookupError(NO_WEIGHTS)
                relevances = self.relevance(forward, start)
                found = [
                    sealed(tf.cast(relevances[ref], x.dtype)) if x.dtype.is_floating else None  # no gradient by ints
                    for ref, x in zip(self.graph.inputs, flat, strict=True)
                ]
                return (found, [None] * len(list(variables))) if variables is not None else found

            return self.output(forward), gradient

        tensors = [
            tf.cast(x, ref.dtype) if not tf.is_tensor(x) else x
            for x, ref in zip(tree.flatten(inputs), self.graph.inputs, strict=True)
        ]
        declared = self.as_declared(tensors)
        if not tf.executing_eagerly():
            tf.debugging.Assert(declared, [BELOW_ZERO])
        elif not declared:
            raise ValueError(BELOW_ZERO)
        return run(*tensors)

    def made_by(self, recipe: Callable[[], Clone], snapshot: Snapshot) -> Clone:
        """The clone, which from now on knows how it was made."""
        self.recipe, self._snapshot = recipe, snapshot
        return self

    def __reduce__(self) -> tuple:
        if self.recipe is None:
            raise TypeError("A Clone made of a graph cannot be pickled. Remedy: make it with lrp_tf.clone_with_rules.")
        return operator.call, (self.recipe,)

    def renew(self) -> None:
        """Become the clone of what the model is now, if a layer changed what it computes since this one was made."""
        if self.recipe is not None and self._snapshot is not None and self._snapshot.outdated():
            with tf.init_scope():
                vars(self).update(vars(self.recipe()))

    def as_declared(self, inputs: Iterable[tf.Tensor]) -> Any:
        """Whether no input is below zero, if so it was declared: True, or a boolean tensor."""
        inputs = [x for x in inputs if x.dtype.is_floating or x.dtype.is_integer] if self.nonnegative else []
        # Not ~(x < 0), which TensorFlow rewrites to x >= 0: NaN is said elsewhere, as what it is.
        return ~tf.reduce_any([tf.reduce_any(x < tf.zeros([], x.dtype)) for x in inputs]) if inputs else True

    def forward(self, inputs: Iterable[tf.Tensor]) -> Forward:
        """Run all steps on flat `inputs`."""
        forward = Forward({}, {})
        for ref, x in zip(self.graph.inputs, inputs, strict=True):
            # identity: two refs must never share a tensor.
            forward.values[ref] = tf.identity(tf.cast(x, self.graph.dtype) if x.dtype.is_floating else x)
        read: list[tf.Tensor] = []  # by linear steps
        for step in self.graph.steps:
            tensors = [forward.values[ref] for ref in step.inputs]
            # The shape: a ReLU that others wait for would not be fused with its convolution.
            read += [tf.shape(tensors[0])] if step.linear is not None and (step.before or step.after) else []
            with tf.name_scope(_scope(step)):
                source = forward.saved.get(self._rectifiers.get(step))
                known = source.rectified if isinstance(source, Saved) else None
                if known is None:
                    handler = self.handlers[step]
                    options = {}
                    if isinstance(handler, Rule) and (step.before or step.after):
                        options["fold_no_earlier_than"] = read[-_AHEAD:][:1]
                    outputs, forward.saved[step] = handler.forward(step, tensors, **options)
                else:  # the same tensor, for TensorFlow does not always see that two are one
                    outputs, forward.saved[step] = [known], (tensors, [known])
            # Variables of a model with a mixed policy, say.
            outputs = [tf.cast(y, self.graph.dtype) if y.dtype.is_floating else y for y in outputs]
            forward.values.update(zip(step.outputs, outputs, strict=True))
        return forward

    def output(self, forward: Forward) -> tf.Tensor:
        """The pre-softmax values."""
        return forward.values[self.graph.outputs[0]]

    def finish(self, values: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
        """The model's own output from the pre-softmax values: puts back what was stripped.

        Args:
            forward: the pass that gave the values; only a softmax with a mask needs it.
        """
        for step in self.graph.stripped:
            values = step.call(values, *[forward.values[ref] for ref in step.inputs[1:]])  # a softmax may have a mask
        return values

    def propagators(self, forward: Forward) -> dict[Step, Callable]:
        """The backward function of every step; all that needs no relevance is computed here, once."""
        found = {}
        for step in reversed(self.graph.steps):
            if not step.signals:
                continue
            with tf.name_scope(_scope(step)):
                found[step] = self.handlers[step].backward(step, forward.saved[step])
                if isinstance(found[step], Propagator):
                    found[step].precompute()
        return found

    def relevance(
        self,
        forward: Forward,
        start: tf.Tensor,
        *,
        keep: Iterable[Ref] = (),
        propagators: dict[Step, Callable] | None = None,
        observe: Observer | None = None,
        books: tf.DType = tf.float64,
        below_heads: list[tf.Tensor] | None = None,
    ) -> dict[Ref, tf.Tensor]:
        """Relevance of the model's inputs, and of the tensors in `keep`.

        Args:
            start: relevance of the output, in its shape.
            propagators: of `self.propagators`, to share them among several targets.
            observe: called for each step that relevance reached.
            books: dtype of the accounts that `observe` gets.
            below_heads: a list that what `heads` sent is added to, the samples along the first axis.
        """
        samples, first = tf.shape(start)[0], (self.graph.outputs[0],)
        saved = dict(forward.saved)
        found: dict[Ref, tf.Tensor] = {self.graph.outputs[0]: tf.cast(start, self.graph.dtype)}
        for step in reversed(self.graph.steps):
            arrived = [found.get(ref) for ref in step.outputs]
            if all(r is None for r in arrived):
                continue
            if not step.signals:
                if observe is not None:
                    arrived = [r for r in arrived if r is not None]
                    observe(step, arrived, [], _absorbed(arrived, Account(samples, dtype=books)))
                continue
            pairs = zip(arrived, step.outputs, strict=True)
            arrived = [tf.zeros_like(forward.values[ref]) if r is None else r for r, ref in pairs]
            account = Account(samples, step.outputs[0].axis, books) if observe is not None else None
            with tf.name_scope(_scope(step)):
                kept = arrived
                if self.relevance_filter is not None and step.linear is not None and step.outputs != first:
                    kept = [keep_largest(arrived[0], self.relevance_filter, samples)]
                    if account is not None:
                        account.add("filter", arrived[0] - kept[0])
                propagate = propagators[step] if propagators else None
                if propagate is None:
                    # Not before the relevance arrives: the memory of one layer serves the next.
                    with tf.control_dependencies(kept):
                        if step.marks.recomputed_summand is not None:
                            maker = self._makers[step.inputs[step.marks.recomputed_summand]]
                            saved[step], saved[maker] = rematerialization.recompute(step, saved[step], saved[maker])
                        propagate = self.handlers[step].backward(step, saved[step])
                sent = propagate(kept, account)
            self._check_shapes(step, forward, sent)
            if observe is not None:
                observe(step, arrived, sent, account)
            if below_heads is not None and step in self.heads:
                below_heads += [
                    _samples_first(r, ref) for r, ref in zip(sent, step.inputs, strict=True) if r is not None
                ]
            for ref, relevance in zip(step.inputs, sent, strict=True):
                if relevance is not None:
                    found[ref] = found[ref] + relevance if ref in found else relevance
        self.reached.update(found)
        for ref in (*self.graph.inputs, *keep):
            if ref not in found:
                found[ref] = tf.zeros_like(forward.values[ref], dtype=self.graph.dtype)
        return found

    def _check_shapes(self, step: Step, forward: Forward, sent: list[tf.Tensor | None]) -> None:
        """A PassThrough for what sums, say: the steps below would broadcast what they get."""
        for ref, relevance in zip(step.inputs, sent, strict=True):
            expected = forward.values[ref].shape
            if relevance is not None and not relevance.shape[1:].is_compatible_with(expected[1:]):
                raise ValueError(
                    f"{self.handlers[step]!r} gives relevance of the wrong shape to the input of {step.path!r} "
                    f"({step.operation}). Expected: {tuple(expected)}, as the input. Received: "
                    f"{tuple(relevance.shape)}. Remedy: a flow or rule that fits what the layer does, Share() for "
                    "sums, say; see docs/extending.md."
                )


def _heads(graph: Graph, handlers: dict[Step, Any]) -> set[Step]:
    """The steps that share out the start relevance itself: the first to divide on each way back from the output.

    A start on an output that is nearly 0 grows there, up to 1 / epsilon times, by what LRP says: its contributions
    cancel. What grows below is no work of the start.
    """
    start, found = {graph.outputs[0]}, set()
    for step in reversed(graph.steps):
        if step.signals and not start.isdisjoint(step.outputs):
            if handlers[step].divides:
                found.add(step)
            else:
                start.update(step.inputs[i] for i in step.signals)
    return found


def _samples_first(relevance: tf.Tensor, ref: Ref) -> tf.Tensor:
    rank = relevance.shape.rank
    return tf.transpose(relevance, [ref.axis, *(i for i in range(rank) if i != ref.axis)]) if ref.axis else relevance


def _place() -> tf.Graph | None:
    """The graph that operations are added to; None: they run at once."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _fraction(relevance_filter: float | None) -> float | None:
    if relevance_filter is None:
        return None
    number = isinstance(relevance_filter, (int, float)) and not isinstance(relevance_filter, bool)
    if not number or not 0 < relevance_filter <= 1:
        raise ValueError(
            "relevance_filter expects the fraction of entries to keep, above 0 and up to 1, or None for all. "
            f"Received: {relevance_filter!r}"
        )
    return None if relevance_filter == 1 else float(relevance_filter)


def _absorbed(relevances: list[tf.Tensor], account: Account) -> Account:
    """The account of a step that no input can change: all ends there."""
    for relevance in relevances:
        account.add("bias", relevance)
    return account


def _scope(step: Step) -> str:
    """A name that TensorFlow accepts: profiles and traces then show the layers."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in f"lrp_{step.path}")

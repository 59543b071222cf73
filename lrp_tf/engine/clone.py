"""The clone of a model: a callable with the values of the model, whose gradient is the relevance."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.eager import record

from lrp_tf import composites, flows
from lrp_tf.composites import Composite
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler, Propagate
from lrp_tf.core.sealing import refuse_forward_mode, sealed
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.canonize import canonize, choose_output
from lrp_tf.engine.orders import Order, Orders
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.planning import make_plan
from lrp_tf.engine.propagate import Forward, Hook, Observer, Propagated
from lrp_tf.engine.targets import Inputs
from lrp_tf.rules import Rule
from lrp_tf.tracing.changes import Snapshot
from lrp_tf.tracing.follow import trace
from lrp_tf.tracing.sizes import Sizes

BELOW_ZERO = (
    "An input has values below zero, though nonnegative=True declares that none ever has. Expected: inputs as they are "
    "fed, all >= 0. Remedy: leave nonnegative out."
)


class Clone:
    """A model rebuilt from its steps: the same values forward, relevance backward.

    Calling it gives the pre-softmax values, and `tape.gradient(clone(x), x, output_gradients=R_out)` is the relevance
    of x, through one `tf.custom_gradient` around the whole. It reads the model's weights at every call; the gradient by
    them is the ordinary one. The relevance may be differentiated again by a tape around, which then gets the ordinary
    gradient of the values, too; docs/training-on-relevance.md says where this is refused with a LookupError.

    Args:
        graph: canonized.
        composite: assigns the rules and flows.
        relevance_filter, nonnegative, fast, recompute, positions: see `Explainer`; the graph was canonized with the
            same `nonnegative`.

    Raises:
        ValueError: a wrong `relevance_filter`; see also `make_plan`.
    """

    def __init__(
        self,
        graph: Graph,
        composite: Composite,
        relevance_filter: float | None = None,
        *,
        nonnegative: bool = False,
        fast: str | None = None,
        recompute: bool = False,
        positions: str | None = None,
    ) -> None:
        self.relevance_filter = _fraction(relevance_filter)
        self.nonnegative = nonnegative
        self.composite = composite
        self.plan: Plan = make_plan(graph, composite, fast=fast, recompute=recompute, positions=positions)
        # Makes the same clone again; None where it was made from a graph.
        self.recipe: Callable[[], Clone] | None = None
        self._snapshot: Snapshot | None = None

    @tf.autograph.experimental.do_not_convert  # inside a user's tf.function AutoGraph would be slow, for nothing
    def __call__(self, inputs: Inputs) -> tf.Tensor:
        """Pre-softmax values [B, ...] for `inputs`, which have the structure of the model's inputs."""
        self.renew()

        @tf.custom_gradient
        def run(*flat: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            orders = Orders(flat)
            # Not recorded: a tape would keep the values that are to be computed again.
            with record.stop_recording() if self.recomputes else contextlib.nullcontext():
                forward = propagation.forward(self.plan, flat, lean=True)

            def gradient(initial: tf.Tensor, variables: Iterable[tf.Variable] | None = None) -> list | tuple:
                # A tape around a tf.function calls this in another graph, with every variable that the function reads.
                order, weights = orders.next(list(variables or ()))
                inputs = list(flat) if order is Order.ORDINARY else []
                found, by_weights = self._ordinary(flat, initial, inputs, weights)
                if order in (Order.RELEVANCE, Order.SEALED):
                    found = self._relevance(flat, forward, initial, order)
                elif order is Order.NOTHING:
                    found = [None] * len(flat)
                if variables is None:
                    return found
                each = {v.ref(): g for v, g in zip(weights, by_weights, strict=True)}
                return found, [each.get(v.ref()) for v in variables]

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

    def _relevance(
        self, flat: Sequence[tf.Tensor], forward: Forward, initial: tf.Tensor, order: Order
    ) -> list[tf.Tensor | None]:
        """The relevance of the flat inputs, in their dtypes; None for integers, which have no gradient."""
        if self.recomputes and record.could_possibly_record():  # by a tape that differentiates the relevance
            forward = propagation.forward(self.plan, flat)
        relevances = self.propagate(forward, initial).relevance
        found: list[tf.Tensor | None] = []
        for ref, x in zip(self.graph.inputs, flat, strict=True):
            r = tf.cast(relevances[ref], x.dtype) if x.dtype.is_floating else None
            if r is not None and order is Order.SEALED:
                r = sealed(r)
            elif r is not None:
                refuse_forward_mode(r)
            found.append(r)
        return found

    def _ordinary(
        self,
        flat: Sequence[tf.Tensor],
        initial: tf.Tensor,
        inputs: list[tf.Tensor],
        weights: list[tf.Variable],
    ) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None]]:
        """The gradient of the values by `inputs`, some of `flat`, and by `weights`; they are computed once more."""
        if not inputs and not weights:
            return [], []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x for x in inputs if x.dtype.is_floating])
            tape.watch(weights)
            values = self.output(propagation.forward(self.plan, flat))
        found = tape.gradient(values, [inputs, weights], tf.cast(initial, values.dtype))
        return found[0], found[1]

    def made_by(self, recipe: Callable[[], Clone], snapshot: Snapshot) -> Clone:
        """The clone itself, with the recipe that `renew` and pickle make it from."""
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

    def as_declared(self, inputs: Iterable[tf.Tensor]) -> bool | tf.Tensor:
        """Whether the inputs keep what `nonnegative` declared: True, or a scalar boolean tensor."""
        inputs = [x for x in inputs if x.dtype.is_floating or x.dtype.is_integer] if self.nonnegative else []
        # NaN passes here, since other errors name it. Negating each comparison would not let it pass: TensorFlow
        # rewrites ~(x < 0) to x >= 0.
        return ~tf.reduce_any([tf.reduce_any(x < tf.zeros([], x.dtype)) for x in inputs]) if inputs else True

    @property
    def graph(self) -> Graph:
        """The canonized graph."""
        return self.plan.graph

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes values again instead of keeping them."""
        return len(self.plan.segments) > 1

    @property
    def handlers(self) -> dict[Step, Handler]:
        """The rule or flow of every step."""
        return self.plan.handlers

    def forward(self, inputs: Iterable[tf.Tensor]) -> Forward:
        """Run all steps on the flat `inputs`, [B, ...] each."""
        return propagation.forward(self.plan, inputs)

    def output(self, forward: Forward) -> tf.Tensor:
        """The pre-softmax values."""
        return forward.values[self.graph.outputs[0]]

    def finish(self, values: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
        """The model's own output from the pre-softmax values: puts back what was stripped.

        Args:
            forward: the pass that gave the values; needed for a softmax with a mask.

        Raises:
            ValueError: `forward` is needed and missing.
        """
        for step in self.graph.stripped:
            masks = step.inputs[1:]
            if masks and forward is None:
                raise ValueError(
                    f"The {step.operation} at the output ({step.path}) has a mask. Expected: finish(values, forward), "
                    "the pass that gave the values. Received: values alone."
                )
            values = step.call(values, *([] if forward is None else [forward.values[ref] for ref in masks]))
        return values

    def structured(self, relevances: Sequence[tf.Tensor | None]) -> Any:
        """Relevance of the flat inputs in the structure of the model's inputs and in their float dtypes.

        An integer input has it in the dtype of the rules, or None where no relevance reaches it. None stays None.
        """
        return structured(self.graph, self.plan.reached, relevances)

    def propagators(self, forward: Forward) -> dict[Step, Propagate]:
        """The backward function of every step, to share among several targets."""
        return propagation.propagators(self.plan, forward)

    def propagate(
        self,
        forward: Forward,
        initial: tf.Tensor,
        *,
        hook: Hook | None = None,
        keep: Iterable[Ref] = (),
        propagators: dict[Step, Propagate] | None = None,
        observe: Observer | None = None,
        books: tf.DType = tf.float64,
        rows: bool = False,
    ) -> Propagated:
        """`propagate` from relevance of the output, `initial`, in its shape.

        Args:
            hook: runs before the relevance filter, so that the filter chooses among what the hook leaves.
        """
        if self.relevance_filter is not None:
            largest = propagation.largest(self.relevance_filter, tf.shape(initial)[0], self.plan.starts)
            hook = largest if hook is None else propagation.in_turn(hook, largest)
        return propagation.propagate(
            self.plan,
            forward,
            {self.graph.outputs[0]: initial},
            hook=hook,
            keep=keep,
            propagators=propagators,
            observe=observe,
            books=books,
            rows=rows,
        )


def clone_with_rules(
    model: keras.Model,
    composite: str | Composite | Rule = "epsilon_plus_flat",
    *,
    output: int | str | None = None,
    relevance_filter: float | None = None,
    nonnegative: bool = False,
    fast: str | None = None,
    recompute: bool = False,
    sizes: Sizes | None = None,
    positions: str | None = None,
    **options: Any,
) -> Clone:
    """A callable with the pre-softmax values of `model`, whose gradient is the relevance.

        clone = lrp_tf.clone_with_rules(model, "epsilon_plus")
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        R = tape.gradient(z, x, output_gradients=start)

    Args:
        model: a Keras 3 model; it is left untouched and its weights are read at every call.
        composite: see `composites.get`.
        output: name or index of the output, for models with several.
        relevance_filter, nonnegative, fast, recompute, sizes, positions: see `Explainer`.
        **options: of the preset that `composite` names, see `composites.get`.

    Raises:
        TypeError, ValueError: as `Explainer`.
    """
    composite = composites.get(composite, **options)  # first: it fails faster than tracing the model
    recipe = functools.partial(
        clone_with_rules,
        model,
        composite,
        output=output,
        relevance_filter=relevance_filter,
        nonnegative=nonnegative,
        fast=fast,
        recompute=recompute,
        sizes=sizes,
        positions=positions,
    )
    graph = trace(model, lambda step: flows.keeps(step) or composite.claims(step), sizes)
    snapshot = Snapshot(model)
    nonnegative = bool(nonnegative)
    graph = canonize(graph, [choose_output(graph, output)], nonnegative, composite.canonizers)
    clone = Clone(
        graph,
        composite,
        relevance_filter,
        nonnegative=nonnegative,
        fast=fast,
        recompute=recompute,
        positions=positions,
    )
    return clone.made_by(recipe, snapshot)


def structured(graph: Graph, reached: Iterable[Ref], relevances: Sequence[tf.Tensor | None]) -> Any:
    """See `Clone.structured`.

    Args:
        reached: the inputs that relevance reaches.
    """
    by_ref = dict(zip(graph.inputs, relevances, strict=True))

    def pick(ref: Ref) -> tf.Tensor | None:
        found = by_ref[ref]
        if found is not None and tf.as_dtype(ref.dtype).is_floating:
            return tf.cast(found, ref.dtype)
        return found if ref in reached else None

    return tree.map_structure(pick, graph.input_structure)


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

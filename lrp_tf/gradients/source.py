"""What methods ask of a model: the weights of its outputs that a target means, and relevance at any points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from lrp_tf.core.graph import Graph
from lrp_tf.engine import diagnosis, initial, passes
from lrp_tf.engine.clone import BELOW_ZERO, Clone
from lrp_tf.engine.passes import Request, Verdict
from lrp_tf.engine.propagate import Forward
from lrp_tf.engine.targets import Target, Targets
from lrp_tf.explainer import Explainer

# Arguments of a compiled function: flat inputs, weights, and what else a method passes.
Function = Callable[..., tuple[object, Verdict]]


class Weights(NamedTuple):
    """What is explained: the sum of the pre-softmax values z, each times its weight.

    Attributes:
        values: one for each output, [B, ...], or [B, k, ...] for k targets.
        several: whether there are k targets.
        times_output: relevance starts as weight times z at each point, and not as the weight.
    """

    values: tf.Tensor
    several: bool
    times_output: bool

    @property
    def target(self) -> Target:
        """The target of a pass that takes the weights as its argument."""
        kind = "weights" if self.times_output else "given"
        return Target("starts" if self.several else "given", kind, None)

    def spec(self, graph: Graph) -> tf.TensorSpec:
        """Shape and dtype of the values, for any number of samples and targets."""
        shape = [None] * (2 if self.several else 1) + list(graph.outputs[0].shape)
        return tf.TensorSpec(shape, graph.dtype)


class Source:
    """The compiled functions of one explainer.

    Args:
        method: the name of the method that asks, for messages.
        needs_gradient: it asks for more than values.

    Raises:
        ValueError: it needs a gradient, and no input of the model has one.
    """

    def __init__(self, explainer: Explainer, method: str, needs_gradient: bool = True) -> None:
        self.explainer, self._method = explainer, method
        self._compiled: dict[tuple, Function] = {}
        self._compiled_of: Graph | None = None
        self.renew()
        if needs_gradient and not self.clone.plan.reached.intersection(self.clone.graph.inputs):
            raise ValueError(
                f"{method} needs an input that the output has a gradient with respect to. Received: "
                f"{self.clone.graph.model.name!r}, whose inputs are indices "
                f"({', '.join(f'{n} {r.dtype}' for n, r in self._inputs())}). Remedy: the part of the model behind its "
                "Embedding; or a composite of LRP, as in Explainer(model)"
            )

    def _inputs(self) -> list[tuple]:
        return list(zip(self.clone.graph.input_names, self.clone.graph.inputs, strict=True))

    @property
    def clone(self) -> Clone:
        """The clone of the explainer."""
        return self.explainer.clone

    def renew(self) -> None:
        """Follow a model whose layers changed what they compute, see `Explainer.renew`."""
        self.explainer.renew()
        if self._compiled_of is not self.clone.graph:
            self._compiled, self._compiled_of = {}, self.clone.graph

    def weights(self, inputs: list[tf.Tensor], wanted: Target) -> Weights:
        """The weights that a target means at `inputs`.

        Raises:
            ValueError: a target out of range.
        """
        if wanted.kind == "given":
            assert wanted.tensor is not None  # by its kind
            return Weights(wanted.tensor, wanted.several, False)
        one = wanted._replace(kind="one")

        def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Verdict]:
            chosen, flat = one.holding(tensors[len(inputs) :]), tensors[: len(inputs)]
            logits = self.clone.output(self.clone.forward(flat))
            _, found, in_range = initial.initial_relevance(chosen, logits)
            found = tf.transpose(found, [1, 0, *range(2, found.shape.rank)]) if wanted.several else found
            verdict = Verdict(tf.constant(True) & self.clone.as_declared(flat), in_range, tf.constant(True))
            return found, verdict

        key = ("weights", wanted.mode, wanted.contrast)
        found = self.run(key, run, inputs, of_target(wanted), wanted=wanted)
        return Weights(found, wanted.several, wanted.kind == "output")

    def value(self, inputs: list[tf.Tensor], weights: tf.Tensor, several: bool) -> tuple[tf.Tensor, Verdict]:
        """The explained value of each sample, [B] or [B, k], and the verdict: symbolic, for a compiled function."""
        forward = self.clone.forward(inputs)
        z = self.clone.output(forward)
        z = z[:, None] if several else z
        found = tf.reduce_sum(weights * z, axis=list(range(2 if several else 1, weights.shape.rank)))
        return found, self.verdict(inputs, forward, [found])

    def verdict(self, inputs: list[tf.Tensor], forward: Forward, found: list[tf.Tensor]) -> Verdict:
        """Whether `found` can be relied on."""
        yes = tf.constant(True)
        return Verdict(
            yes & self.clone.as_declared(inputs), yes, diagnosis.finite(self.clone, inputs, forward, found, False)
        )

    def run(
        self,
        key: tuple,
        function: Function,
        inputs: list[tf.Tensor],
        more: list[tuple[tf.Tensor, tf.TensorSpec]],
        weights: Weights | None = None,
        wanted: Target | None = None,
    ) -> Any:
        """Run a function of tensors, compiled once for each key and for any batch size.

        Args:
            function: of the flat inputs and of more tensors; gives its result and a verdict on it.
            more: these tensors, each with the shape and dtype that the function is compiled for.
            weights, wanted: for the messages, if there is NaN or Inf, or if a target is out of range.

        Raises:
            ValueError: what the verdict says; SameClassError: a target is the class that it is set against.
        """
        eager = tf.config.functions_run_eagerly()
        key = (*key, eager)
        if key not in self._compiled:
            self._compiled[key] = function if eager else self._traced(function, [spec for _, spec in more])
        found, verdict = self._compiled[key](*inputs, *[t for t, _ in more])
        if not tf.executing_eagerly():
            tf.debugging.Assert(verdict.declared, [BELOW_ZERO])
            tf.debugging.Assert(verdict.in_range, ["target out of range, or the class of contrast itself"])
            tf.debugging.Assert(verdict.finite, [f"NaN or Inf in {self._method}"])
        elif not verdict.declared:
            raise ValueError(BELOW_ZERO)
        elif not verdict.in_range:
            assert wanted is not None  # given weights are in range
            initial.refuse(wanted, self.clone.output(self.clone.forward(inputs)), _received(wanted))
        elif not verdict.finite:
            self._raise_where_it_began(inputs, weights)
        return found

    def _traced(self, function: Function, more: list[tf.TensorSpec]) -> Function:
        signature = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in self.clone.graph.inputs] + more
        return passes.concrete(function, signature, self.explainer.jit_compile)

    def _raise_where_it_began(self, inputs: list[tf.Tensor], weights: Weights | None) -> None:
        if weights is None:
            first = tf.ones_like(self.clone.output(self.clone.forward(inputs)))
        else:
            values = weights.values
            first = values[:, diagnosis.first_bad_target([values])] if weights.several else values
        diagnosis.raise_where_it_began(self.clone, inputs, first, [])
        raise ValueError(
            f"{self._method} is NaN or Inf. Expected finite values at all points that it asks for. Received: finite "
            "values at the inputs themselves. Remedy: a baseline, fill or noise for which the model is finite"
        )


def _received(wanted: Target) -> Targets:
    return None if wanted.tensor is None else wanted.tensor.numpy().tolist()


def of_target(wanted: Target) -> list[tuple[tf.Tensor, tf.TensorSpec]]:
    """The tensors of a target by class, rank or index, each with its shape for any number of samples and targets."""
    return [(t, tf.TensorSpec([None] * t.shape.rank, t.dtype)) for t in wanted.tensors]


def folded(points: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Points of every sample, [d, B, ...], as a batch [d * B, ...] with the static shape of x."""
    found = tf.reshape(points, tf.concat([[-1], tf.shape(points)[2:]], 0))
    found.set_shape([None, *x.shape[1:]])
    return found


def repeated(values: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
    """Weights [B, ...] for such a batch, [d * B, ...]; `times` is d."""
    return tf.tile(values, tf.concat([times[None], tf.ones([values.shape.rank - 1], tf.int32)], 0))


def pass_of(source: Source, weights: Weights, points: list[tf.Tensor], values: tf.Tensor) -> tuple[list, Verdict]:
    """Relevance at `points` and the verdict on it: symbolic, for a function that is compiled."""
    found, verdict = passes.plain(source.clone, weights.target, Request())(*points, values)
    return found.relevance, verdict

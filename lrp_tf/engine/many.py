"""Many composites of one model at once: what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from lrp_tf import composites as presets
from lrp_tf import flows
from lrp_tf.composites import Composite
from lrp_tf.core.graph import Graph, Step
from lrp_tf.engine import initial, passes, shared, targets
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.canonize import canonize, choose_output
from lrp_tf.engine.clone import structured
from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.planning import make_plan
from lrp_tf.engine.savings import switch
from lrp_tf.engine.savings.targets import vectorizes
from lrp_tf.engine.targets import Inputs, Target, Targets
from lrp_tf.rules import Rule
from lrp_tf.tracing.changes import Snapshot
from lrp_tf.tracing.follow import trace
from lrp_tf.tracing.sizes import Sizes

Compositelike = str | Composite | Rule
# Flat inputs and the tensors of a target -> relevance of the flat inputs for each composite, logits, whether all is in
# range.
_Pass = Callable[..., tuple[list[list[tf.Tensor]], tf.Tensor, tf.Tensor]]


class Many:
    """Explains one model by several composites, for much less than as many explainers cost.

        explain = many.Many(model, [composites.get("epsilon_plus"), rules.Gamma(0.1), rules.Gamma(0.5)])
        first, second, third = explain(x, target)

    There is one forward pass. Rules that read the same step share its sums; composites that agree on a step and on all
    steps above it share the relevance there; those that agree on it and differ above run side by side. Relevance equals
    that of each composite's own `Explainer` up to rounding.

    Args:
        model: a Keras 3 model; its weights are read at every call.
        composites: see `composites.get`.
        output, nonnegative, sizes: as the Explainer's.
        share: False computes every composite by itself, from its own forward pass, for whoever debugs.

    Raises:
        TypeError, ValueError: as `Explainer`; no composites; composites with canonizers of their own, or that keep
            different layers in one piece.
    """

    def __init__(
        self,
        model: keras.Model,
        composites: Sequence[Compositelike],
        *,
        output: int | str | None = None,
        nonnegative: bool = False,
        sizes: Sizes | None = None,
        share: bool = True,
    ) -> None:
        if isinstance(composites, (str, Composite, Rule)) or not list(composites):
            raise ValueError(f"Many expects a list of composites, one at least. Received: {composites!r}")
        self.model, self.composites = model, [presets.get(composite) for composite in composites]
        self.share = share and switch.are_on()
        self._output, self._nonnegative, self._sizes = output, bool(nonnegative), sizes
        self._build()

    def __len__(self) -> int:
        return len(self.composites)

    def _build(self) -> None:
        traced = trace(self.model, self._keeps, self._sizes)
        self._snapshot = Snapshot(self.model)
        chosen = [choose_output(traced, self._output)]
        self.graph: Graph = canonize(traced, chosen, self._nonnegative, self._canonizers())
        self.plans: list[Plan] = [make_plan(self.graph, composite) for composite in self.composites]
        self._compiled: dict[_Key, _Pass] = {}

    def _canonizers(self) -> Any:
        first = self.composites[0].canonizers
        for composite in self.composites:
            if composite.canonizers != first:
                raise ValueError(
                    "Many expects composites with the same canonizers: they share one graph. Received: "
                    f"{self.composites[0].name!r} and {composite.name!r}, which differ. Remedy: an Explainer for each"
                )
        return first

    def _keeps(self, step: Step) -> bool:
        """Whether a layer stays in one piece."""
        if flows.keeps(step):
            return True
        claims = [composite.claims(step) for composite in self.composites]
        if any(claims) and not all(claims):
            names = [self.composites[claims.index(value)].name for value in (True, False)]
            raise ValueError(
                f"Many expects composites that keep the same layers in one piece: they share one graph. Received: "
                f"{names[0]!r}, which gives {step.path!r} a flow, and {names[1]!r}, which does not. Remedy: an "
                "Explainer for each"
            )
        return claims[0]

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self, x: Inputs, target: Targets = None, *, start: str = "output", contrast: Contrast = None
    ) -> list[Any]:
        """Relevance by each composite, in their order, as `Explainer.__call__` returns it for one target a sample.

        Args:
            x, target, contrast: as there. start: "output" or "one".

        Raises:
            ValueError: wrong shapes, an empty batch, several targets, a target out of range. NaN and Inf are no error:
                one composite may be unsound where the others are not.
        """
        if self._snapshot.outdated():
            self._build()
        inputs = targets.inputs(self.graph, x)
        chosen = targets.checked(self.graph, target, start, inputs[0])
        chosen = targets.against(self.graph, chosen, contrast, inputs[0])
        if chosen.several:
            raise ValueError(
                f"Many expects one target for each sample. Received: {target!r}. Remedy: a call for each target"
            )
        key = _Key(chosen.mode, chosen.kind, chosen.contrast, tf.config.functions_run_eagerly())
        if key not in self._compiled:
            self._compiled[key] = self._pass(chosen)
        relevance, logits, in_range = self._compiled[key](*inputs, *chosen.tensors)
        if not tf.executing_eagerly():
            tf.debugging.Assert(in_range, ["target out of range, or the class of contrast itself"])
        elif not in_range:
            initial.refuse(chosen, logits, target)
        found = zip(self.plans, relevance, strict=True)
        return [structured(self.graph, plan.reached, values) for plan, values in found]

    def _pass(self, target: Target) -> _Pass:
        """Compiled for any batch size."""
        count = len(self.graph.inputs)

        def run(*tensors: tf.Tensor) -> tuple[list[list[tf.Tensor]], tf.Tensor, tf.Tensor]:
            inputs = tensors[:count]
            own = [propagation.forward(plan, inputs) for plan in (self.plans[:1] if self.share else self.plans)]
            logits = own[0].values[self.graph.outputs[0]]
            _, begin, in_range = initial.initial_relevance(target.holding(tensors[count:]), logits)
            if self.share:
                forwards = shared.forward(self.plans, own[0])
                side_by_side = vectorizes(self.plans[0].graph)
                found = shared.propagate(self.plans, forwards, begin, vectorized=side_by_side)
            else:
                found = [self._alone(plan, forward, begin) for plan, forward in zip(self.plans, own, strict=True)]
            return found, logits, tf.convert_to_tensor(in_range)

        if tf.config.functions_run_eagerly():
            return run
        signature = passes.signature(self.graph, target)
        return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()

    def _alone(self, plan: Plan, forward: propagation.Forward, begin: tf.Tensor) -> list[tf.Tensor]:
        found = propagation.propagate(plan, forward, {plan.graph.outputs[0]: begin})
        return [found.relevance[ref] for ref in plan.graph.inputs]


class _Key(NamedTuple):
    """Calls that share a compiled pass."""

    mode: str
    kind: str
    contrast: str | None
    eagerly: bool

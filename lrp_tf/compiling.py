"""What an explainer compiles: the clone of its model, and passes, made on demand or read from a file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf.composites import Composite
from lrp_tf.core.graph import Graph
from lrp_tf.engine import check as checks
from lrp_tf.engine import diagnosis, initial, passes, streams, targets
from lrp_tf.engine.clone import BELOW_ZERO, Clone, structured
from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.passes import Found, Key, Pass, Request, Verdict
from lrp_tf.engine.savings import bfloat16
from lrp_tf.engine.targets import Initial, Inputs, Target, Targets
from lrp_tf.saved import functions
from lrp_tf.saved.archive import Saved


class Compiling:
    """The part of an `Explainer` that compiles and runs passes; its other part is the face."""

    model: keras.Model
    max_batch: int | None
    _chosen: dict[str, Any]  # the options of the explainer
    _origin: Any = None  # what `lrp_tf.Recipe` left, see there

    def _begin(self, model: keras.Model, make: Callable[..., Clone], saved: Saved | None = None) -> None:
        """The rest of `__init__`, once `_chosen` is there.

        Args:
            make: makes the clone out of those options that concern it.
            saved: passes that need no clone; it is made as soon as something else is asked for.
        """
        chosen = dict(self._chosen)
        self.model, self._saved = model, saved
        self.max_batch = streams.checked_size(chosen.pop("max_batch"), "max_batch")
        self.jit_compile = passes.uses_xla(chosen.pop("jit_compile"))
        self._check = chosen.pop("check")
        chosen["fast"] = bfloat16.where_compiled(chosen["fast"], self.jit_compile)
        self._make = functools.partial(make, **chosen)
        self._clone: Clone | None = None
        self._compiled: dict[Key, Pass] = {}
        self._shapes: dict[Key, list[tuple[int | None, ...]]] = {}  # of what each was called with first
        self._conditional: dict[Any, Callable] = {}  # passes under conditions; no file holds them
        self._compiled_of: Graph | None = None
        self._unchecked = saved is not None and saved.unchecked
        self.renew()

    @property
    def recipe(self) -> Any:
        """The `lrp_tf.Recipe` that it was built from.

            recipe = lrp_tf.Recipe("model.keras", "epsilon").explainer().recipe

        Raises:
            TypeError: it was built from a model in memory.
        """
        if self._origin is None:
            raise TypeError(
                f"{self!r} has no recipe. Expected one that was built from a file. Received: one of a model in memory. "
                'Remedy: model.save("model.keras") and lrp_tf.Recipe("model.keras", composite).explainer()'
            )
        return self._origin.recipe

    def come_from(self, origin: Any) -> None:
        """Note what it was built from, see `recipe.Origin`."""
        self._origin = origin

    @property
    def clone(self) -> Clone:
        """The clone of the model. A loaded explainer builds it when it is needed first."""
        if self._clone is None:
            self._clone = self._make()
            if self._saved is not None:
                self._compiled_of = self._clone.graph
        return self._clone

    @property
    def graph(self) -> Graph:
        """The canonized graph."""
        return self.clone.graph

    @property
    def _outline(self) -> Graph:
        """The inputs and the output of the graph, all that saved passes need of it."""
        return self.graph if self._saved is None else self._saved.graph

    @property
    def composite(self) -> Composite:
        """The composite that assigned the rules."""
        return self.clone.composite if self._saved is None else self._saved.composite

    def renew(self) -> None:
        """Build anew if a layer of the model changed what it computes: LoRA, another activation, other weights.

        Every call does this. It takes well under a millisecond if nothing changed.
        """
        if self._saved is not None and self._saved.snapshot.outdated():
            self._saved = None
        if self._saved is not None and self._clone is None:
            return
        self.clone.renew()
        if self._compiled_of is not self.clone.graph:
            self._compiled, self._conditional, self._compiled_of = {}, {}, self.clone.graph
            self._unchecked = checks.concerns(self.graph) if self._check is None else bool(self._check)

    def check_once(self, inputs: list[tf.Tensor], logits: tf.Tensor) -> None:
        """Check the clone on the first batch, if the explainer was told so or has to.

        Args:
            inputs, logits: flat inputs, finite, and the pre-softmax values that a pass gave for them.
        """
        if self._unchecked and tf.executing_eagerly():
            self._unchecked = False
            checks.raise_unless_sound(checks.check(self.clone, inputs, logits, self.composite.name))

    # --- one compiled pass for each kind of call -----------------------------------------------

    @tf.autograph.experimental.do_not_convert  # inside a user's tf.function AutoGraph would be slow, for nothing
    def _run(
        self,
        x: Inputs,
        target: Targets,
        start: Initial,
        request: Request,
        *,
        check: bool = True,
        contrast: Contrast = None,
        max_batch: int | None = None,
    ) -> Found:
        inputs, chosen = self._checked(x, target, start, contrast)
        parts = self._parts(inputs, max_batch)
        if parts is None:
            found = self._run_whole(inputs, chosen, request, check, target)
        else:
            found = passes.joined(
                [self._run_whole([x[p] for x in inputs], chosen.part(p), request, check, target) for p in parts]
            )
        divides = self.clone.plan.heads if self._saved is None else self._saved.divides
        if check and tf.executing_eagerly() and divides:  # else nothing can be amplified
            diagnosis.advise(found.amplification, found.begin, found.conservation, self.composite.name)
        return found

    def _checked(
        self, x: Inputs, target: Targets, start: Initial, contrast: Contrast
    ) -> tuple[list[tf.Tensor], Target]:
        """The flat inputs and the target of a call."""
        self.renew()
        graph = self._outline
        inputs = targets.inputs(graph, x)
        chosen = targets.against(graph, targets.checked(graph, target, start, inputs[0]), contrast, inputs[0])
        return inputs, chosen

    def _parts(self, inputs: list[tf.Tensor], max_batch: int | None) -> list[slice] | None:
        """The parts that a batch is explained in, one after another; None: as a whole."""
        size, samples = streams.checked_size(max_batch, "max_batch") or self.max_batch, inputs[0].shape[0]
        if size is None or samples is None or samples <= size:
            return None
        return [slice(first, first + size) for first in range(0, samples, size)]

    def _run_whole(
        self, inputs: list[tf.Tensor], chosen: Target, request: Request, check: bool, target: Targets
    ) -> Found:
        """Run a pass on a batch that is not split; `target` is what the caller gave, for the message of an error."""
        tensors = [*inputs, *chosen.tensors]
        run = self._pass(chosen, request, tensors)
        found, verdict = run(*tensors)
        self._judge(verdict, inputs, chosen, found.logits, found.relevance, check, target)
        # A loaded pass, which could not be differentiated, never runs under a tape.
        if self.jit_compile and passes.beyond_xla(self.clone.plan):
            return passes.seal(run, found, tensors)
        return passes.in_reverse_only(found)

    def _judge(
        self,
        verdict: Verdict,
        inputs: list[tf.Tensor],
        chosen: Target,
        logits: tf.Tensor,
        relevance: list[tf.Tensor],
        check: bool,
        target: Targets,
    ) -> None:
        """Raise what a verdict finds wrong; inside a tf.function, assert that nothing is."""
        if not tf.executing_eagerly():
            tf.debugging.Assert(verdict.declared, [BELOW_ZERO])
            tf.debugging.Assert(verdict.in_range, ["target out of range, or the class of contrast itself"])
            tf.debugging.Assert(verdict.finite, ["NaN or Inf in the relevance: call report() on the same batch"])
        elif not verdict.declared:
            raise ValueError(BELOW_ZERO)
        elif not verdict.in_range:
            initial.refuse(chosen, logits, target)
        elif check and not verdict.finite:
            _, begin, _ = initial.initial_relevance(chosen, logits)
            first = begin[diagnosis.first_bad_target(relevance)] if chosen.several else begin
            diagnosis.raise_where_it_began(self.clone, inputs, first, relevance)
        self.check_once(inputs, logits)

    def _pass(self, chosen: Target, request: Request, tensors: list[tf.Tensor]) -> Pass:
        key = Key(chosen.mode, chosen.kind, chosen.contrast, request, tf.config.functions_run_eagerly())
        if self._saved is not None and key in self._saved.passes and functions.apt(tensors):
            return self._saved.passes[key]
        if key not in self._compiled:
            self._shapes[key] = [tuple(tensor.shape) for tensor in tensors]
            self._compiled[key] = passes.compiled(self.clone, chosen, request, self.jit_compile)
        return self._compiled[key]

    def _structured(self, relevances: list[tf.Tensor]) -> Any:
        reached = self.clone.plan.reached if self._saved is None else self._saved.reached
        return structured(self._outline, reached, relevances)

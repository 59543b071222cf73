"""Relevance of single channels, the part of an `Explainer` that is about concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.compiling import Compiling
from lrp_tf.engine import asking, passes
from lrp_tf.engine import channels as naming
from lrp_tf.engine import conditions as under
from lrp_tf.engine.asking import Conditions, Indices
from lrp_tf.engine.channels import Channels
from lrp_tf.engine.conditions import Asked, Concepts, Found, Wanted
from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.targets import Initial, Inputs, Target, Targets


class Conditional(Compiling):
    """What every `Explainer` can say about channels of layers (Concept Relevance Propagation, Achtibat et al. 2023).

        c = explainer.concepts(x, layer="conv2", top=3)
        R = explainer.channel_relevance(x, layers=["conv2", "dense"])

    See docs/concepts.md.
    """

    @tf.autograph.experimental.do_not_convert  # inside a user's tf.function AutoGraph would be slow, for nothing
    def concepts(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        layer: str,
        channels: Indices = None,
        top: int | None = None,
        positions: Indices = None,
        conditions: Conditions = None,
        branches: str = "keep",
        start: Initial = "output",
        contrast: Contrast = None,
        max_batch: int | None = None,
    ) -> Concepts:
        """The relevance of channels of a layer, and for each the heatmap of what passed through it.

            c = explainer.concepts(x, layer="conv2", top=3)
            c.channels[0], c.share[0], c.maps[0]            # of the first sample: [3], [3], [3, ...]

        k concepts share the forward pass, the way down to the layer and the denominators below it; channels are
        arguments of the compiled pass, so that others cost no compilation. See docs/concepts.md.

        Args:
            x, target, start, contrast, max_batch: as in `Explainer.__call__`, for one target of each sample.
            layer: name or path. Channels are those of a convolution, units of a dense layer, features of tokens;
                "attention[heads]": heads of an attention; "path[2]": any axis of the output of a layer or operation.
            channels: k of them for all samples, or [B, k].
            top: instead, how many channels with the largest |sum of relevance| of each sample.
            positions: single ones of a map, such as (row, column): one for all channels, or one for each; without
                channels, concepts are all channels at a position.
            conditions: channels of other layers that relevance must pass as well.
            branches: "cut" leaves out what passes `layer` or `conditions` by on other branches, as skip connections;
                "keep" gives what passes `layer` by apart, `Concepts.passed_by`, and masks `conditions` alone.

        Raises:
            ValueError, TypeError: as `Explainer.__call__`; several targets; a layer that the model does not have, that
                is called several times or lies off the way to the output; a channel or position out of range.
        """
        inputs, chosen = self._single(x, target, start, contrast)
        wanted, asked = asking.checked(
            *(self.clone.plan, inputs[0], layer, channels, top, positions, conditions, branches)
        )
        parts = self._parts(inputs, max_batch) or [slice(None)]
        runs = [self._under(wanted, [x[p] for x in inputs], chosen.part(p), asked.part(p), target) for p in parts]
        found = passes.one_after_another(runs)
        return Concepts(
            layer=layer,
            channels=found.channels,
            relevance=found.relevance,
            share=under.share_of(found.amounts, found.relevance),
            maps=self._structured(found.maps),
            passed_by=None if found.passed_by is None else self._structured(found.passed_by),
            amounts=found.amounts,
            positions=found.positions,
            logits=found.logits,
            target=found.target,
        )

    @tf.autograph.experimental.do_not_convert
    def channel_relevance(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        layers: Sequence[str],
        start: Initial = "output",
        contrast: Contrast = None,
        max_batch: int | None = None,
    ) -> dict[str, tf.Tensor]:
        """Relevance at the outputs of layers, which goes no further down than the lowest of them: for streams.

            R = explainer.channel_relevance(x, layers=["conv2"])["conv2"]      # [B, ..., C]
            top = np.argsort(-np.sum(R, axis=(1, 2)))[:, :5]

        Args:
            x, target, start, contrast, max_batch: as in `concepts`.
            layers: names or paths, as in `concepts`.

        Raises:
            ValueError, TypeError: as `concepts`.
        """
        inputs, chosen = self._single(x, target, start, contrast)
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        if not names:
            raise ValueError("channel_relevance expects one layer at least. Received: none")
        found = [naming.find(self.clone.plan, name) for name in names]
        parts = self._parts(inputs, max_batch) or [slice(None)]
        runs = [self._down_to(found, [x[p] for x in inputs], chosen.part(p), target) for p in parts]
        return dict(zip(names, passes.one_after_another(runs), strict=True))

    def _single(self, x: Inputs, target: Targets, start: Initial, contrast: Contrast) -> tuple[list[tf.Tensor], Target]:
        """The flat inputs and the target, which is a single one of each sample."""
        inputs, chosen = self._checked(x, target, start, contrast)
        if chosen.several:
            raise ValueError(
                "Concepts are those of one target for each sample. Expected an integer, [B] integers or None. "
                f"Received: {target if target is not None else 'several starts'!r}. Remedy: a call for each target"
            )
        return inputs, chosen

    def _under(self, wanted: Wanted, inputs: list[tf.Tensor], chosen: Target, asked: Asked, target: Targets) -> Found:
        """Run a pass under conditions on a batch that is not split; `target` is what the caller gave."""
        tensors = [*inputs, *chosen.tensors, *asked.tensors]
        run = self._pass_for(wanted, chosen, under.plain, wanted.signature())
        found, verdict, known = run(*tensors)
        if not tf.executing_eagerly():
            tf.debugging.Assert(known, ["channel or position out of range"])
        elif not known:
            raise ValueError(
                f"A channel or position is out of range. Received: {[np.asarray(t).tolist() for t in asked.tensors]}"
            )
        self._judge(verdict, inputs, chosen, found.logits, found.maps, True, target)
        seal = passes.sealing(run, tensors)
        several = ("relevance", "amounts", "maps", "passed_by")
        return found._replace(
            **{
                name: tf.nest.map_structure(seal, value)
                for name in several
                if (value := getattr(found, name)) is not None
            }
        )

    def _down_to(
        self, layers: list[Channels], inputs: list[tf.Tensor], chosen: Target, target: Targets
    ) -> list[tf.Tensor]:
        """The relevance at layers, of a batch that is not split."""
        tensors = [*inputs, *chosen.tensors]
        run = self._pass_for(tuple(layers), chosen, under.of_layers, [])
        (logits, found), verdict = run(*tensors)
        self._judge(verdict, inputs, chosen, logits, found, True, target)
        return [passes.sealing(run, tensors)(r) for r in found]

    def _pass_for(self, wanted: Any, chosen: Target, make: Callable, more: list[tf.TensorSpec]) -> Callable:
        """A compiled pass, kept for other calls that want the same; `more`: what it takes beside inputs and target."""
        key = (chosen.mode, chosen.kind, chosen.contrast, wanted, tf.config.functions_run_eagerly())
        if key not in self._conditional:
            signature = passes.signature(self.clone.graph, chosen) + more
            function = make(self.clone, chosen, wanted)
            self._conditional[key] = passes.concrete(function, signature, self.jit_compile)
        return self._conditional[key]

"""What all methods share: the Explainer's call, streams of samples, copies for other models."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from lrp_tf.composites import Composite
from lrp_tf.core.graph import Graph
from lrp_tf.engine import streams, targets
from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.targets import Initial, Inputs, Target, Targets
from lrp_tf.explainer import Explainer
from lrp_tf.gradients.source import Source
from lrp_tf.rules import Jacobian, Rule
from lrp_tf.rules.together import Together


class Method:
    """Base of the methods: explains as an `Explainer` does.

    Args:
        model: a Keras 3 model on TensorFlow, which is never changed; or an `Explainer` of one, whose relevance then
            takes the place of the gradient.
        composite: of the explainer, where a model is given; "gradient" is the plain gradient.
        output: name or index of the output to explain, for models with several.
        max_batch: split larger batches into parts of at most this size.

    Attributes:
        start: where a call says nothing: "one" for gradients, so that the gradient is that of the value explained;
            "output" for relevance, which starts as that value.
    """

    _needs_gradient = True

    def __init__(
        self,
        model: keras.Model | Explainer,
        composite: str | Composite | Rule = "gradient",
        *,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        self._options: dict[str, Any] = {}  # of the constructor, beside the explainer
        if isinstance(model, Explainer):
            if composite != "gradient" or output is not None:
                name = type(self).__name__
                raise TypeError(
                    f"{name} of an Explainer takes its composite and output. Expected neither. "
                    f"Received: composite={composite!r}, output={output!r}. Remedy: {name}(model, composite=...)"
                )
            self.explainer = model
        else:
            self.explainer = Explainer(model, composite, output=output)
        self.max_batch = streams.checked_size(max_batch, "max_batch")
        self.source = Source(self.explainer, type(self).__name__, self._needs_gradient)
        handlers = [handler for _, handler in self.explainer.clone.plan.every_step() if isinstance(handler, Rule)]
        rules = [handler.rule if isinstance(handler, Together) else handler for handler in handlers]
        self.start = "one" if all(isinstance(rule, Jacobian) for rule in rules) else "output"

    def __repr__(self) -> str:
        name = self.explainer.composite.name
        shown = [repr(self.model.name), *([f"composite={name!r}"] if name != "gradient" else [])]
        shown += [f"{key}={_short(value)}" for key, value in self._options.items()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple:
        """Pickle and copy the recipe: explainer and options."""
        build = functools.partial(type(self), max_batch=self.max_batch, **self._options)
        return operator.call, (build, self.explainer)

    def with_model(self, model: keras.Model) -> Self:
        """The same method for another model, such as a copy with other weights."""
        return type(self)(self.explainer.with_model(model), max_batch=self.max_batch, **self._options)

    @property
    def model(self) -> keras.Model:
        """The model that is explained."""
        return self.explainer.model

    @property
    def graph(self) -> Graph:
        """Its canonized graph."""
        return self.explainer.graph

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        start: Initial | None = None,
        contrast: Contrast = None,
        max_batch: int | None = None,
    ) -> Any:
        """The explanation of a target, in the structure and shapes of the inputs; arguments and errors as `Explainer`.

        The target is chosen, and the weights of a contrast are computed, at x itself and hold for all other points that
        the method asks for.

        Args:
            start: see `Explainer`; None: the method's own, `start`. With "one" the value explained is the target's
                pre-softmax value z_t, with a contrast z_t - sum_n w_n z_n; a tensor holds weights of the outputs.

        Returns:
            Tensors in the structure and shapes of the inputs and in their float dtype, [B, ...]; [B, k, ...] for
            [B, k] targets. None for an integer input that has no gradient.
        """
        self.source.renew()
        inputs = targets.inputs(self.graph, x)
        wanted = targets.checked(self.graph, target, self.start if start is None else start, inputs[0])
        wanted = targets.against(self.graph, wanted, contrast, inputs[0])
        beside = self.beside(inputs)
        size = streams.checked_size(max_batch, "max_batch") or self.max_batch or self.explainer.max_batch
        samples = inputs[0].shape[0]
        if size is None or samples is None or samples <= size:
            return self.structured(self.explained(inputs, wanted, beside))
        found = []
        for first in range(0, samples, size):
            part = slice(first, first + size)
            found.append(self.explained([t[part] for t in inputs], wanted.part(part), [t[part] for t in beside]))
        return self.structured([_joined(parts) for parts in zip(*found, strict=True)])

    def structured(self, found: Sequence[tf.Tensor | None]) -> Any:
        """What was found for the flat inputs in their structure and float dtypes; None where it has no meaning."""
        return self.source.clone.structured(found)

    def beside(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """What else the method needs of each sample, such as a baseline; [B, ...] each."""
        return []

    def explained(self, inputs: list[tf.Tensor], wanted: Target, beside: list[tf.Tensor]) -> Sequence[tf.Tensor | None]:
        """The explanation of each flat input, [B, ...], or [B, k, ...] for several targets; None: it has none."""
        raise NotImplementedError

    def map(
        self,
        dataset: Iterable,
        target: Targets | Callable[[Any], Targets] = None,
        *,
        batch: int | None = None,
        start: str | None = None,
        contrast: Contrast = None,
        with_inputs: bool = False,
    ) -> Iterator:
        """Explain a stream of any length with constant memory; arguments, results and errors as `Explainer.map`."""
        if start is not None and not isinstance(start, str):
            raise ValueError(f'map expects start="output" or "one". Received: {type(start).__name__}')
        batches = targets.batches(self.graph, dataset, batch)

        def explained() -> Iterator:
            for element in batches:
                x = targets.without_labels(self.graph, element)
                found = self(x, target(element) if callable(target) else target, start=start, contrast=contrast)
                yield (element, found) if with_inputs else found

        return explained()


def _joined(parts: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    return None if parts[0] is None else tf.concat(parts, 0)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_short(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        listed = ", ".join(map(_short, value))
        return f"({listed})" if isinstance(value, tuple) else f"[{listed}]"
    shape = getattr(value, "shape", ())
    return f"<array {tuple(shape)}>" if shape else repr(value)

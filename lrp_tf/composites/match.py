"""Matchers: which steps of a graph an entry of a composite is for."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from lrp_tf import flows
from lrp_tf.core.graph import Graph, Step

Predicate = Callable[[Step], bool]


def _none(step: Step) -> bool:
    return False


class Match:
    """Selects steps of a graph; `first()`, `last()`, `at()`, `named()` and others of this module make one.

    Attributes:
        must: matching nothing is an error, since it can only be a mistake.
        accepts: whether a single step matches, where this can be told without the graph.
    """

    def __init__(
        self,
        select: Callable[[Graph], Iterable[Step]],
        text: str,
        must: bool = False,
        accepts: Predicate = _none,
    ) -> None:
        self.select, self.text, self.must, self.accepts = select, text, must, accepts
        self.recipe: tuple[Callable[..., Match], tuple] | None = None  # the function and arguments that made it

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple:
        return self.recipe or (Match, (self.select, self.text, self.must, self.accepts))


def _pickled_by_name(make: Callable[..., Match]) -> Callable[..., Match]:
    """The matches that `make` returns pickle as its name and its arguments."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Match:
        match = make(*args, **kwargs)
        match.recipe = (made, inspect.signature(make).bind(*args, **kwargs).args)
        return match

    return made


def linear_steps(graph: Graph) -> list[Step]:
    """The steps that rules apply to, in execution order."""
    return [step for step in graph.steps if step.linear is not None and not step.linear.elementwise]


@_pickled_by_name
def first() -> Match:
    """Linear steps that touch an input, seen through Rescaling, Normalization, padding, reshaping and dropout."""

    def select(graph: Graph) -> list[Step]:
        linear, touched, found = set(linear_steps(graph)), set(graph.inputs), []
        for step in graph.steps:
            if touched.intersection(step.inputs):
                if step in linear:
                    found.append(step)
                elif transparent(step):
                    touched.update(step.outputs)
        return found

    return Match(select, "first()")


@_pickled_by_name
def last() -> Match:
    """The linear steps nearest to the output."""

    def select(graph: Graph) -> list[Step]:
        linear, wanted, found = set(linear_steps(graph)), set(graph.outputs), []
        for step in reversed(graph.steps):
            if wanted.intersection(step.outputs):
                if step in linear:
                    found.append(step)
                else:
                    wanted.update(step.inputs)
        return found

    return Match(select, "last()")


@_pickled_by_name
def of_type(*classes: type) -> Match:
    """Steps whose layer is an instance of one of `classes`, or that such a layer was expanded into."""
    if not classes or not all(isinstance(c, type) for c in classes):
        raise TypeError(f"of_type expects classes, as of_type(keras.layers.Conv2D). Received: {classes!r}")
    text = f"of_type({', '.join(c.__name__ for c in classes)})"
    accepts = lambda s: any(isinstance(op, classes) for op in (s.op, *s.within))  # noqa: E731
    return Match(lambda graph: [s for s in graph.steps if accepts(s)], text, accepts=accepts)


@_pickled_by_name
def named(pattern: str) -> Match:
    """Steps whose layer's name or path matches the regular expression from end to end."""
    try:
        regex = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"named expects a regular expression, as in named('block5_.*'). Received: {pattern!r}, which is none: "
            f"{error}. Remedy: re.escape(name) for a name with special characters in it."
        ) from error
    keep = lambda s: bool(regex.fullmatch(s.name) or regex.fullmatch(s.path))  # noqa: E731
    return Match(lambda graph: [s for s in graph.steps if keep(s)], f"named({pattern!r})", must=True, accepts=keep)


@_pickled_by_name
def at(index: int) -> Match:
    """The linear step with this index, counted from 0 in execution order; -1 is the last one."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"at expects an integer. Received: {index!r}")

    def select(graph: Graph) -> list[Step]:
        steps = linear_steps(graph)
        return [steps[index]] if -len(steps) <= index < len(steps) else []

    return Match(select, f"at({index})", must=True)


@_pickled_by_name
def dense_like() -> Match:
    """What the presets treat as Dense: linear steps that are no convolution, the last one whatever its class, and
    convolutions on a 1x1 map (MobileNet's classifier).
    """

    def select(graph: Graph) -> list[Step]:
        found = {s for s in linear_steps(graph) if not s.linear.convolution} | set(last().select(graph))
        return list(found | {s for s in linear_steps(graph) if _on_single_pixel(s)})

    return Match(select, "dense_like()")


def _on_single_pixel(step: Step) -> bool:
    if not step.linear.convolution:
        return False
    shape = list(step.inputs[(step.signals or [0])[0]].shape)
    del shape[step.linear.channel_axis(step.op) - (1 if step.linear.channel_axis(step.op) > 0 else 0)]
    return all(size == 1 for size in shape)


@_pickled_by_name
def first_convolution() -> Match:
    """The convolutions among `first()`: a first Dense is none, and Flat on it would be a blank picture."""
    return Match(lambda graph: [s for s in first().select(graph) if s.linear.convolution], "first_convolution()")


def transparent(step: Step) -> bool:
    flow = flows.lookup(step) if step.linear is None else None
    return flow is not None and flow.transparent and not (flow.multiplies and len(step.signals) > 1)

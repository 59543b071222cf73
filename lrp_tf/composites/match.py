"""Matchers: which steps of a graph an entry of a composite applies to."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Container, Iterable
from typing import ParamSpec, Union

import keras

from lrp_tf import flows
from lrp_tf.core.entering import decide
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import body_of
from lrp_tf.core.protocol import Handler

Predicate = Callable[[Step], bool]
End = Union[int, str, "Match"]  # of a span
_P = ParamSpec("_P")


def _none(step: Step) -> bool:
    return False


class Match:
    """Selects steps of a graph. The functions of this module return one: `first()`, `at(3)`, `named("block5_.*")`.

    Attributes:
        select: graph -> the steps.
        text: what tables and messages show.
        must: matching nothing is an error, since it can only be a mistake.
        accepts: whether a single step matches, where that can be told without the graph.
        recipe: the function and the arguments that made it, by which it pickles and is written as text; None for a
            match that was built by hand.
    """

    def __init__(
        self,
        select: Callable[[Graph], Iterable[Step]],
        text: str,
        must: bool = False,
        accepts: Predicate = _none,
    ) -> None:
        self.select, self.text, self.must, self.accepts = select, text, must, accepts
        self.recipe: tuple[Callable[..., Match], tuple] | None = None

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple:
        return self.recipe or (Match, (self.select, self.text, self.must, self.accepts))


def pickled_by_name(make: Callable[_P, Match]) -> Callable[_P, Match]:
    """The matches that `make` returns pickle as its name and its arguments."""

    @functools.wraps(make)
    def made(*args: _P.args, **kwargs: _P.kwargs) -> Match:
        match = make(*args, **kwargs)
        match.recipe = (made, inspect.signature(make).bind(*args, **kwargs).args)
        return match

    return made


# --- the linear steps, by their place -----------------------------------------------------------


def linear_steps(graph: Graph) -> list[Step]:
    """The steps that rules apply to, in execution order."""
    return [step for step in graph.steps if step.linear is not None and not step.linear.elementwise]


@pickled_by_name
def first() -> Match:
    """Linear steps that read an input of the model.

        composites.Composite([(composites.first(), rules.Flat()), (None, rules.ZPlus())])

    They read it directly, or through scaling, padding, reshaping and dropout.
    """

    def select(graph: Graph) -> list[Step]:
        linear, touched, found = set(linear_steps(graph)), set(graph.inputs), []
        _, ended = decide(graph, _by_registry)
        for step in graph.steps:
            if touched.intersection(step.inputs):
                if step in linear:
                    found.append(step)
                elif transparent(step, ended):
                    touched.update(step.outputs)
        return found

    return Match(select, "first()")


@pickled_by_name
def last() -> Match:
    """The linear steps nearest to the output.

        composites.Composite([(composites.last(), rules.Zero()), (None, rules.ZPlus())])

    Several, where paths to the output end in linear steps of their own.
    """

    def select(graph: Graph) -> list[Step]:
        linear, wanted, found = set(linear_steps(graph)), set(graph.outputs), []
        for step in reversed(graph.steps):
            if wanted.intersection(step.outputs):
                if step in linear:
                    found.append(step)
                else:
                    body = body_of(step)
                    wanted.update(step.inputs if body is None else body.outputs)
        return found

    return Match(select, "last()")


@pickled_by_name
def at(index: int) -> Match:
    """The linear step with this index, counted from 0 in execution order; -1 is the last one.

        composites.Composite([(composites.at(-1), rules.Epsilon()),
                              (None, rules.ZPlus())])

    A composite whose `at` entry matches nothing raises ValueError when it is assigned.

    Raises:
        TypeError: no integer.
    """
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"at expects an integer. Received: {index!r}")

    def select(graph: Graph) -> list[Step]:
        steps = linear_steps(graph)
        return [steps[index]] if -len(steps) <= index < len(steps) else []

    return Match(select, f"at({index})", must=True)


@pickled_by_name
def first_n(n: int) -> Match:
    """The first `n` linear steps in execution order; all of them if the model has fewer.

        composites.Composite([(composites.first_n(2), rules.AlphaBeta(2, 1)),
                              (None, rules.Epsilon())])

    Raises:
        TypeError: no integer.
        ValueError: less than 1.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"first_n expects an integer, as in first_n(3). Received: {n!r}")
    if n < 1:
        raise ValueError(f"first_n expects a number of linear steps, at least 1, as in first_n(3). Received: {n!r}")
    return Match(lambda graph: linear_steps(graph)[:n], f"first_n({n})", must=True)


@pickled_by_name
def span(begin: End, end: End) -> Match:
    """The linear steps from `begin` to `end`, both included, in execution order.

        composites.Composite([(composites.span("block1_conv", "conv2"), rules.Gamma()),
                              (None, rules.Epsilon())])

    Args:
        begin, end: each is one of
            an integer, the index of a linear step as in `at`: `span(2, 5)`, `span(-3, -1)`;
            a string, the name or path of a layer, or the path of a model or layer around others; it is compared
            literally, use `named` for a regular expression: `span("block2_conv1", "block4_conv3")`;
            a match of this module: `span(0, of_type(keras.layers.MaxPooling2D))`.
            Each may select steps without a kernel, which bound the span but are not part of it. If it selects several
            steps, the span runs from the first that `begin` selects to the last that `end` selects.

    A composite whose `span` entry has an end that selects no step, or ends ahead of its beginning, raises ValueError
    when it is assigned.

    Raises:
        TypeError: neither integer, string nor match.
    """
    for value in (begin, end):
        if isinstance(value, bool) or not isinstance(value, (int, str, Match)):
            raise TypeError(
                "span expects two indices, names or matches, as in span(2, 5), span('block2_conv1', -1) or "
                f"span(0, composites.named('block3_.*')). Received: {value!r}"
            )
    text = f"span({begin!r}, {end!r})"

    def select(graph: Graph) -> list[Step]:
        low, high = min(_positions(graph, begin, text)), max(_positions(graph, end, text))
        if low > high:
            raise ValueError(
                f"{text} ends at {graph.steps[high].path!r}, which runs ahead of its beginning "
                f"{graph.steps[low].path!r} in model {graph.model.name!r}. Expected the two in execution order. "
                f"Remedy: span({end!r}, {begin!r})"
            )
        inside = set(graph.steps[low : high + 1])
        return [step for step in linear_steps(graph) if step in inside]

    return Match(select, text, must=True)


def _positions(graph: Graph, end: End, text: str) -> list[int]:
    """Where in the execution order the steps are that the end of a span selects.

    Raises:
        ValueError: it selects none.
    """
    if isinstance(end, str):
        found = [s for s in graph.steps if end in (s.name, s.path) or s.path.startswith(f"{end}/")]
    else:
        found = list((at(end) if isinstance(end, int) else end).select(graph))
    if found:
        return [graph.steps.index(step) for step in found]
    paths = [step.path for step in graph.steps]
    near = difflib.get_close_matches(str(end), paths, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{text}: {end!r} selects no step of model {graph.model.name!r}. Expected the index of one of its "
        f"{len(linear_steps(graph))} linear steps, or one of: {', '.join(paths)}. Received: {end!r}.{hint}"
    )


# --- by name, class and activation --------------------------------------------------------------


@pickled_by_name
def of_type(*classes: type) -> Match:
    """Steps whose layer is an instance of one of `classes`, and the steps that such a layer was expanded into.

        composites.Composite([(composites.of_type(keras.layers.Conv2D), rules.Gamma(0.25)),
                              (None, rules.Epsilon())])

    Raises:
        TypeError: no class, or something else than classes.
    """
    if not classes or not all(isinstance(c, type) for c in classes):
        raise TypeError(f"of_type expects classes, as of_type(keras.layers.Conv2D). Received: {classes!r}")
    text = f"of_type({', '.join(c.__name__ for c in classes)})"
    accepts = _or_a_part(lambda s: any(isinstance(op, classes) for op in (s.op, *s.within)))
    return Match(lambda graph: [s for s in graph.steps if accepts(s)], text, accepts=accepts)


@pickled_by_name
def named(pattern: str) -> Match:
    """Steps whose layer's name or path matches the regular expression from end to end.

        composites.Composite([(composites.named("block1_.*"), rules.Flat()),
                              (None, rules.ZPlus())])

    A composite whose `named` entry matches nothing raises ValueError when it is assigned.

    Raises:
        ValueError: no regular expression.
    """
    try:
        regex = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"named expects a regular expression, as in named('block5_.*'). Received: {pattern!r}, which is none: "
            f"{error}. Remedy: re.escape(name) for a name with special characters in it."
        ) from error
    keep = _or_a_part(lambda s: bool(regex.fullmatch(s.name) or regex.fullmatch(s.path)))
    return Match(lambda graph: [s for s in graph.steps if keep(s)], f"named({pattern!r})", must=True, accepts=keep)


def _or_a_part(accepts: Predicate) -> Predicate:
    """A predicate that also accepts a sum of linear steps if it accepts one of these."""
    return lambda step: any(map(accepts, (step, *step.parts)))


# Layers of their own class; `Step.activation` knows the functions.
_LAYERS: dict[type, str] = {keras.layers.ReLU: "relu", keras.layers.LeakyReLU: "leaky_relu", keras.layers.ELU: "elu"}


def activations() -> list[str]:
    """The names that `activation` takes, "relu" among them: those of keras.activations, without "linear"."""
    others = {"glu", "linear", "get", "serialize", "deserialize"}
    return [name for name in dir(keras.activations) if name.islower() and name[0] != "_" and name not in others]


@pickled_by_name
def activation(name: str) -> Match:
    """Steps whose layer has this built-in activation.

        composites.Composite([(composites.activation("relu"), rules.ZPlus()),
                              (None, rules.Epsilon())])

    These are the linear steps that it follows directly, as in `Dense(8, activation="relu")`, `Conv2D -> ReLU` or
    `Conv2D -> BatchNormalization -> ReLU` where the normalisation folds into the convolution, and the steps of the
    activation itself. So a rule applies to the former, as iNNvestigate's condition "contains activation" does, and a
    flow to the latter. A linear step whose output is read by anything else than this activation does not match, nor
    does one with an Add or a pooling in between. The softmax or sigmoid at the model's output counts, although it is
    stripped.

    Args:
        name: of a function in keras.activations, "relu", "gelu", "swish". The layers ReLU (whatever its arguments),
            LeakyReLU, ELU and Softmax count as the function.

    Raises:
        ValueError: no such function.
    """
    known = activations()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"activation expects a name of keras.activations, one of {', '.join(known)}. Received: {name!r}.{hint}"
            " Remedy, for a function or layer of your own: composites.of_type(class) or composites.named(regex)."
        )
    wanted = keras.activations.get(name).__name__  # the function's own name: silu for swish

    def applies(step: Step) -> bool:
        return wanted in (step.activation, *(n for cls, n in _LAYERS.items() if isinstance(step.op, cls)))

    def select(graph: Graph) -> list[Step]:
        readers = graph.consumers()
        for step in graph.stripped:
            for ref in step.inputs[:1]:
                readers.setdefault(ref, []).append(step)
        shown = set(graph.outputs) if not graph.stripped else set()  # what the caller reads

        def leads(step: Step) -> bool:
            (ref,) = step.outputs[:1]
            return ref not in shown and ref in readers and all(applies(reader) for reader in readers[ref])

        followed = {step for step in linear_steps(graph) if leads(step)}
        return [step for step in graph.steps if step in followed or applies(step)]

    return Match(select, f"activation({name!r})", accepts=applies)


# --- what `first()` looks through -----------------------------------------------------------------


def transparent(step: Step, ended: Container[Ref] = ()) -> bool:
    """Whether `first()` looks through a step: it moves or scales values and mixes none.

    Args:
        ended: tensors that relevance could not leave; a factor among them only scales.
    """
    flow = flows.lookup(step) if step.linear is None else None
    if flow is None or not flow.transparent:
        return False
    if not isinstance(flow, flows.Product):
        return True
    live = dataclasses.replace(step, held=tuple(i for i, ref in enumerate(step.inputs) if ref in ended))
    return len(flows.factors(live, flow.gates)) < 2


def _by_registry(step: Step) -> Callable[[Step], tuple[int, ...]]:
    """What a step lets relevance enter if no entry of a composite gives it another flow."""
    flow = flows.lookup(step) if step.linear is None else None
    return (flow or Handler()).enters

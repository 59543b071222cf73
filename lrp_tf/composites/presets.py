"""Which rule a step gets: matches, composites and the named presets."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf import flows, rules
from lrp_tf.core import unsupported
from lrp_tf.core.graph import Graph, Ref, Step, UnsupportedLayerError, function_name
from lrp_tf.rules.lrp import shape_bound

Handler = rules.Rule | flows.Flow
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
                elif _transparent(step):
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


class Composite:
    """An ordered list of (match, rule); the first match wins.

    Args:
        entries: pairs. A match is one of the functions of this module, a predicate on a step, or None for every
            step. A `rules.Rule` applies to the linear steps among the matched ones, a `flows.Flow` to the others.
        name: shown in tables.
    """

    def __init__(self, entries: Iterable[tuple[Match | Predicate | None, Handler]], name: str = "composite") -> None:
        self.entries, self.name = list(entries), name
        for entry in self.entries:
            if not (isinstance(entry, tuple) and len(entry) == 2):
                raise TypeError(f"Composite expects pairs (match, rule). Received: {entry!r}")
            match, rule = entry
            if not (match is None or isinstance(match, Match) or callable(match)) or isinstance(match, type):
                raise TypeError(
                    "A match is composites.first(), last(), first_convolution(), dense_like(), at(i), named(regex), "
                    f"of_type(class), a function of a step, or None. Received: {match!r}"
                )
            if not isinstance(rule, Handler):
                hint = f" Did you mean {rule.__name__}()?" if isinstance(rule, type) else ""
                raise TypeError(f"Expected an instance of rules.Rule or flows.Flow. Received: {rule!r}.{hint}")

    def __repr__(self) -> str:
        return f"Composite({self.name}: {', '.join(f'{m} -> {r}' for m, r in self.entries)})"

    def __reduce__(self) -> tuple:
        for match, rule in () if _by_cloudpickle() else self.entries:
            try:
                pickle.dumps((match, rule))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise pickle.PicklingError(
                    f"Composite {self.name!r} cannot be pickled: its entry {match} -> {rule} holds what has no name in "
                    f"a module ({error}). Expected matches of lrp_tf.composites, and predicates and rules defined at "
                    "the top of a module. Received: a lambda or a local definition. Remedy: define it there, or use "
                    "cloudpickle, as Ray does."
                ) from error
        return type(self), (self.entries, self.name)

    def __deepcopy__(self, memo: dict) -> Composite:
        return type(self)(list(self.entries), self.name)  # rules and matches never change

    def claims(self, step: Step) -> bool:
        """Whether an entry gives this very step a flow, so that its layer must stay in one piece."""
        flow_matches = [match for match, rule in self.entries if isinstance(rule, flows.Flow) and match is not None]
        return any(m.accepts(step) if isinstance(m, Match) else m(step) for m in flow_matches)

    def assign(self, graph: Graph) -> dict[Step, Handler]:
        """A rule or flow for every step of a canonized graph.

        Raises:
            UnsupportedLayerError: a step that neither an entry nor a built-in flow covers.
            ValueError: an entry by name or index that matches nothing.
        """
        linear = set(linear_steps(graph))
        selected = [self._select(graph, match, linear, rule) for match, rule in self.entries]
        return {step: self._handler(graph, step, step in linear, selected) for step in graph.steps}

    def _select(self, graph: Graph, match: Match | Predicate | None, linear: set[Step], rule: Handler) -> set[Step]:
        if match is None:
            return set(graph.steps)
        if not isinstance(match, Match):
            return {step for step in graph.steps if match(step)}
        steps = set(match.select(graph))
        kind = "a linear step" if isinstance(rule, rules.Rule) else "a step without a kernel"
        apt = [step for step in graph.steps if (step in linear) == isinstance(rule, rules.Rule)]
        if match.must and not steps.intersection(apt):
            raise ValueError(
                f"{match} -> {rule} of composite {self.name!r} matches nothing in model {graph.model.name!r} that is "
                f"{kind}. Expected one of: {', '.join(step.path for step in apt)}"
            )
        return steps

    def _handler(self, graph: Graph, step: Step, linear: bool, selected: list[set[Step]]) -> Handler:
        wanted = rules.Rule if linear else flows.Flow
        for steps, (_, rule) in zip(selected, self.entries, strict=True):
            if step in steps and isinstance(rule, wanted):
                return rule.for_step(graph, step) if isinstance(rule, InputZBox) else rule
        handler = None if linear else flows.lookup(step)
        if handler is None:
            raise UnsupportedLayerError(_unsupported(self, step, linear))
        return handler


def _by_cloudpickle() -> bool:
    """Whether cloudpickle is at work, which takes lambdas and local classes by value."""
    frame = sys._getframe()
    while frame is not None:
        if "cloudpickle" in frame.f_globals.get("__name__", "").split("."):
            return True
        frame = frame.f_back
    return False


def _unsupported(composite: Composite, step: Step, linear: bool) -> str:
    name = type(step.op).__name__
    if linear:
        return (
            f"Layer {step.path!r} ({name}) gets no rule from {composite!r}. Expected a rule for every linear step. "
            "Remedy: end the composite with (None, rules.Epsilon())."
        )
    if (text := unsupported.remedy(step.op)) is not None:
        function = getattr(step.function, "__name__", "function")
        return f"Layer {step.path!r} ({name}) is not supported: {text.format(function=function)}."
    if step.function is not None:
        function = function_name(step.function)
        return (
            f"Activation {function!r} of {step.path!r} is not built into Keras. Expected an element-wise function. "
            f"Remedy, if it is one: lrp_tf.flows.register_activation({function})"
        )
    if step.why:
        return (
            f"Layer {step.path!r} ({name}) is not supported: no entry says how relevance passes it, and it could not "
            f"be followed. {step.why}"
        )
    kind = step.kind if isinstance(step.kind, str) else name
    remedy = f"lrp_tf.flows.register({kind!r}, flow) with a flow of lrp_tf.flows"
    if isinstance(step.op, keras.layers.Layer):
        remedy = (
            f"lrp_tf.linear.register({name}, kernel=..., forward=...) if it is linear, "
            f"lrp_tf.flows.register({name}, lrp_tf.flows.PassThrough()) if it is element-wise"
        )
    return (
        f"Layer {step.path!r} ({name}) is not supported: no entry says how relevance passes it, and relevance never "
        f"falls back to the gradient. Remedy: {remedy}; see docs/extending.md."
    )


# --- bounds of the input -----------------------------------------------------------------------


def _transparent(step: Step) -> bool:
    flow = flows.lookup(step) if step.linear is None else None
    return flow is not None and flow.transparent and not (flow.multiplies and len(step.signals) > 1)


def _input_chain(graph: Graph, step: Step) -> list[Step]:
    """The transparent steps between a model input and a step of `first()`, in execution order.

    Raises:
        ValueError: the step reads several tensors at once, so that no single box describes its input.
    """
    producers = {ref: s for s in graph.steps for ref in s.outputs}
    chain: list[Step] = []
    ref: Ref = step.inputs[step.signals[0]]
    while ref not in graph.inputs:
        producer = producers[ref]
        if not _transparent(producer) or len(producer.inputs) != 1:
            raise ValueError(
                f"The bounds of the model's input cannot be carried to {step.path!r} through {producer.path!r} "
                f"({producer.operation}). Expected one chain of Rescaling, Normalization, padding and reshaping. "
                f"Remedy: (composites.named({step.path!r}), rules.ZBox(low, high)), with bounds of its own input."
            )
        chain.append(producer)
        ref = producer.inputs[0]
    return chain[::-1]


class InputZBox(rules.ZBox):
    """ZBox whose bounds are those of the model's input as fed; a composite carries them to the step."""

    def for_step(self, graph: Graph, step: Step) -> rules.Rule:
        """The rule for one step, with the bounds sent through Rescaling, Normalization and what else lies between."""
        chain = _input_chain(graph, step)
        if not chain:
            return rules.ZBox(self.low, self.high, self.stabilizer)
        return _CarriedZBox(self.low, self.high, self.stabilizer, chain)


class _CarriedZBox(rules.ZBox):
    def __init__(self, low: Any, high: Any, stabilizer: Any, chain: list[Step]) -> None:
        super().__init__(low, high, stabilizer)
        object.__setattr__(self, "chain", chain)

    def __repr__(self) -> str:
        return f"{rules.ZBox(self.low, self.high, self.stabilizer)!r} of the model's input"

    def bounds(self, op: rules.Operator) -> tuple[tf.Tensor, tf.Tensor]:
        source = self.chain[0].inputs[0]
        # Unknown sizes stay 1: such a chain rescales but does not reshape, and the bounds broadcast.
        sizes = [1, *(size or 1 for size in source.shape)]
        axis = op.entry.channel_axis(op.layer) if len(sizes) == op.x.shape.rank else -1
        ends = []
        for name, bound in self._pair():
            value = tf.ones(sizes, op.x.dtype)
            value *= shape_bound(bound, name, value, axis)
            for step in self.chain:
                (value,), _ = flows.lookup(step).forward(step, [value])
            ends.append(value * op.ones())
        # A negative scale turns the box around.
        return tf.minimum(*ends), tf.maximum(*ends)


# --- presets -----------------------------------------------------------------------------------


def _maxima(graph: Graph) -> list[Step]:
    return [s for s in graph.steps if isinstance(flows.lookup(s), flows.MAXIMA)]


def _convolutions(graph: Graph) -> list[Step]:
    return [s for s in linear_steps(graph) if s.linear.convolution]


def _first_half(graph: Graph) -> list[Step]:
    convolutions = _convolutions(graph)
    return convolutions[: math.ceil(len(convolutions) / 2)]


_FIRST_HALF = Match(_first_half, "first half of convolutions")
_MAXIMA = Match(_maxima, "max pooling")
_CONVOLUTION = Match(_convolutions, "convolutions")


def _preset(convolution: rules.Rule, dense: rules.Rule, ahead: tuple = ()) -> list:
    return [*ahead, (dense_like(), dense), (_CONVOLUTION, convolution), (None, dense)]


def _epsilon(epsilon=1e-6, zero_bias=False):
    dense = rules.Epsilon(epsilon, zero_bias)
    return _preset(dense, dense)


def _epsilon_plus(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_plus_flat(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    flat = (first_convolution(), rules.Flat(stabilizer))
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (flat,))


def _epsilon_alpha2_beta1(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return _preset(rules.AlphaBeta(2.0, 1.0, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_alpha2_beta1_flat(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return [
        (first_convolution(), rules.Flat(stabilizer)),
        *_epsilon_alpha2_beta1(epsilon, stabilizer, zero_bias, when_empty),
    ]


def _epsilon_gamma_box(low, high, gamma=0.25, epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    box = (first(), InputZBox(low, high, stabilizer))
    return _preset(rules.Gamma(gamma, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (box,))


_RELATIVE = rules.Relative(0.25)


def _tutorial(low, high, gamma=0.25, epsilon=_RELATIVE, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return [
        (first(), InputZBox(low, high, stabilizer)),
        (_FIRST_HALF, rules.Gamma(gamma, stabilizer, zero_bias, when_empty)),
        (_CONVOLUTION, rules.Epsilon(epsilon, zero_bias)),
        (None, rules.Zero(stabilizer, zero_bias)),
        (_MAXIMA, flows.MaxAsAverage()),
    ]


PRESETS: dict[str, Callable[..., list]] = {
    "epsilon": _epsilon,
    "epsilon_plus": _epsilon_plus,
    "epsilon_plus_flat": _epsilon_plus_flat,
    "epsilon_alpha2_beta1": _epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": _epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": _epsilon_gamma_box,
    "tutorial": _tutorial,
}


def needs_bounds(name: str) -> bool:
    """Whether the preset takes `low` and `high`, the bounds of the model's input."""
    return "low" in inspect.signature(PRESETS[name]).parameters


def get(identifier: str | Composite | rules.Rule, **options: Any) -> Composite:
    """A composite from a preset's name, a `Composite`, or one `Rule` for every linear step.

    Args:
        identifier: one of `PRESETS`, or an instance.
        **options: of the preset: `epsilon` (of Epsilon), `stabilizer` (of the other rules), `zero_bias`, `when_empty`
            (see `rules.AlphaBeta`), `gamma`; `low` and `high`, the bounds of the model's input as fed, numbers or one
            per channel.

    Raises:
        ValueError: an unknown name, or bounds that are missing.
        TypeError: neither name, composite nor rule, or an option that the preset does not take.
    """
    if isinstance(identifier, str):
        if identifier not in PRESETS:
            near = difflib.get_close_matches(identifier, PRESETS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown composite. Expected one of {list(PRESETS)}. Received: {identifier!r}.{hint}")
        known = inspect.signature(PRESETS[identifier]).parameters
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"Composite {identifier!r} takes the options {', '.join(known)}. Received: {unknown}")
        if missing := {"low", "high"} & set(known) - {k for k, v in options.items() if v is not None}:
            raise ValueError(
                f"Composite {identifier!r} needs {' and '.join(sorted(missing, reverse=True))}, the bounds of the "
                f"model's input as fed: composites.get({identifier!r}, low=0.0, high=1.0) for images in [0, 1]. "
                f"Received: {options}"
            )
        return Composite(PRESETS[identifier](**options), identifier)
    if options:
        raise TypeError(
            f"Options go with a preset's name, as in get('epsilon', epsilon=0.1); an instance has its own. Expected no "
            f"options beside {identifier!r}. Received: {sorted(options)}"
        )
    if isinstance(identifier, Composite):
        return identifier
    if isinstance(identifier, rules.Rule):
        return Composite([(None, identifier)], repr(identifier))
    hint = f" Did you mean {identifier.__name__}()?" if isinstance(identifier, type) else ""
    raise TypeError(f"Expected a composite's name, a Composite or a Rule. Received: {identifier!r}.{hint}")

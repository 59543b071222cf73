"""Composite: which rule or flow each step of a graph gets."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterable
from types import FrameType

import keras

from lrp_tf import flows, rules
from lrp_tf.composites import words
from lrp_tf.composites.match import Match, Predicate, linear_steps
from lrp_tf.core import protocol, unsupported
from lrp_tf.core.graph import Graph, Step, UnsupportedLayerError
from lrp_tf.core.loop import EachTimeStep, body_of, steps_within
from lrp_tf.core.numerics import check_stabilizer
from lrp_tf.core.operations import function_name
from lrp_tf.rules.together import Together

Handler = rules.Rule | flows.Flow
Canonizer = Callable[[Graph], Graph]
Entry = tuple[Match | Predicate | None, Handler]


class Composite:
    """An ordered list of (match, rule); the first match wins.

        composites.Composite([(composites.first(), rules.Flat()),
                              (None, rules.Epsilon())])

    `str(composite)` is its text, which `composites.parse` reads.

    Args:
        entries: pairs. A match is one of the functions of `lrp_tf.composites`, a predicate on a step, or None for every
            step. A `rules.Rule` applies to the linear steps among the matched ones, a `flows.Flow` to the others.
        name: shown in tables.
        canonizers: functions graph -> graph that rewrite the steps before rules are assigned, in this order, instead
            of `lrp_tf.engine.canonize.PASSES`; None: these.
        flow_epsilon: the stabilizer of the built-in flows that divide (sums, average pooling, normalisations, products
            that sum), a number >= 0 or `rules.Relative`; None: each flow's own, 1e-6. A flow that an entry gives keeps
            its own.

    Raises:
        TypeError: an entry that is no such pair, or a canonizer that is no function.
        ValueError: `flow_epsilon` is no stabilizer.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        name: str = "composite",
        *,
        canonizers: Iterable[Canonizer] | None = None,
        flow_epsilon: float | rules.Relative | None = None,
    ) -> None:
        self.entries, self.name = list(entries), name
        self.canonizers = _checked_canonizers(canonizers)
        if flow_epsilon is not None:
            check_stabilizer(flow_epsilon, "flow_epsilon")
        self.flow_epsilon = flow_epsilon
        for entry in self.entries:
            if not (isinstance(entry, tuple) and len(entry) == 2):
                raise TypeError(f"Composite expects pairs (match, rule). Received: {entry!r}")
            match, rule = entry
            if not (match is None or isinstance(match, Match) or callable(match)) or isinstance(match, type):
                raise TypeError(
                    "A match is one of the functions of lrp_tf.composites (first(), last(), at(3), named(regex), "
                    f"of_type(class), ...), a function of a step, or None. Received: {match!r}"
                )
            if not isinstance(rule, Handler):
                hint = f" Did you mean {rule.__name__}()?" if isinstance(rule, type) else ""
                raise TypeError(f"Expected an instance of rules.Rule or flows.Flow. Received: {rule!r}.{hint}")

    def __repr__(self) -> str:
        parts = [f"{match} -> {rule}" for match, rule in self.entries]
        if self.flow_epsilon is not None:
            parts.append(f"flow_epsilon={self.flow_epsilon!r}")
        return f"Composite({self.name}: {', '.join(parts)})"

    def __str__(self) -> str:
        """The text that `composites.parse` reads. A part that has no words is shown in <>, which `parse` refuses."""
        parts = [words.written(*entry) for entry in self.entries]
        if self.flow_epsilon is not None:
            parts.append(f"flow_epsilon={words.value_text('stabilizer', self.flow_epsilon)}")
        if self.canonizers is not None:
            parts.append(f"<canonizers: {', '.join(getattr(c, '__name__', repr(c)) for c in self.canonizers)}>")
        return "; ".join(parts)

    def __eq__(self, other: object) -> bool:
        """Whether entries, canonizers and `flow_epsilon` are the same. Names do not count."""
        if not isinstance(other, Composite):
            return NotImplemented
        same = (
            type(self) is type(other) and self._fields() == other._fields() and len(self.entries) == len(other.entries)
        )
        return same and all(map(_same, self.entries, other.entries))

    def __hash__(self) -> int:
        return hash((type(self), len(self.entries)))

    def __reduce__(self) -> tuple:
        for part, shown in () if _by_cloudpickle() else self._parts():
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise pickle.PicklingError(
                    f"Composite {self.name!r} cannot be pickled: its {shown} holds what has no name in a module "
                    f"({error}). Expected matches of lrp_tf.composites, and predicates, rules and canonizers defined "
                    "at the top of a module. Received: a lambda or a local definition. Remedy: define it there, or use "
                    "cloudpickle, as Ray does."
                ) from error
        return type(self), (self.entries, self.name), self._fields()

    def __copy__(self) -> Composite:
        copied = type(self)(list(self.entries), self.name)  # rules and matches never change
        copied.__dict__.update(self._fields())
        return copied

    def __deepcopy__(self, memo: dict) -> Composite:
        return copy.copy(self)

    def _fields(self) -> dict[str, object]:
        """What a copy needs besides entries and name."""
        return {"canonizers": self.canonizers, "flow_epsilon": self.flow_epsilon}

    def _parts(self) -> list[tuple[object, str]]:
        """Everything it holds, each with a description."""
        entries: list[tuple[object, str]] = [(entry, f"entry {entry[0]} -> {entry[1]}") for entry in self.entries]
        return entries + [(canonizer, f"canonizer {canonizer}") for canonizer in self.canonizers or ()]

    def claims(self, step: Step) -> bool:
        """Whether an entry gives this very step a flow, so that its layer must stay in one piece."""
        flow_matches = [match for match, rule in self.entries if isinstance(rule, flows.Flow) and match is not None]
        return any(m.accepts(step) if isinstance(m, Match) else m(step) for m in flow_matches)

    def assign(self, graph: Graph) -> dict[Step, protocol.Handler]:
        """A rule or flow for every step of a canonized graph.

        Raises:
            UnsupportedLayerError: a step that neither an entry nor a built-in flow covers.
            ValueError: an entry by name or index that matches nothing.
        """
        whole = _with_bodies(graph)
        linear = set(linear_steps(whole))
        selected = [self._select(whole, match, linear, rule) for match, rule in self.entries]

        def assigned(steps: Iterable[Step]) -> dict[Step, protocol.Handler]:
            found: dict[Step, protocol.Handler] = {}
            for step in steps:
                body = body_of(step)
                within = None if body is None else EachTimeStep(assigned(body.steps))
                found[step] = within or self._handler(whole, step, step in linear, selected)
            return found

        return assigned(graph.steps)

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

    def _handler(self, graph: Graph, step: Step, linear: bool, selected: list[set[Step]]) -> protocol.Handler:
        wanted = rules.Rule if linear else flows.Flow
        for steps, (_, rule) in zip(selected, self.entries, strict=True):
            if step in steps and isinstance(rule, wanted):
                if step.parts and isinstance(rule, rules.Rule):
                    return Together.of(rule, graph, step)
                return rule.for_step(graph, step)
        handler = None if linear else flows.lookup(step)
        if handler is None:
            raise UnsupportedLayerError(_unsupported(self, step, linear))
        return handler if self.flow_epsilon is None else handler.with_stabilizer(self.flow_epsilon)


def _with_bodies(graph: Graph) -> Graph:
    """The graph with the steps of its loops' bodies ahead of the loops, so that matchers find them."""
    return dataclasses.replace(graph, steps=list(steps_within(graph, bodies_first=True)))


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries have the same text, or are identical where they have none."""
    match, handler = words.matcher_text(one[0]), words.handler_text(one[1])
    same_steps = one[0] is other[0] or (match is not None and match == words.matcher_text(other[0]))
    return same_steps and (one[1] is other[1] or (handler is not None and handler == words.handler_text(other[1])))


def _checked_canonizers(canonizers: Iterable[Canonizer] | None) -> tuple[Canonizer, ...] | None:
    if canonizers is None:
        return None
    found = tuple(canonizers) if isinstance(canonizers, Iterable) and not isinstance(canonizers, (str, type)) else None
    wrong = [c for c in found if not callable(c) or isinstance(c, type)] if found is not None else [canonizers]
    if wrong:
        hint = f" Did you mean canonizers=[{wrong[0]!r}]?" if found is None and callable(wrong[0]) else ""
        raise TypeError(
            "canonizers expects a sequence of functions graph -> graph, as [*lrp_tf.engine.canonize.PASSES, my_pass], "
            f"or None for those PASSES. Received: {wrong[0]!r}.{hint}"
        )
    return found


def _by_cloudpickle() -> bool:
    """Whether cloudpickle is at work, which takes lambdas and local classes by value."""
    frame: FrameType | None = sys._getframe()
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

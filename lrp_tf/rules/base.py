"""What a rule is: terms of contributions, and how relevance is shared out over them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, check_stabilizer, number, ratio
from lrp_tf.core.protocol import Handler, Propagate, Propagator
from lrp_tf.rules.kernels import present
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Denominator, Term

WHEN_EMPTY = ("absorb", "magnitude", "uniform")  # what becomes of relevance that a term has nothing to share for


class Rule(Handler):
    """Base class of rules for linear steps. A rule of your own overrides `terms`, or `backward` for anything else.

        class PositiveWeights(rules.Rule):
            def terms(self, op):
                return [rules.Term([(op.x, rules.positive(op.w))], bias=rules.positive(op.b))]

    Attributes:
        stabilizer: epsilon of s(z) = z + epsilon sign(z), a number >= 0 or `Relative`.
        zero_bias: leave the bias out of every denominator, so that it absorbs nothing.
        when_empty: what becomes of relevance that a term has nothing to share for, see `AlphaBeta`.
    """

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    divides = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # What holds of the formulas of a class need not hold of those of its subclass, which says it anew.
        for name, nothing in (("local", False), ("bears_bfloat16", frozenset())):
            if name not in vars(cls):
                setattr(cls, name, nothing)

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)
        if self.when_empty not in WHEN_EMPTY:
            raise ValueError(f"when_empty expects one of {WHEN_EMPTY}. Received: {self.when_empty!r}")

    @property
    def fallback(self) -> Rule | None:
        """The rule for outputs that a term has nothing to share for; None: their relevance is absorbed as "other"."""
        return None

    def terms(self, op: Operator) -> list[Term]:
        """The rule as terms of x, w, b of `op`. `op.b` is 0.0 with `zero_bias`, `op.bias` never."""
        raise NotImplementedError(f"{type(self).__name__} defines neither terms() nor backward()")

    def enters(self, step: Step) -> tuple[int, ...]:
        """The position of the signal: not that of a kernel or bias among the inputs."""
        return super().enters(step)[:1]

    def forward(
        self, step: Step, inputs: list[tf.Tensor], *, fold_no_earlier_than: Sequence[tf.Tensor] = ()
    ) -> tuple[list[tf.Tensor], Operator]:
        """Outputs of the step, and what `backward` needs.

        Args:
            fold_no_earlier_than: delays folding until these tensors exist. Otherwise TensorFlow folds every kernel of a
                model up front and keeps all copies.
        """
        op = operator_of(step, inputs, zero_bias=self.zero_bias, fold_no_earlier_than=fold_no_earlier_than)
        return [op.output], op

    def backward(self, step: Step, op: Operator) -> Propagate:
        """A function: (relevance of the outputs, account or None) -> relevance of the inputs."""
        terms = [dataclasses.replace(t, pairs=[(x, w) for x, w in t.pairs if x is not None]) for t in self.terms(op)]
        shortcut = _shortcut_of(type(self)) if op.marks.savings else None
        found = None if shortcut is None else shortcut(self, step, op, terms)
        if found is not None and not isinstance(found, list):
            return found
        pairs = found or [(term, denominator_of(op, term, self.stabilizer)) for term in terms]
        op.halve(w for term, _ in pairs for _, w in term.pairs)
        fallback = self.fallback
        hand_on = None if fallback is None else fallback.backward(step, op)
        return Shared(step, op, pairs, self.stabilizer, hand_on)

    def __repr__(self) -> str:
        fields: tuple[dataclasses.Field, ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        shown = [short(getattr(self, f.name)) for f in fields if f.metadata.get("always")]
        rest = [f for f in fields if not f.metadata.get("always") and getattr(self, f.name) != f.default]
        shown += [f"{f.name}={short(getattr(self, f.name))}" for f in rest]
        return f"{type(self).__name__}({', '.join(shown)})"


def operator_of(
    step: Step, inputs: list[tf.Tensor], *, zero_bias: bool, fold_no_earlier_than: Sequence[tf.Tensor] = ()
) -> Operator:
    """The operator of a linear step that reads `inputs`."""
    position = step.signals[0] if step.signals else 0  # all that it reads may be held
    x, rest = inputs[position], [t for i, t in enumerate(inputs) if i != position]
    if not x.dtype.is_floating:
        own = getattr(step.op, "compute_dtype", step.outputs[0].dtype)  # an operation has none
        x = tf.cast(x, "float64" if own == "float64" else "float32")
    return Operator(
        step,
        x,
        zero_bias=zero_bias,
        kernel=rest.pop(0) if step.entry.kernel is None else None,
        addend=None if step.addend is None else inputs[-1],
        fold_no_earlier_than=fold_no_earlier_than,
    )


@dataclasses.dataclass(frozen=True)
class Shared(Propagator):
    """Shares relevance out over terms, each with its denominator.

    Attributes:
        hand_on: propagates what a term has nothing to share for; None: it is absorbed.
    """

    step: Step
    op: Operator
    pairs: list[tuple[Term, Denominator]]
    stabilizer: float | Relative
    hand_on: Propagate | None

    def precompute(self) -> None:
        for _, denominator in self.pairs:
            denominator.stabilized  # noqa: B018
        if isinstance(self.hand_on, Propagator):
            self.hand_on.precompute()

    def __call__(self, relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        (arrived,) = relevances
        total, left = list[tf.Tensor](), list[tf.Tensor]()  # left: for the fallback
        for term, denominator in self.pairs:
            # Not before relevance arrives, and large ones one after the other: the memory of one serves the next.
            in_turn = self.op.marks.memory_heavy and bool(total)
            with tf.control_dependencies(total if in_turn else relevances):
                stabilized = denominator.stabilized
                relevance = arrived if term.where is None else _only(term.where(self.op.explained), arrived)
                if self.hand_on is not None:
                    empty = stabilized == denominator.epsilon
                    left.append(term.weight * _only(empty, relevance))
                    relevance = tf.where(empty, tf.zeros([], relevance.dtype), relevance)
            g = ratio(relevance, stabilized, self.stabilizer)
            if term.weight != 1.0:  # of g, which needs no memory of its own
                g = number(term.weight, g.dtype) * g
            parts = self.shares(term, g)
            total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
            if account is not None:
                _book(account, term, relevance, g, denominator)
        if account is not None or self.hand_on is not None:
            left += self._uncovered(arrived, account)
        sent = self.sent(total, account)
        if left and self.hand_on is not None:
            more = self.hand_on([tf.add_n(left)], account)
            sent = [r if m is None else r + m for r, m in zip(sent, more, strict=True)]
        return sent

    def shares(self, term: Term, g: tf.Tensor) -> list[tf.Tensor]:
        """What a term gives to the input, from g = R / s(z')."""
        return [self.op.share(term.pairs, g)]

    def sent(self, total: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        """Relevance for each input of the step, from the sum of `shares` over all terms; empty: there are none."""
        return at_signal(self.step, total[0] if total else tf.zeros_like(self.op.x))

    def _uncovered(self, arrived: tf.Tensor, account: Account | None) -> list[tf.Tensor]:
        """The relevance of outputs that no term explains."""
        masks = [term.where(self.op.explained) for term, _ in self.pairs if term.where is not None]
        if not masks:
            return []
        uncovered = tf.where(functools.reduce(tf.logical_or, masks), tf.zeros_like(arrived), arrived)
        if self.hand_on is None and account is not None:
            account.add("other", uncovered)
        return [uncovered]


def denominator_of(op: Operator, term: Term, stabilizer: float | Relative) -> Denominator:
    """The denominator by its formula: the sum of the contributions and the bias, stabilised by its own sign."""
    return Denominator(lambda: op.total(term.pairs, term.bias), stabilizer)


def at_signal(step: Step, relevance: tf.Tensor) -> list[tf.Tensor | None]:
    """Relevance for each input of the step: none for a kernel or bias among them."""
    return [None if i in step.held else relevance for i in range(len(step.inputs))]


def _only(mask: tf.Tensor, relevance: tf.Tensor) -> tf.Tensor:
    return tf.where(mask, relevance, tf.zeros([], relevance.dtype))


def _book(account: Account, term: Term, relevance: tf.Tensor, g: tf.Tensor, denominator: Denominator) -> None:
    empty = denominator.empty(term.one_sided)
    if empty is not None:  # nothing to share: sum x' w' g is 0 whatever g is
        nothing = account.partial_sums(_only(empty, relevance))
        account.add("other", nothing, term.weight)
        if denominator.vanishes:
            g = _only(~empty, g)
        else:  # s(0) = epsilon, so that epsilon g is all of it
            account.add("stabilizer", nothing, -term.weight)
    sums = account.partial_sums(g, term.bias)
    if present(term.bias):
        account.add("bias", sums, term.bias)
    epsilon = tf.convert_to_tensor(denominator.epsilon, g.dtype)  # rounded as in s(z)
    account.add("stabilizer", sums if denominator.sign else g, epsilon)


def short(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    shape = getattr(value, "shape", ())
    return f"<array {tuple(shape)}>" if shape else repr(value)


# --- shortcuts -----------------------------------------------------------------------------------

# (rule, step, op, terms) -> terms with cheaper denominators, or a whole propagator, or None where nothing is saved
Shortcut = Callable[
    [Any, Step, Operator, list[Term]], list[tuple[Term, Denominator]] | Propagator | None
]  # Any: each takes its own rules
_Declared = TypeVar("_Declared", bound=Shortcut)
_SHORTCUTS: dict[type[Rule], Shortcut] = {}


def shortcut_for(*rule_classes: type[Rule]) -> Callable[[_Declared], _Declared]:
    """Declare a function to be the shortcut of these rules, see shortcuts.py."""

    def declare(shortcut: _Declared) -> _Declared:
        _SHORTCUTS.update(dict.fromkeys(rule_classes, shortcut))
        return shortcut

    return declare


def _shortcut_of(rule_class: type[Rule]) -> Shortcut | None:
    """The shortcut of a rule, or of the class that it has its formula from."""
    for cls in rule_class.__mro__:
        if cls in _SHORTCUTS:
            return _SHORTCUTS[cls]
        if "terms" in vars(cls):
            return None
    return None

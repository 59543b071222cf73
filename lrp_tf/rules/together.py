"""Rules on a sum of linear steps, z = x W + h U + b: all parts share one denominator (Arras et al. 2017)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Marks, Step
from lrp_tf.core.numerics import Relative, offset, ratio
from lrp_tf.core.protocol import Propagate, Saved, ZeroInput
from lrp_tf.rules.base import Rule, Shared, operator_of
from lrp_tf.rules.kernels import present
from lrp_tf.rules.lrp import Jacobian
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Denominator, Pair, Term


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Together(Rule):
    """A rule on a step with `parts`. With the contributions c_p,ij of the rule's term at input i of part p:

        R_p,i = weight * sum_j c_p,ij R_j / s(sum over p and i of c_p,ij + bias)_j

    `terms` of the rule are asked for each part; those of one position are one term. All of the bias comes with the
    first part. A rule that overrides `backward` has no terms: the parts then share R in proportion to what each adds to
    z, R_p = z_p R / s(z), with the stabilizer of the rule, and the rule hands on the share of each. The gradient
    (`Jacobian`) is handed to all parts whole.

    Args:
        rules: of each part: one rule, unless it needs to know what it reads, as a box does.
    """

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, rule: Rule, graph: Graph, step: Step) -> Together:
        """The rule for one step of one graph."""
        if isinstance(rule, Together):
            return rule
        made: list[Rule] = []
        for part in step.parts:
            handler = rule.for_step(graph, part)
            assert isinstance(handler, Rule)  # no rule makes a flow of itself
            made.append(handler)
        return cls(tuple(made))

    def __post_init__(self) -> None:
        """Nothing to check: the rules have checked their own fields."""

    @property
    def rule(self) -> Rule:
        return self.rules[0]

    @property
    def stabilizer(self) -> float | Relative:  # type: ignore[override]
        return self.rule.stabilizer

    @property
    def zero_bias(self) -> bool:  # type: ignore[override]
        return self.rule.zero_bias

    @property
    def divides(self) -> bool:  # type: ignore[override]
        return self.rule.divides or not (_has_terms(self.rule) or _is_gradient(self.rule))

    @property
    def at_zero(self) -> ZeroInput | str:  # type: ignore[override]
        return self.rule.at_zero

    @property
    def shows_kernel(self) -> bool:  # type: ignore[override]
        return self.rule.shows_kernel

    def enters(self, step: Step) -> tuple[int, ...]:
        """The signal of each part."""
        found, start = [], 0
        for rule, part in zip(self.rules, step.parts, strict=True):
            found += [start + i for i in rule.enters(_held_as(step, part, start))]
            start += len(part.inputs)
        return tuple(found)

    def forward(  # type: ignore[override]
        self, step: Step, inputs: list[tf.Tensor], *, fold_no_earlier_than: Sequence[tf.Tensor] = ()
    ) -> tuple[list[tf.Tensor], Joint]:
        """The sum of what the parts compute and of the tensors behind their inputs, which are biases."""
        ops, start = list[Operator](), 0
        for part in step.parts:
            own = inputs[start : start + len(part.inputs)]
            late = fold_no_earlier_than if part.before or part.after else ()
            known = dataclasses.replace(part, held=part.constant)
            ops.append(operator_of(known, own, zero_bias=self.zero_bias, fold_no_earlier_than=late))
            start += len(part.inputs)
        biases = [op.bias for op in ops if present(op.bias)]
        biases += [tf.cast(bias, ops[0].x.dtype) for bias in inputs[start:]]
        joint = Joint(step, ops, _sum(biases) if biases else 0.0, zero_bias=self.zero_bias)
        return [joint.output], joint

    def backward(self, step: Step, op: Joint) -> Propagate:  # type: ignore[override]
        """A function: (relevance of the outputs, account or None) -> relevance of the inputs."""
        if not _has_terms(self.rule):
            return self._by_parts(step, op)
        terms = self._joint_terms(op)
        fallback = self.rule.fallback
        hand_on = None if fallback is None else Together((fallback,) * len(self.rules)).backward(step, op)
        pairs = [(term, Denominator(functools.partial(op.sum, term), self.stabilizer)) for term in terms]
        return _SharedByParts(step, op, pairs, self.stabilizer, hand_on)  # type: ignore[arg-type]

    def _joint_terms(self, op: Joint) -> list[_JointTerm]:
        """The terms of all parts, those of one position as one.

        Raises:
            ValueError: the rule gives parts different terms.
        """
        each = [rule.terms(part) for rule, part in zip(self.rules, op.parts, strict=True)]
        kinds = [[(term.weight, term.one_sided) for term in terms] for terms in each]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(
                f"{self.rule!r} gives the parts of a sum different terms. Expected terms of the same number, weights "
                f"and one_sided, whatever the operator. Received: {kinds}"
            )
        return [_joined(terms) for terms in zip(*each, strict=True)]

    def _by_parts(self, step: Step, op: Joint) -> Propagate:
        """For a rule without terms: every part by itself."""
        live, start = [], 0
        for rule, part, own in zip(self.rules, step.parts, op.parts, strict=True):
            known = _held_as(step, part, start)
            if known.signals:
                alone = own.as_part(0.0, 0.0, own.z, own.z)
                live.append((start, known, own.z, rule.backward(known, alone)))
            start += len(part.inputs)
        whole = _is_gradient(self.rule)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            (relevance,) = relevances
            epsilon = offset(op.output, self.stabilizer)
            g = ratio(relevance, op.output + epsilon, self.stabilizer)
            sent: list[tf.Tensor | None] = [None] * len(step.inputs)
            for start, part, z, hand_on in live:
                found = hand_on([relevance if whole else z * g], None if whole else account)
                sent[start : start + len(part.inputs)] = found
            if account is not None and whole:
                account.add("other", relevance)
                for r in sent:
                    if r is not None:
                        account.add("other", -r)
            elif account is not None:  # what is left is that of the bias, and of parts that relevance cannot enter
                account.add("stabilizer", g * epsilon)
                entered = _sum(z for _, _, z, _ in live)
                account.add("bias", g * (op.output - entered))
                nothing = op.output + epsilon == 0  # only with a stabilizer that can vanish
                account.add("other", tf.where(nothing, relevance, tf.zeros_like(relevance)))
            return sent

        return propagate

    def __repr__(self) -> str:
        return f"{self.rule!r} for a sum of {len(self.rules)}"


class Joint(Saved):
    """The operators of the parts in one call: output = sum of z_p + bias. The bias comes with the first part.

    Attributes:
        parts: one operator for each part; `output` and `explained` of each are those of the sum.
        explained: z + b, with the bias as far as the rule counts it.
    """

    def __init__(self, step: Step, ops: list[Operator], bias: tf.Tensor | float, *, zero_bias: bool) -> None:
        z = _sum(op.z for op in ops)
        self.marks: Marks = step.marks
        self.output = z + bias if present(bias) else z
        self.explained = z if zero_bias else self.output
        biases = [(bias, 0.0 if zero_bias else bias), *[(0.0, 0.0)] * (len(ops) - 1)]
        self.parts = [op.as_part(*own, self.output, self.explained) for op, own in zip(ops, biases, strict=True)]

    def sum(self, term: _JointTerm) -> tf.Tensor:
        """The denominator of a term before it is stabilised."""
        total = _sum(part.sum(pairs) for part, pairs in zip(self.parts, term.of_parts, strict=True))
        return total + term.bias if present(term.bias) else total


@dataclasses.dataclass(frozen=True)
class _JointTerm(Term):
    """A term with the pairs of each part."""

    of_parts: tuple[list[Pair], ...] = ()


def _joined(terms: Sequence[Term]) -> _JointTerm:
    """The terms of all parts that share a denominator."""
    first, biases = terms[0], [term.bias for term in terms if present(term.bias)]
    return _JointTerm(
        pairs=[],
        bias=_sum(biases) if biases else 0.0,
        weight=first.weight,
        where=first.where,
        one_sided=first.one_sided,
        of_parts=tuple([(x, w) for x, w in term.pairs if x is not None] for term in terms),
    )


@dataclasses.dataclass(frozen=True)
class _SharedByParts(Shared):
    """Shares relevance out over joint terms. What a part takes that relevance cannot enter is booked as bias."""

    op: Joint  # type: ignore[assignment]

    def shares(self, term: Term, g: tf.Tensor) -> list[tf.Tensor]:
        assert isinstance(term, _JointTerm)
        return [part.share(pairs, g) for part, pairs in zip(self.op.parts, term.of_parts, strict=True)]

    def sent(self, total: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        sent: list[tf.Tensor | None] = [None] * len(self.step.inputs)
        total, start = total or [tf.zeros_like(part.x) for part in self.op.parts], 0
        for part, relevance in zip(self.step.parts, total, strict=True):
            signals = _held_as(self.step, part, start).signals
            if signals:
                sent[start + signals[0]] = relevance
            elif account is not None:
                account.add("bias", relevance)
            start += len(part.inputs)
        return sent


def _has_terms(rule: Rule) -> bool:
    return type(rule).backward is Rule.backward


def _is_gradient(rule: Rule) -> bool:
    return type(rule).backward is Jacobian.backward


def _held_as(step: Step, part: Step, start: int) -> Step:
    """A part, whose inputs begin at `start` among those of the step, with what the step holds of them."""
    inside = range(len(part.inputs))
    return dataclasses.replace(part, held=tuple(i for i in inside if start + i in step.held))


def _sum(values: Iterable[tf.Tensor]) -> tf.Tensor:
    return functools.reduce(lambda a, b: a + b, values)

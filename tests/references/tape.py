"""A tape of plain operations that carries relevance back by the formula of each, in numpy and float64.

Independent of the library, which it never imports: nets are unrolled, sums and products are slow and literal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0),
    "linear": lambda z: z,
}


def signed(z: np.ndarray, epsilon: float) -> np.ndarray:
    """s(z) = z + epsilon sign(z) with sign(0) = +1."""
    return z + np.where(z >= 0, epsilon, -epsilon)


class Value:
    """A tensor of the net: its array [B, ...], and the relevance that has arrived so far."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array, "float64")
        self.relevance = np.zeros_like(self.array)


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the linear maps that a step sums up: x [B, n], kernel [n, m], and which outputs each input touches."""

    x: Value
    kernel: np.ndarray
    sees: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Term:
    """Contributions x' w' of every part over one denominator: `pairs[p]` are those of part p."""

    pairs: list[list[tuple[np.ndarray, np.ndarray]]]
    bias: np.ndarray
    weight: float = 1.0
    where: np.ndarray | bool = True


Rule = Callable[[Sequence[Part], np.ndarray, np.ndarray], list[Term]]  # parts, bias, z -> terms


def epsilon_rule(parts: Sequence[Part], bias: np.ndarray, z: np.ndarray) -> list[Term]:
    return [Term([[(p.x.array, p.kernel)] for p in parts], bias)]


def _signs(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(a, 0), np.minimum(a, 0)


def alpha_beta(alpha: float, beta: float) -> Rule:
    def terms(parts: Sequence[Part], bias: np.ndarray, z: np.ndarray) -> list[Term]:
        gains, losses = [], []
        for part in parts:
            (up, down), (more, less) = _signs(part.x.array), _signs(part.kernel)
            gains.append([(up, more), (down, less)])
            losses.append([(up, less), (down, more)])
        more, less = _signs(bias)
        return [Term(gains, more, alpha), *([Term(losses, less, -beta)] if beta else [])]

    return terms


def gamma_rule(gamma: float) -> Rule:
    def terms(parts: Sequence[Part], bias: np.ndarray, z: np.ndarray) -> list[Term]:
        found = []
        for side in (0, 1):  # z > 0, z < 0
            pairs = []
            for part in parts:
                signs, (up, down) = _signs(part.kernel), _signs(part.x.array)
                pairs.append([(up, part.kernel + gamma * signs[side]), (down, part.kernel + gamma * signs[1 - side])])
            found.append(Term(pairs, bias + gamma * _signs(bias)[side], where=(z > 0, z < 0)[side]))
        return found

    return terms


def _of_weights(function: Callable[[Part], np.ndarray]) -> Rule:
    def terms(parts: Sequence[Part], bias: np.ndarray, z: np.ndarray) -> list[Term]:
        return [Term([[(np.ones_like(p.x.array), function(p))] for p in parts], np.zeros_like(bias))]

    return terms


w_square = _of_weights(lambda part: part.kernel**2)
flat = _of_weights(lambda part: np.ones_like(part.kernel) if part.sees is None else part.sees)


class Tape:
    """An unrolled net. Every operation computes its value and records how its relevance goes back.

    Args:
        rule: of linear steps; all maps that one step sums up share its denominators.
        epsilon: stabiliser of linear steps.
        sums: stabiliser of sums without weights.
        gates: how a product of gate and signal shares: "held" (the signal takes all), "share" (half each),
            "proportional" (g / (g + s)), "absolute" (|g| / (|g| + |s|)) (Arras et al. 2019, section 2.2).
        products: stabiliser of the last two.

    Attributes:
        bias, stabilizer, other: what was absorbed, per sample.
    """

    def __init__(
        self,
        rule: Rule = epsilon_rule,
        epsilon: float = 1e-6,
        sums: float = 1e-6,
        gates: str = "held",
        products: float = 1e-6,
    ):
        self.rule, self.epsilon, self.sums = rule, epsilon, sums
        self.gates, self.products = gates, products
        self.steps: list[Callable[[], None]] = []
        self.bias = self.stabilizer = self.other = np.zeros(())

    def propagate(self) -> None:
        """Carry the relevance that `Value.relevance` was given back through all that was recorded."""
        for step in reversed(self.steps):
            step()

    def linear(self, parts: Sequence[Part], bias: np.ndarray | None = None, rule: Rule | None = None) -> Value:
        m = parts[0].kernel.shape[1]
        b = np.zeros(m) if bias is None else bias
        z = sum(p.x.array @ p.kernel for p in parts) + b
        out = Value(z)

        def back() -> None:
            covered = np.zeros(z.shape, bool)
            for term in (rule or self.rule)(parts, b, z):
                total = sum(x @ w for pairs in term.pairs for x, w in pairs) + term.bias
                covered |= np.broadcast_to(term.where, z.shape)
                arrived = term.weight * np.where(term.where, out.relevance, 0.0)
                g = arrived / signed(total, self.epsilon)
                for part, pairs in zip(parts, term.pairs, strict=True):
                    part.x.relevance += sum(x * (g @ w.T) for x, w in pairs)
                self.bias = self.bias + (g * term.bias).sum(1)
                self.stabilizer = self.stabilizer + (g * (signed(total, self.epsilon) - total)).sum(1)
            self.other = self.other + np.where(covered, 0.0, out.relevance).sum(1)

        self.steps.append(back)
        return out

    def activate(self, x: Value, name: str) -> Value:
        out = Value(ACTIVATIONS[name](x.array))

        def back() -> None:
            x.relevance += out.relevance

        self.steps.append(back)
        return out

    def add(self, *terms: Value) -> Value:
        """The z-rule over the summands."""
        z = sum(term.array for term in terms)
        out = Value(z)

        def back() -> None:
            g = out.relevance / signed(z, self.sums)
            for term in terms:
                term.relevance += term.array * g
            self.stabilizer = self.stabilizer + _per_sample(g * (signed(z, self.sums) - z))

        self.steps.append(back)
        return out

    def complement(self, gate: Value) -> Value:
        """1 - gate; the one takes its share as a bias does."""
        z = 1 - gate.array
        out = Value(z)

        def back() -> None:
            g = out.relevance / signed(z, self.sums)
            gate.relevance += -gate.array * g
            self.bias = self.bias + _per_sample(g)
            self.stabilizer = self.stabilizer + _per_sample(g * (signed(z, self.sums) - z))

        self.steps.append(back)
        return out

    def gated(self, gate: Value, signal: Value) -> Value:
        out = Value(gate.array * signal.array)

        def back() -> None:
            r, g, s = out.relevance, gate.array, signal.array
            if self.gates == "held":
                signal.relevance += r
            elif self.gates == "share":
                signal.relevance += r / 2
                gate.relevance += r / 2
            else:
                a, b = (np.abs(g), np.abs(s)) if self.gates == "absolute" else (g, s)
                shared = r / signed(a + b, self.products)
                gate.relevance += a * shared
                signal.relevance += b * shared
                self.stabilizer = self.stabilizer + _per_sample(shared * (signed(a + b, self.products) - a - b))

        self.steps.append(back)
        return out

    def multiply(self, a: Value, b: Value) -> Value:
        """A product of two signals: each takes half."""
        out = Value(a.array * b.array)

        def back() -> None:
            a.relevance += out.relevance / 2
            b.relevance += out.relevance / 2

        self.steps.append(back)
        return out

    def scale(self, x: Value, factor: float) -> Value:
        """A number times x: R unchanged."""
        out = Value(factor * x.array)

        def back() -> None:
            x.relevance += out.relevance

        self.steps.append(back)
        return out

    def columns(self, x: Value, start: int, stop: int) -> Value:
        out = Value(x.array[:, start:stop])

        def back() -> None:
            x.relevance[:, start:stop] += out.relevance

        self.steps.append(back)
        return out

    def concatenate(self, values: Sequence[Value]) -> Value:
        out = Value(np.concatenate([v.array for v in values], 1))

        def back() -> None:
            ends = np.cumsum([v.array.shape[1] for v in values])
            for value, relevance in zip(values, np.split(out.relevance, ends[:-1], 1), strict=True):
                value.relevance += relevance

        self.steps.append(back)
        return out

    def where(self, mask: np.ndarray, new: Value, old: Value) -> Value:
        """new [B, n] of the samples that the mask [B] lets through, old of the others."""
        chosen = mask[:, None]
        out = Value(np.where(chosen, new.array, old.array))

        def back() -> None:
            new.relevance += np.where(chosen, out.relevance, 0.0)
            old.relevance += np.where(chosen, 0.0, out.relevance)

        self.steps.append(back)
        return out

    def constant(self, array: np.ndarray) -> Value:
        """What is no input: relevance that ends here is booked as a bias's."""
        out = Value(array)

        def back() -> None:
            self.bias = self.bias + _per_sample(out.relevance)

        self.steps.append(back)
        return out


def _per_sample(a: np.ndarray) -> np.ndarray:
    return a.reshape(len(a), -1).sum(1)

"""Means of gradients, or of relevance, over many points: SmoothGrad, integrated and expected gradients."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.composites import Composite
from lrp_tf.engine import targets
from lrp_tf.engine.passes import Verdict
from lrp_tf.engine.targets import Inputs, Target
from lrp_tf.explainer import Explainer
from lrp_tf.gradients.method import Method
from lrp_tf.gradients.options import Fill, at_least, chosen, filled
from lrp_tf.gradients.source import folded, pass_of, repeated
from lrp_tf.rules import Rule


class Averaged(Method):
    """Base of the methods that sum over points, weighted, a few points at a time.

    Attributes:
        n: number of points for each sample.
        chunk: at most this many samples, points times samples, are explained at once; one point of the whole batch at
            least. Memory depends on it and not on `n`.
    """

    n: int
    chunk: int

    def explained(self, inputs: list[tf.Tensor], wanted: Target, beside: list[tf.Tensor]) -> list[tf.Tensor | None]:
        weights = self.source.weights(inputs, wanted)

        def run(*tensors: tf.Tensor) -> tuple[list[tf.Tensor], Verdict]:
            flat, (values, numbers, *more) = list(tensors[: len(inputs)]), tensors[len(inputs) :]
            points, times = self.points(flat, more, numbers), tf.shape(numbers)[0]
            batch = [folded(p, x) for p, x in zip(points, flat, strict=True)]
            found, verdict = pass_of(self.source, weights, batch, repeated(values, times))
            found = [tf.reshape(r, tf.concat([[times, -1], tf.shape(r)[1:]], 0)) for r in found]
            pairs = enumerate(zip(found, flat, strict=True))
            return [self.summed(r, i, x, numbers, weights.several) for i, (r, x) in pairs], verdict

        samples = inputs[0].shape[0]
        at_once = 1 if samples is None else max(1, self.chunk // samples)
        more = [(weights.values, weights.spec(self.graph)), (tf.range(0), tf.TensorSpec([None], tf.int32))]
        more += [(t, tf.TensorSpec([None, *t.shape[1:]], t.dtype)) for t in beside]
        total: list[tf.Tensor] | None = None
        for first in range(0, self.n, at_once):
            more[1] = (tf.range(first, min(first + at_once, self.n)), more[1][1])
            found = self.source.run((weights.target,), run, inputs, more, weights)
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        assert total is not None  # n >= 1
        return list(self.finished(total, inputs, beside))

    def points(self, inputs: list[tf.Tensor], beside: list[tf.Tensor], numbers: tf.Tensor) -> list[tf.Tensor]:
        """The points with these numbers, [d, B, ...] for each input."""
        raise NotImplementedError

    def summed(self, found: tf.Tensor, position: int, x: tf.Tensor, numbers: tf.Tensor, several: bool) -> tf.Tensor:
        """The weighted sum over points of what was found there, [d, B, ...] -> [B, ...]; by default the mean's part.

        Args:
            position: of the input x among all.
        """
        return tf.reduce_sum(found, axis=0) / self.n

    def finished(
        self, total: list[tf.Tensor], inputs: list[tf.Tensor], beside: list[tf.Tensor]
    ) -> Sequence[tf.Tensor | None]:
        """The explanation from the sum over all points; None for an input that has none."""
        return total


def _held(x: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """x at every point, [d, B, ...]."""
    return tf.repeat(x[None], tf.shape(numbers)[0], axis=0)


def _times(found: tf.Tensor, change: tf.Tensor, axis: int, several: bool) -> tf.Tensor:
    return found * tf.cast(tf.expand_dims(change, axis) if several else change, found.dtype)


class SmoothGrad(Averaged):
    """The mean of the gradient over inputs with Gaussian noise (Smilkov et al. 2017).

        R = lrp_tf.gradients.SmoothGrad(model, n=50, noise=0.1)(x)
        R = lrp_tf.gradients.SmoothGrad(model, "epsilon_plus_flat")(x)     # the mean of relevance

    Every sample gets the same `n` noise patterns, drawn from the seed alone and scaled to the sample: a result does not
    depend on the batch that a sample comes in, nor on `chunk` beyond rounding. Costs n forward and backward passes,
    and one forward pass.

    Args:
        model, composite, output, max_batch: see `Method`. With another composite than a gradient the mean is that of
            relevance, which starts anew at every noisy input.
        n: number of noisy inputs.
        noise: standard deviation, as a fraction of max(x) - min(x) of each sample and input.
        reduce: "mean"; "mean_square" or "mean_abs", of the squares or absolute values.
        seed: of the noise.
        chunk: at most this many noisy inputs are explained at once, see `Averaged`.

    Raises:
        ValueError: n or chunk below 1, noise below 0, an unknown `reduce`; a model without a floating input.
    """

    def __init__(
        self,
        model: keras.Model | Explainer,
        composite: str | Composite | Rule = "gradient",
        *,
        n: int = 25,
        noise: float = 0.15,
        reduce: str = "mean",
        seed: int = 0,
        chunk: int = 16,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        super().__init__(model, composite, output=output, max_batch=max_batch)
        self.n, self.chunk, self.seed = at_least(1, n, "n"), at_least(1, chunk, "chunk"), at_least(0, seed, "seed")
        self.noise = at_least(0.0, noise, "noise")
        self.reduce = chosen(reduce, ("mean", "mean_square", "mean_abs"), "reduce")
        self._options = {"n": n, "noise": noise, "reduce": reduce, "seed": seed, "chunk": chunk}
        _needs_floats(self)

    def points(self, inputs: list[tf.Tensor], beside: list[tf.Tensor], numbers: tf.Tensor) -> list[tf.Tensor]:
        found = []
        for position, x in enumerate(inputs):
            if not x.dtype.is_floating:
                found.append(_held(x, numbers))
                continue
            axes = list(range(1, x.shape.rank))
            span = tf.reduce_max(x, axes, keepdims=True) - tf.reduce_min(x, axes, keepdims=True)
            found.append(x + tf.constant(self.noise, x.dtype) * span * self._noise(position, x, numbers)[:, None])
        return found

    def _noise(self, position: int, x: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """Noise in the shape of a sample for each number, [d, ...], from seed, input and number alone."""
        seed = tf.random.fold_in(tf.constant([self.seed, 0], tf.int32), position, alg="philox")

        def draw(number: tf.Tensor) -> tf.Tensor:
            one = tf.random.fold_in(seed, number, alg="philox")
            return tf.random.stateless_normal(tf.shape(x)[1:], one, dtype=x.dtype, alg="philox")

        return tf.map_fn(draw, numbers, fn_output_signature=x.dtype)

    def summed(self, found: tf.Tensor, position: int, x: tf.Tensor, numbers: tf.Tensor, several: bool) -> tf.Tensor:
        change = {"mean": tf.identity, "mean_square": tf.square, "mean_abs": tf.abs}[self.reduce]
        return super().summed(change(found), position, x, numbers, several)


RULES = ("left", "right", "middle", "trapezoid", "gauss_legendre")


class IntegratedGradients(Averaged):
    """(x - b) times the mean gradient on the straight path from a baseline b to x (Sundararajan et al. 2017).

        R = lrp_tf.gradients.IntegratedGradients(model, baseline=0.0, n=50)(x)

    Completeness: as n grows, the relevance of all inputs adds up to the value explained at x less that at b. Integer
    inputs stay as they are on the path and have none. Costs n forward and backward passes, and one forward pass.

    Args:
        model, composite, output, max_batch: see `Method`. With another composite the mean is that of what the composite
            sends to the inputs, as for zennit's attributor of this name: guided backpropagation along the path, say.
            Relevance of LRP holds the factor x already; with `times_inputs=False` its plain mean is returned.
        baseline: a number for all inputs; an array that broadcasts to a sample, or [B, ...], one for each; a function
            of the batch that returns the latter, as `lambda x: x.mean((1, 2), keepdims=True)`. For models with several
            inputs a number, a structure of these, or a function that returns one.
        n: number of points on the path.
        rule: "left", "right" or "middle" of n equal steps; "trapezoid", n points from end to end; or "gauss_legendre",
            which needs the fewest points where the gradient is smooth.
        times_inputs: multiply by x - b. The mean gradient alone tells how sensitive the value is.
        chunk: at most this many points are explained at once, see `Averaged`.

    Raises:
        ValueError: n or chunk too small, an unknown rule, a baseline of another shape, a model without floating input.
    """

    def __init__(
        self,
        model: keras.Model | Explainer,
        composite: str | Composite | Rule = "gradient",
        *,
        baseline: Fill = 0.0,
        n: int = 50,
        rule: str = "trapezoid",
        times_inputs: bool = True,
        chunk: int = 16,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        super().__init__(model, composite, output=output, max_batch=max_batch)
        chosen(rule, RULES, "rule")
        self.n, self.chunk = at_least(2 if rule == "trapezoid" else 1, n, "n"), at_least(1, chunk, "chunk")
        self.baseline, self.rule, self.times_inputs = baseline, rule, bool(times_inputs)
        self._options = {"baseline": baseline, "n": n, "rule": rule, "times_inputs": times_inputs, "chunk": chunk}
        self._places, self._shares = path(rule, n)
        _needs_floats(self)

    def beside(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        return filled(self.graph, self.baseline, inputs, "baseline")

    def points(self, inputs: list[tf.Tensor], beside: list[tf.Tensor], numbers: tf.Tensor) -> list[tf.Tensor]:
        found = []
        for x, b in zip(inputs, beside, strict=True):
            if not x.dtype.is_floating:
                found.append(_held(x, numbers))
                continue
            at = tf.gather(tf.constant(self._places, x.dtype), numbers)
            found.append(b + tf.reshape(at, [-1] + [1] * x.shape.rank) * (x - b))
        return found

    def summed(self, found: tf.Tensor, position: int, x: tf.Tensor, numbers: tf.Tensor, several: bool) -> tf.Tensor:
        return tf.tensordot(tf.gather(tf.constant(self._shares, found.dtype), numbers), found, 1)

    def finished(
        self, total: list[tf.Tensor], inputs: list[tf.Tensor], beside: list[tf.Tensor]
    ) -> Sequence[tf.Tensor | None]:
        if not self.times_inputs:
            return total
        moved = zip(total, inputs, beside, strict=True)
        return [_times(t, x - b, 1, t.shape.rank > x.shape.rank) if x.dtype.is_floating else None for t, x, b in moved]


def path(rule: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where on the path from 0 to 1 the points of a rule lie, and their weights, which add up to 1; float64 [n]."""
    if rule == "gauss_legendre":
        places, shares = np.polynomial.legendre.leggauss(n)
        return (places + 1) / 2, shares / 2
    if rule == "trapezoid":
        shares = np.ones(n)
        shares[[0, -1]] = 0.5
        return np.linspace(0, 1, n), shares / (n - 1)
    return (np.arange(n) + {"left": 0.0, "middle": 0.5, "right": 1.0}[rule]) / n, np.full(n, 1 / n)


class ExpectedGradients(Averaged):
    """The mean of (x - b) times the gradient at b + a (x - b), over samples b of a background and a in [0, 1).

        R = lrp_tf.gradients.ExpectedGradients(model, x_train[:200], n=100)(x)

    Integrated gradients whose baselines are drawn from data (Erion et al. 2021). The relevance adds up to the value at
    x less its mean over the background, in expectation. Every sample gets the same draws, from the seed alone. Costs n
    forward and backward passes, and one forward pass.

    Args:
        model, composite, output, max_batch: see `IntegratedGradients`; x - b is always multiplied.
        background: samples in the structure of the model's inputs, [N, ...].
        n: number of draws.
        seed: of the draws.
        chunk: at most this many points are explained at once, see `Averaged`.

    Raises:
        ValueError: n or chunk below 1, a background of another shape, a model without a floating input.
    """

    def __init__(
        self,
        model: keras.Model | Explainer,
        background: Inputs,
        composite: str | Composite | Rule = "gradient",
        *,
        n: int = 50,
        seed: int = 0,
        chunk: int = 16,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        super().__init__(model, composite, output=output, max_batch=max_batch)
        self.n, self.chunk, self.seed = at_least(1, n, "n"), at_least(1, chunk, "chunk"), at_least(0, seed, "seed")
        self.background = targets.inputs(self.graph, background)
        self._options = {"background": background, "n": n, "seed": seed, "chunk": chunk}
        rng = np.random.default_rng(seed)
        self._rows = rng.integers(0, self.background[0].shape[0], n).astype("int32")
        self._places = rng.uniform(size=n)
        _needs_floats(self)

    def beside(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        for name, x, b in zip(self.graph.input_names, inputs, self.background, strict=True):
            if not x.shape[1:].is_compatible_with(b.shape[1:]):
                raise ValueError(
                    f"background has the wrong shape for {name}. Expected: {(None, *x.shape[1:])}. Received: "
                    f"{tuple(b.shape)}"
                )
        return []

    def _drawn(self, values: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The background's samples of these draws, [d, 1, ...]."""
        return tf.gather(values, tf.gather(tf.constant(self._rows), numbers))[:, None]

    def points(self, inputs: list[tf.Tensor], beside: list[tf.Tensor], numbers: tf.Tensor) -> list[tf.Tensor]:
        found = []
        for x, background in zip(inputs, self.background, strict=True):
            if not x.dtype.is_floating:
                found.append(_held(x, numbers))
                continue
            at = tf.reshape(tf.gather(tf.constant(self._places, x.dtype), numbers), [-1] + [1] * x.shape.rank)
            b = self._drawn(background, numbers)
            found.append(b + at * (x - b))
        return found

    def summed(self, found: tf.Tensor, position: int, x: tf.Tensor, numbers: tf.Tensor, several: bool) -> tf.Tensor:
        if x.dtype.is_floating:
            found = _times(found, x - self._drawn(self.background[position], numbers), 2, several)
        return super().summed(found, position, x, numbers, several)

    def finished(
        self, total: list[tf.Tensor], inputs: list[tf.Tensor], beside: list[tf.Tensor]
    ) -> Sequence[tf.Tensor | None]:
        return [t if x.dtype.is_floating else None for t, x in zip(total, inputs, strict=True)]


def _needs_floats(method: Method) -> None:
    graph = method.graph
    if not any(tf.as_dtype(ref.dtype).is_floating for ref in graph.inputs):
        received = ", ".join(f"{n} {ref.dtype}" for n, ref in zip(graph.input_names, graph.inputs, strict=True))
        raise ValueError(
            f"{type(method).__name__} moves inputs by fractions. Expected a floating input. Received: {received}. "
            'Remedy: a model whose Input has dtype "float32", or Gradient'
        )

"""Flip regions of the input in the order of their relevance, and see what becomes of the score (Samek et al. 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypedDict, Unpack, overload

import numpy as np

from lrp_tf.evaluate import fills, protocol, regions, schedules
from lrp_tf.evaluate.curves import Curve, Perturbation
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Array, Link, Predict

# Score and probability of the target, [B] each.
_Scored: TypeAlias = tuple[np.ndarray, np.ndarray | None]


class _Flipping(TypedDict, total=False):
    """Which regions are flipped when, and what with: what `perturb` and `perturb_steps` have in common."""

    region: int | tuple[int, ...] | None
    pooling: str
    schedule: schedules.ScheduleLike
    steps: int | None
    fill: fills.FillLike
    channel_axis: int | None
    seed: int | np.random.Generator
    ids: Array | None


class _Options(_Flipping, total=False):
    link: Link


@dataclasses.dataclass(frozen=True)
class Step:
    """The samples at one step.

    Attributes:
        number: of the step, from 0 on, when nothing is flipped.
        flips: regions flipped so far.
        x: the samples, in the caller's layout and dtype. keep: what is not flipped, bool [B, *positions].
    """

    number: int
    flips: int
    x: np.ndarray
    keep: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Everything that is settled before the first step: `samples` have channels last, `pooled` is [B, regions]."""

    samples: fills.Samples
    channel_axis: int | None
    grid: regions.Grid
    pooled: np.ndarray
    flips: np.ndarray
    filler: fills.Filler
    grey: np.ndarray | None

    @classmethod
    def of(
        cls,
        x: Array,
        relevance: Array,
        *,
        region: int | tuple[int, ...] | None = None,
        pooling: str = "sum",
        schedule: schedules.ScheduleLike = "equal",
        steps: int | None = None,
        fill: fills.FillLike = None,
        channel_axis: int | None = -1,
        seed: int | np.random.Generator = 0,
        ids: Array | None = None,
    ) -> _Plan:
        x = protocol.inputs(x)
        axis = protocol.channels(x, channel_axis)
        relevance = protocol.relevance(relevance, x, axis)
        if axis is not None and relevance.ndim == x.ndim:
            relevance = np.moveaxis(relevance, axis, -1)
        neighbours = not (axis is None and x.ndim == 2)
        last = np.ascontiguousarray(x[..., None] if axis is None else np.moveaxis(x, axis, -1))
        grid = regions.Grid.of(last.shape[1:-1], region if neighbours or region is not None else 1)
        number = schedules.flips(schedule, grid.size, steps)
        seed = int(seed.integers(2**62)) if isinstance(seed, np.random.Generator) else seed
        samples = fills.Samples(last, neighbours, seed, protocol.numbers(ids, len(x)))
        filler = fills.get(fill, neighbours=neighbours, channel_axis=axis).filler(samples)
        bounds = schedules.grey(schedule, grid.size, len(number) - 1)
        grey = None if bounds is None else np.broadcast_to(fills.Grey(*bounds).values(samples), last.shape)
        return cls(samples, axis, grid, regions.pooled(relevance, grid, pooling), number, filler, grey)

    def steps(self, order: str, first: int = 0) -> Iterator[Step]:
        """The samples of each step from `first` on."""
        samples = self.samples
        generators = protocol.generators(samples.seed, samples.ids, "order")
        ranks = self.grid.spread(regions.ranks(self.pooled, order, generators))
        current, before = samples.x.copy(), 0
        for number, flips in enumerate(self.flips.tolist()):
            keep = ranks >= flips
            if isinstance(self.filler, fills.Fixed):  # only what is flipped at this step
                flipped = np.flatnonzero(~keep & (ranks >= before))
                rows, values = (array.reshape(-1, current.shape[-1]) for array in (current, self.filler.values))
                rows[flipped] = values.take(flipped, axis=0)
            elif flips and number >= first:
                current = self.filler(keep)
            before = flips
            if self.grey is not None and number == len(self.flips) - 1:
                current = self.grey.astype(current.dtype)
            if number >= first:
                yield Step(number, flips, self.restored(current.copy()), keep)

    def curves(self, orders: list[str], scored: Callable[[np.ndarray], _Scored]) -> dict[str, Curve]:
        """The curve of each order; the whole samples are scored once for all of them."""
        whole, curves = scored(self.restored(self.samples.x)), {}
        for order in orders:
            rows = [whole, *(scored(step.x) for step in self.steps(order, first=1))]
            scores = np.stack([row[0] for row in rows], axis=1)
            known = [row[1] for row in rows if row[1] is not None]
            probabilities = np.stack(known, axis=1) if known else None
            curves[order] = Curve(order, scores, probabilities, self.flips, self.grid.size)
        return curves

    def restored(self, x: np.ndarray) -> np.ndarray:
        """Samples with channels last -> the caller's layout."""
        if self.channel_axis is None:
            return x[..., 0]
        return x if self.channel_axis == x.ndim - 1 else np.ascontiguousarray(np.moveaxis(x, -1, self.channel_axis))


def perturb_steps(
    x: Array,
    relevance: Array,
    *,
    order: str = "morf",
    region: int | tuple[int, ...] | None = None,
    pooling: str = "sum",
    schedule: schedules.ScheduleLike = "equal",
    steps: int | None = None,
    fill: fills.FillLike = None,
    channel_axis: int | None = -1,
    seed: int | np.random.Generator = 0,
    ids: Array | None = None,
) -> Iterator[Step]:
    """The pictures themselves, step by step, beginning with the whole ones; for arguments and errors see `perturb`.

    for step in evaluate.perturb_steps(x, relevance):
        print(step.flips, predict(step.x)[:, 281])
    """
    _orders([order])
    how: _Flipping = {"region": region, "pooling": pooling, "schedule": schedule, "steps": steps, "fill": fill}
    how |= {"channel_axis": channel_axis, "seed": seed, "ids": ids}
    return _Plan.of(x, relevance, **how).steps(order)


@overload
def perturb(
    predict: Predict, x: Array, relevance: Array, target: Array, *, order: str = ..., **options: Unpack[_Options]
) -> Curve: ...
@overload
def perturb(
    predict: Predict, x: Array, relevance: Array, target: Array, *, order: Sequence[str], **options: Unpack[_Options]
) -> Perturbation: ...
def perturb(
    predict: Predict,
    x: Array,
    relevance: Array,
    target: Array,
    *,
    order: str | Sequence[str] = "morf",
    region: int | tuple[int, ...] | None = None,
    pooling: str = "sum",
    schedule: schedules.ScheduleLike = "equal",
    steps: int | None = None,
    fill: fills.FillLike = None,
    link: Link = None,
    channel_axis: int | None = -1,
    seed: int | np.random.Generator = 0,
    ids: Array | None = None,
) -> Curve | Perturbation:
    """Flip the regions of samples in the order of their relevance, and follow the target's score.

        predict = evaluate.Predictor(model)
        found = evaluate.perturb(predict, x, relevance, target, order=["morf", "lerf"])
        found.srg()                  # [B]; random relevance scores 0
        found["morf"].scores         # [B, steps + 1]

    Args:
        predict: scores [B, C] of samples; called once a step with all of them.
        x: samples [B, ...]; relevance: of x's shape, or without its axis of channels.
        target: class, one for all samples or one for each.
        order: "morf" (most relevant first), "lerf" (least relevant first), "random", or several of them.
        region: side of the regions on a grid, or a side for each axis; None: max(1, side // 28), features: 1.
        pooling: "sum" of relevance over a region and its channels, or "abs": of |relevance|.
        schedule: "equal", "quadratic", "geometric" (few regions first, more later), "squares" (1, 3, 5, ..., at last
            all of it grey), a `schedules.Schedule`, or the numbers of flipped regions.
        steps: None: 29, or as many as there are regions.
        fill: one of `fills.names()`: "blur", "mean", "grey", "black", "white", "uniform", "gaussian", "telea",
            "navier_stokes", "road"; numbers; a `fills.Fill`; a function (x, keep) -> filled x. None: "blur", and 0
            for features.
        link: what makes probabilities of scores: "softmax", "sigmoid" or a function. None: those that an
            `evaluate.Predictor` knows; none of any other predict.
        channel_axis: of x; None if it has none. Features [B, F] have none, whatever is given.
        seed: of all random numbers, or the generator that draws one. ids: int [B], the number of each sample in its
            data set, 0, 1, 2, ... by default: a sample gets the same random numbers in whatever batch it comes.

    Returns:
        `Curve` of one order, `Perturbation` of several.

    Raises:
        ValueError: relevance or ids of another shape, NaN or Inf, a target that is no class, more steps than regions,
            a region larger than the sample, an unknown order, pooling, schedule or fill, a fill that these samples
            cannot have. TypeError: no numbers; a target or region that is no integer. ImportError: a fill that
            needs the extra `evaluate`.
    """
    several = [order] if isinstance(order, str) else list(order)
    _orders(several)
    how: _Flipping = {"region": region, "pooling": pooling, "schedule": schedule, "steps": steps, "fill": fill}
    how |= {"channel_axis": channel_axis, "seed": seed, "ids": ids}
    plan = _Plan.of(x, relevance, **how)
    chosen = protocol.targets(target, len(plan.samples.x))
    curves = plan.curves(several, lambda pictures: _scored(predict, pictures, chosen, link))
    return curves[order] if isinstance(order, str) else Perturbation(curves)


def _orders(order: list[str]) -> None:
    if not order or any(name not in regions.ORDERS for name in order) or len(set(order)) < len(order):
        raise ValueError(f"order expects one of {regions.ORDERS}, or several of them. Received: {order!r}")


def _scored(predict: Predict, x: np.ndarray, target: np.ndarray, link: Link) -> _Scored:
    """Score and probability of the target, [B] each."""
    if link is None and isinstance(predict, Predictor) and predict.knows_probabilities:
        scores, output = (protocol.scores(values, len(x)) for values in predict.both(x))
        return protocol.of_target(scores, target), protocol.of_target(output, target)
    scores = protocol.scores(predict(x), len(x))
    linked = None if link is None else protocol.of_target(protocol.linked(scores, link), target)
    return protocol.of_target(scores, target), linked

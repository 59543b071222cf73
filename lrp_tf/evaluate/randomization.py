"""How maps change while the layers of a model are randomised: the curve, as a table and a plot."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrp_tf.engine.tables import Table
from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.copies import randomized
from lrp_tf.evaluate.methods import explainer_of, rebuild_of
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Array, Explain
from lrp_tf.evaluate.similarity import similarity
from lrp_tf.explainer import Explainer
from lrp_tf.gradients.method import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Randomization:
    """How alike the maps of a model and of its randomised copies are.

    Attributes:
        layers: the layers that were randomised, in that order.
        values: similarity of each sample's maps after each layer, float64 [layers, B]; NaN where it is not defined.
        order, how, kind, absolute: as given to `randomization`.
    """

    layers: tuple[str, ...]
    values: np.ndarray
    order: str
    how: str
    kind: str
    absolute: bool

    @property
    def share(self) -> np.ndarray:
        """The share of the layers that are random at each value, float64 [layers]; in stages as if these were equal."""
        return np.arange(1, len(self.layers) + 1) / len(self.layers)

    def table(self) -> Table:
        """Layer -> mean similarity over the samples, lowest and highest, and for how many it is defined."""
        rows = []
        for name, share, values in zip(self.layers, self.share, self.values, strict=True):
            known = values[~np.isnan(values)]
            ends = (known.mean(), known.min(), known.max()) if len(known) else (np.nan,) * 3
            rows.append((name, float(share), *map(float, ends), len(known)))
        what = f"{self.kind} of {'|R|' if self.absolute else 'R'}, {self.order}, {self.how}"
        return Table(f"Similarity to the model's own maps: {what}", ("layer", "share", "mean", "min", "max", "n"), rows)

    def plot(self, axes: Axes | None = None, *, label: str | None = None) -> Axes:
        """Draw the mean over the samples with the band of their middle half; returns the axes."""
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        share, defined = self.share, ~np.isnan(self.values).all(axis=1)
        values = self.values[defined]
        (line,) = axes.plot(share[defined], np.nanmean(values, axis=1), label=label)
        low, high = np.nanquantile(values, [0.25, 0.75], axis=1)
        axes.fill_between(share[defined], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        alone = self.order == "independent"
        across = "which layer is random, from the top" if alone else f"share of layers that are random, {self.order}"
        axes.set_xlabel(across)
        axes.set_ylabel(f"{self.kind} of {'|R|' if self.absolute else 'R'}")
        return axes


def randomization(
    explainer: Case | Explainer | Method | functools.partial,
    x: Array | None = None,
    target: Array | None = None,
    *,
    order: str = "top_down",
    how: str = "permute",
    kind: str = "spearman",
    absolute: bool = True,
    layers: Sequence[str] | None = None,
    stages: int | None = None,
    seed: int = 0,
) -> Randomization:
    """Randomise the layers of a copy of the model one after another and compare the maps with the model's own.

        found = evaluate.randomization(explainer, x)
        found.table(), found.plot()

    Args:
        explainer: an `Explainer` or a method of `lrp_tf.gradients`, or a `functools.partial` of one, such as with a
            contrast, with x; or a `Case` with `model` and `rebuild`.
        x: samples [B, ...]. target: as the Explainer's, a class for all or one for each; None: each top class. For a
            case both are the case's, and so is the seed.
        order: "top_down", from the output, or "bottom_up", from the input: layers stay random while the next ones
            follow; "independent": one layer at a time, from the top.
        how: see `randomized`.
        kind, absolute: see `similarity`.
        layers, stages: see `randomized`.

    Raises:
        ValueError: as `randomized`; a case without model; unknown options. TypeError: another kind of explainer.
    """
    case = explainer if isinstance(explainer, Case) else _case(explainer, x, target, seed)
    if isinstance(explainer, Case) and (x is not None or target is not None):
        raise ValueError("randomization of a case takes its samples and targets. Received: x or target beside it")
    names, values = [], []
    for name, maps in explained(case, order=order, how=how, layers=layers, stages=stages):
        names.append(name)
        values.append(similarity(case.positions, maps, kind=kind, absolute=absolute))
    return Randomization(tuple(names), np.stack(values), order, how, kind, absolute)


def explained(
    case: Case,
    *,
    order: str = "top_down",
    how: str = "permute",
    layers: Sequence[str] | None = None,
    stages: int | None = None,
    maps: Callable[[Case], np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """After each layer that was randomised, its name and the maps of the copy, [B, *positions].

    Args:
        maps: gives the maps of a case with the copy's explainer; None: those of its samples and targets.
    """
    if case.model is None or case.rebuild is None:
        raise ValueError("randomization needs a model and a way to explain another. Remedy: pass model= and rebuild=")
    rebuilt: Explain | None = None
    copies = randomized(case.model, order=order, how=how, layers=layers, stages=stages, seed=case.seed, x=case.x)
    for name, model in copies:
        # Ours read the weights at every call. Others may have kept those that they were built with.
        if rebuilt is None or not isinstance(_inner(rebuilt), (Explainer, Method)):
            rebuilt = case.rebuild(model)
        yield name, (maps or maps_of)(dataclasses.replace(case, explain=rebuilt))


def _inner(explain: Explain) -> object:
    """What a `functools.partial` calls, such as an Explainer with a contrast."""
    return _inner(explain.func) if isinstance(explain, functools.partial) else explain


def maps_of(case: Case) -> np.ndarray:
    """The maps that a case's explainer gives now, [B, *positions]."""
    return dataclasses.replace(case, relevance=case.explained(case.x)).positions


def _case(explain: Explain, x: Array | None, target: Array | None, seed: int) -> Case:
    base, rebuild = explainer_of(explain), rebuild_of(explain)
    if base is None or rebuild is None:
        raise TypeError(
            f"randomization expects an Explainer, a method of lrp_tf.gradients or a Case. Received: {explain!r}. "
            "Remedy: evaluate.Case.of(..., model=..., rebuild=...)"
        )
    if x is None:
        raise ValueError("randomization of an explainer expects samples. Received: x=None")
    predict, x = Predictor(base), protocol.inputs(x)
    chosen = predict(x).argmax(axis=1) if target is None else target
    return Case.of(x, chosen, explain, predict, model=base.model, rebuild=rebuild, seed=seed)

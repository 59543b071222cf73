"""Metrics of perturbation: areas under the score while regions are flipped in the order of their relevance.

All of them take the probability of the target where `predict` knows it, else its score, or what `of` says; for
`region`, `pooling`, `schedule`, `steps`, `fill` and `link` see `perturb`. Metrics of one case share their curves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.curves import Curve, Of
from lrp_tf.evaluate.fills import FillLike
from lrp_tf.evaluate.metric import metric
from lrp_tf.evaluate.perturbation import perturb
from lrp_tf.evaluate.protocol import Link
from lrp_tf.evaluate.schedules import ScheduleLike

# The curve of an order.
Curves: TypeAlias = Callable[[str], Curve]
Area: TypeAlias = Callable[[Curves, Of | None], np.ndarray]


def curve(case: Case, order: str, options: dict[str, Any]) -> Curve:
    """The curve of a case, kept for its other metrics unless an option is more than a name or numbers."""

    def made() -> Curve:
        given = {"channel_axis": case.channel_axis, "seed": case.seed, "ids": case.ids} | options
        return perturb(case.predict, case.x, case.relevance, case.target, order=order, **given)

    if not all(isinstance(value, (str, int, float, tuple, type(None))) for value in options.values()):
        return made()
    key = ("perturb", order, *sorted(options.items()))
    if key not in case.memory:
        case.memory[key] = made()
    return case.memory[key]


def flipping(*, better: str, paper: str, **defaults: Any) -> Callable[[Area], Area]:
    """Declare a metric of the curves of a case: `area(curves, of)`, where `curves("morf")` is a Curve."""

    def declare(area: Area) -> Area:
        def function(
            case: Case,
            *,
            of: Of | None = None,
            region: int | tuple[int, ...] | None = None,
            pooling: str = "sum",
            schedule: ScheduleLike = "equal",
            steps: int | None = None,
            fill: FillLike = None,
            link: Link = None,
        ) -> np.ndarray:
            options = {"region": region, "pooling": pooling, "schedule": schedule, "steps": steps, "fill": fill}
            return area(lambda order: curve(case, order, options | {"link": link}), of)

        function.__name__, function.__doc__ = area.__name__, area.__doc__
        metric("faithfulness", better=better, paper=paper, **defaults)(function)
        return area

    return declare


@flipping(better="higher", paper="Blücher et al. 2024")
def srg(curves: Curves, of: Of | None) -> np.ndarray:
    """Symmetric relevance gain: area between least and most relevant first. Random relevance scores 0."""
    return curves("lerf").auc(of) - curves("morf").auc(of)


@flipping(better="lower", paper="Samek et al. 2017")
def morf_auc(curves: Curves, of: Of | None) -> np.ndarray:
    """Area under the score, most relevant first (AUAC), over the share of regions flipped."""
    return curves("morf").auc(of)


@flipping(better="higher", paper="Samek et al. 2017")
def lerf_auc(curves: Curves, of: Of | None) -> np.ndarray:
    """Area under the score, least relevant first (the pruning curve), over the share of regions flipped."""
    return curves("lerf").auc(of)


@flipping(better="higher", paper="Samek et al. 2017")
def aopc(curves: Curves, of: Of | None) -> np.ndarray:
    """Area over the perturbation curve, most relevant first: the mean of y_0 - y_k over the steps k."""
    return curves("morf").aopc(of)


@flipping(better="lower", paper="Ali et al. 2022")
def au_mse(curves: Curves, of: Of | None) -> np.ndarray:
    """Area under (y_k - y_0)², least relevant first, over the share of regions flipped."""
    return curves("lerf").au_mse(of)


@flipping(better="higher", paper="Rong et al. 2022", fill="road", steps=10)
def road(curves: Curves, of: Of | None) -> np.ndarray:
    """Area between least and most relevant first, where what is flipped is imputed from its neighbours (ROAD)."""
    return curves("lerf").auc(of) - curves("morf").auc(of)

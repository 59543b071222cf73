"""A method that is chosen for each net: `tune` picks a composite by SRG on half of the samples, and sees no masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from lrp_tf.evaluate.fills import Fill, Samples
from lrp_tf.evaluate.metric import Metric, get
from lrp_tf.evaluate.protocol import Explain
from lrp_tf.evaluate.tuning.parts import Parts
from lrp_tf.evaluate.tuning.space import Grid, Space, axes_of
from lrp_tf.evaluate.tuning.tune import Tuner
from lrp_tf.explainer import Explainer

NAME = "tuned"
# What is tried by default, for each kind of net; chosen on the seeds from 100 on, see docs/benchmark.md.
GRIDS: dict[str, str] = {
    "mlp": "rule.first=jointwsquare,wsquare,epsilon gamma=0,2",
    "cnn": "rule.first=jointwsquare,gamma,zplus gamma.first=2 gamma.upper=0,2 pooling=average",
}
DEFAULT = "epsilon_plus"  # the usual one begins with Flat, which is too coarse for 8 x 8 pixels
_REGIONS = 8  # on each side of a picture
_STEPS, _DRAWS = 16, 2
_LEAST = 4  # different samples, half of which choose


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The method `tuned` of a benchmark.

        evaluate.benchmark(["xor"], methods={"epsilon": "epsilon", "tuned": Tuned("rule.first=wsquare,epsilon")})

    Attributes:
        grid: what is tried, see `tune`; None: `GRIDS`.
    """

    grid: Grid | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `tune` chose for one net.

    Attributes:
        settings: of the best composite on the half that chose, as `tune` names it. composite: its text.
        srg, default: SRG of it, and of the default preset, on the half that reports.
        keep_default: whether `tune` advises to keep the default all the same.
        candidates, samples: how many were compared, on how many samples.
    """

    settings: str
    composite: str
    srg: float
    default: float
    keep_default: bool
    candidates: int
    samples: int


class OtherClass(Fill):
    """Fills each sample with one of another class: a flipped region then speaks for that class, or for none.

    Args:
        x: all samples [n, ...]; a sample's id is its row. target: their classes, [n].
        seed: of the choice.
    """

    def __init__(self, x: np.ndarray, target: np.ndarray, seed: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        rows = [rng.choice(np.flatnonzero(target != label)) if (target != label).any() else row
                for row, label in enumerate(target)]  # fmt: skip
        self.filled = x[rows]

    def values(self, samples: Samples) -> np.ndarray:
        """See `Fill`."""
        return self.filled[samples.ids]


def metric_of(x: np.ndarray, target: np.ndarray, seed: int) -> Metric:
    """SRG by which composites are chosen: regions of |R|, filled from samples of the other class, over two draws.

    Args:
        x: pictures [n, S, S, 1], of which a metric's `ids` are rows.
    """
    region = max(1, x.shape[1] // _REGIONS)
    fills = [OtherClass(x, target, [seed, draw]) for draw in range(_DRAWS)]
    steps = min(_STEPS, (x.shape[1] // region) ** 2)
    how = {"region": region, "pooling": "abs", "steps": steps, "schedule": "quadratic"}
    each = [get("srg", fill=fill, **how) for fill in fills]
    return Metric("srg", lambda case: np.mean([one(case) for one in each], axis=0), "faithfulness", "higher", "")


class Chooser:
    """Chooses for nets of one kind, whose weights change; compiled once.

    Args:
        wanted: the method. net: the kind. samples: at most so many are explained of a net.
        contrast: "none" or "softmax". low, high: bounds of the input.

    Raises:
        ValueError: a grid that does not fit the net.
    """

    def __init__(
        self, model: keras.Model, wanted: Tuned, net: str, samples: int, contrast: str, low: float, high: float
    ) -> None:
        self.tuner = Tuner(
            model,
            grid=GRIDS[net] if wanted.grid is None else wanted.grid,
            default=DEFAULT,
            also=[],
            low=low,
            high=high,
            contrast=None if contrast == "none" else contrast,
            batch_size=samples,
        )

    def choose(self, x: np.ndarray, target: np.ndarray, seed: int) -> tuple[Choice, np.ndarray, Explain]:
        """What is chosen for the model as it is now, the rows of x that did not choose, and the method.

        Args:
            x, target: samples [n, S, S, 1] and their classes.
        """
        found = self.tuner(x, target, metric=metric_of(x, target, seed), seed=seed)
        name = found.best.name
        choice = Choice(
            name,
            str(found.winner),
            found.best.mean,
            found.default.mean,
            found.keep_default,
            len(self.tuner.candidates),
            len(found.chosen_ids),
        )
        rows = np.sort(np.asarray(found.reported_ids, np.int64))
        return choice, rows, lambda x, target: self.tuner.explained(name, np.asarray(x), np.asarray(target))


def choosers(
    model: keras.Model,
    wanted: Mapping[str, object],
    net: str,
    *,
    samples: int,
    contrast: Sequence[str],
    low: float,
    high: float,
) -> dict[str, Chooser]:
    """A chooser for each method `tuned` among others, and each contrast, by the name of the method."""
    return {
        name if how == "none" else f"{name} contrast {how}": Chooser(model, one, net, samples, how, low, high)
        for name, one in wanted.items()
        if isinstance(one, Tuned)
        for how in contrast
    }


def lacking(x: np.ndarray, target: np.ndarray) -> str:
    """Why samples [n, ...] of the classes [n] do not suffice to choose by; "" if they do."""
    differ = len(np.unique(x.reshape(len(x), -1), axis=0))
    if differ < _LEAST:
        why = f"{len(x)} samples, of which {differ} differ, do not suffice to choose by; {_LEAST} that differ would"
    elif len(np.unique(target)) < 2:
        why = f"{len(x)} samples of one class do not suffice to choose by: flipped pixels come from another class"
    else:
        return ""
    return f"{why}. All other methods are judged on all {len(x)}, and not on the half that does not choose"


def check_grids(wanted: Mapping[str, object], make: Mapping[str, Callable[[], keras.Model]]) -> None:
    """Raise ValueError: the grid of a method `tuned` is none, or it does not fit a net.

    Args:
        wanted: methods by their names. make: kind of net -> what makes a new model of it.
    """
    grids = {name: one.grid for name, one in wanted.items() if isinstance(one, Tuned) and one.grid is not None}
    for grid in grids.values():
        axes_of(grid)
    for net in make if grids else ():
        parts = Parts.of(Explainer(make[net](), DEFAULT, check=False).graph)
        for name, grid in grids.items():
            try:
                Space(grid, parts, -1.0, 1.0).candidates()  # any bounds: whether there are some
            except ValueError as error:
                raise ValueError(f"{error}. This model: the {net}, for the method {name}") from error


def settings_of(wanted: Mapping[str, object]) -> dict[str, object]:
    """What decides a choice besides the grids that were given; nothing if there is no method `tuned`."""
    own = [one for one in wanted.values() if isinstance(one, Tuned)]
    if not own:
        return {}
    decisive = {"default": DEFAULT, "regions": _REGIONS, "steps": _STEPS, "draws": _DRAWS}
    return {"tuned": decisive | ({"grids": dict(GRIDS)} if any(one.grid is None for one in own) else {})}

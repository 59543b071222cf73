"""`tune`: which setting of the rules suits this model, chosen by one half of the data and reported by the other."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from lrp_tf import __version__, composites
from lrp_tf.composites import Composite
from lrp_tf.engine import streams
from lrp_tf.engine.contrast import Contrast
from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.fingerprints import described, model_digest
from lrp_tf.evaluate.metric import Metric, get
from lrp_tf.evaluate.protocol import Array
from lrp_tf.evaluate.record import Record
from lrp_tf.evaluate.samples import digests
from lrp_tf.evaluate.tuning import evolution
from lrp_tf.evaluate.tuning.clock import Clock, seconds_of
from lrp_tf.evaluate.tuning.findings import compared, ranked, report_of
from lrp_tf.evaluate.tuning.halves import halves
from lrp_tf.evaluate.tuning.judge import Judge, Samples
from lrp_tf.evaluate.tuning.parts import Parts
from lrp_tf.evaluate.tuning.result import Tuning
from lrp_tf.evaluate.tuning.search import Tried, chosen, reported
from lrp_tf.evaluate.tuning.space import Candidate, Grid, Space, presets_without_bounds
from lrp_tf.explainer import Explainer
from lrp_tf.rules.boxes import Bound

SEARCHES = ("grid", "cma")


def tune(
    model: keras.Model,
    x: Array,
    target: Array | None = None,
    *,
    grid: Grid | None = None,
    metric: str | Metric = "srg",
    budget: float | str | None = None,
    default: str | Composite = "epsilon_plus_flat",
    also: Sequence[str | Composite] | None = None,
    search: str = "grid",
    low: Bound = None,
    high: Bound = None,
    output: int | str | None = None,
    channel_axis: int | None = -1,
    batch_size: int = 16,
    seed: int = 0,
    confidence: float = 0.95,
    resume: str | os.PathLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Tuning:
    """Choose rule, gamma, epsilon and bias for each part of a net by a metric: half of x chooses, half reports.

        found = evaluate.tune(model, x, grid="gamma.lower=0,0.01:1:log4 gamma.upper=0,0.25", budget="5m")
        explainer = lrp_tf.Explainer(model, found.composite)

    Args:
        x, target: samples [n, ...]; the classes to explain, one for all or [n], None: the predicted ones.
        grid: what varies, text or name -> values, see docs/tune.md; None: gamma of the lower and the upper half.
        metric: a name or a metric with options, which judges relevance as it is and has a direction.
        budget: seconds, or a text as "5m". default: what the best is compared with.
        also: composites ranked with the grid; None: all presets that need no bounds of the input.
        search: "grid", or "cma", CMA-ES over the ranges in `grid` (extra: tune).
        low, high: bounds of the model's input, for rule=box. output: see `Explainer`. channel_axis: of x.
        batch_size: samples that are judged together. seed: of halves and random numbers. confidence: of intervals.
        resume: a folder that keeps what is finished; a run that was killed ends with the same numbers.
        progress: called with the number of samples that a candidate was judged on, and with the largest total.

    Raises:
        ValueError: arguments out of range, an axis without effect, fewer than four different samples, another run
            in `resume`. TypeError: no numbers. ImportError: cma is missing.
    """
    tuner = Tuner(
        model,
        grid=grid,
        default=default,
        also=also,
        search=search,
        low=low,
        high=high,
        output=output,
        channel_axis=channel_axis,
        batch_size=batch_size,
        confidence=confidence,
        reused=False,
    )
    return tuner(x, target, metric=metric, budget=budget, seed=seed, resume=resume, progress=progress)


def _check(search: str, confidence: float, batch_size: int) -> None:
    if search not in SEARCHES:
        raise ValueError(f"search expects one of {SEARCHES}. Received: {search!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence expects a share between 0 and 1. Received: {confidence!r}")
    if batch_size is None or streams.checked_size(batch_size, "batch_size") is None:
        raise ValueError("batch_size expects a number of samples. Received: None")


class Tuner:
    """`tune` for a model whose weights change from call to call: whatever is compiled for one call serves the next.

        tuner = Tuner(model, grid="gamma.upper=0.1,0.5", also=[])
        found = tuner(x, target); model.set_weights(others); again = tuner(x, target)

    Args:
        contrast: what each class is explained against, as the Explainer's. reused: False: it is called once, so that
            what is compiled need not be kept. The rest: see `tune`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        grid: Grid | None = None,
        default: str | Composite = "epsilon_plus_flat",
        also: Sequence[str | Composite] | None = None,
        search: str = "grid",
        low: Bound = None,
        high: Bound = None,
        output: int | str | None = None,
        contrast: Contrast = None,
        channel_axis: int | None = -1,
        batch_size: int = 16,
        confidence: float = 0.95,
        reused: bool = True,
    ) -> None:
        _check(search, confidence, batch_size)
        self.base, self.search, self.batch_size, self.confidence = _named(default), search, batch_size, confidence
        self.explainer = Explainer(model, self.base.composite, output=output)
        self.space = Space(grid, Parts.of(self.explainer.graph), low, high)
        others = presets_without_bounds() if also is None else [_named(one) for one in also]
        if search == "cma":
            evolution.check(self.space)
        self.candidates = _candidates(self.base, others, self.space, search)
        self.judge = Judge(
            model,
            output=output,
            contrast=contrast,
            channel_axis=channel_axis,
            batch_size=max(batch_size, 32),
            reused=reused,
        )

    def __call__(
        self,
        x: Array,
        target: Array | None = None,
        *,
        metric: str | Metric = "srg",
        budget: float | str | None = None,
        seed: int = 0,
        resume: str | os.PathLike | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tuning:
        """Search, then report; for arguments and errors see `tune`."""
        samples = protocol.inputs(x)
        classes = _targets(self.explainer, samples, target, self.batch_size)
        self.judge.begin(Samples(samples, classes), _metric(metric), seed)
        self.budget, self.seconds = budget, seconds_of(budget)
        return self._result(digests(x, target, None), resume, progress)

    def explained(self, name: str, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Relevance of samples [n, ...] of the classes [n] by the candidate of that name, before or after a search.

        Raises:
            ValueError: no candidate has this name.
        """
        known = {candidate.name: candidate for candidate in self.candidates}
        if name not in known:
            raise ValueError(f"name expects one of {list(known)}. Received: {name!r}")
        return self.judge.explained(known[name], x, target)

    def _result(
        self,
        data: dict[str, str],
        resume: str | os.PathLike | None,
        progress: Callable[[int, int], object] | None,
    ) -> Tuning:
        """Search, then report.

        Args:
            data: identifies samples and targets as they were given.
        """
        judge, size, seed = self.judge, self.batch_size, self.judge.seed
        choosing, reporting = halves(judge.samples.x, judge.samples.target, seed)
        total = len(self.candidates) * len(choosing) + 2 * len(reporting)
        if progress is not None:
            judge.told = lambda count: progress(count, total)
        archive = self._archive()
        kept = {name: value for name, value in archive.items() if name not in ("budget", "versions")}
        # Another budget is no other run: what is finished counts.
        record = Record(resume, kept | {"channel_axis": judge.channel_axis, "output": judge.output, **data})
        clock = Clock(self.seconds, None if resume is None else Path(resume) / "clock.json")
        if self.search == "cma":
            reserve = 0.25 * (self.seconds or 0.0)
            tried = evolution.evolved(self.space, self.candidates, choosing, judge, record, clock, seed, reserve)
        else:
            tried = chosen(self.candidates, choosing, judge, record, clock, size, len(reporting))
        best = self.base if math.isnan(tried[0].mean()) else tried[0].candidate
        pair = [best, self.base] if best.name != self.base.name else [self.base]
        values, used = reported(pair, reporting, judge, record, clock, size)
        clock.keep()
        unreached = _unreached(tried, len(choosing), len(used), len(reporting))
        if judge.failures:
            first = judge.failures[0]
            place = f"{first.method}, sample {first.sample}"
            unreached.append(f"{len(judge.failures)} values are missing; the first, {place}: {first.reason}.")
        if self.seconds is not None and clock.spent > 1.1 * self.seconds:
            unreached.append(f"It took {clock.spent:.0f} s, which is more than the budget.")
        return _tuning(judge, self.space, tried, pair, values, used, archive, self.confidence, unreached)

    def _archive(self) -> dict[str, object]:
        """What settings.json says of a run."""
        versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
        return {
            "version": __version__,
            "versions": {"python": platform.python_version(), **versions},
            "seed": self.judge.seed,
            "metric": described(self.judge.metric),
            "search": self.search,
            "default": self.base.name,
            "budget": self.budget,
            "batch_size": self.batch_size,
            "axes": {axis.name: [str(value) for value in axis.values] for axis in self.space.axes},
            "parts": dict(self.space.parts.counts),
            "candidates": {candidate.name: str(candidate.composite) for candidate in self.candidates},
            "model": model_digest(self.judge.model),
        }


def _tuning(
    judge: Judge,
    space: Space,
    tried: list[Tried],
    pair: list[Candidate],
    values: list[np.ndarray],
    used: np.ndarray,
    archive: dict[str, object],
    confidence: float,
    unreached: list[str],
) -> Tuning:
    """The result."""
    best, base = pair[0], pair[-1]
    difference, low, high, pairs = compared(values[0][0], values[-1][0], judge.seed, confidence)
    better = low > 0 if judge.metric.better == "higher" else high < 0
    keep = best.name == base.name or not better
    most = max(len(one.ids) for one in tried)
    return Tuning(
        metric=judge.metric.name,
        better=str(judge.metric.better),
        ranking=ranked(tried, judge.seed, confidence),
        best=report_of(best.name, values[0], judge.seed, confidence),
        default=report_of(base.name, values[-1], judge.seed, confidence),
        difference=difference,
        low=low,
        high=high,
        pairs=pairs,
        keep_default=bool(keep),
        composite=base.composite if keep else best.composite,
        winner=best.composite,
        chosen_ids=tuple(next(one.ids for one in tried if len(one.ids) == most)),
        reported_ids=tuple(used.tolist()),
        axes=tuple(space.axes),
        settings={one.candidate.name: one.candidate.settings for one in tried},
        values={one.candidate.name: (one.ids, one.values[0]) for one in tried},
        report={candidate.name: rows[0] for candidate, rows in zip(pair, values, strict=True)},
        seed=judge.seed,
        confidence=confidence,
        unreached=tuple(unreached),
        archive=archive,
    )


def _unreached(tried: list[Tried], choosing: int, used: int, reporting: int) -> list[str]:
    """What the budget did not suffice for, in words."""
    found, most = list[str](), max(len(one.ids) for one in tried)
    never = [one.candidate.name for one in tried if not one.ids]
    if never:
        shown = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
        found.append(f"The budget did not suffice for {len(never)} of {len(tried)} candidates: {shown}.")
    dropped = sum(0 < len(one.ids) < most for one in tried)
    if dropped:
        found.append(f"For the sake of the budget {dropped} candidates were dropped on fewer than {most} samples.")
    if most < choosing:
        found.append(f"The budget did not suffice for {choosing - most} of the {choosing} samples that choose.")
    if used < reporting:
        found.append(f"The budget did not suffice for {reporting - used} of the {reporting} samples that report.")
    return found


def _metric(metric: str | Metric) -> Metric:
    """A metric with a direction that judges relevance as it is."""
    found = get(metric)
    if found.better is None or found.needs or found.over_batch or found.family in ("sanity", "stability"):
        raise ValueError(
            "tune expects a metric that judges relevance as it is, one sample after the other, and says which value is "
            f"better, such as srg. Received: {found.name}"
        )
    return found


def _named(given: str | Composite) -> Candidate:
    composite = composites.get(given)
    return Candidate(given if isinstance(given, str) else composite.name, composite, {})


def _candidates(base: Candidate, others: list[Candidate], space: Space, search: str) -> list[Candidate]:
    """The default, the others, and the grid from coarse to fine; each composite once."""
    found: dict[str, Candidate] = {str(base.composite): base}
    for candidate in [*others, *([] if search == "cma" else space.coarse_to_fine(space.candidates()))]:
        found.setdefault(str(candidate.composite), candidate)
    names = [candidate.name for candidate in found.values()]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"candidates need names that differ. Received: {twice[0]!r} twice. Remedy: Composite(…, name)")
    return list(found.values())


def _targets(explainer: Explainer, x: np.ndarray, target: Array | None, batch_size: int) -> np.ndarray:
    """The class of each sample, int64 [n]: as given, or the predicted one."""
    if target is not None:
        return protocol.targets(target, len(x))
    from lrp_tf.evaluate.predictors import Predictor

    scores = protocol.scores(Predictor(explainer, batch_size=max(batch_size, 32))(x), len(x))
    return scores.argmax(axis=1).astype(np.int64)

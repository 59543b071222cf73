"""`tune`: which setting of the rules suits this model, chosen by one half of the data and reported by the other."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from lrp_tf import __version__, composites
from lrp_tf.composites import Composite
from lrp_tf.engine import streams
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
    """Choose rule, gamma, epsilon and bias for each part of a net by a metric that needs no ground truth.

        found = evaluate.tune(model, x, grid="gamma.lower=0,0.01:1:log4 gamma.upper=0,0.25", budget="5m")
        print(found.verdict)
        explainer = lrp_tf.Explainer(model, found.composite)

    Half of the samples choose. The other half reports on the best and the default alone, in one comparison: unless the
    interval of their difference in pairs excludes 0, the default is to be kept.

    Args:
        model: a Keras model with one input and an output [B, C].
        x: samples [n, ...].
        target: the classes to explain, one for all or [n]; None: the predicted ones.
        grid: what varies, as text, "rule.lower=gamma,zplus gamma=0,0.01:1:log7 epsilon=1e-6,relative(0.25)
            zero_bias=true,false", as a list of such texts, or as name -> values. A name is rule, gamma, epsilon or
            zero_bias, for every part or, with .first, .lower, .upper or .dense behind it, for one. None: gamma of
            the lower and the upper half, 25 settings.
        metric: a name or a metric with options, see `get`; it must judge relevance as it is, and have a direction.
        budget: seconds, or a text as "5m": which candidates and samples are reached depends on it.
        default: what the best is compared with, a preset's name or a composite.
        also: more composites to be ranked; None: all presets that need no bounds of the input.
        search: "grid"; or "cma", CMA-ES over the ranges in `grid` (extra: tune).
        low, high: bounds of the model's input, for rule=box.
        output: see `Explainer`. channel_axis: of x.
        batch_size: samples that are judged together.
        seed: of the halves and of all random numbers. confidence: of the intervals.
        resume: a folder that keeps what is finished. A run that was killed continues there, and ends with the same
            numbers; its budget counts the time of all its parts.
        progress: called after each candidate on a batch with the number of samples, and with how many there are in all
            if nothing is dropped.

    Raises:
        ValueError: a grid, metric, budget, default or search that is none; an axis without effect; fewer than four
            different samples; targets out of range; settings that `resume` does not share. TypeError: no numbers.
        ImportError: cma is missing.
    """
    if search not in SEARCHES:
        raise ValueError(f"search expects one of {SEARCHES}. Received: {search!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence expects a share between 0 and 1. Received: {confidence!r}")
    if batch_size is None or streams.checked_size(batch_size, "batch_size") is None:
        raise ValueError("batch_size expects a number of samples. Received: None")
    judged_by, seconds, samples = _metric(metric), seconds_of(budget), protocol.inputs(x)
    base = _named(default)
    explainer = Explainer(model, base.composite, output=output)
    space = Space(grid, Parts.of(explainer.graph), low, high)
    others = presets_without_bounds() if also is None else [_named(one) for one in also]
    if search == "cma":
        evolution.check(space)
    candidates = _candidates(base, others, space, search)
    judge = Judge(
        *(model, judged_by, Samples(samples, _targets(explainer, samples, target, batch_size))),
        output=output,
        channel_axis=channel_axis,
        batch_size=max(batch_size, 32),
        seed=seed,
        told=lambda count: None,
    )
    chosen_ids, reported_ids = halves(samples, judge.samples.target, seed)
    total = len(candidates) * len(chosen_ids) + 2 * len(reported_ids)
    judge.told = lambda count: progress(count, total) if progress is not None else None
    archive = _archive(model, space, candidates, judge, search, batch_size, budget, default)
    record = Record(resume, _settings(archive, judge, samples, target))
    clock = Clock(seconds, None if resume is None else Path(resume) / "clock.json")
    if search == "cma":
        tried = evolution.evolved(space, candidates, chosen_ids, judge, record, clock, seed, 0.25 * (seconds or 0.0))
    else:
        tried = chosen(candidates, chosen_ids, judge, record, clock, batch_size, len(reported_ids))
    best = tried[0].candidate if tried[0].mean() == tried[0].mean() else base
    pair = [best, base] if best.name != base.name else [base]
    values, used = reported(pair, reported_ids, judge, record, clock, batch_size)
    clock.keep()
    late = (
        [] if clock.left > -0.1 * (seconds or 0) else [f"It took {clock.spent:.0f} s, which is more than the budget."]
    )
    reached = _unreached(tried, len(chosen_ids), len(used), len(reported_ids))
    return _tuning(judge, space, tried, pair, values, used, archive, confidence, [*reached, *late])


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


def _archive(
    model: keras.Model,
    space: Space,
    candidates: list[Candidate],
    judge: Judge,
    search: str,
    batch_size: int,
    budget: float | str | None,
    default: str | Composite,
) -> dict[str, object]:
    """What settings.json says of a run."""
    return {
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        },
        "seed": judge.seed,
        "metric": described(judge.metric),
        "search": search,
        "default": default if isinstance(default, str) else str(default),
        "budget": budget,
        "batch_size": batch_size,
        "axes": {axis.name: [str(value) for value in axis.values] for axis in space.axes},
        "parts": dict(space.parts.counts),
        "candidates": {candidate.name: str(candidate.composite) for candidate in candidates},
        "model": model_digest(model),
    }


def _settings(archive: dict[str, object], judge: Judge, x: np.ndarray, target: Array | None) -> dict[str, object]:
    """What has to be the same when a run is resumed; it may get another budget."""
    kept = {name: value for name, value in archive.items() if name not in ("budget", "versions")}
    return kept | {"channel_axis": judge.channel_axis, "output": judge.output, **digests(x, target, None)}

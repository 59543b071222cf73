"""`benchmark`: nets trained on problems whose evidence is known, and how well each method finds it."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrp_tf import __version__
from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate import evidence, xaitris
from lrp_tf.evaluate.benchmark.cells import Cell, Place, Store
from lrp_tf.evaluate.benchmark.methods import CONTRASTS, Methods, Wanted, contrasted, listed
from lrp_tf.evaluate.benchmark.nets import NETS, OF_PICTURES, OF_TEXTS, Trainer
from lrp_tf.evaluate.benchmark.summary import Benchmark
from lrp_tf.evaluate.benchmark.tuned import Choice, Chooser, Tuned, check_grids, choosers, lacking, settings_of
from lrp_tf.evaluate.compare import compare
from lrp_tf.evaluate.fingerprints import described
from lrp_tf.evaluate.metric import Metric, get
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.problem import Problem
from lrp_tf.evaluate.protocol import Explain

Told = Callable[[Cell, int, int], object]
_EMD_SIDE = 16  # larger pictures are pooled to so many blocks a side: exact distances take minutes there


def metrics_of(size: int, texts: bool = False) -> dict[str, Metric]:
    """What a benchmark measures by default, under short names: of |R|, and of positive relevance alone (R+)."""
    block = 1 if texts else max(1, size // _EMD_SIDE)
    return {
        "precision": get("relevance_rank", part="absolute"),
        "mass": get("relevance_mass", part="absolute"),
        "emd": get("earth_movers_distance", part="absolute", block=block),
        "precision R+": get("relevance_rank", part="positive"),
        "mass R+": get("relevance_mass", part="positive"),
    }


def benchmark(
    problems: Sequence[str] = xaitris.PROBLEMS,
    backgrounds: Sequence[str] | None = None,
    *,
    size: int = 8,
    nets: Sequence[str] | None = None,
    seeds: int = 5,
    first_seed: int = 0,
    samples: int = 200,
    methods: Sequence[str] | Mapping[str, Wanted] | None = None,
    inputs: str = "signed",
    contrast: Sequence[str] = ("none",),
    training: int | None = None,
    epochs: int | None = None,
    resume: str | os.PathLike | None = None,
    progress: Told | None = None,
) -> Benchmark:
    """Train nets on problems whose evidence is known, and measure how well methods find it.

        found = evaluate.benchmark(["xor"], ["white"], nets=["mlp"], seeds=2, training=400, epochs=2)
        print(found); found.save("results")

    Explained are test samples that the net gets right, for their true class. Intervals are those of Student's t over
    the seeds: each seed has its own samples and its own net.

    Args:
        problems: of XAI-TRIS, see `xaitris.generate`; or of texts, see `evidence.generate`: the ones or the others.
        backgrounds, size, inputs: of XAI-TRIS; None: all backgrounds.
        nets: "mlp" and "cnn" of pictures; "encoder", a small transformer, of texts; None: all of them.
        seeds: how many. first_seed: the first of them.
        samples: at most this many are explained of each net.
        methods: names of presets, of gradients and of baselines; or a dict of name -> name, composite, or function that
            makes an explainer of a model; None: all of them. "tuned", which is not among these: `tune` chooses a
            composite for each net by one half of the samples, and all methods are judged on the other half alone.
        contrast: "none", "softmax" or both: whether the class is explained, or the class against the other one, by all
            methods that know the model.
        training: samples in all, see `xaitris.generate`; None: the paper's number. epochs: at most; None:
            150 of an MLP, 60 of a CNN, 4 of an encoder.
        resume: a folder that keeps finished nets: a run that was killed continues there. Other settings are refused.
        progress: called after each net, with its cell, the number of finished ones, and that of all.

    Raises:
        ValueError: unknown names; no seed or no sample; a grid that does not fit a net; other settings in `resume`.
    """
    wanted = listed(methods)
    texts = not isinstance(problems, str) and bool(problems) and set(problems) <= set(evidence.NAMES)
    names = _names(texts, problems, backgrounds, nets, contrast)
    _check(wanted, texts, seeds, first_seed, samples)
    size, inputs = (evidence.LENGTH, "tokens") if texts else (size, inputs)
    check_grids(wanted, {net: functools.partial(NETS[net].make, size, 2) for net in names["nets"]})
    plan = _Plan(size, inputs, tuple(contrast), samples, training, epochs, wanted, metrics_of(size, texts))
    store = Store(None if resume is None else Path(resume), plan.settings())
    every = itertools.product(range(first_seed, first_seed + seeds), names["backgrounds"], problems, names["nets"])
    places = [Place(problem, background, net, seed) for seed, background, problem, net in every]
    cells = []
    for cell in _measured(plan, store, places):
        cells.append(cell)
        if progress is not None:
            progress(cell, len(cells), len(places))
    return Benchmark(tuple(cells), tuple(contrasted(wanted, plan.contrast)), plan.metrics, size, inputs)


def _check(wanted: Mapping[str, Wanted], texts: bool, seeds: int, first_seed: int, samples: int) -> None:
    """Raise ValueError: numbers out of range; a method that texts do not have."""
    if texts and any(isinstance(one, Tuned) for one in wanted.values()):
        raise ValueError("methods: tuned is for pictures. Remedy: evaluate.tune on a net and texts of your own")
    for what, count, least in (("seeds", seeds, 1), ("first_seed", first_seed, 0), ("samples", samples, 1)):
        if not is_whole(count) or count < least:
            kind = "" if is_whole(count) else "a whole number, "
            raise ValueError(f"{what} expects {kind}at least {least}. Received: {count!r}")


def _names(
    texts: bool,
    problems: Sequence[str],
    backgrounds: Sequence[str] | None,
    nets: Sequence[str] | None,
    contrast: Sequence[str],
) -> dict[str, Sequence[str]]:
    """What was asked for, or else all that there is for pictures or texts.

    Raises:
        ValueError: an unknown name, one that comes twice, none at all.
    """
    known = {
        "problems": evidence.NAMES if texts else xaitris.PROBLEMS,
        "backgrounds": ("tokens",) if texts else xaitris.BACKGROUNDS,
        "nets": OF_TEXTS if texts else OF_PICTURES,
        "contrast": CONTRASTS,
    }
    given = {"problems": problems, "backgrounds": backgrounds, "nets": nets, "contrast": contrast}
    found = {what: known[what] if names is None else names for what, names in given.items()}
    for what, names in found.items():
        if isinstance(names, str) or not names or set(names) - set(known[what]) or len(set(names)) < len(names):
            more = f", or of {list(evidence.NAMES)}" if what == "problems" and not texts else ""
            raise ValueError(f"{what} expects some of {list(known[what])}{more}, each once. Received: {names!r}")
    return found


class _Plan(NamedTuple):
    """What is the same for all cells."""

    size: int
    inputs: str
    contrast: tuple[str, ...]
    samples: int
    training: int | None
    epochs: int | None
    wanted: dict[str, Wanted]
    metrics: dict[str, Metric]

    def settings(self) -> dict[str, object]:
        named = {"size": self.size, "inputs": self.inputs, "samples": self.samples, "training": self.training}
        return {
            "version": __version__,
            **named,
            "epochs": self.epochs,
            "contrast": sorted(self.contrast),
            "methods": {name: one if isinstance(one, str) else described(one) for name, one in self.wanted.items()},
            "metrics": {name: described(metric) for name, metric in self.metrics.items()},
            **settings_of(self.wanted),
        }


def _measured(plan: _Plan, store: Store, places: Sequence[Place]) -> Iterator[Cell]:
    """All cells, those that are known already among them."""
    benches: dict[tuple[str, int], _Bench] = {}
    for place in places:
        cell = store.find(place)
        if cell is None:
            key = place.net, evidence.TASKS[place.problem].classes if place.problem in evidence.TASKS else 2
            problem = _problem(plan, place)
            if key not in benches:
                benches[key] = _Bench(*key, plan, len(problem.train))
            cell = benches[key].cell(place, problem)
            store.keep(cell)
        yield cell


def _problem(plan: _Plan, place: Place) -> Problem:
    if place.problem in evidence.TASKS:
        return evidence.generate(place.problem, samples=plan.training, seed=place.seed)
    return xaitris.generate(
        place.problem, place.background, plan.size, samples=plan.training, inputs=plan.inputs, seed=place.seed
    )


class _Bench:
    """A model, what trains and what explains it: compiled once, for the weights of all cells of its kind."""

    def __init__(self, net: str, classes: int, plan: _Plan, samples: int) -> None:
        self.plan = plan
        self.trainer = Trainer(net, plan.size, classes=classes, samples=samples, epochs=plan.epochs)
        self.predict = Predictor(self.trainer.model, batch_size=plan.samples)
        self.net = net
        self.methods: Methods | None = None
        self.choosers: dict[str, Chooser] = {}
        self.bounds: tuple[float, float] | None = None

    def cell(self, place: Place, problem: Problem) -> Cell:
        """Train on the problem of a place and judge all methods."""
        plan, trainer = self.plan, self.trainer
        self._prepare(problem.low, problem.high)  # before training: what does not fit is told at once
        fitted = trainer.fit(problem, place.seed)
        assert self.methods is not None
        _, classes = trainer.judge(problem.test)
        rows = np.flatnonzero(classes == problem.test.label)[: plan.samples]
        chosen, rows, explain, why = self._chosen(problem, rows, place.seed)
        values, undefined, failures = self._judged(problem, rows, {**explain, **self.methods.explain})
        return Cell(
            place,
            problem.alpha,
            float(problem.test.masks.mean()),
            fitted.accuracy,
            fitted.epochs,
            fitted.seconds,
            len(rows),
            values,
            undefined,
            self.methods.same,
            self.methods.refused,
            [*why, *failures],
            chosen,
        )

    def _prepare(self, low: float, high: float) -> None:
        """Build all methods, unless they are there."""
        if self.methods is not None and self.bounds == (low, high):
            return
        self.bounds, plan, model = (low, high), self.plan, self.trainer.model
        self.methods = Methods.of(model, plan.wanted, contrast=plan.contrast, low=low, high=high)
        self.choosers = choosers(
            model, plan.wanted, self.net, samples=plan.samples, contrast=plan.contrast, low=low, high=high
        )

    def _chosen(
        self, problem: Problem, rows: np.ndarray, seed: int
    ) -> tuple[dict[str, Choice], np.ndarray, dict[str, Explain], list[str]]:
        """What `tune` chose by half of the rows, the other half, and the methods; why there is nothing to choose by."""
        if not self.choosers or not len(rows):
            return {}, rows, {}, []
        x, label = problem.test.x[rows], problem.test.label[rows]
        if why := lacking(x, label):
            return {}, rows, {}, [why]
        found, explain, left = dict[str, Choice](), dict[str, Explain](), rows
        for name, chooser in self.choosers.items():  # the same half each time
            found[name], kept, explain[name] = chooser.choose(x, label, seed)
            left = rows[kept]
        return found, left, explain, []

    def _judged(
        self, problem: Problem, rows: np.ndarray, methods: dict[str, Explain]
    ) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, int]], list[str]]:
        """Values and undefined ones by method and metric; reasons of failures."""
        if not len(rows):
            return {}, {}, ["the net gets no test sample right"]
        test = problem.test
        found = compare(
            methods,
            test.x[rows],
            test.label[rows],
            predict=self.predict,
            model=self.trainer.model,
            metrics=self.plan.metrics,
            masks=test.masks[rows],
            batch_size=self.plan.samples,
        )
        values: dict[str, dict[str, float | None]] = {}
        undefined: dict[str, dict[str, int]] = {}
        for name, table in zip(found.methods, found.values, strict=True):
            lacking = np.isnan(table).sum(axis=1)
            means = [math.nan if missing == len(rows) else float(np.nanmean(row))
                     for row, missing in zip(table, lacking, strict=True)]  # fmt: skip
            values[name] = {m: None if math.isnan(v) else v for m, v in zip(self.plan.metrics, means, strict=True)}
            undefined[name] = {m: int(n) for m, n in zip(self.plan.metrics, lacking, strict=True) if n}
        reasons = Counter(f"{failure.method or 'all methods'}: {failure.reason}" for failure in found.failures)
        return values, undefined, [f"{reason} ({count} of {len(rows)} samples)" for reason, count in reasons.items()]

"""A benchmark as Markdown and CSV."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.evaluate.benchmark import against
from lrp_tf.evaluate.benchmark.methods import BASELINES
from lrp_tf.evaluate.benchmark.nets import LEARNT
from lrp_tf.evaluate.benchmark.results import Results
from lrp_tf.evaluate.benchmark.tuned import Choice
from lrp_tf.evaluate.tables import write_csv

_WORDS = {
    "precision": "of the k pixels (or tokens) with the largest |R| the share that is evidence, which has k",
    "mass": "the share of |R| that lies on evidence",
    "emd": "1 - d / D, d the way that |R| has to move to lie evenly on the evidence, D the longest way that there is",
    "precision R+": "as precision, by R: what speaks for the class",
    "mass R+": "the share of positive R that lies on evidence",
}


def markdown(found: Results) -> str:
    """All tables; see `Benchmark.markdown`."""
    parts = [f"# {found.title}", _nets(found), *against.markdown(found)]
    if len(found.problems) > 1:
        for net in found.nets:
            parts += [f"## Means over the {len(found.problems)} problems, {net}", _means(found, net)]
    for net in found.nets:
        for metric in found.metrics:
            parts += [f"## {metric}, {net}", _table(found, net, metric)]
        parts += _notes(found, net)
    return "\n\n".join(parts) + "\n"


def _nets(found: Results) -> str:
    """Accuracy of all nets: mean and least over the seeds, and how many of them reach the threshold."""
    columns = ["problem", "background", "alpha", "evidence", *found.nets]
    rows = []
    for problem, background in found.problems:
        cells = [found.of(net, problem, background) for net in found.nets]
        alpha = cells[0][0].alpha
        chance = np.mean([cell.chance for cell in cells[0]])
        row = [problem, background, "" if alpha is None else f"{alpha:g}", f"{chance:.3f}"]
        for of_net in cells:
            right = [cell.accuracy for cell in of_net]
            row.append(f"{np.mean(right):.3f} ({min(right):.3f}) {sum(c.learnt for c in of_net)}/{len(of_net)}")
        rows.append(row)
    words = (
        f"Accuracy on test samples: mean over the seeds (the least one), and how many nets reach {LEARNT:g}. Nets that "
        "do not are measured all the same; † marks means over such. evidence: its share of the pixels, which is what "
        "random maps find by precision and mass."
    )
    return f"## Nets\n\n{words}\n\n{_grid(columns, rows)}"


def _means(found: Results, net: str) -> str:
    """Methods × metrics, each the mean over all problems; the best by the first metric first."""
    lines = []
    for method, others in _sharing(found, net).items():
        each = [[found.row(net, *where, metric, method).mean for where in found.problems] for metric in found.metrics]
        lines.append((" = ".join([method, *others]), [_mean(np.array(values)) for values in each]))
    lines.sort(key=lambda line: -np.nan_to_num(line[1][0], nan=-1.0))
    return _grid(["method", *found.metrics], [[name, *map(_number, means)] for name, means in lines])


class _Line(NamedTuple):
    method: str
    means: np.ndarray
    texts: list[str]


def _table(found: Results, net: str, metric: str) -> str:
    """Methods × problems, the best mean over all of them first; methods that share maps in one row."""
    sharing = _sharing(found, net)
    lines = []
    for method, others in sharing.items():
        rows = [found.row(net, *where, metric, method) for where in found.problems]
        texts = [_cell(row.mean, row.high, row.seeds > row.learnt) for row in rows]
        lines.append(_Line(" = ".join([method, *others]), np.array([row.mean for row in rows]), texts))
    order = sorted(lines, key=lambda line: -np.nan_to_num(_mean(line.means), nan=-1.0))
    best = np.array([_largest([line.means[k] for line in lines]) for k in range(len(found.problems))])
    ignorant = [line for line in lines if line.method in BASELINES]
    bar = np.array([_largest([line.means[k] for line in ignorant]) for k in range(len(found.problems))])
    columns = ["method", *(f"{problem} {background}" for problem, background in found.problems), "mean", "loses to"]
    body = []
    for line in order:
        cells = [
            f"**{text}**" if mean == top else text for text, mean, top in zip(line.texts, line.means, best, strict=True)
        ]
        lost = "" if line.method in BASELINES or not ignorant else str(int((line.means < bar).sum()))
        body.append([line.method, *cells, _number(_mean(line.means)), lost])
    words = _WORDS.get(metric, "")
    told = f"{words}. " if words else ""
    text = f"{told}Mean ± half of the {found.confidence:.0%} interval over the seeds; bold: the best of the column."
    if ignorant:
        text += f" loses to: in how many columns the best of {', '.join(line.method for line in ignorant)} is above."
    return f"{text[0].upper()}{text[1:]}\n\n{_grid(columns, body)}"


def _sharing(found: Results, net: str) -> dict[str, list[str]]:
    """Methods with maps of their own -> those that share them."""
    cell = next(cell for cell in found.cells if cell.place.net == net)
    known: dict[str, list[str]] = {
        method: [] for method in found.methods if method not in cell.same and method not in cell.refused
    }
    for method, other in cell.same.items():
        known[other].append(method)
    return known


def _notes(found: Results, net: str) -> list[str]:
    """What does not apply, what is not defined, what failed."""
    cells = [cell for cell in found.cells if cell.place.net == net]
    lines = [f"{method} does not apply to {net}: {reason}" for method, reason in cells[0].refused.items()]
    counted: dict[tuple[str, str], int] = {}
    for cell in cells:
        for method, by_metric in cell.undefined.items():
            for metric, count in by_metric.items():
                counted[method, metric] = counted.get((method, metric), 0) + count
    whole = sum(cell.explained for cell in cells)
    lines += [f"{method} has no {metric} for {n} of {whole} samples ({net})" for (method, metric), n in counted.items()]
    lines += [f"{cell.place}: {failure}" for cell in cells for failure in cell.failures]
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _cell(mean: float, high: float, unlearnt: bool) -> str:
    if math.isnan(mean):
        return "–"
    half = "" if math.isnan(high) else f" ±{high - mean:.3f}".replace("±0.", "±.")
    return f"{_number(mean)}{half}{'†' if unlearnt else ''}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _largest(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known else math.nan


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write(folder: Path, found: Results) -> None:
    """table.md, summary.csv, seeds.csv and nets.csv; with a method `tuned` also against.csv and tuned.csv."""
    text = markdown(found)
    atomic(folder / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if found.rows:
        write_csv(folder / "summary.csv", found.rows[0]._fields, found.rows)
    nets = ("net", "problem", "background", "seed", "alpha", "evidence", "accuracy", "epochs", "seconds", "explained")
    write_csv(folder / "nets.csv", nets, [
        (c.place.net, c.place.problem, c.place.background, c.place.seed, c.alpha, c.chance, c.accuracy, c.epochs,
         c.seconds, c.explained) for c in found.cells])  # fmt: skip
    if compared := against.against(found):
        write_csv(folder / "against.csv", compared[0]._fields, compared)
        choices = [(c.place, name, choice) for c in found.cells for name, choice in c.tuned.items()]
        named = ("net", "problem", "background", "seed", "method", *(f.name for f in dataclasses.fields(Choice)))
        write_csv(folder / "tuned.csv", named, [
            (place.net, place.problem, place.background, place.seed, name, *dataclasses.astuple(choice))
            for place, name, choice in choices])  # fmt: skip
    seeds = ("net", "problem", "background", "seed", "accuracy", "metric", "method", "value", "undefined", "note")
    write_csv(folder / "seeds.csv", seeds, list(_seeds(found)))


def _seeds(found: Results) -> Iterable[tuple]:
    for cell in found.cells:
        place = cell.place
        where = place.net, place.problem, place.background, place.seed, cell.accuracy
        for metric in found.metrics:
            for method in found.methods:
                note = cell.same.get(method) or cell.refused.get(method, "")
                missing = cell.undefined.get(cell.same.get(method, method), {}).get(metric, 0)
                yield *where, metric, method, cell.of(method, metric), missing, note

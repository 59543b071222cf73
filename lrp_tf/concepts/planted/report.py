"""Tables and plots of a study: what was found, and what the corrections are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.atomic import atomic
from lrp_tf.concepts.planted.cells import BOTH, CLEAN, CORRECTED, PENALTY, SUPPRESS, TRAINED, TUNED, Cell, Data
from lrp_tf.evaluate.tables import markdown_table, write_csv
from lrp_tf.heatmap.files import write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

FILES = ("accuracy.csv", "found.csv", "study.md", "accuracy.png", "found.png")
MODELS = (CLEAN, TRAINED, *CORRECTED)
ENOUGH = 0.95  # of the accuracy of a training without the mark, which a correction is to reach
FOUND = 0.5  # recall and precision from which on a group is said to show the mark
TOP = "top concept"
METHODS = ("clusters", "prototypes", "outliers", TOP)
_COLOURS = {CLEAN: "#7f8c8d", TRAINED: "#c0392b", SUPPRESS: "#1f618d", TUNED: "#5dade2", PENALTY: "#b7950b",
            BOTH: "#1e8449", "clusters": "#1f618d", "prototypes": "#b7950b", "top concept": "#1e8449",
            "outliers": "#c0392b"}  # fmt: skip
_DPI = 120
_CONTROL = ", control"


def line(cell: Cell) -> str:
    """What a cell came to, for the console."""
    found = ", ".join(f"{f.method} {f.recall:.2f}/{f.precision:.2f}" for f in cell.found)
    right = ", ".join(f"{name} {cell.of(name, artefact=True):.3f}" for name in MODELS)
    return f"{cell.place}: recall/precision {found}; under a wrong mark: {right}"


def write(folder: Path, cells: Sequence[Cell], name: str, data: Data) -> None:
    """accuracy.csv, found.csv, study.md, accuracy.png and found.png."""
    heads = ("mark", "prevalence", "seed", "marked")
    write_csv(
        folder / "accuracy.csv",
        (*heads, "model", "samples", "n", "accuracy", "low", "high", "said_artefact"),
        ((*_key(cell), r.model, r.samples, r.n, r.accuracy, r.low, r.high, r.said_artefact)
         for cell in cells for r in cell.accuracy),
    )  # fmt: skip
    write_csv(
        folder / "found.csv",
        (*heads, "method", "groups", "recall", "precision", "control_recall", "control_precision", "rank", "channel",
         "on_mark", "elsewhere"),
        ((*_key(cell), f.method, f.groups, f.recall, f.precision, f.control_recall, f.control_precision, f.rank,
          cell.channel, cell.on_mark, cell.elsewhere) for cell in cells for f in cell.found),
    )  # fmt: skip
    page = markdown(cells, name, data)
    atomic(folder / "study.md", lambda path: path.write_text(page, encoding="utf-8"))
    plot_accuracy(folder / "accuracy.png", cells)
    plot_found(folder / "found.png", cells)


def _key(cell: Cell) -> tuple:
    return cell.place.mark, cell.place.prevalence, cell.place.seed, cell.marked


def markdown(cells: Sequence[Cell], name: str, data: Data) -> str:
    """The page of a study: two tables for each mark, means over the seeds."""
    seeds = len({cell.place.seed for cell in cells})
    parts = [
        f"# A mark on class {data.label} of {name}\n\n{len(data.x)} training pictures, {len(data.x_test)} test "
        f"pictures; means over {seeds} seed(s). Prevalence: of the training pictures of class {data.label}.\n"
    ]
    for mark in dict.fromkeys(cell.place.mark for cell in cells):
        ours = [cell for cell in cells if cell.place.mark == mark]
        parts += [
            f"## {mark}\n",
            "Found: recall / precision; control: the same pictures, by a net trained without the mark\n",
        ]
        parts += [found_table(ours), "\nAccuracy without the mark / with the mark on every other class\n"]
        parts += [accuracy_table(ours), ""]
    return "\n".join(parts) + "\n"


def found_table(cells: Sequence[Cell]) -> str:
    """Prevalence × method: recall / precision, bold where the group shows the mark; the control; the class's rank."""
    heads = ["prevalence", "marked"]
    heads += [word for method in METHODS for word in (method, "control")] + [
        "rank of the class",
        "relevance on the mark",
    ]
    rows = []
    for prevalence, group in _by_prevalence(cells):
        row = [f"{100 * prevalence:g} %", f"{_mean(c.marked for c in group):.0f}"]
        for method in METHODS:
            if prevalence == 1 and method != TOP:  # nothing to tell the marked ones from
                row += ["–", "–"]
                continue
            found = [f for cell in group for f in cell.found if f.method == method]
            recall, precision = _mean(f.recall for f in found), _mean(f.precision for f in found)
            text = f"{recall:.2f} / {precision:.2f}"
            row.append(f"**{text}**" if min(recall, precision) >= FOUND else text)
            row.append(
                f"{_mean(f.control_recall for f in found):.2f} / {_mean(f.control_precision for f in found):.2f}"
            )
        ranks = [str(f.rank) for cell in group for f in cell.found if f.method == "clusters" and f.rank is not None]
        on, off = (_mean(v for c in group if (v := getattr(c, of)) is not None) for of in ("on_mark", "elsewhere"))
        rows.append([*row, ", ".join(ranks) or "–", f"{on:.2f}; others {off:.2f}"])
    return markdown_table(heads, rows)


def accuracy_table(cells: Sequence[Cell]) -> str:
    """Prevalence × model: accuracy without / with the mark, bold where a correction is worth 0.95 of a clean one."""
    rows = []
    for prevalence, group in _by_prevalence(cells):
        row = [f"{100 * prevalence:g} %"]
        enough = ENOUGH * _mean(c.of(CLEAN, artefact=False) for c in group)
        for model in MODELS:
            without, misled = (_mean(c.of(model, artefact=artefact) for c in group) for artefact in (False, True))
            text = f"{without:.3f} / {misled:.3f}"
            row.append(f"**{text}**" if model in CORRECTED and misled >= enough else text)
        rows.append(row)
    return markdown_table(["prevalence", *MODELS], rows)


def plot_accuracy(path: Path, cells: Sequence[Cell]) -> Path:
    """Accuracy under a wrong mark by prevalence, a panel for each mark, a line for each model."""
    return _panels(path, cells, MODELS, "accuracy under a wrong mark", lambda cell, name: cell.of(name, artefact=True))


def plot_found(path: Path, cells: Sequence[Cell]) -> Path:
    """The harmonic mean of recall and precision by prevalence, a line for each method; dashed: its control."""

    def fit(cell: Cell, name: str) -> float:
        control = name.endswith(_CONTROL)
        if cell.place.prevalence == 1 and not name.startswith(TOP):
            return float("nan")
        found = next(f for f in cell.found if f.method == name.removesuffix(_CONTROL))
        pair = (found.control_recall, found.control_precision) if control else (found.recall, found.precision)
        return 2 * pair[0] * pair[1] / max(sum(pair), 1e-9)

    names = tuple(name for method in METHODS for name in (method, method + _CONTROL))
    return _panels(path, cells, names, "recall and precision (harmonic mean)", fit)


def _panels(path: Path, cells: Sequence[Cell], names: Sequence[str], what: str, value: object) -> Path:
    assert callable(value)
    marks = list(dict.fromkeys(cell.place.mark for cell in cells))
    drawing = Figure(figsize=(max(6.0, 4.4 * len(marks)), 4.2), dpi=_DPI, facecolor="white", layout="constrained")
    for axes, mark in zip(drawing.subplots(1, len(marks), squeeze=False, sharey=True)[0], marks, strict=True):
        groups = list(_by_prevalence([cell for cell in cells if cell.place.mark == mark]))
        for name in names:
            means = [_mean(value(cell, name) for cell in group) for _, group in groups]
            dashed = name == CLEAN or name.endswith(_CONTROL)
            axes.plot(range(len(groups)), means, "--" if dashed else "o-", label=name, linewidth=1.6, markersize=4,
                      color=_COLOURS[name.removesuffix(_CONTROL)])  # fmt: skip
        _plain(axes, [f"{100 * prevalence:g} %" for prevalence, _ in groups], mark)
    drawing.axes[0].set_ylabel(what, fontsize=9)
    handles = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(*handles, fontsize=8, frameon=False, ncols=min(4, 2 + len(marks)), loc="outside lower center")
    return write_figure(path, drawing)


def _plain(axes: Axes, ticks: Sequence[str], title: str) -> None:
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("prevalence of the mark in its class", fontsize=9)
    axes.set_title(title, fontsize=10, **TEXT_STYLE)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _by_prevalence(cells: Sequence[Cell]) -> Iterable[tuple[float, list[Cell]]]:
    known = sorted({cell.place.prevalence for cell in cells})
    return [(prevalence, [cell for cell in cells if cell.place.prevalence == prevalence]) for prevalence in known]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")

"""A comparison as text, Markdown and CSV."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.engine.tables import Table
from lrp_tf.evaluate.record import Failure
from lrp_tf.evaluate.results import Results, Row

_SHOWN = 10  # reasons of failures that the text lists


def text(comparison: Results) -> str:
    """The summary and the failures, for a console."""
    tables = [Table(_title(comparison, metric), *_cells(comparison, metric)) for metric in comparison.metrics]
    return "\n\n".join([*map(str, tables), *_reasons(comparison.failures)])


def markdown(comparison: Results) -> str:
    """An overview if there are several metrics, a table for each metric, and the failures."""
    parts = [overview(comparison)] if len(comparison.metrics) > 1 else []
    for metric in comparison.metrics:
        parts.append(f"**{_title(comparison, metric)}**\n\n{markdown_table(*_cells(comparison, metric))}")
    return "\n\n".join([*parts, *(f"- {reason}" for reason in _reasons(comparison.failures))]) + "\n"


def overview(comparison: Results) -> str:
    """Methods × metrics in Markdown: mean and interval, the best and what cannot be told from it in bold."""
    found = {(row.method, row.metric): row for row in comparison.rows}
    heads = ["method"]
    for metric in comparison.metrics:
        rows = [row for row in comparison.rows if row.metric == metric]
        better = f" ({rows[0].better})" if rows[0].better else ""
        heads.append(f"{metric}{better}, n = {counts(rows)}")
    order = ordered([row for row in comparison.rows if row.metric == next(iter(comparison.metrics))])
    lines = [[row.method, *(_cell_of(found[row.method, metric]) for metric in comparison.metrics)] for row in order]
    return markdown_table(heads, lines)


def _cell_of(row: Row) -> str:
    if not row.n:
        return "–"
    ends = ends_of(row.low, row.high)
    text = f"{number(row.mean)} ({ends})" if ends else number(row.mean)
    best = row.method == row.reference or row.difference_low <= 0 <= row.difference_high
    return f"**{text}**" if row.better and best else text


def counts(rows: Sequence[Row]) -> str:
    """How many samples have a value, from the fewest to the most."""
    found = sorted({row.n for row in rows})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The rows of one metric, the best first and those without a value last; as they are if there is no best."""
    sign = -1 if rows[0].better == "higher" else 1
    return sorted(rows, key=lambda row: (math.isnan(row.mean), sign * row.mean)) if rows[0].better else list(rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def write(folder: Path, comparison: Results, unread: Sequence[tuple[str, str]] = ()) -> None:
    """summary.csv, samples.csv, failures.csv and table.md. Numbers are written so that they are read bit for bit."""
    write_csv(folder / "summary.csv", Row._fields, comparison.rows)
    columns = ("sample", "target", "method", "metric", "value")
    write_csv(folder / "samples.csv", columns, _values(comparison))
    failures = ((_name(comparison, f.sample), *f[1:]) for f in comparison.failures)
    left_out = ((name, "", "", reason) for name, reason in unread)
    write_csv(folder / "failures.csv", Failure._fields, [*left_out, *failures])
    written = markdown(comparison)
    atomic(folder / "table.md", lambda path: path.write_text(written, encoding="utf-8"))


def _name(comparison: Results, sample: int) -> str | int:
    return comparison.samples[sample] if comparison.samples else sample


def _values(comparison: Results) -> Iterator[tuple]:
    """A row for each value: sample, target, method, metric, value."""
    for sample in range(len(comparison)):
        head = (_name(comparison, sample), int(comparison.target[sample]))
        for row, method in enumerate(comparison.methods):
            for column, metric in enumerate(comparison.metrics):
                yield (*head, method, metric, float(comparison.values[row, column, sample]))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A CSV file, whole or not at all. Numbers are written so that they are read bit for bit.

    None and NaN are empty cells, bools 1 and 0. Names of files need not be UTF-8.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([_cell(value) for value in row] for row in rows)

    atomic(path, write)


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return int(value) if isinstance(value, (bool, np.bool_)) else value


# --- numbers for people ----------------------------------------------------------------------------


def _title(comparison: Results, metric: str) -> str:
    """Metric, direction, samples, and what the ranks tell."""
    better = comparison.metrics[metric].better
    words = f"{metric} ({better} is better)" if better else f"{metric} (neither is better in itself)"
    words += f", {len(comparison)} samples"
    if better is None or len(comparison.methods) < 2:
        return words
    ranks = comparison.ranks(metric)
    if not math.isnan(ranks.critical_difference):
        words += f"; ranks over {ranks.n}, critical difference {ranks.critical_difference:.2f}"
    if math.isnan(ranks.p):
        return words
    return f"{words}, Friedman p {f'= {ranks.p:.2g}' if ranks.p >= 1e-300 else '< 1e-300'}"


def _cells(comparison: Results, metric: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of one metric, the best first."""
    rows = ordered([row for row in comparison.rows if row.metric == metric])
    share = f"{comparison.confidence:.0%}"
    columns = ("method", "mean", share, "n", f"minus {rows[0].reference}", f"{share} in pairs", "pairs", "rank")
    return columns, [
        (
            row.method,
            number(row.mean),
            ends_of(row.low, row.high),
            str(row.n),
            number(row.difference),
            ends_of(row.difference_low, row.difference_high),
            str(row.pairs),
            "" if math.isnan(row.rank) else f"{row.rank:.2f}",
        )
        for row in rows
    ]


def number(value: float) -> str:
    """Three digits; "–" for NaN."""
    return (
        "–" if math.isnan(value) else f"{value:.3g}" if abs(value) >= 1000 or 0 < abs(value) < 1e-3 else f"{value:.3f}"
    )


def ends_of(low: float, high: float) -> str:
    """The ends of an interval; nothing if it is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _reasons(failures: Sequence[Failure]) -> list[str]:
    """A line for each reason, the most frequent first."""
    counted = Counter((f.method, f.metric, f.reason) for f in failures)
    lines = []
    for (method, metric, reason), count in counted.most_common(_SHOWN):
        of = ", ".join(name for name in (method, metric) if name) or "all methods"
        first = next(f.sample for f in failures if (f.method, f.metric, f.reason) == (method, metric, reason))
        lines.append(f"no value: {of}: {count} sample(s), the first is number {first}: {reason}")
    if len(counted) > _SHOWN:
        lines.append(f"no value: {len(counted) - _SHOWN} more reason(s), see Comparison.failures")
    return lines

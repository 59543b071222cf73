"""Shifts of ranks as CSV and Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lrp_tf.evaluate.adversarial.controls import KINDS
from lrp_tf.evaluate.adversarial.shifts import ADVERSARIAL, Row
from lrp_tf.evaluate.tables import ends_of, markdown_table, number, write_csv

NUMBERS = (
    "mean", "low", "high", "originals", "pairs", "difference", "difference_low", "difference_high",
    "difference_originals",
)  # fmt: skip
SHORT = {
    "adversarial": "adversarial",
    "noise": "noise",
    "noise_same_class": "noise, class kept",
    "other_class": "same image, other class",
    "other_image": "other image",
    "chance": "chance",
}


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: a column for each field of their groups, the measure, and the numbers of a `Row`."""
    if not rows:
        raise ValueError("write expects at least one row. Received: none")
    fields = list(rows[0].group)
    lines = ([*row.group.values(), row.measure, *(getattr(row, name) for name in NUMBERS)] for row in rows)
    write_csv(path, [*fields, "measure", *NUMBERS], lines)


def by_kind(rows: Sequence[Row], measure: str) -> str:
    """A measure in Markdown: groups of pairs × kinds, mean and interval.

        print(adversarial.tables.by_kind(adversarial.summarize(pairs), "left_top_10"))

    Args:
        rows: of groups by kind and anything else, such as attack, composite and target.

    Raises:
        ValueError: no row of that measure, groups that are not by kind.
    """
    return _pivot(rows, measure, lambda row: _cell(row.mean, row.low, row.high))


def differences(rows: Sequence[Row], measure: str) -> str:
    """As `by_kind`: adversarial minus each control, of the same originals; bold where the interval excludes 0."""

    def cell(row: Row) -> str:
        text = _cell(row.difference, row.difference_low, row.difference_high)
        return f"**{text}**" if row.difference_low > 0 or row.difference_high < 0 else text

    controls = [row for row in rows if row.group["kind"] != ADVERSARIAL]
    return _pivot(controls, measure, cell)


def counts(rows: Sequence[Row], measure: str) -> str:
    """As `by_kind`: pairs, and the originals that they are of."""
    return _pivot(rows, measure, lambda row: f"{row.pairs} of {row.originals}")


def _cell(mean: float, low: float, high: float) -> str:
    ends = ends_of(low, high)
    return f"{number(mean)} ({ends})" if ends and not math.isnan(mean) else number(mean)


def _pivot(rows: Sequence[Row], measure: str, cell: Callable[[Row], str]) -> str:
    chosen = [row for row in rows if row.measure == measure]
    if not chosen or "kind" not in chosen[0].group:
        raise ValueError(f"expected rows of {measure!r} by kind. Received: {sorted({row.measure for row in rows})}")
    fields = [field for field in chosen[0].group if field != "kind"]
    found = {(*(row.group[field] for field in fields), row.group["kind"]): row for row in chosen}
    kinds = [kind for kind in KINDS if any(key[-1] == kind for key in found)]
    heads = list(dict.fromkeys(key[:-1] for key in found))
    lines = []
    for head in heads:
        cells = [cell(found[*head, kind]) if (*head, kind) in found else "–" for kind in kinds]
        lines.append([*map(str, head), *cells])
    return markdown_table([*fields, *(SHORT[kind] for kind in kinds)], lines)

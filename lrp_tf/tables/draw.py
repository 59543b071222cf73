"""Pictures of tables: bars of a row's features, and of the whole file mean |R| and a beeswarm."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrp_tf import heatmap
from lrp_tf.gallery.draw import numbered
from lrp_tf.gallery.tiles import Tiles
from lrp_tf.heatmap.tables import small
from lrp_tf.tables.files import Table


def draw_row(base: Path, maps: np.ndarray, titles: Sequence[str], table: Table, row: int, form: str) -> None:
    """Write the bars of one row for each target.

    Args:
        base: the path without suffix. maps: [k, F]. form: the suffix, "png".

    Raises:
        OSError: the folder cannot be written.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    name = f"{Path(table.path).name}, row {table.labels[row]}"
    for k, number in enumerate(numbered(len(maps))):
        title = f"{name}\n{titles[k]}"
        heatmap.table(f"{base}{number}.{form}", maps[k], table.names, values=list(table.values[row]), title=title)


def row_tiles(maps: np.ndarray, table: Table, row: int) -> Tiles:
    """The bars of one row for the page of a run, [k, F]: its text says the rest."""
    values = list(table.values[row])
    return Tiles((), [[small(relevance, table.names, values)] for relevance in maps])


def draw_whole(
    base: Path,
    relevance: np.ndarray,
    values: np.ndarray,
    classes: Sequence[Sequence[str]],
    rather: str,
    table: Table,
    form: str,
) -> None:
    """Write mean |R| and the beeswarm of a table for each target.

    Args:
        base: the path without suffix. form: the suffix, "png".
        relevance: [N, k, F]. values: [N, F], as the file holds them.
        classes: the names of each row's targets, [N][k].
        rather: what they are set against, as in " rather than others"; "" for nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    for k, number in enumerate(numbered(relevance.shape[1])):
        target = f"target {k + 1} of each row" if number else "each row's own class"
        named = _target([names[k] for names in classes], target)
        told = f"{Path(table.path).name}, {_rows(len(relevance))}: relevance for {named}{rather}"
        heatmap.table(f"{base}.mean{number}.{form}", relevance[:, k], table.names, title=f"mean |R|\n{told}")
        heatmap.beeswarm(f"{base}.beeswarm{number}.{form}", relevance[:, k], values, names=table.names, title=told)


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"


def _target(names: Sequence[str], several: str) -> str:
    """What was explained of the rows, in words; `several`: what they are, if they differ."""
    counts = collections.Counter(names).most_common()
    if len(counts) == 1:
        return counts[0][0]
    listed = ", ".join(f"{name} ({count})" for name, count in counts[:4])
    return f"{several}: {listed}{f' and {len(counts) - 4} more' if len(counts) > 4 else ''}"

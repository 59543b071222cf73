"""Relevance of layers beside that of the input: sums as a table, maps in a file beside the results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.core.graph import Graph
from lrp_tf.gallery.ledger import PATH, TEXT, CsvTable, Item, Row, complete_rows, from_cell, to_csv, write_text

TABLE, SUFFIX = "layers.csv", ".layers.npz"
COLUMNS = ("file", "result", "target", "target_name", "layer", "sum", "positive", "negative", "share")
_TEXTS = {"file": PATH, "result": PATH, "target_name": TEXT, "layer": TEXT}


def chosen(graph: Graph, names: Iterable[str]) -> tuple[str, ...]:
    """The layers that are meant, each once.

    Args:
        names: of layers, their paths, or regular expressions that match one of these from end to end: "block5_.*".

    Raises:
        ValueError: no layer on a way to the output has that name; the message lists the layers.
    """
    on_a_way = {*graph.inputs, *(ref for step in graph.steps for ref in step.outputs)}
    reached = lambda calls: all(graph.resolve(ref)[0] in on_a_way for call in calls for ref in call)  # noqa: E731
    found: dict[str, None] = {}
    for name in names:
        paths = [path for path, calls in graph.layers.items() if _matches(name, path) and reached(calls)]
        shared = sum(path.rsplit("/", 1)[-1] == name for path in paths) > 1
        if not paths or (shared and name not in paths):  # the graph tells what is wrong
            if not reached(graph.find_layer(name)):
                raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
            paths = [name]
        found.update(dict.fromkeys([name] if name in paths else paths))
    return tuple(found)


def _matches(pattern: str, path: str) -> bool:
    """Whether a name is the path, or its last part, or a regular expression that matches one of these."""
    last = path.rsplit("/", 1)[-1]
    if pattern in (path, last):
        return True
    try:
        return any(re.fullmatch(pattern, text) for text in (path, last))
    except re.error:
        return False


class OfLayers(NamedTuple):
    """What is known of the layers of one file.

    Attributes:
        rows: for each target the cells of `COLUMNS` from "layer" on, for each layer.
        maps: relevance by layer, float32 [k, ...] for k targets; empty if it is not written.
    """

    rows: list[list[Row]]
    maps: Mapping[str, np.ndarray]

    def save(self, base: Path) -> None:
        """Write `base.layers.npz`: an array for each layer, [...] of a single target, else [k, ...]."""
        arrays: dict[str, Any] = {name: maps[0] if len(maps) == 1 else maps for name, maps in self.maps.items()}

        def write(path: Path) -> None:
            with open(path, "wb") as file:  # np.savez would add ".npz" to the temporary name
                np.savez(file, **arrays)

        atomic(Path(f"{base}{SUFFIX}"), write)


class BatchLayers:
    """Relevance of the layers of a batch.

    Args:
        layers: as `Explanation.layers` holds it. Of a layer that is called several times, later calls are "name#2", ….
        several: the arrays are [B, k, ...] of k targets, else [B, ...].
    """

    def __init__(self, layers: Mapping[str, Any], several: bool) -> None:
        self.calls: dict[str, np.ndarray] = {}
        for name, relevance in layers.items():
            for number, one in enumerate(relevance if isinstance(relevance, list) else [relevance], 1):
                array = np.asarray(one, np.float32)
                self.calls[name if number == 1 else f"{name}#{number}"] = array if several else array[:, None]

    def sample(self, row: int, starts: Sequence[float], keep: bool) -> OfLayers:
        """Of one sample.

        Args:
            starts: the relevance that started, for each target. keep: the maps, too.
        """
        rows = [
            [_cells(name, maps[row, k].astype(np.float64), start) for name, maps in self.calls.items()]
            for k, start in enumerate(starts)
        ]
        return OfLayers(rows, {name: maps[row] for name, maps in self.calls.items()} if keep else {})


def _cells(name: str, relevance: np.ndarray, start: float) -> Row:
    total = relevance.sum()
    parts = (np.maximum(relevance, 0).sum(), np.minimum(relevance, 0).sum())
    return (name, *(f"{value:.7g}" for value in (total, *parts)), f"{total / start:.4g}" if start else "")


class LayerTable:
    """The table of a run. Rows of a file are written ahead of its row in the table of results.

    So a file that counts as finished has all of its rows, and what a killed run wrote of others is dropped here.

    Args:
        finished: files whose rows an earlier run wrote, which are kept.
    """

    def __init__(self, out: Path, finished: Iterable[str]) -> None:
        path, done = out / TABLE, set(finished)
        rows = complete_rows(path, len(COLUMNS))[1:] if done and path.exists() else []
        write_text(path, to_csv([COLUMNS, *(row for row in rows if from_cell(row[0], PATH) in done)]))
        self._table = CsvTable(path, COLUMNS, _TEXTS, append=True)

    def __enter__(self) -> LayerTable:
        self._table.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._table.__exit__(*error)

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows of one file, see `rows_of`."""
        self._table.add(rows)


def rows_of(item: Item, targets: Sequence[Row], found: OfLayers) -> list[Row]:
    """The rows of one file in the table.

    Args:
        targets: number and name of each.
    """
    pairs = zip(targets, found.rows, strict=True)
    return [(item.path, item.base, *target, *cells) for target, rows in pairs for cells in rows]

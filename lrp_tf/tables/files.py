"""Files -> tables: which columns are the features of the model, and which rows are samples."""

from __future__ import annotations

import difflib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lrp_tf.tables.cells import Cells, TableError, header_width, is_number, read_cells, to_numbers

_CSV, _NPY = (".csv", ".tsv"), (".npy",)
_SHOWN = 6  # names of columns in a message


class Choice(NamedTuple):
    """Which columns of a file the model takes.

        choice = lrp_tf.tables.Choice(drop=("diagnosis",), id="name")

    Attributes:
        columns: their names, in the order of the model's features; empty: all but `drop` and `id`.
        drop: names of columns that the model does not take.
        id: the name of the column with the names of the rows. None: numbers from 1, unless the file has one column
            more than the model takes features and the first of them holds names: it has no name itself, or holds a
            different word in every row.
    """

    columns: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    id: str | None = None


ALL = Choice()


class Table(NamedTuple):
    """The samples of one file.

    Attributes:
        path: of the file.
        names: of the features [F].
        values: float64 [N, F]; rows in `bad` hold NaN.
        labels: the name of each row, all different: its number from 1, or what the file calls it.
        bad: index of a row -> why it is no sample.
        comma: its numbers had decimal commas.
        reason: why the whole file is no table; "" if it is one.
        relative: the part of `path` that names results; "": its last part.
    """

    path: str
    names: tuple[str, ...]
    values: np.ndarray
    labels: tuple[str, ...]
    bad: Mapping[int, str] = MappingProxyType({})
    comma: bool = False
    reason: str = ""
    relative: str = ""

    def key(self, row: int) -> str:
        """What a row is called in tables of results: "patients.csv:17"."""
        return f"{self.path}:{self.labels[row]}"

    def row(self, label: str) -> int:
        """The index of the row of that name.

        Raises:
            TableError: there is none.
        """
        if label not in self.labels:
            raise TableError(f"no row {label}. Expected {self.labels[0]} to {self.labels[-1]}")
        return self.labels.index(label)


def is_table(path: str | os.PathLike[str], features: int | None) -> bool:
    """Whether a file is a table for a model of [features]: a CSV file of several columns, or an array [N, F].

    A CSV file of one column is a signal, unless the model takes one feature.
    """
    path = Path(path)
    if path.suffix.lower() in _CSV:
        return header_width(path) > 1 or features == 1
    if path.suffix.lower() in _NPY:
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
            return False
        return len(shape) == 2 and shape[1] == (features or shape[1]) and shape[1] > 0 and bool(shape[0])
    return False


def read(path: str | os.PathLike[str], features: int | None = None, choice: Choice = ALL) -> Table:
    """The table in a file.

        table = lrp_tf.tables.read("patients.csv", 30, lrp_tf.tables.Choice(drop=("diagnosis",)))

    Args:
        path: `.csv` or `.tsv` with a header, or `.npy` [N, F].
        features: how many features the model takes; None: any number.
        choice: which columns they are.

    Raises:
        TableError: a file that cannot be read, without header or rows, or with other columns.
    """
    path = Path(path)
    try:
        return _npy(path, features, choice) if path.suffix.lower() in _NPY else _csv(path, features, choice)
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error


def _npy(path: Path, features: int | None, choice: Choice) -> Table:
    """An array [N, F], whose columns have no names."""
    if any(choice):
        raise TableError("an array has no names of columns. Expected a CSV file for `columns`, `drop` and `id`",
                         ("columns", "drop", "id"))  # fmt: skip
    try:
        found = np.load(path, allow_pickle=False)
        values = np.asarray(found, np.float64) if isinstance(found, np.ndarray) else None
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TableError(f"no array of numbers as numpy.save writes it: {error}") from error
    if values is None or values.ndim != 2 or not values.size or features not in (None, values.shape[1]):
        shape = "an archive of several" if values is None else f"shape {values.shape}"
        raise TableError(f"expected an array of a row for each sample, (N, {features or 'F'}). Received: {shape}")
    bad = {int(i): f"{int(np.sum(~np.isfinite(values[i])))} NaN or Inf among its {values.shape[1]} numbers"
           for i in np.flatnonzero(~np.isfinite(values).all(axis=1))}  # fmt: skip
    names = tuple(f"feature {i}" for i in range(values.shape[1]))
    return Table(str(path), names, values, _numbered(len(values)), bad)


def _csv(path: Path, features: int | None, choice: Choice) -> Table:
    cells = read_cells(path)
    width = len(cells.header)
    takes = f"the model takes {features} features" if features else "the model takes any number of features"
    if held := [cell for cell in cells.header if is_number(cell)]:
        raise TableError(f"no header: its first row holds numbers, such as {held[0]}. Expected the names of the "
                         f"columns above the samples. It has {width} columns, and {takes}")  # fmt: skip
    if not cells.rows:
        raise TableError(f"no rows below its header of {width} columns")
    chosen, labelled = _chosen(cells, features, choice)
    names = tuple(cells.header[i] or f"column {i + 1}" for i in chosen)
    if features not in (None, len(chosen)):
        raise TableError(
            f"{len(chosen)} columns, and {takes}. Expected as many columns as features. Received: {_listed(names)}. "
            "Remedy: name those that the model takes, in its order (`columns`), or the others (`drop`), and the column "
            "with the names of rows (`id`)",
            ("columns", "drop", "id"),
        )
    if not chosen:
        raise TableError("no column is left for the model. Expected at least one", ("columns", "drop"))
    labels = _numbered(len(cells.rows)) if labelled is None else _labels(cells, labelled)
    values, bad = np.full((len(cells.rows), len(chosen)), np.nan), {}
    for i, row in enumerate(cells.rows):
        if len(row) != width:
            bad[i] = f"line {cells.lines[i]}: {len(row)} cells. Expected {width}, as in the header"
            continue
        numbers = to_numbers([row[c] for c in chosen], cells.comma)
        wrong = np.flatnonzero(np.isnan(numbers))
        if wrong.size:
            cell = row[chosen[wrong[0]]]
            more = f", and {len(wrong) - 1} more cells" if len(wrong) > 1 else ""
            received = f"{cell[:40]!r} is no finite number" if cell else "the cell is empty"
            bad[i] = f"line {cells.lines[i]}, column {names[wrong[0]]!r}: {received}{more}"
        else:
            values[i] = numbers
    return Table(str(path), names, values, labels, bad, cells.comma)


# --- columns -----------------------------------------------------------------------------------


def _chosen(cells: Cells, features: int | None, choice: Choice) -> tuple[list[int], int | None]:
    """The indices of the features' columns, and of that with the names of the rows."""
    labelled = None if choice.id is None else _index(cells.header, choice.id, "id")
    if choice.columns:
        return [_index(cells.header, name, "columns") for name in choice.columns], labelled
    out = {_index(cells.header, name, "drop") for name in choice.drop}
    left = [i for i in range(len(cells.header)) if i not in out and i != labelled]
    surplus = features is not None and len(left) == features + 1
    if labelled is None and left and surplus and _names_rows(cells, left[0]):
        return left[1:], left[0]
    return left, labelled


def _names_rows(cells: Cells, column: int) -> bool:
    """Whether a column holds names of rows: it has no name itself, or a different word in every row."""
    found = [row[column] for row in cells.rows if column < len(row)]
    distinct = all(found) and len(set(found)) == len(cells.rows)
    return distinct and (not cells.header[column] or not any(map(is_number, found)))


def _labels(cells: Cells, column: int) -> tuple[str, ...]:
    """The names of the rows.

    Raises:
        TableError: one comes twice, or is missing.
    """
    lines: dict[str, int] = {}
    for row, line in zip(cells.rows, cells.lines, strict=True):
        label = row[column] if column < len(row) else ""
        if not label or label in lines:
            received = f"{label[:40]!r} in lines {lines[label]} and {line}" if label else f"no name in line {line}"
            raise TableError(
                f"expected another name for each row in column {cells.header[column]!r}. Received: {received}. Remedy: "
                "leave out `id`, and rows are numbered",
                "id",
            )
        lines[label] = line
    return tuple(lines)


def _index(header: Sequence[str], name: str, option: str) -> int:
    """The index of a column by its name."""
    found = [i for i, known in enumerate(header) if known == name]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(str(i + 1) for i in found)
        raise TableError(f"`{option}`: {name!r} is the name of several columns: {numbers}. Expected another name for "
                         "each", option)  # fmt: skip
    close = difflib.get_close_matches(name, header, 3, 0.5)
    known = f"Similar names: {', '.join(close)}" if close else f"Its columns: {_listed(header)}"
    raise TableError(f"`{option}`: no column has the name {name!r}. {known}", option)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i + 1) for i in range(count))

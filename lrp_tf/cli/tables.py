"""Tables on the command line: which files are such, which of their columns the model takes, one row for a report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lrp_tf.arrays.form import array_form
from lrp_tf.cli import given
from lrp_tf.cli.messages import message_of
from lrp_tf.core.graph import Graph
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.images import ImageError
from lrp_tf.tables.files import Choice, Table, is_table, read
from lrp_tf.tables.run import ROWS, listed, read_all
from lrp_tf.tables.stream import RowStream
from lrp_tf.terminal import printable, say

BATCH = 256  # rows at once
_OF_PICTURES: dict[str, object] = {
    "style": "side-by-side",
    "size": None,
    "resize": "squash",
    "smooth": None,
    "cmap": None,
    "color_gamma": 1.0,
    "reduce": "sum",
    "scale": None,
    "show": "signed",
    "colorbar": False,
    "dpi": 100,
    "save_layers": False,
    "axis": None,
    "slices": None,
    "spacing": None,
}
_OF_TABLES = ("columns", "drop", "id", "rows")


def takes_tables(model: keras.Model, paths: Sequence[str]) -> bool:
    """Whether files are tables: the model takes [F], and the first file has a column for each feature."""
    inputs = list(getattr(model, "inputs", None) or [])
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].dtype == "string" or not paths:
        return False
    return is_table(paths[0], inputs[0].shape[1])


def refuse_table_options(options: argparse.Namespace, but: Sequence[str] = ()) -> None:
    """For files that are no tables.

    Args:
        but: options that other files have, too.

    Raises:
        LoadError: an option of tables was given.
    """
    for name in _OF_TABLES:
        if name not in but and getattr(options, name, None) is not None:
            raise LoadError(
                f"--{name} is an option of tables. Expected a model whose input is [F], and a readable CSV file "
                "with a header and a row for each sample"
            )


def check_table_options(options: argparse.Namespace) -> None:
    """Refuse options of pictures, and those that contradict one another.

    Raises:
        LoadError: one was given.
    """
    for name, default in _OF_PICTURES.items():
        if getattr(options, name, default) != default:
            raise LoadError(
                f"--{name.replace('_', '-')} is an option of photographs and arrays. Expected tables without it: their "
                "pictures are bars and dots"
            )
    given.check_array_options(options)
    if getattr(options, "gallery", False) and options.rows == 0:
        raise LoadError("--gallery shows rows with a picture, and --rows 0 draws none. Expected one of them alone")
    choice = choice_of(options)
    if choice.columns and choice.drop:
        raise LoadError(
            "--columns and --drop exclude one another. Expected the columns that the model takes, or others"
        )


def choice_of(options: argparse.Namespace) -> Choice:
    """Which columns the model takes."""
    return Choice(tuple(options.columns or ()), tuple(options.drop or ()), options.id)


def tables_of(
    options: argparse.Namespace, explainer: Explainer, files: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The rows of all tables, as `TableGallery.run` takes them, and the gallery's attributes."""
    rows = ROWS if options.rows is None else options.rows
    tables = read_all(files, _features(explainer.graph), choice_of(options), message_of)
    for table in tables:
        if table.comma:
            say(f"{printable(table.path)}: numbers have decimal commas")
        if len(table.labels) > rows:
            first = f"the first {rows} of {len(table.labels)} rows get a picture" if rows else "no row gets a picture"
            say(f"{printable(table.path)}: {first} (--rows); tables and the pictures of the whole hold all")
    if options.target == ["top1"] and any(len(table.labels) > 1 for table in tables):
        single = explainer.graph.outputs[0].shape in ((), (1,))
        say(
            "Each row is explained for the sign of its output; --target 1 explains the output itself."
            if single
            else "Each row is explained for its own class; --target CLASS explains one class of all rows, as SHAP does."
        )
    return listed(tables), {"tables": tables, "rows": rows}


def split_row(name: str) -> tuple[str, str | None]:
    """The path of a table and the name of a row, in "patients.csv:17"."""
    path, colon, label = name.rpartition(":")
    return (path, label) if colon and not os.path.exists(name) and os.path.isfile(path) else (name, None)


def fed_row(model: keras.Model, options: argparse.Namespace) -> tuple[Explainer, np.ndarray]:
    """The explainer of a command that takes one sample, and a row of a table as fed to the model, [1, F]."""
    check_table_options(options)
    path, label = split_row(options.image)
    preprocessing = given.array_preprocessing(options)
    explainer = given.explainer_of(model, options, {})
    try:
        table = read(path, _features(explainer.graph), choice_of(options))
        row = 0 if label is None else table.row(label)
    except ImageError as error:
        raise LoadError(f"{path}: {error}", error.options) from error
    key = table.key(row)
    x = _one(table, row, RowStream({key: (table, row)}, array_form(explainer.graph), preprocessing, 1, message_of))
    say(f"{printable(key)}, fed to the model: {x.min():.4g} to {x.max():.4g} (--preprocess {preprocessing.name})")
    return explainer, x


def _one(table: Table, row: int, stream: RowStream) -> np.ndarray:
    for x, _ in stream.batches([table.key(row)]):
        return x
    ((_, reason),) = stream.failures()
    raise LoadError(f"{table.key(row)}: {reason}")


def _features(graph: Graph) -> int | None:
    return array_form(graph).shape[0]

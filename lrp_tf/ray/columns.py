"""Rows of the table of results as typed columns of Arrow, with relevance as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrp_tf.files.errors import optional
from lrp_tf.gallery.ledger import COLUMNS, Row

NAMES = COLUMNS[2:]
"""The columns of `results.csv` behind the name of the file and of its result."""
_TEXTS = {*(name for name in NAMES if name.endswith("_name")), "warning", "contrast"}
_WHOLE = {*(f"top{i}" for i in range(1, 6)), "target"}


def arrow() -> Any:
    """pyarrow.

    Raises:
        ExtraError: it is not installed.
    """
    return optional("pyarrow", extra="ray", what="which holds the columns")


def typed(rows: Sequence[Row]) -> dict[str, Any]:
    """Columns of numbers and texts by name, in the order of `NAMES`.

    Args:
        rows: the cells from "top1" on, as the table of results holds them; an empty cell of a number is null. None of
            a row that has none is null everywhere.
    """
    pa = arrow()
    columns = {}
    for name, cells in zip(NAMES, zip(*rows, strict=True), strict=True) if rows else ((name, ()) for name in NAMES):
        if name in _TEXTS:
            columns[name] = pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
        else:
            kind, python = (pa.int64(), int) if name in _WHOLE else (pa.float64(), float)
            values = [None if cell is None or cell == "" else python(str(cell)) for cell in cells]
            columns[name] = pa.array(values, kind)
    return columns


NOTHING: Row = (None,) * len(NAMES)
"""The cells of an image without a result."""


def tensors(maps: np.ndarray) -> Any:
    """Maps [N, ...] as a column whose cells are tensors of one shape, `arrow.fixed_shape_tensor`."""
    pa = arrow()
    if len(maps):
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(maps))
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(maps.dtype), maps.shape[1:])
    return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))

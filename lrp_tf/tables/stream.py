"""Rows of tables -> what the network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lrp_tf.arrays.files import ArrayError
from lrp_tf.arrays.form import ArrayForm
from lrp_tf.arrays.stream import NumberSource
from lrp_tf.files.loading import Preprocessing
from lrp_tf.tables.cells import TableError
from lrp_tf.tables.files import Table


class RowStream(NumberSource[np.ndarray]):
    """Prepares rows for the network. They are kept as the file holds them, float64 [F].

    Args:
        rows: key of a row -> its table and index; index None: the whole file is no table.
        form: the model's input.
        preprocessing: of a batch [B, F].
        batch, describe: see `Source`. A batch ends earlier where the next table has another number of features.
    """

    at = "the features"

    def __init__(
        self,
        rows: Mapping[str, tuple[Table, int | None]],
        form: ArrayForm,
        preprocessing: Preprocessing,
        batch: int,
        describe: Callable[[Exception], str] = str,
    ) -> None:
        super().__init__(form, preprocessing, batch, describe)
        self.rows = rows

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Source`; `paths` are keys of rows."""
        self._failures.clear()  # those of an earlier pass over the same rows are found again
        waiting: list[tuple[int, np.ndarray]] = []
        for index, key in enumerate(paths):
            values = self.read(index, key)
            if values is None:
                continue
            if waiting and (len(waiting) == self.batch or waiting[0][1].shape != values.shape):
                yield self._together(waiting)
                waiting = []
            waiting.append((index, values))
        if waiting:
            yield self._together(waiting)

    def read(self, index: int, path: str) -> np.ndarray | None:
        """The row of that key, as the model takes it."""
        table, row = self.rows[path]
        try:
            if row is None or row in table.bad:
                raise TableError(table.reason if row is None else table.bad[row])
            values = self.form.fit(table.values[row])
        except ArrayError as error:
            self.unreadable(index, error)
            return None
        self.keep(index, table.values[row])
        return values

"""Array files -> what the network takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrp_tf.arrays.files import read
from lrp_tf.arrays.form import ArrayForm
from lrp_tf.arrays.sample import Array, ArrayError
from lrp_tf.files.errors import ExtraError
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery.medium import Shown, Source


class NumberSource(Source[Shown]):
    """A source of numbers that are drawn as the model takes them.

    Args:
        form: the model's input.
        preprocessing: of a batch [B, ...].
        batch, describe: see `Source`.
    """

    def __init__(
        self, form: ArrayForm, preprocessing: Preprocessing, batch: int, describe: Callable[[Exception], str] = str
    ) -> None:
        super().__init__(batch, describe)
        self.form, self.preprocessing = form, preprocessing

    def prepared(self, values: np.ndarray) -> np.ndarray:
        """Preprocessed, unless they are whole numbers, such as token ids."""
        floating = np.issubdtype(values.dtype, np.floating)
        return self.preprocessing(values).astype(values.dtype) if floating else values

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as it is."""
        return maps

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| of an entry, [k], of maps [k, ...]."""
        return np.abs(maps.reshape(len(maps), -1)).max(axis=1)


class ArrayStream(NumberSource[Array]):
    """Reads arrays and prepares them for the network. They are kept as the model takes them, but not preprocessed.

    Args:
        form: the model's input.
        preprocessing: of a batch [B, ...].
        batch, describe: see `Source`. A batch ends earlier where the next array has another shape.
    """

    at = "the input"

    def read(self, index: int, path: str) -> np.ndarray | None:
        """The array as the model takes it, not preprocessed."""
        try:
            array = read(path)
            values = self.form.fit(array.values, array.told)
        except (ArrayError, ExtraError) as error:  # a list may hold files of other kinds, too
            self.unreadable(index, error)
            return None
        self.keep(index, array._replace(values=values))
        return values

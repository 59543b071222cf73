"""Where the bytes of an image are: a file, a part of a tar shard, a cell of a parquet file; here or in a store."""

from __future__ import annotations

import collections
import os
import re
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.files import images
from lrp_tf.files.errors import ImageError, optional

_OPEN = 4  # files that stay open, or tables that stay in memory, for the images that follow
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://")


class Place(NamedTuple):
    """Where the bytes of one image are.

    Attributes:
        kind: "file", all of it; "bytes", a part of it; "cell", of a parquet file.
        uri: of the file: an absolute path, or as "s3://bucket/photos.tar".
        at: first byte of a part; row group of a cell.
        size: bytes of a part; row of a cell, in its row group.
        column: of a cell.
    """

    kind: str
    uri: str
    at: int = 0
    size: int = 0
    column: str = ""


def is_remote(name: str) -> bool:
    """Whether a name is a URI: "s3://bucket/photos"."""
    return _REMOTE.match(name) is not None


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of pyarrow for a URI or an absolute path, and the path there.

    Raises:
        ExtraError: pyarrow is not installed. OSError, ValueError: a URI that it does not know.
    """
    fs = optional("pyarrow.fs", extra="ray", what="which reads s3://, gs:// and other stores")
    return fs.FileSystem.from_uri(uri) if is_remote(uri) else (fs.LocalFileSystem(), os.path.abspath(uri))


def open_file(uri: str) -> Any:
    """A file of pyarrow for reading at any place.

    Raises:
        OSError: it cannot be opened.
    """
    system, path = file_system(uri)
    return system.open_input_file(path)


class Reader:
    """Reads the images of a block: `reader(path, max_pixels)` is what a `Gallery` takes as `read`.

    A path that has no place is that of a file on this machine. Several threads may call it.

    Attributes:
        places: of the images of the block, by path.
    """

    def __init__(self) -> None:
        self.places: Mapping[str, Place] = {}
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[object, Any] = collections.OrderedDict()

    def __call__(self, path: str, max_pixels: int) -> np.ndarray:
        """uint8 [H, W, 3].

        Raises:
            ImageError: it cannot be read.
        """
        place = self.places.get(path)
        return images.read(path, max_pixels) if place is None else self.read(place, max_pixels)

    def read(self, place: Place, max_pixels: int) -> np.ndarray:
        """uint8 [H, W, 3], of a place.

        Raises:
            ImageError: it cannot be read.
        """
        if place.kind == "file" and not is_remote(place.uri):
            return images.read(place.uri, max_pixels)
        return images.decode(self.content(place), max_pixels)

    def content(self, place: Place) -> bytes:
        """The bytes of an image.

        Raises:
            ImageError: they cannot be read; there are none.
        """
        try:
            with self._lock:
                if place.kind == "cell":
                    return self._cell(place)
                if place.kind == "bytes":
                    file = self._keep(place.uri, lambda: open_file(place.uri))
                    file.seek(place.at)
                    return file.read(place.size)
            with open_file(place.uri) as file:
                return file.read()
        except (OSError, ValueError) as error:  # pyarrow's errors are one or the other
            raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error

    def _cell(self, place: Place) -> bytes:
        cells = self._keep((place.uri, place.at, place.column), lambda: _row_group(place))
        content = cells[place.size].as_py()
        if content is None:
            raise ImageError(f"no bytes in column {place.column!r}")
        return content

    def _keep(self, key: object, make: Any) -> Any:
        """What `make` gives, for as long as it is among the last ones that were asked for."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > _OPEN:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _row_group(place: Place) -> Any:
    """The cells of a column in a row group; of a struct, as Hugging Face writes pictures, its field `bytes`."""
    parquet = optional("pyarrow.parquet", extra="ray", what="which reads parquet files")
    with parquet.ParquetFile(open_file(place.uri)) as file:
        column = file.read_row_group(place.at, columns=[place.column]).column(0)
    compute = optional("pyarrow.compute", extra="ray", what="which reads parquet files")
    types = optional("pyarrow.types", extra="ray", what="which reads parquet files")
    return compute.struct_field(column, "bytes") if types.is_struct(column.type) else column

"""Tables, in which every row is a sample -> pictures of rows and of the whole, with the tables of `lrp_tf.gallery`."""

from __future__ import annotations

from lrp_tf.tables.files import Choice, Table, read
from lrp_tf.tables.run import TableGallery

__all__ = ["Choice", "Table", "TableGallery", "read"]

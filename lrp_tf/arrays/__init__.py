"""A list of arrays, signals and videos -> pictures of their relevance, with the tables of `lrp_tf.gallery`."""

from __future__ import annotations

from lrp_tf.arrays.run import ArrayGallery

__all__ = ["ArrayGallery"]

"""A list of image files -> pictures and tables."""

from lrp_tf.gallery.run import Gallery

__all__ = ["Gallery"]

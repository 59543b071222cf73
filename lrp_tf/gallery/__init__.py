"""A list of image files -> pictures and tables."""

from lrp_tf.gallery.draw import first_stride
from lrp_tf.gallery.run import Gallery, Outcome

__all__ = ["Gallery", "Outcome", "first_stride"]

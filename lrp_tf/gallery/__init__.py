"""A list of image files -> pictures, tables, and a page over them."""

from lrp_tf.gallery.draw import first_stride
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.run import Gallery, Outcome

__all__ = ["Gallery", "Outcome", "first_stride", "write_page"]

"""A list of image files -> pictures, tables, and a page over them."""

from lrp_tf.gallery.draw import first_stride
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.merging import Merged, merge
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.run import Gallery, Outcome
from lrp_tf.gallery.tally import Recording

__all__ = ["Finished", "Gallery", "Merged", "Outcome", "Recording", "first_stride", "merge", "write_page"]

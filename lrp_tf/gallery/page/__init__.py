"""The page of one or several runs: every picture under its heatmap, in a browser and without a server."""

from lrp_tf.gallery.page.write import write_page

__all__ = ["write_page"]

"""Arrays -> pictures. White: no relevance; red: for the target; blue: against it. See docs/heatmaps.md."""

from __future__ import annotations

from lrp_tf.atomic import atomic
from lrp_tf.heatmap.beeswarm import beeswarm
from lrp_tf.heatmap.colours import MAGNITUDE_CMAP, PALETTES, RELEVANCE_CMAP, reduce_channels, to_rgb
from lrp_tf.heatmap.figures import figure, save, show
from lrp_tf.heatmap.layout import Bar
from lrp_tf.heatmap.patches import patches
from lrp_tf.heatmap.photographs import image_to_rgb, overlay, resize
from lrp_tf.heatmap.sheets import grid
from lrp_tf.heatmap.signals import signal
from lrp_tf.heatmap.smoothing import smooth
from lrp_tf.heatmap.tables import table
from lrp_tf.heatmap.text import Page, text
from lrp_tf.heatmap.volumes import Slicing
from lrp_tf.heatmap.words import Word, words

__all__ = [
    "MAGNITUDE_CMAP",
    "PALETTES",
    "RELEVANCE_CMAP",
    "Bar",
    "Page",
    "Slicing",
    "Word",
    "atomic",
    "beeswarm",
    "figure",
    "grid",
    "image_to_rgb",
    "overlay",
    "patches",
    "reduce_channels",
    "resize",
    "save",
    "show",
    "signal",
    "smooth",
    "table",
    "text",
    "to_rgb",
    "words",
]

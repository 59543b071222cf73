"""A Clever Hans that is planted on purpose: a mark on one class, found by concepts, and removed."""

from __future__ import annotations

from lrp_tf.concepts.planted.cells import Cell, Data
from lrp_tf.concepts.planted.marks import MARKS, Mark, Planted, plant, wrong
from lrp_tf.concepts.planted.run import Plan, study

__all__ = ["MARKS", "Cell", "Data", "Mark", "Plan", "Planted", "plant", "study", "wrong"]

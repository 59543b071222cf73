"""Which features a prediction rests on, and what they stand for."""

from __future__ import annotations

from lrp_tf.concepts.atlas import atlas
from lrp_tf.concepts.building import build_reference
from lrp_tf.concepts.reference import Reference, Samples
from lrp_tf.concepts.sheet import concept_sheet
from lrp_tf.engine.conditions import Concepts

__all__ = ["Concepts", "Reference", "Samples", "atlas", "build_reference", "concept_sheet"]

"""Which features a prediction rests on, what they stand for, and models without one of them."""

from __future__ import annotations

from lrp_tf.concepts import clusters
from lrp_tf.concepts.atlas import atlas
from lrp_tf.concepts.atlases import Atlases
from lrp_tf.concepts.building import build_reference
from lrp_tf.concepts.clusters import Clusters, spectral
from lrp_tf.concepts.correction import Accuracy, Correction, correction
from lrp_tf.concepts.embedding import embed, thumbnails
from lrp_tf.concepts.image_files import ImageFiles
from lrp_tf.concepts.prototypes import ClassPrototypes, Prototypes, prototypes
from lrp_tf.concepts.reference import Reference, Samples
from lrp_tf.concepts.sheet import concept_sheet
from lrp_tf.concepts.suppress import suppress
from lrp_tf.concepts.vectors import concept_direction, concept_vectors, shares
from lrp_tf.engine.conditions import Concepts

__all__ = [
    "Accuracy",
    "Atlases",
    "ClassPrototypes",
    "Clusters",
    "Concepts",
    "Correction",
    "ImageFiles",
    "Prototypes",
    "Reference",
    "Samples",
    "atlas",
    "build_reference",
    "clusters",
    "concept_direction",
    "concept_sheet",
    "concept_vectors",
    "correction",
    "embed",
    "prototypes",
    "shares",
    "spectral",
    "suppress",
    "thumbnails",
]

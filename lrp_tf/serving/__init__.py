"""`export`: a SavedModel whose signatures explain."""

from lrp_tf.serving.saved_model import export

__all__ = ["export"]

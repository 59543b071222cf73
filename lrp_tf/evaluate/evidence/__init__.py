"""Texts whose class is known to be in known tokens."""

from lrp_tf.evaluate.evidence.encoders import encoder
from lrp_tf.evaluate.evidence.texts import LENGTH, NAMES, TASKS, Task, generate

__all__ = ["LENGTH", "NAMES", "TASKS", "Task", "encoder", "generate"]

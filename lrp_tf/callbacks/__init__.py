"""Callbacks for `keras.Model.fit`: how relevance changes while a model trains."""

from __future__ import annotations

from lrp_tf.callbacks.logger import RelevanceLogger

__all__ = ["RelevanceLogger"]

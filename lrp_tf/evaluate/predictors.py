"""Keras models and Explainers as `predict(x) -> scores`."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.counts import is_whole
from lrp_tf.engine.clone import Clone, clone_with_rules
from lrp_tf.engine.targets import class_count
from lrp_tf.explainer import Explainer


class Predictor:
    """`predict(x) -> logits` of a Keras model, compiled; a model with a single output unit gets the classes 0 and 1.

        predict = lrp_tf.evaluate.Predictor(model)
        predict(x), predict.probabilities(x)    # both [B, C]

    Attributes:
        knows_probabilities: whether the model ends in a softmax or sigmoid, so that its own output is probabilities.
        single: whether it has a single output unit, which gets the classes 0 and 1.

    Args:
        model: a Keras model, or an `Explainer` of one, whose clone is then used.
        output: as the Explainer's.
        batch_size: at most this many samples run at once.

    Raises:
        ValueError: an output that is no [B, C]; a model of several inputs.
    """

    def __init__(
        self, model: keras.Model | Explainer, *, output: int | str | None = None, batch_size: int = 32
    ) -> None:
        self._clone: Clone = (
            model.clone if isinstance(model, Explainer) else clone_with_rules(model, "epsilon", output=output)
        )
        if len(inputs := self._clone.graph.inputs) != 1:
            raise ValueError(
                f"evaluation expects a model with one input, x. Received: {len(inputs)} inputs. Remedy: a functional "
                "model of one input around it, or predict= and explain(x, target) of your own"
            )
        shape = self._clone.graph.outputs[0].shape
        if len(shape) > 1:
            raise ValueError(f"evaluation expects a classifier, whose output is [B, C]. Received: {(None, *shape)}")
        if not is_whole(batch_size) or batch_size < 1:
            raise ValueError(f"batch_size expects a positive integer. Received: {batch_size!r}")
        self.batch_size, self.classes = batch_size, class_count(self._clone.graph)
        self.knows_probabilities = bool(self._clone.graph.stripped)
        self.single = self.classes == 2 and (shape or (1,))[0] == 1
        self._run = tf.function(self._both, autograph=False, reduce_retracing=True)

    def _both(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        forward = self._clone.forward([x])
        logits = self._clone.output(forward)
        return logits, self._clone.finish(logits, forward)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Pre-softmax values, [B, C]; of a single unit v they are [-v, v], as for the targets of an Explainer."""
        return self.both(x)[0]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The model's own output, [B, C]: probabilities if `knows_probabilities`; of a single unit p [1 - p, p]."""
        return self.both(x)[1]

    def both(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and the model's own output, from one forward pass."""
        dtype = self._clone.graph.inputs[0].dtype
        parts = [slice(first, first + self.batch_size) for first in range(0, len(x), self.batch_size)]
        found = [self._run(tf.cast(x[part], dtype)) for part in parts]
        logits = np.concatenate([pair[0].numpy() for pair in found]).reshape(len(x), -1)
        output = np.concatenate([pair[1].numpy() for pair in found]).reshape(len(x), -1)
        if self.single:
            logits = np.concatenate([-logits, logits], axis=1)
            output = np.concatenate([1 - output, output], axis=1)
        return logits, output

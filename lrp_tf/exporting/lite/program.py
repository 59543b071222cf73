"""What a file computes: one sample and a target -> relevance, logits, the class; where the score went."""

from __future__ import annotations

import math

import tensorflow as tf

from lrp_tf.engine import passes
from lrp_tf.engine.passes import Request
from lrp_tf.engine.targets import Target, against
from lrp_tf.explainer import Explainer

# In the order in which tf.function returns a dict.
OUTPUTS = ["logits", "relevance", "target"]
WITH_SHARES = ["conservation", *OUTPUTS]


def program(
    explainer: Explainer, contrast: str | int | None, *, conservation: bool = False
) -> tf.types.experimental.ConcreteFunction:
    """The function of x [1, ...] and target [1], int32: a class, or -1 for the top class.

    It returns `OUTPUTS`, or `WITH_SHARES`. Of a target that the model does not have relevance and shares are NaN.

    Args:
        contrast: what every target is set against, see `Explainer`.
        conservation: return the six shares of the score, too, summed in float32.
    """
    graph, request = explainer.graph, Request(account=conservation, each=True, books=tf.float32)
    (ref,) = graph.inputs

    def explain(x: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        chosen = against(graph, Target("class_or_top", "output", target), contrast, x)
        found, verdict = passes.plain(explainer.clone, chosen, request)(x, *chosen.tensors)
        begun = passes.initial.initial_relevance(chosen, found.logits)[0]
        whole = tf.where(verdict.in_range, 0.0, tf.constant(math.nan, found.relevance[0].dtype))
        outputs = {"relevance": found.relevance[0] + whole, "logits": found.logits, "target": begun}
        if found.conservation is not None:
            outputs["conservation"] = tf.stack(found.conservation.of_six(), axis=-1) + whole
        return outputs

    specs = [tf.TensorSpec([1, *ref.shape], ref.dtype, "x"), tf.TensorSpec([1], tf.int32, "target")]
    return tf.function(explain, input_signature=specs, autograph=False).get_concrete_function()

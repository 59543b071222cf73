"""The gradient, alone and times the input."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf.engine import passes
from lrp_tf.engine.passes import Request, Verdict
from lrp_tf.engine.targets import Target
from lrp_tf.gradients.method import Method
from lrp_tf.gradients.source import of_target


class Gradient(Method):
    """The gradient of the pre-softmax value of a target by the input (Simonyan et al. 2013), signed.

        R = lrp_tf.gradients.Gradient(model)(x, target=3)

    With a contrast it is the gradient of z_t - sum_n w_n z_n, whose weights w are held constant. One forward and one
    backward pass. See `Method` for the arguments.
    """

    def explained(self, inputs: list[tf.Tensor], wanted: Target, beside: list[tf.Tensor]) -> list[tf.Tensor]:
        def run(*tensors: tf.Tensor) -> tuple[list[tf.Tensor], Verdict]:
            found, verdict = passes.plain(self.source.clone, wanted, Request())(*tensors)
            return self.finished(found.relevance, list(tensors[: len(inputs)])), verdict

        key = (wanted.mode, wanted.kind, wanted.contrast)
        if wanted.kind == "given":
            weights = self.source.weights(inputs, wanted)
            more = [(weights.values, weights.spec(self.graph))]
            return self.source.run(key, run, inputs, more, weights)
        return self.source.run(key, run, inputs, of_target(wanted), wanted=wanted)

    def finished(self, gradients: list[tf.Tensor], inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The explanation from the gradient of each input."""
        return gradients


class InputTimesGradient(Gradient):
    """x_i dz_t / dx_i (Shrikumar et al. 2016).

        R = lrp_tf.gradients.InputTimesGradient(model)(x)

    Of a net of ReLUs without biases it is LRP-0 (Ancona et al. 2018).
    """

    def finished(self, gradients: list[tf.Tensor], inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        return [g * beside_targets(x, g) for x, g in zip(inputs, gradients, strict=True)]


def beside_targets(x: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """x [B, ...] in the dtype of a gradient, and with an axis for its targets if it has one."""
    x = tf.cast(x, gradient.dtype)
    return x if gradient.shape.rank == x.shape.rank else x[:, None]
